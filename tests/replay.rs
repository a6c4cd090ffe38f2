//! A policy over a bag: the same bag gives the same trace, whatever it is written like, and what is missing is named.

mod common;

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use pi0_tt::{
    backend::{Backend, BackendError, BackendInfo, BackendKind, BackendOptions, PrefixCache, Probe},
    checkpoint::synth,
    model::{Camera, Chunk, DenoiseRequest, Geometry, ModelInputs},
    observation::{CompressedImageView, JointSelector, Observation},
    parameters::{ParameterFiles, Scalar},
    policy::{Policy, PolicyOptions},
    replay::{
        BagMessage, BagReader, BagWriter, Qos, Reliability, Topic, cdr,
        messages::{CompressedImage, JointState, MessageType, Text},
        run::{self, NoOutputs, RunError, RunOptions, Seam},
        trace::{CameraTrace, Outcome, Times, Trace},
    },
};

const CAMERA: &str = "/camera/base_0_rgb/image/compressed";
const PROFILE: &str = "config/robots/aloha_sim.yaml";
/// The first message of the demo bag.
const START: i64 = 1_767_225_600_000_000_000;

fn demo_bag() -> PathBuf {
    common::data("bags/aloha_transfer_cube")
}

/// A folder with a tiny synthetic checkpoint.
struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        synth::write_synthetic(&dir.path().join("checkpoint"), &Geometry::tiny(), synth::Precision::Float32, |_| ()).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn options(&self, bag: &Path) -> RunOptions {
        let mut parameters = ParameterFiles::default();
        for (name, value) in [
            ("checkpoint", self.text("checkpoint")),
            ("robot", format!("{}/{PROFILE}", env!("CARGO_MANIFEST_DIR"))),
            ("cameras.base_0_rgb.transport", "compressed".to_owned()),
        ] {
            parameters.set(name, Scalar::Text(value), "test");
        }
        RunOptions { bag: bag.to_owned(), parameters, remaps: Vec::new(), latency: 0.1 }
    }

    fn run(&self, bag: &Path) -> Trace {
        run::run(self.options(bag), &mut NoOutputs).unwrap()
    }

    /// The demo bag with every message that `edit` gives a topic and bytes.
    fn edited(&self, name: &str, mut edit: impl FnMut(&Topic, &BagMessage) -> Option<(String, Vec<u8>)>) -> PathBuf {
        let mut messages = Vec::new();
        for (topic, message) in read(&demo_bag()) {
            if let Some((name, data)) = edit(&topic, &message) {
                messages.push((Topic { name, ..topic }, BagMessage { data: data.into(), ..message }));
            }
        }
        let path = self.path(name);
        write(&path, &messages);
        path
    }
}

fn read(path: &Path) -> Vec<(Topic, BagMessage)> {
    let bag = BagReader::open(path).unwrap();
    let with_topic = |message: BagMessage| (bag.topics()[message.topic].clone(), message);
    bag.messages().map(|message| with_topic(message.unwrap())).collect()
}

fn write(path: &Path, messages: &[(Topic, BagMessage)]) {
    let mut bag = BagWriter::create(path).unwrap();
    let mut topics = BTreeMap::new();
    for (topic, message) in messages {
        let id = *topics.entry(topic.name.clone()).or_insert_with(|| {
            bag.add_topic(&topic.name, &topic.type_name, &topic.schema, Qos::keep_last(5, Reliability::BestEffort)).unwrap()
        });
        bag.write(id, message.log_time, &message.data).unwrap();
    }
    bag.finish().unwrap();
}

/// What may differ from run to run, or because the bag lies elsewhere, taken out.
fn comparable(mut trace: Trace) -> Trace {
    trace.setup.bag.clear();
    trace.chunks.iter_mut().for_each(|chunk| chunk.times = Times::default());
    trace
}

fn executed(trace: &Trace) -> usize {
    let executed = |outcome: &Outcome| if let Outcome::Installed { executed, .. } = outcome { *executed } else { 0 };
    trace.chunks.iter().map(|chunk| executed(&chunk.outcome)).sum()
}

#[test]
fn a_bag_gives_the_same_trace_again() {
    let lab = Lab::new();
    let trace = lab.run(&demo_bag());
    assert_eq!(trace.span, (START, START + 4_980_000_000));
    assert!(trace.chunks.len() > 40 && trace.commands.len() == 245, "{} {}", trace.chunks.len(), trace.commands.len());
    assert_eq!(executed(&trace), trace.commands.len(), "a command belongs to a chunk");
    assert!(trace.gaps.is_empty() && trace.failed.is_empty() && trace.damage.is_none() && trace.latch.is_none());
    let counts: Vec<_> = trace.inputs.iter().map(|input| (input.name.as_str(), input.messages, input.refused.len())).collect();
    assert_eq!(counts, [("base_0_rgb", 125, 0), ("joint_states", 250, 0), ("instruction", 5, 0)]);
    let again = lab.run(&demo_bag());
    assert_eq!(comparable(again.clone()), comparable(trace.clone()));
    let json = |trace: Trace| serde_json::to_string(&comparable(trace)).unwrap();
    assert_eq!(json(again), json(trace));
}

#[test]
fn how_a_bag_is_written_does_not_matter() {
    let lab = Lab::new();
    let expected = comparable(lab.run(&demo_bag()));
    let mut messages = read(&demo_bag());

    // Chunks of a few messages, as another recorder makes them.
    let small = lab.path("small.mcap");
    let options = mcap::WriteOptions::new().profile("ros2").chunk_size(Some(3000)).compression(Some(mcap::Compression::Lz4));
    let mut file = options.create(File::create(&small).unwrap()).unwrap();
    let mut channels = BTreeMap::new();
    for (topic, message) in &messages {
        let channel_id = *channels.entry(topic.name.clone()).or_insert_with(|| {
            let schema = file.add_schema(&topic.type_name, "ros2msg", topic.schema.as_bytes()).unwrap();
            file.add_channel(schema, &topic.name, "cdr", &BTreeMap::new()).unwrap()
        });
        let header = mcap::records::MessageHeader { channel_id, sequence: 0, log_time: message.log_time, publish_time: 0 };
        file.write_to_known_channel(&header, &message.data).unwrap();
    }
    file.finish().unwrap();
    assert_eq!(comparable(lab.run(&small)), expected);

    // Messages of the same moment in the other order.
    messages.reverse();
    messages.sort_by_key(|(_, message)| message.log_time);
    let reversed = lab.path("reversed");
    write(&reversed, &messages);
    assert_eq!(comparable(lab.run(&reversed)), expected);

    // Other topics are none of the policy's business.
    let mut more = messages.clone();
    for (topic, message) in &messages {
        if topic.type_name == Text::NAME {
            let message = BagMessage { log_time: message.log_time - 7_000_000, ..message.clone() };
            more.push((Topic { name: "/chatter".into(), ..topic.clone() }, message));
        }
    }
    let chatting = lab.path("chatting");
    write(&chatting, &more);
    assert_eq!(comparable(lab.run(&chatting)), expected);
}

#[test]
fn the_first_chunk_is_that_of_a_policy_that_is_given_the_same_samples_by_hand() {
    let lab = Lab::new();
    let trace = lab.run(&demo_bag());
    let chunk = &trace.chunks[0];
    assert_eq!((chunk.index, chunk.observed), (0, START));
    let messages = read(&demo_bag());
    let bytes = |name: &str| &messages.iter().find(|(topic, _)| topic.name == name).unwrap().1.data;
    let CompressedImage { format, data, .. } = CompressedImage::decode(bytes(CAMERA)).unwrap();
    let state: JointState = cdr::decode(bytes("/joint_states")).unwrap();
    let text: Text = cdr::decode(bytes("/instruction")).unwrap();
    // Opened without a witness: that one looks at the intermediate tensors of the first chunk, and must not change it.
    let mut policy = Policy::open(&PolicyOptions {
        checkpoint: lab.path("checkpoint"),
        robot: Path::new(env!("CARGO_MANIFEST_DIR")).join(PROFILE),
        backend: BackendOptions::new(BackendKind::Reference),
        tokenizer: None,
        norm_stats: None,
        resize: None,
        seed: 0,
        steps: None,
    })
    .unwrap();
    let joints = JointSelector::new(policy.state_joints()).select(&state.name, &state.position).unwrap();
    let observation = Observation {
        images: BTreeMap::from([("base_0_rgb".to_owned(), CompressedImageView { format: &format, data }.decode().unwrap())]),
        joints: joints.clone(),
        instruction: text.data.clone(),
    };
    let by_hand = policy.infer(&observation, None).unwrap();
    assert_eq!((&chunk.model_actions, &chunk.actions), (&by_hand.model_actions, &by_hand.actions));
    assert_eq!((&chunk.positions, &chunk.instruction), (&joints, &text.data));
    assert!(chunk.model.intermediates.len() > 20 && trace.chunks[1].model.intermediates.is_empty());
    let rows = &trace.commands[..4];
    let (width, first) = (trace.setup.joints.len(), chunk.ready);
    for (row, command) in rows.iter().enumerate() {
        assert_eq!(command.stamp, first + 20_000_000 * row as i64, "the first row is commanded as soon as it is there");
        assert_eq!(command.row, chunk.actions[row * width..][..width], "no limits are set");
    }
}

#[test]
fn the_latency_is_the_delay_of_the_rows() {
    let lab = Lab::new();
    // A chunk that is there at the time of a control step is there before it.
    for (milliseconds, rows) in [(0.0, 0), (50.0, 2), (60.0, 2), (70.0, 3), (100.0, 4)] {
        let options = RunOptions { latency: milliseconds * 1e-3, ..lab.options(&demo_bag()) };
        let trace = run::run(options, &mut NoOutputs).unwrap();
        let mut delays = trace.chunks.iter().map(|chunk| match &chunk.outcome {
            Outcome::Installed { delay_rows, .. } => *delay_rows,
            Outcome::Refused { reason } => panic!("{reason}"),
        });
        assert_eq!(delays.next(), Some(0), "the robot rests until the first chunk");
        assert!(delays.all(|delay| delay == rows), "{milliseconds} ms: {:?}", trace.chunks[1].outcome);
        assert!(trace.chunks.iter().all(|chunk| chunk.ready - chunk.observed == (milliseconds * 1e6) as i64));
    }
    // Longer than a chunk of 10 rows: each comes when the robot rests, and is executed from its first row.
    let options = RunOptions { latency: 0.5, ..lab.options(&demo_bag()) };
    let trace = run::run(options, &mut NoOutputs).unwrap();
    assert!(trace.chunks.len() > 3 && executed(&trace) > 0);
}

#[test]
fn topics_of_other_names_are_found_by_rules() {
    let lab = Lab::new();
    let expected = comparable(lab.run(&demo_bag()));
    let bag =
        lab.edited("renamed", |topic, message| Some((topic.name.replace("/joint", "/arm/the_joint"), message.data.to_vec())));
    let refused = run::run(lab.options(&bag), &mut NoOutputs).unwrap_err().to_string();
    assert!(refused.contains("joint_states: there is no topic /policy/joint_states"), "{refused}");
    assert!(refused.contains("- /arm/the_joint_states (sensor_msgs/msg/JointState, 250 messages)"), "{refused}");
    for rule in ["~/joint_states:=/arm/the_joint_states", "/policy/joint_states:=arm/the_joint_states"] {
        let options = RunOptions { remaps: vec![rule.parse().unwrap()], ..lab.options(&bag) };
        let mut trace = comparable(run::run(options, &mut NoOutputs).unwrap());
        trace.inputs[1].topic = "/joint_states".into();
        assert_eq!(trace, expected);
    }
    let options = RunOptions { remaps: vec!["~/joint_states:=/elsewhere".parse().unwrap()], ..lab.options(&bag) };
    let refused = run::run(options, &mut NoOutputs).unwrap_err().to_string();
    assert!(refused.contains("/elsewhere") && refused.contains("/policy/joint_states:=/elsewhere"), "{refused}");
    for rule in ["joint_states", ":=/a", "a:=", "__node:=other"] {
        assert!(matches!(rule.parse::<run::Remap>(), Err(RunError::Remap(_))), "{rule}");
    }
}

#[test]
fn the_nodes_own_topic_goes_before_others_and_of_several_others_none_is_guessed() {
    let lab = Lab::new();
    let twice = |own: &str| {
        let mut messages = read(&demo_bag());
        let joints: Vec<_> = messages.iter().filter(|(topic, _)| topic.type_name == JointState::NAME).cloned().collect();
        messages.extend(joints.into_iter().map(|(topic, message)| (Topic { name: own.into(), ..topic }, message)));
        let path = lab.path(&own.replace('/', "_"));
        write(&path, &messages);
        path
    };
    let trace = lab.run(&twice("/policy/joint_states"));
    assert_eq!(trace.inputs[1].topic, "/policy/joint_states");
    let refused = run::run(lab.options(&twice("/left/joint_states")), &mut NoOutputs).unwrap_err().to_string();
    assert!(
        refused.contains("which of /joint_states, /left/joint_states is it? Say -r /policy/joint_states:=TOPIC"),
        "{refused}"
    );
}

#[test]
fn everything_that_is_missing_is_named_at_once_with_what_was_found() {
    let lab = Lab::new();
    let bag = lab.edited("poor", |topic, message| (topic.name == CAMERA).then(|| (topic.name.clone(), message.data.to_vec())));
    let mut options = lab.options(&bag);
    options.parameters.set("cameras.base_0_rgb.transport", Scalar::Text("raw".into()), "test");
    let refused = run::run(options, &mut NoOutputs).unwrap_err().to_string();
    for part in [
        "Set cameras.base_0_rgb.transport to compressed",
        "joint_states: there is no topic /policy/joint_states (sensor_msgs/msg/JointState)",
        "instruction: there is no topic /policy/instruction (std_msgs/msg/String), and neither the parameter instruction.default",
        "It has:\n- /camera/base_0_rgb/image/compressed (sensor_msgs/msg/CompressedImage, 125 messages)",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    // Under the raw topic's name it is the type that is wrong.
    let bag = lab.edited("mistyped", |topic, message| Some((topic.name.replace("/compressed", ""), message.data.to_vec())));
    let mut options = lab.options(&bag);
    options.parameters.set("cameras.base_0_rgb.transport", Scalar::Text("raw".into()), "test");
    let refused = run::run(options, &mut NoOutputs).unwrap_err().to_string();
    assert!(refused.contains("has the type sensor_msgs/msg/CompressedImage, and sensor_msgs/msg/Image is expected"), "{refused}");
}

#[test]
fn an_instruction_may_come_from_the_parameter_and_a_later_one_replaces_it() {
    let lab = Lab::new();
    let with = |bag: &Path, text: &str| {
        let mut options = lab.options(bag);
        options.parameters.set("instruction.default", Scalar::Text(text.into()), "test");
        run::run(options, &mut NoOutputs).unwrap()
    };
    let silent = lab
        .edited("silent", |topic, message| (topic.type_name != Text::NAME).then(|| (topic.name.clone(), message.data.to_vec())));
    let trace = with(&silent, "wave");
    assert!(trace.chunks.iter().all(|chunk| chunk.instruction == "wave"));
    assert_eq!(trace.inputs.len(), 2);

    // The text of the topic, from its message at two seconds on.
    let late = lab.edited("late", |topic, message| {
        let early = (message.log_time as i64 - START) < 2_000_000_000;
        (topic.type_name != Text::NAME || !early).then(|| (topic.name.clone(), message.data.to_vec()))
    });
    let trace = with(&late, "wave");
    let changed = trace.chunks.iter().position(|chunk| chunk.instruction != "wave").unwrap();
    assert_eq!(trace.chunks[changed].observed, START + 2_000_000_000, "flush asks for a chunk at once");
    assert!(trace.chunks[changed..].iter().all(|chunk| chunk.instruction.starts_with("Transfer")));
}

#[test]
fn a_time_without_images_is_a_gap_with_its_reason() {
    let lab = Lab::new();
    let bag = lab.edited("gap", |topic, message| {
        let at = message.log_time as i64 - START;
        let lost = topic.name == CAMERA && (2_000_000_000..3_000_000_000).contains(&at);
        (!lost).then(|| (topic.name.clone(), message.data.to_vec()))
    });
    let trace = lab.run(&bag);
    let [gap] = &trace.gaps[..] else { panic!("{:?}", trace.gaps) };
    // The last image is of 1.96 s, and 200 ms old at 2.16 s.
    assert_eq!((gap.from - START, gap.to - START), (2_180_000_000, 3_000_000_000));
    assert_eq!(
        gap.inputs,
        BTreeMap::from([("base_0_rgb".into(), "the newest sample is 220 ms old, the limit is 200 ms".into())])
    );
    let observed = |chunk: &&pi0_tt::replay::trace::ChunkTrace| (gap.from..gap.to).contains(&chunk.observed);
    assert_eq!(trace.chunks.iter().filter(observed).count(), 0);

    // A bag that ends before its cameras come back has a gap to its end.
    let bag = lab.edited("end", |topic, message| {
        let lost = topic.name == CAMERA && message.log_time as i64 - START >= 2_000_000_000;
        (!lost).then(|| (topic.name.clone(), message.data.to_vec()))
    });
    let trace = lab.run(&bag);
    assert_eq!(trace.gaps.len(), 1);
    assert_eq!(trace.gaps[0].to, trace.span.1);
}

#[test]
fn a_bag_that_is_silent_for_minutes_commands_nothing_meanwhile() {
    let lab = Lab::new();
    let mut messages = read(&demo_bag());
    for (topic, message) in &mut messages {
        if message.log_time as i64 - START >= 2_500_000_000 {
            message.log_time += 1_000_000_000_000;
            if topic.type_name != Text::NAME {
                let stamp = pi0_tt::replay::messages::Time::from_nanos(message.log_time).unwrap();
                let mut data = message.data.to_vec();
                cdr::restamp(&mut data, stamp).unwrap();
                message.data = data.into();
            }
        }
    }
    let path = lab.path("silent");
    write(&path, &messages);
    let trace = lab.run(&path);
    let [gap] = &trace.gaps[..] else { panic!("{:?}", trace.gaps) };
    assert!(gap.inputs["base_0_rgb"].contains("silent for 1000 s"), "{gap:?}");
    assert!(trace.commands.len() < 260, "{}", trace.commands.len());
    assert!(trace.chunks.iter().any(|chunk| chunk.observed > gap.to));
}

#[test]
fn messages_that_cannot_be_used_are_counted_by_reason_and_the_others_go_on() {
    let lab = Lab::new();
    let mut index = 0;
    let bag = lab.edited("bad", |topic, message| {
        let mut data = message.data.to_vec();
        index += 1;
        match &*topic.type_name {
            // Bytes that are no message, and JPEG files that break off.
            JointState::NAME if index % 10 == 0 => data.truncate(9),
            CompressedImage::NAME if index % 7 == 0 => {
                let length = data.len();
                data[length - 200..].fill(0);
            }
            _ => {}
        }
        Some((topic.name.clone(), data))
    });
    let trace = lab.run(&bag);
    let refused = |name: &str| &trace.inputs.iter().find(|input| input.name == name).unwrap().refused;
    assert_eq!(refused("joint_states").values().sum::<u64>(), 25, "{:?}", refused("joint_states"));
    assert!(refused("base_0_rgb").keys().all(|reason| reason.contains("JPEG")), "{:?}", refused("base_0_rgb"));
    assert_eq!(trace.failed.values().sum::<u64>(), refused("base_0_rgb").values().sum::<u64>());
    assert!(trace.chunks.len() > 30);

    // Where no message of an input can be used the run has nothing to say.
    let bag = lab.edited("unstamped", |topic, message| {
        let mut data = message.data.to_vec();
        if topic.type_name == JointState::NAME {
            cdr::restamp(&mut data, Default::default()).unwrap();
        }
        Some((topic.name.clone(), data))
    });
    let refused = run::run(lab.options(&bag), &mut NoOutputs).unwrap_err().to_string();
    assert!(
        refused.contains("joint_states: no message of /joint_states can be used. 250 times: the newest sample has no stamp"),
        "{refused}"
    );
}

/// Puts a black image in the place of every camera's.
struct Blinded(Box<dyn Backend>);

impl Backend for Blinded {
    fn describe(&self) -> BackendInfo {
        self.0.describe()
    }

    fn prefix(&mut self, inputs: &ModelInputs) -> Result<PrefixCache, BackendError> {
        self.0.prefix(inputs)
    }

    fn denoise(&mut self, prefix: &PrefixCache, inputs: &ModelInputs, request: &DenoiseRequest) -> Result<Chunk, BackendError> {
        self.0.denoise(prefix, inputs, request)
    }

    fn infer(&mut self, inputs: &ModelInputs, request: &DenoiseRequest) -> Result<Chunk, BackendError> {
        let mut inputs = inputs.clone();
        for camera in &mut inputs.cameras {
            if let Camera::Present(pixels) = camera {
                pixels.fill(-1.0);
            }
        }
        self.0.infer(&inputs, request)
    }

    fn infer_probed(
        &mut self,
        inputs: &ModelInputs,
        request: &DenoiseRequest,
        probe: &mut (dyn Probe + Send),
    ) -> Result<Chunk, BackendError> {
        self.0.infer_probed(inputs, request, probe)
    }
}

#[test]
fn the_witness_sees_what_arrives_at_the_backend_behind_a_fault() {
    let lab = Lab::new();
    let seam = Seam { around: Box::new(|witness| Box::new(Blinded(witness))), ..Seam::default() };
    let blind = run::run_through(lab.options(&demo_bag()), seam, &mut NoOutputs).unwrap();
    let sound = lab.run(&demo_bag());
    let seen = |trace: &Trace| match &trace.chunks[0].model.cameras[0] {
        CameraTrace::Present { mean, deviation, fields, .. } => (*mean, *deviation, fields.clone()),
        CameraTrace::Masked => panic!("the camera is there"),
    };
    assert_eq!(seen(&blind), (-1.0, 0.0, vec![-1.0; 192]));
    let (mean, deviation, fields) = seen(&sound);
    assert!(deviation > 0.1 && fields.len() == 192, "{deviation}");
    assert!((fields.iter().sum::<f32>() / 192.0 - mean).abs() < 0.05, "{mean}");
    assert_eq!(sound.chunks[0].model.cameras[1..], [CameraTrace::Masked, CameraTrace::Masked]);
    let (blind, sound) = (&blind.chunks[0], &sound.chunks[0]);
    assert_eq!(
        (&blind.model.state, &blind.model.noise, &blind.samples),
        (&sound.model.state, &sound.model.noise, &sound.samples)
    );
    assert_ne!(blind.model.answer, sound.model.answer);
    assert_ne!(blind.actions, sound.actions);
}

#[test]
fn the_setup_names_everything_that_decides() {
    let lab = Lab::new();
    let setup = lab.run(&demo_bag()).setup;
    assert_eq!(setup.files.keys().collect::<Vec<_>>(), ["config", "normalizer", "robot", "tokenizer", "weights"]);
    assert_eq!((setup.backend.as_str(), setup.latency, setup.period, setup.horizon), ("reference", 0.1, 0.02, 10));
    assert_eq!(setup.cameras, ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]);
    let parameter = |name: &str| setup.parameters.get(name).map(String::as_str);
    assert_eq!(parameter("cameras.base_0_rgb.transport"), Some("compressed"));
    assert_eq!(parameter("joint_limits.left_waist.max_step"), Some("NaN"));
    assert_eq!((parameter("chunking.mode"), parameter("checkpoint"), parameter("dry_run")), (Some("rtc"), None, None));
    let mut options = lab.options(&demo_bag());
    options.parameters.set("seed", Scalar::Integer(3), "test");
    let other = run::run(options, &mut NoOutputs).unwrap();
    assert_eq!((other.setup.seed, &other.setup.files, &other.setup.build), (3, &setup.files, &setup.build));
}

fn pi0_tt(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi0_tt"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().unwrap()
}

#[test]
fn the_command_prints_numbers_writes_what_the_node_would_publish_and_has_exit_codes() {
    let lab = Lab::new();
    let (bag, checkpoint, output) = (demo_bag().to_str().unwrap().to_owned(), lab.text("checkpoint"), lab.text("output"));
    let params = |name: &str, text: &str| {
        std::fs::write(lab.path(name), text).unwrap();
        lab.text(name)
    };
    let compressed = params("params.yaml", "/**: {ros__parameters: {cameras: {base_0_rgb: {transport: compressed}}}}");
    let replay = |bag: &str, more: &[&str]| {
        let output = pi0_tt(&[&["replay", bag, "--checkpoint", &checkpoint, "--robot", PROFILE], more].concat());
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code().unwrap(), out, err)
    };
    let (code, out, err) = replay(&bag, &["--params", &compressed, "--output", &output]);
    assert!(code == 0 && out.contains("245 control steps") && out.contains("/joint_states"), "{out}{err}");
    let (code, out, _) = replay(&bag, &["--params", &compressed, "--latency-ms", "40", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["latency"], &json["gaps"]), (0, &0.04.into(), &serde_json::json!([])));

    let summary = pi0_tt(&["summary", &output, "--inputs", &bag]);
    let summary = String::from_utf8(summary.stdout).unwrap();
    assert!(summary.contains("chunks       49 in") && summary.contains("Transfer the red cube"), "{summary}");
    let (topics, written): (Vec<_>, Vec<_>) = read(Path::new(&output)).into_iter().unzip();
    assert!(topics.iter().any(|topic| topic.name == "/policy/joint_trajectory"));
    assert!(written.iter().all(|message| (0..=4_980_000_000).contains(&(message.log_time as i64 - START))));

    let (code, _, err) = replay(&bag, &["--params", &compressed, "--output", &output]);
    assert!(code == 1 && err.contains("exists already"), "{err}");
    let (code, _, err) = replay(&bag, &[]);
    assert!(code == 1 && err.contains("Set cameras.base_0_rgb.transport to compressed"), "{err}");
    let mistyped = params("mistyped.yaml", "policy: {ros__parameters: {chunking: {mod: rtc}}}");
    let (code, _, err) = replay(&bag, &["--params", &compressed, "--params", &mistyped]);
    assert!(code == 1 && err.contains("mistyped.yaml: There is no parameter chunking.mod. Is it chunking.mode?"), "{err}");
    let (code, _, err) = replay(&bag, &["--params", &lab.text("absent.yaml")]);
    assert!(code == 1 && err.contains("absent.yaml"), "{err}");
    for usage in
        [&["--latency-ms", "-1"][..], &["--latency-ms", "nan"], &["-r", "joint_states"], &["--threads", "0"], &["--nothing"]]
    {
        assert_eq!(replay(&bag, usage).0, 2, "{usage:?}");
    }

    let gap = lab.edited("gap", |topic, message| {
        let late = message.log_time as i64 - START >= 3_000_000_000;
        (topic.name != CAMERA || !late).then(|| (topic.name.clone(), message.data.to_vec()))
    });
    let (code, out, err) = replay(gap.to_str().unwrap(), &["--params", &compressed]);
    assert!(
        code == 1 && out.contains("no observation from 3.18 s to 4.98 s. base_0_rgb: ") && err.contains("--allow-gaps"),
        "{out}{err}"
    );
    assert_eq!(replay(gap.to_str().unwrap(), &["--params", &compressed, "--allow-gaps"]).0, 0);

    // The joints come only before the images, so there is never an observation.
    let apart = lab.edited("apart", |topic, message| {
        let early = (message.log_time as i64 - START) < 1_000_000_000;
        (early == (topic.type_name == JointState::NAME) || topic.type_name == Text::NAME)
            .then(|| (topic.name.clone(), message.data.to_vec()))
    });
    let (code, out, err) = replay(apart.to_str().unwrap(), &["--params", &compressed]);
    assert!(code == 1 && out.contains("chunks       0 in") && err.contains("No chunk was computed"), "{out}{err}");
}
