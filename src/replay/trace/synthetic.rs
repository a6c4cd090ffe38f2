//! A run that no policy made: a small robot whose values are smooth functions of time. For tests of what is done with traces.

use super::*;

pub const HORIZON: usize = 16;
pub const EXECUTED: usize = 8;
pub const ACTION_DIM: usize = 6;
const PERIOD: i64 = 20_000_000;
const START: i64 = 1_700_000_000_000_000_000;

/// Mean and standard deviation of each joint.
const STATISTICS: [(f64, f64); 4] = [(0.0, 0.22), (-0.72, 0.38), (0.5, 0.3), (0.1, 0.15)];
const INPUTS: [&str; 4] = ["base", "wrist", "joint_states", "instruction"];

fn digest(text: &str) -> Digest {
    Digest::of([text.as_bytes()])
}

/// The position of a joint at a time in steps.
fn position(joint: usize, step: f64) -> f64 {
    let (mean, deviation) = STATISTICS[joint];
    mean + deviation * (0.11 * step * (1.0 + 0.37 * joint as f64) + joint as f64).sin()
}

/// A run of `chunks` chunks over a bag without gaps. Every chunk executes half of its rows; the third camera is masked.
pub fn trace(chunks: u64) -> Trace {
    let names = ["waist", "elbow", "gripper", "wrist"];
    let joint = |name: &str| Joint { name: name.to_owned(), kind: CommandKind::Position, gripper: name == "gripper" };
    let files = ["weights", "normalizer", "tokenizer", "config", "robot"].map(|file| (file.to_owned(), digest(file)));
    let setup = Setup {
        version: "0.1.0".to_owned(),
        build: digest("build"),
        machine: "x86_64 avx2".to_owned(),
        backend: "reference".to_owned(),
        dtypes: "float32 weights, float32 arithmetic".to_owned(),
        bag: "bag".to_owned(),
        files: files.into(),
        parameters: [("chunking.mode".to_owned(), "rtc".to_owned()), ("resize".to_owned(), "openpi".to_owned())].into(),
        seed: 0,
        steps: 2,
        latency: 0.05,
        horizon: HORIZON,
        action_dim: ACTION_DIM,
        period: PERIOD as f64 * 1e-9,
        joints: names.map(joint).into(),
        state_joints: names.map(str::to_owned).into(),
        cameras: vec!["base".to_owned(), "wrist".to_owned(), "absent".to_owned()],
    };
    let input = |name: &str| BagInput {
        name: name.to_owned(),
        topic: format!("/{name}"),
        type_name: "test".to_owned(),
        messages: 20,
        refused: BTreeMap::new(),
    };
    let chunks: Vec<ChunkTrace> = (0..chunks).map(chunk).collect();
    let commands = chunks
        .iter()
        .flat_map(|chunk| {
            let Outcome::Installed { start, delay_rows, executed, .. } = chunk.outcome else { return Vec::new() };
            let row = |row: usize| Command {
                stamp: start + row as i64 * PERIOD,
                row: chunk.actions[row * names.len()..(row + 1) * names.len()].to_vec(),
            };
            (delay_rows..delay_rows + executed).map(row).collect()
        })
        .collect();
    Trace {
        setup,
        inputs: INPUTS.map(input).into(),
        span: (START, START + 1_000_000_000),
        chunks,
        commands,
        gaps: Vec::new(),
        failed: BTreeMap::new(),
        damage: None,
        latch: None,
    }
}

fn chunk(index: u64) -> ChunkTrace {
    let first = index as f64 * EXECUTED as f64;
    let observed = START + (index as i64) * EXECUTED as i64 * PERIOD;
    let positions: Vec<f64> = (0..STATISTICS.len()).map(|joint| position(joint, first)).collect();
    let normalized = |joint: usize, value: f64| ((value - STATISTICS[joint].0) / STATISTICS[joint].1) as f32;
    let mut state: Vec<f32> = positions.iter().enumerate().map(|(joint, value)| normalized(joint, *value)).collect();
    state.resize(ACTION_DIM, 0.0);
    let mut model_actions = Vec::new();
    for row in 0..HORIZON {
        // Not as smooth as the joints, so that no row is in line with its neighbours.
        let value =
            |joint: usize| normalized(joint, position(joint, first + row as f64)) + 0.3 * (1.7 * row as f32 + joint as f32).sin();
        model_actions
            .extend((0..ACTION_DIM).map(|column| if column < STATISTICS.len() { value(column) } else { 0.01 * row as f32 }));
    }
    let robot = |(column, value): (usize, &f32)| STATISTICS.get(column).map(|(mean, std)| f64::from(*value) * std + mean);
    let actions = model_actions.chunks(ACTION_DIM).flat_map(|row| row.iter().enumerate().filter_map(robot)).collect();
    let sample = |name: &&str| (name.to_string(), Sample { age: 0.004, digest: digest(&format!("{name} {index}")) });
    let camera = |name: &str, phase: f32| CameraTrace::Present {
        digest: digest(&format!("{name} {index}")),
        mean: 0.1,
        deviation: 0.4,
        fields: (0..192).map(|field| 0.5 * (0.31 * field as f32 + phase + index as f32).sin() + 0.002 * field as f32).collect(),
    };
    let intermediate = |(at, name): (usize, &str)| Intermediate {
        name: name.to_owned(),
        digest: digest(name),
        rms: 1.0,
        values: (0..32).map(|value| (value as f32 * 0.7 + at as f32).sin()).collect(),
    };
    let intermediates = [
        "vision.0.embeddings",
        "prefix.embs",
        "positions.prefix",
        "prefix.layer.0.self_attn",
        "prefix.kv.0.key",
        "prefix.kv.0.value",
        "positions.suffix",
        "step.0.layer.0",
        "step.0.v_t",
        "step.1.x_t",
        "step.1.v_t",
    ];
    ChunkTrace {
        index,
        observed,
        ready: observed + 50_000_000,
        samples: INPUTS.iter().map(sample).collect(),
        skew: 0.001,
        instruction: "pick up the cube".to_owned(),
        positions,
        model: ModelTrace {
            cameras: vec![camera("base", 0.0), camera("wrist", 1.5), CameraTrace::Masked],
            tokens: vec![2, 17, 25, 108],
            state,
            noise: digest(&format!("noise {index}")),
            guidance: (index > 0).then(|| digest(&format!("guidance {index}"))),
            answer: digest(&format!("answer {index}")),
            intermediates: if index == 0 {
                intermediates.into_iter().enumerate().map(intermediate).collect()
            } else {
                Vec::new()
            },
        },
        model_actions,
        actions,
        outcome: Outcome::Installed {
            start: observed,
            delay_rows: 3,
            guided_rows: if index == 0 { 0 } else { 5 },
            join: if index == 0 { "none".to_owned() } else { "rtc".to_owned() },
            executed: EXECUTED,
        },
        times: Times { total: 0.05, ..Times::default() },
    }
}
