//! Runs over a made-up bag: two arms, three cameras, hundreds of chunks if wanted.

use std::collections::BTreeMap;

use pi0_tt::{
    replay::trace::{
        BagInput, CameraTrace, ChunkTrace, Command, Digest, Gap, Joint, ModelTrace, Outcome, Sample, Setup, Times, Trace,
    },
    robot::CommandKind,
};

const START: i64 = 1_767_225_600_000_000_000;
const PERIOD: f64 = 0.02;
const HORIZON: usize = 50;
/// Rows from one observation to the next.
const EXECUTED: usize = 25;
pub const CAMERAS: [&str; 3] = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"];
const ARM: [&str; 7] = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"];

pub fn joint_names() -> Vec<String> {
    ["left", "right"].iter().flat_map(|side| ARM.map(|joint| format!("{side}_{joint}"))).collect()
}

fn at(seconds: f64) -> i64 {
    START + (seconds * 1e9).round() as i64
}

/// Between -1 and 1, the same for the same numbers.
fn wobble(a: usize, b: usize) -> f64 {
    let mixed = (a as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (b as u64).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

/// What a joint does at a time of the bag.
fn motion(joint: usize, seconds: f64) -> f64 {
    let (phase, rate) = (joint as f64 * 0.7, 0.35 + 0.06 * joint as f64);
    match joint % 7 {
        6 => 0.5 + 0.45 * (3.0 * (seconds * rate + phase).sin()).tanh(),
        _ => 0.4 * (seconds * rate + phase).sin() + 0.12 * (2.7 * seconds + phase).sin() + 0.2 * phase.cos(),
    }
}

pub fn setup() -> Setup {
    let joint = |name: String| Joint { gripper: name.ends_with("gripper"), name, kind: CommandKind::Position };
    Setup {
        version: env!("CARGO_PKG_VERSION").into(),
        build: Digest::of([&b"program"[..]]),
        machine: "x86_64, AVX-512".into(),
        backend: "reference".into(),
        dtypes: "float32".into(),
        bag: "aloha_transfer_cube".into(),
        files: ["weights", "normalizer", "tokenizer", "config", "robot"]
            .map(|name| (name.into(), Digest::of([name.as_bytes()])))
            .into(),
        parameters: [("chunking.mode", "rtc"), ("inference.trigger", "drain"), ("inference.execution_horizon", "25")]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        seed: 7,
        steps: 10,
        latency: 0.12,
        horizon: HORIZON,
        action_dim: 14,
        period: PERIOD,
        joints: joint_names().into_iter().map(joint).collect(),
        state_joints: joint_names(),
        cameras: CAMERAS.map(String::from).into(),
    }
}

/// A run of so many chunks, one each half second.
pub fn trace(chunks: usize) -> Trace {
    let setup = setup();
    let width = setup.joints.len();
    let length = chunks as f64 * EXECUTED as f64 * PERIOD + 1.0;
    let mut commands = Vec::new();
    let chunk = |index: usize| {
        let observed = 0.3 + (index * EXECUTED) as f64 * PERIOD;
        // Until the next one takes over: the first has no delay.
        let executed = if index == 0 { EXECUTED + 6 } else { EXECUTED };
        let delay_rows = if index == 0 { 0 } else { 6 + usize::from(index % 7 == 3) };
        let actions: Vec<f64> = (0..HORIZON)
            .flat_map(|row| {
                (0..width).map(move |joint| motion(joint, observed + row as f64 * PERIOD) + 0.004 * wobble(index, joint))
            })
            .collect();
        let sample = |input: usize, name: &str| {
            let age = 0.012 + 0.01 * input as f64 + 0.006 * wobble(index, input);
            (name.to_owned(), Sample { age, digest: Digest::of([name.as_bytes(), &index.to_le_bytes()]) })
        };
        let stage = |which: usize, mean: f64| {
            mean * (1.0 + 0.15 * wobble(index, 40 + which) + 0.5 * f64::from(u8::from(index % 19 == 11)))
        };
        let times = Times {
            observation: stage(0, 0.004),
            vision: stage(1, 0.031),
            prefix: stage(2, 0.042),
            denoise: stage(3, 0.038),
            total: stage(0, 0.004) + stage(1, 0.031) + stage(2, 0.042) + stage(3, 0.038),
        };
        ChunkTrace {
            index: index as u64,
            observed: at(observed),
            ready: at(observed + 0.12),
            samples: ["joint_states", CAMERAS[0], CAMERAS[1], CAMERAS[2]]
                .iter()
                .enumerate()
                .map(|(i, name)| sample(i, name))
                .collect(),
            skew: 0.008 + 0.004 * wobble(index, 9),
            instruction: "Transfer the red cube to the other arm".into(),
            positions: (0..width).map(|joint| motion(joint, observed)).collect(),
            model: ModelTrace {
                cameras: CAMERAS
                    .map(|name| CameraTrace::Present {
                        digest: Digest::of([name.as_bytes(), &index.to_be_bytes()]),
                        mean: 0.1,
                        deviation: 0.4,
                        fields: vec![0.1; 192],
                    })
                    .into(),
                tokens: vec![2, 17, 91, 108],
                state: vec![0.0; 14],
                noise: Digest::of([&index.to_le_bytes()[..]]),
                guidance: (index > 0).then(|| Digest::of([&b"rows"[..]])),
                answer: Digest::of([&b"answer"[..], &index.to_le_bytes()]),
                intermediates: Vec::new(),
            },
            model_actions: actions.iter().map(|value| *value as f32).collect(),
            actions,
            outcome: Outcome::Installed {
                start: at(observed),
                delay_rows,
                guided_rows: if index == 0 { 0 } else { EXECUTED },
                join: if index == 0 { "none".into() } else { "rtc".into() },
                executed,
            },
            times,
        }
    };
    let chunks: Vec<_> = (0..chunks).map(chunk).collect();
    for chunk in &chunks {
        let Outcome::Installed { start, delay_rows, executed, .. } = chunk.outcome else { continue };
        for row in delay_rows..(delay_rows + executed).min(HORIZON) {
            let stamp = start + (row as f64 * PERIOD * 1e9).round() as i64;
            if commands.last().is_none_or(|last: &Command| stamp > last.stamp) {
                commands.push(Command { stamp, row: chunk.actions[row * width..(row + 1) * width].to_vec() });
            }
        }
    }
    let input = |name: &str, topic: &str, type_name: &str, rate: f64| BagInput {
        name: name.into(),
        topic: topic.into(),
        type_name: type_name.into(),
        messages: (length * rate) as u64,
        refused: if name == CAMERAS[2] { [("late".to_owned(), 2)].into() } else { BTreeMap::new() },
    };
    let image = "sensor_msgs/msg/CompressedImage";
    Trace {
        inputs: vec![
            input(CAMERAS[0], "/camera/base_0_rgb/image/compressed", image, 25.0),
            input(CAMERAS[1], "/camera/left_wrist_0_rgb/image/compressed", image, 25.0),
            input(CAMERAS[2], "/camera/right_wrist_0_rgb/image/compressed", image, 25.0),
            input("joint_states", "/joint_states", "sensor_msgs/msg/JointState", 50.0),
            input("instruction", "/instruction", "std_msgs/msg/String", 1.0),
        ],
        setup,
        span: (START, at(length)),
        chunks,
        commands,
        gaps: Vec::new(),
        failed: BTreeMap::new(),
        damage: None,
        latch: None,
    }
}

/// The camera was silent for a while, a chunk was refused, and the commands stopped for that time.
pub fn with_a_gap(mut trace: Trace) -> Trace {
    let index = trace.chunks.len() / 2;
    let from = trace.chunks[index].observed;
    let to = from + 420_000_000;
    trace.gaps.push(Gap {
        from,
        to,
        inputs: [(CAMERAS[1].to_owned(), "no image for 412 ms, 300 ms are allowed".to_owned())].into(),
    });
    trace.commands.retain(|command| !(from..to).contains(&command.stamp));
    trace.chunks[index].outcome = Outcome::Refused { reason: "all rows were past".into() };
    trace
}

/// From a chunk on, what the policy does with some joints is another thing.
pub fn with_a_fault(mut trace: Trace, from_chunk: usize, joints: &[usize], size: f64) -> Trace {
    let width = trace.setup.joints.len();
    let begin = trace.chunks.get(from_chunk).map_or(i64::MAX, |chunk| chunk.observed);
    let change = |stamp: i64, joint: usize| {
        let seconds = stamp.saturating_sub(begin) as f64 / 1e9;
        if stamp < begin {
            0.0
        } else {
            size * (1.0 - (-seconds / 0.4).exp()) * (1.0 + 0.3 * (seconds * 1.1 + joint as f64).sin())
        }
    };
    for chunk in &mut trace.chunks {
        for row in 0..HORIZON {
            let stamp = chunk.observed + (row as f64 * PERIOD * 1e9).round() as i64;
            for &joint in joints {
                chunk.actions[row * width + joint] += if chunk.observed >= begin { change(stamp, joint) } else { 0.0 };
            }
        }
        if chunk.observed >= begin {
            chunk.model.answer = Digest::of([&b"another answer"[..], &chunk.index.to_le_bytes()]);
        }
        chunk.model_actions = chunk.actions.iter().map(|value| *value as f32).collect();
    }
    for command in &mut trace.commands {
        // The chunk is there this much later.
        let at = if command.stamp >= begin + 120_000_000 { command.stamp } else { i64::MIN };
        for &joint in joints {
            command.row[joint] += change(at, joint);
        }
    }
    trace
}

/// From a chunk on, the model sees a camera as black.
pub fn with_a_black_camera(mut trace: Trace, from_chunk: usize) -> Trace {
    for chunk in trace.chunks.iter_mut().skip(from_chunk) {
        chunk.model.cameras[0] =
            CameraTrace::Present { digest: Digest::of([&b"black"[..]]), mean: -1.0, deviation: 0.0, fields: vec![-1.0; 192] };
    }
    trace
}
