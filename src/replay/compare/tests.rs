//! Verdicts and diagnoses of traces that were changed on purpose. `src/replay/mutants.rs` makes the same faults in a running policy.

use super::*;
use crate::replay::trace::{CameraTrace, Command, Digest, Gap, Outcome, synthetic};

const CHUNKS: u64 = 6;

/// Compares a run with the same run after `change`.
fn compare_at(tier: Option<Tier>, change: impl FnOnce(&mut Trace)) -> Comparison {
    let baseline = synthetic::trace(CHUNKS);
    let mut current = baseline.clone();
    change(&mut current);
    Comparison::new(&baseline, &current, &Tolerances::default(), tier).unwrap()
}

fn exact(change: impl FnOnce(&mut Trace)) -> Comparison {
    let comparison = compare_at(None, change);
    assert_eq!(comparison.tier, Tier::Exact);
    comparison
}

/// The findings of a change in both extremes of strictness, which must be the same.
#[track_caller]
fn found(change: impl Fn(&mut Trace)) -> Vec<Finding> {
    let strict = exact(&change);
    assert_eq!(strict.verdict, Verdict::Different, "{strict:#?}");
    let loose = compare_at(Some(Tier::AcrossBackends), &change);
    assert_eq!(loose.verdict, Verdict::Different, "{loose:#?}");
    assert_eq!(strict.findings, loose.findings);
    assert!(!strict.findings.is_empty());
    strict.findings
}

fn new_digest() -> Digest {
    Digest::of([b"another".as_slice()])
}

/// Changes a present camera of every chunk, whose digest changes with it.
fn camera(trace: &mut Trace, slot: usize, change: impl Fn(&mut Vec<f32>, &mut f32, &mut f32)) {
    for chunk in &mut trace.chunks {
        let CameraTrace::Present { digest, mean, deviation, fields } = &mut chunk.model.cameras[slot] else { panic!("masked") };
        change(fields, mean, deviation);
        *digest = new_digest();
    }
}

fn columns<T: Copy>(values: &mut [T], width: usize, change: impl Fn(&mut [T])) {
    values.chunks_exact_mut(width).for_each(change);
}

fn base() -> String {
    "base".to_owned()
}

fn gripper() -> Vec<String> {
    vec!["gripper".to_owned()]
}

#[test]
fn the_same_run_is_the_same_in_every_tier() {
    for tier in [None, Some(Tier::SameBackend), Some(Tier::AcrossBackends)] {
        let comparison = compare_at(tier, |_| ());
        assert_eq!((comparison.verdict, comparison.findings.as_slice()), (Verdict::Same, [].as_slice()));
        assert_eq!(comparison.counts, Counts { baseline: 6, current: 6, compared: 6, different: 0 });
        assert_eq!((comparison.first, comparison.first_chunk, comparison.worst_chunk), (None, None, None));
        assert!(comparison.chunks.iter().all(|chunk| chunk.relative_rms == 0.0 && chunk.pcc.unwrap() > 0.999_999));
        assert_eq!(comparison.commands.compared, 48);
    }
}

#[test]
fn wall_times_are_not_compared() {
    assert_eq!(exact(|trace| trace.chunks[0].times.total = 9.0).verdict, Verdict::Same);
}

#[test]
fn a_run_without_chunks_is_not_tested() {
    let baseline = synthetic::trace(0);
    let comparison = Comparison::new(&baseline, &baseline, &Tolerances::default(), None).unwrap();
    assert_eq!(comparison.verdict, Verdict::NotTested);
    assert_eq!(exact(|trace| trace.chunks.clear()).verdict, Verdict::NotTested);
    // Other times of observation are other chunks.
    let shifted = exact(|trace| trace.chunks.iter_mut().for_each(|chunk| chunk.observed += 1));
    assert_eq!(shifted.verdict, Verdict::NotTested);
    assert!(matches!(shifted.findings[0], Finding::OnlyIn { side: Side::Baseline, index: 0, .. }), "{:?}", shifted.findings);
}

#[test]
fn the_tier_follows_the_setups() {
    let tier = |change: fn(&mut Trace)| compare_at(None, change).tier;
    assert_eq!(tier(|trace| trace.setup.build = new_digest()), Tier::SameBackend);
    assert_eq!(tier(|trace| trace.setup.machine = "aarch64".to_owned()), Tier::SameBackend);
    assert_eq!(tier(|trace| trace.setup.backend = "ttnn".to_owned()), Tier::AcrossBackends);
    let mut card = synthetic::trace(1);
    card.setup.backend = "ttnn".to_owned();
    assert_eq!(Comparison::new(&card, &card, &Tolerances::default(), None).unwrap().tier, Tier::SameBackend);
}

#[test]
fn another_build_is_named_last_and_is_no_difference() {
    let comparison = compare_at(None, |trace| trace.setup.build = new_digest());
    assert_eq!(comparison.verdict, Verdict::Same);
    assert!(matches!(&comparison.findings[..], [Finding::Setup { item: SetupItem::Build, .. }]));
    let comparison = compare_at(None, |trace| {
        trace.setup.build = new_digest();
        trace.chunks[2].model.noise = new_digest();
        trace.setup.parameters.insert("resize".to_owned(), "lerobot".to_owned());
    });
    let [
        Finding::Setup { item: SetupItem::Parameter(name), baseline, current },
        Finding::Noise { chunk: 2 },
        Finding::Setup { item: SetupItem::Build, .. },
    ] = &comparison.findings[..]
    else {
        panic!("{:?}", comparison.findings)
    };
    assert_eq!([name, baseline, current], ["resize", "openpi", "lerobot"]);
}

#[test]
fn one_bit_is_a_difference_only_where_bits_count() {
    let flip = |trace: &mut Trace| {
        let value = &mut trace.chunks[4].model_actions[0];
        *value = f32::from_bits(value.to_bits() ^ 1);
    };
    let comparison = exact(flip);
    assert_eq!((comparison.verdict, comparison.first_chunk), (Verdict::Different, Some(4)));
    assert!(matches!(&comparison.findings[..], [Finding::ModelActions { chunk: 4, on_the_way: true, .. }]));
    assert_eq!(compare_at(Some(Tier::SameBackend), flip).verdict, Verdict::Same);
    // Zeros of either sign are different bits, and not a number is different from everything but itself.
    let zero = |value: f64| move |trace: &mut Trace| trace.chunks[1].actions[3] = value;
    let mut baseline = synthetic::trace(2);
    zero(0.0)(&mut baseline);
    let mut current = baseline.clone();
    zero(-0.0)(&mut current);
    assert_eq!(Comparison::new(&baseline, &current, &Tolerances::default(), None).unwrap().verdict, Verdict::Different);
    zero(f64::NAN)(&mut current);
    for tier in [Tier::Exact, Tier::AcrossBackends] {
        let other = Comparison::new(&baseline, &current, &Tolerances::default(), Some(tier)).unwrap();
        assert_eq!(
            other.verdict,
            if tier == Tier::Exact { Verdict::Different } else { Verdict::Same },
            "{tier}: row 0 is not executed"
        );
        assert_eq!(Comparison::new(&current, &current, &Tolerances::default(), Some(tier)).unwrap().verdict, Verdict::Same);
    }
}

#[test]
fn the_first_divergence_and_the_worst_chunk_are_named() {
    let comparison = compare_at(Some(Tier::AcrossBackends), |trace| {
        // Row 5 of chunk 1, joint 1, is executed and row 1 is not.
        trace.chunks[1].actions[4 + 1] += 5.0;
        trace.chunks[1].actions[5 * 4 + 1] += 0.021;
        trace.chunks[3].actions[4 * 4] -= 0.5;
    });
    let first = comparison.first.unwrap();
    assert_eq!((first.chunk, first.row, first.joint.as_str(), first.tolerance), (Some(1), Some(5), "elbow", 0.02));
    assert_eq!(first.stamp, comparison.chunks[1].observed + 5 * 20_000_000);
    assert!((first.current - first.baseline - 0.021).abs() < 1e-12);
    assert_eq!((comparison.first_chunk, comparison.worst_chunk), (Some(1), Some(3)));
    let chunk = &comparison.chunks[1];
    assert_eq!((chunk.first_row, chunk.rows, chunk.stages.as_slice()), (3, 8, [Stage::Actions].as_slice()));
    assert!((chunk.joints[1].max - 0.021).abs() < 1e-12 && (chunk.joints[1].mean - 0.021 / 8.0).abs() < 1e-12);
}

#[test]
fn a_mean_difference_is_caught_below_the_largest() {
    // 0.015 rad everywhere is below 0.02 in each row and above 0.005 in the mean; the correlation is 1.
    let comparison = compare_at(Some(Tier::AcrossBackends), |trace| {
        for chunk in &mut trace.chunks {
            columns(&mut chunk.actions, 4, |row| row[0] += 0.015);
        }
    });
    assert_eq!(comparison.verdict, Verdict::Different);
    assert_eq!(comparison.chunks[0].exceeded.len(), 1, "{:?}", comparison.chunks[0].exceeded);
    assert!(comparison.chunks[0].exceeded[0].contains("in the mean"));
}

#[test]
fn a_constant_chunk_has_no_correlation_and_is_still_compared() {
    let mut baseline = synthetic::trace(2);
    baseline.chunks[1].model_actions.fill(0.25);
    let mut current = baseline.clone();
    let compare =
        |current: &Trace| Comparison::new(&baseline, current, &Tolerances::default(), Some(Tier::AcrossBackends)).unwrap();
    let same = compare(&current);
    assert_eq!((same.verdict, same.chunks[1].pcc), (Verdict::Same, None));
    current.chunks[1].model_actions.fill(0.26);
    assert_eq!(compare(&current).verdict, Verdict::Different);
}

#[test]
fn a_bias_is_caught_that_a_correlation_does_not_see() {
    let comparison = compare_at(Some(Tier::AcrossBackends), |trace| {
        trace.chunks.iter_mut().for_each(|chunk| chunk.model_actions.iter_mut().for_each(|value| *value += 0.1));
    });
    assert!(comparison.chunks[0].pcc.unwrap() > 0.9999);
    assert_eq!(comparison.verdict, Verdict::Different);
}

#[test]
fn commands_are_compared_at_their_stamps() {
    let comparison = exact(|trace| {
        trace.commands.remove(10);
        trace.commands[20].row[2] += 0.1;
    });
    assert_eq!((comparison.verdict, comparison.commands.compared), (Verdict::Different, 47));
    assert_eq!((comparison.commands.only_baseline.len(), comparison.commands.only_current.len()), (1, 0));
    assert!(matches!(comparison.findings[0], Finding::CommandTimes { side: Side::Baseline, count: 1, .. }));
    assert_eq!(comparison.first.unwrap().joint, "gripper");
}

#[test]
fn other_joints_cannot_be_compared_and_their_order_does_not_matter() {
    let comparison = exact(|trace| trace.setup.joints[0].name = "base_joint".to_owned());
    assert_eq!((comparison.verdict, comparison.counts.compared), (Verdict::Different, 0));
    assert!(matches!(&comparison.findings[..], [Finding::Setup { item: SetupItem::Joints, .. }]));
    let comparison = exact(|trace| {
        trace.setup.joints.swap(0, 1);
        trace.setup.state_joints.swap(0, 1);
        trace.chunks.iter_mut().for_each(|chunk| columns(&mut chunk.actions, 4, |row| row.swap(0, 1)));
        trace.chunks.iter_mut().for_each(|chunk| chunk.positions.swap(0, 1));
        trace.commands.iter_mut().for_each(|command| command.row.swap(0, 1));
    });
    assert_eq!(comparison.verdict, Verdict::Same, "{:?}", comparison.findings);
    assert_eq!(comparison.findings.len(), 2);
}

#[test]
fn samples_instructions_and_tokens_are_named() {
    let samples = found(|trace| trace.chunks[2].samples.get_mut("base").unwrap().digest = new_digest());
    assert_eq!(samples, [Finding::Sample { chunk: 2, input: base() }]);
    let instruction = found(|trace| {
        trace.chunks[1].instruction = "put it down".to_owned();
        trace.chunks[1].model.tokens = vec![2, 9, 108];
    });
    assert!(matches!(&instruction[..], [Finding::Instruction { chunk: 1, .. }]));
    let tokens = found(|trace| trace.chunks[1].model.tokens = vec![2, 9, 108]);
    assert!(matches!(&tokens[..], [Finding::Tokens { chunk: 1, first: 1, .. }]));
}

#[test]
fn what_happened_to_a_camera_is_named() {
    assert_eq!(
        found(|trace| trace.chunks.iter_mut().for_each(|chunk| chunk.model.cameras.swap(0, 1))),
        [Finding::CamerasSwapped { first: base(), second: "wrist".to_owned() }]
    );
    let masked = found(|trace| trace.chunks[0].model.cameras[0] = CameraTrace::Masked);
    assert_eq!(masked, [Finding::MaskAdded { camera: base() }]);
    let present = found(|trace| trace.chunks[0].model.cameras[2] = trace.chunks[3].model.cameras[0].clone());
    assert_eq!(present, [Finding::MaskDropped { camera: "absent".to_owned() }]);
    let black = found(|trace| {
        camera(trace, 1, |fields, mean, deviation| {
            fields.fill(-1.0);
            (*mean, *deviation) = (-1.0, 0.0);
        });
    });
    assert_eq!(black, [Finding::CameraConstant { camera: "wrist".to_owned(), value: -1.0 }]);
    assert!(black[0].to_string().contains("wrist is black"));
    let turned = found(|trace| camera(trace, 0, |fields, _, _| fields.chunks_mut(64).for_each(<[f32]>::reverse)));
    assert_eq!(turned, [Finding::CameraTurned { camera: base() }]);
    let mirrored = found(|trace| camera(trace, 0, |fields, _, _| fields.chunks_mut(8).for_each(<[f32]>::reverse)));
    assert_eq!(mirrored, [Finding::CameraMirrored { camera: base(), axis: "left to right" }]);
    let bgr = found(|trace| {
        camera(trace, 0, |fields, _, _| {
            let (red, rest) = fields.split_at_mut(64);
            red.swap_with_slice(&mut rest[64..]);
        });
    });
    assert_eq!(bgr, [Finding::CameraColours { camera: base() }]);
    let kernel = found(|trace| camera(trace, 0, |fields, _, _| fields[7] += 0.01));
    assert!(
        matches!(&kernel[..], [Finding::CameraImage { camera, distance }] if camera == "base" && (distance - 0.01).abs() < 1e-6)
    );
}

#[test]
fn what_happened_to_joints_and_state_is_named() {
    let swapped = vec![("waist".to_owned(), "elbow".to_owned()), ("elbow".to_owned(), "waist".to_owned())];
    let positions = found(|trace| {
        for chunk in &mut trace.chunks {
            chunk.positions.swap(0, 1);
            chunk.model.state.swap(0, 1);
        }
    });
    assert_eq!(positions, [Finding::Positions { chunk: 0, change: ArrayChange::Permuted(swapped.clone()) }]);
    let state = found(|trace| trace.chunks.iter_mut().for_each(|chunk| chunk.model.state.swap(0, 1)));
    assert_eq!(state, [Finding::State { chunk: 0, change: ArrayChange::Permuted(swapped.clone()) }]);
    // Exchanged before they were normalized: each with the statistics of the other.
    let raw = found(|trace| {
        for chunk in &mut trace.chunks {
            chunk.model.state[0] = (chunk.positions[1] / 0.22) as f32;
            chunk.model.state[1] = ((chunk.positions[0] + 0.72) / 0.38) as f32;
        }
    });
    assert_eq!(raw, [Finding::State { chunk: 0, change: ArrayChange::Permuted(swapped) }]);
    // The sign of the position, behind which there is a mean: the state is not just negated.
    let sign = found(|trace| {
        trace.chunks.iter_mut().for_each(|chunk| chunk.model.state[2] = ((-chunk.positions[2] - 0.5) / 0.3) as f32)
    });
    assert_eq!(sign, [Finding::State { chunk: 0, change: ArrayChange::Negated(gripper()) }]);
    let open =
        found(|trace| trace.chunks.iter_mut().for_each(|chunk| chunk.model.state[2] = ((0.5 - chunk.positions[2]) / 0.3) as f32));
    assert!(matches!(&open[..], [Finding::State { change: ArrayChange::Reversed { column, .. }, .. }] if column == "gripper"));
    let statistics = found(|trace| {
        for chunk in &mut trace.chunks {
            for (joint, position) in chunk.positions.iter().enumerate() {
                chunk.model.state[joint] = (position / (0.3 + 0.1 * joint as f64)) as f32;
            }
        }
    });
    let [Finding::State { change: ArrayChange::Affine(maps), .. }] = &statistics[..] else { panic!("{statistics:?}") };
    assert_eq!(maps.len(), 4);
    assert!((maps[0].scale - 0.22 / 0.3).abs() < 1e-4, "{maps:?}");
    let zero = found(|trace| trace.chunks.iter_mut().for_each(|chunk| chunk.model.state.fill(0.0)));
    assert!(matches!(&zero[..], [Finding::State { change: ArrayChange::Zero(columns), .. }] if columns.len() == 4));
}

#[test]
fn noise_and_guidance_are_named() {
    assert_eq!(found(|trace| trace.chunks[0].model.noise = new_digest()), [Finding::Noise { chunk: 0 }]);
    let free = found(|trace| trace.chunks[3].model.guidance = None);
    assert_eq!(free, [Finding::Guidance { chunk: 3, baseline: true, current: false }]);
    let rows = exact(|trace| trace.chunks[3].model.guidance = Some(new_digest()));
    assert_eq!(rows.findings, [Finding::Guidance { chunk: 3, baseline: true, current: true }]);
}

/// Changes an intermediate tensor and everything that is computed after it.
fn from_tensor(trace: &mut Trace, name: &str, change: impl Fn(&mut Vec<f32>)) {
    let chunk = &mut trace.chunks[0];
    let first = chunk.model.intermediates.iter().position(|tensor| tensor.name == name).unwrap();
    for (at, tensor) in chunk.model.intermediates.iter_mut().enumerate().skip(first) {
        if !tensor.name.starts_with("positions.") || at == first {
            change(&mut tensor.values);
            tensor.digest = new_digest();
        }
    }
    chunk.model_actions.iter_mut().for_each(|value| *value = 1.3 * *value + 0.2 * value.powi(2));
    chunk.model.answer = new_digest();
}

#[test]
fn the_place_inside_of_the_model_is_named() {
    let scale = |values: &mut Vec<f32>| values.iter_mut().for_each(|value| *value *= 1.4);
    let vision = found(|trace| from_tensor(trace, "vision.0.embeddings", scale));
    assert!(
        matches!(&vision[..], [Finding::Intermediate { place, .. }] if place == "The patch embedding of SigLIP for camera base"),
        "{vision:?}"
    );
    let suffix =
        found(|trace| from_tensor(trace, "positions.suffix", |values| values.iter_mut().for_each(|value| *value += 1.0)));
    assert!(matches!(&suffix[..], [Finding::RopePositions { tower, .. }] if tower == "suffix"));
    let attention = found(|trace| from_tensor(trace, "step.0.layer.0", scale));
    assert!(matches!(&attention[..], [Finding::Intermediate { name, .. }] if name == "step.0.layer.0"));
    // Turned keys beside values that stayed.
    let rotation = found(|trace| {
        from_tensor(trace, "prefix.layer.0.self_attn", scale);
        let values = &synthetic::trace(1).chunks[0].model.intermediates[5];
        trace.chunks[0].model.intermediates[5] = values.clone();
    });
    assert!(matches!(&rotation[..], [Finding::RopeRotation { .. }]), "{rotation:?}");
    let steps = found(|trace| {
        from_tensor(trace, "step.1.x_t", scale);
        trace.chunks[0].model.intermediates.pop();
    });
    assert_eq!(steps, [Finding::Steps { baseline: 2, current: 1 }]);
}

#[test]
fn what_happened_to_model_actions_is_named() {
    let rows = |trace: &mut Trace, change: &dyn Fn(&mut Vec<f32>)| {
        trace.chunks.iter_mut().for_each(|chunk| change(&mut chunk.model_actions))
    };
    let follow = |trace: &mut Trace| {
        // The robot map goes on as it did.
        for chunk in &mut trace.chunks {
            let statistics = [(0.0, 0.22), (-0.72, 0.38), (0.5, 0.3), (0.1, 0.15)];
            let robot = |row: &[f32]| {
                std::array::from_fn::<f64, 4, _>(|joint| f64::from(row[joint]) * statistics[joint].1 + statistics[joint].0)
            };
            chunk.actions = chunk.model_actions.chunks(6).flat_map(robot).collect();
        }
    };
    let model = |change: &dyn Fn(&mut Vec<f32>)| {
        let findings = found(|trace| {
            rows(trace, change);
            follow(trace);
        });
        match &findings[..] {
            [Finding::ModelActions { chunk: 0, on_the_way: true, change }] => change.clone(),
            _ => panic!("{findings:?}"),
        }
    };
    assert_eq!(model(&|values| values.rotate_right(6)), ArrayChange::Shifted { rows: 1 });
    assert_eq!(model(&|values| values.rotate_left(12)), ArrayChange::Shifted { rows: -2 });
    let negated = model(&|values| columns(values, 6, |row| row[2] = -row[2]));
    assert_eq!(negated, ArrayChange::Negated(gripper()));
    let permuted = model(&|values| columns(values, 6, |row| row.swap(1, 3)));
    assert!(
        matches!(permuted, ArrayChange::Permuted(pairs) if pairs == [("elbow".to_owned(), "wrist".to_owned()), ("wrist".to_owned(), "elbow".to_owned())])
    );
    let scaled = model(&|values| values.iter_mut().for_each(|value| *value *= 1.1));
    assert!(
        matches!(scaled, ArrayChange::Affine(maps) if maps.len() == 4 && maps.iter().all(|map| (map.scale - 1.1).abs() < 1e-4))
    );
}

#[test]
fn what_happened_between_model_and_robot_is_named() {
    let robot = |change: &dyn Fn(&mut [f64])| {
        let findings = found(|trace| trace.chunks.iter_mut().for_each(|chunk| columns(&mut chunk.actions, 4, change)));
        match &findings[..] {
            [Finding::Actions { chunk: 0, change }] => change.clone(),
            _ => panic!("{findings:?}"),
        }
    };
    assert_eq!(robot(&|row| row[2] = -row[2]), ArrayChange::Negated(gripper()));
    assert_eq!(robot(&|row| row[2] = 1.0 - row[2]), ArrayChange::Reversed { column: "gripper".to_owned(), sum: 1.0 });
    let offset = robot(&|row| row[2] += 0.2);
    assert!(matches!(offset, ArrayChange::Affine(maps) if maps.len() == 1 && (maps[0].offset - 0.2).abs() < 1e-6));
    assert!(matches!(robot(&|row| row.swap(0, 3)), ArrayChange::Permuted(_)));
}

#[test]
fn a_model_that_is_just_too_far_is_not_taken_for_the_robot_map() {
    // Below the model's bound and above a joint's in its unit.
    let mut tolerances = Tolerances::default();
    tolerances.across_backends.actions.position = Bound { max: 1e-3, mean: 1e-3 };
    let baseline = synthetic::trace(2);
    let mut current = baseline.clone();
    for chunk in &mut current.chunks {
        let statistics = [0.22, 0.38, 0.3, 0.15];
        for (row, actions) in chunk.model_actions.chunks_mut(6).zip(chunk.actions.chunks_mut(4)) {
            for joint in 0..4 {
                let error = 0.012 * (joint as f32 + row[0] * 90.0).sin();
                row[joint] += error;
                actions[joint] += f64::from(error) * statistics[joint];
            }
        }
        chunk.model.answer = new_digest();
    }
    let comparison = Comparison::new(&baseline, &current, &tolerances, Some(Tier::AcrossBackends)).unwrap();
    assert_eq!(comparison.chunks[0].stages, [Stage::Actions]);
    assert!(
        matches!(
            &comparison.findings[..],
            [Finding::ModelActions { chunk: 0, on_the_way: false, change: ArrayChange::Values { .. } }]
        ),
        "{:?}",
        comparison.findings
    );
}

#[test]
fn outcomes_and_events_are_named() {
    let delay = found(|trace| {
        let Outcome::Installed { delay_rows, executed, .. } = &mut trace.chunks[2].outcome else { panic!("refused") };
        (*delay_rows, *executed) = (4, 7);
    });
    assert_eq!(
        delay,
        [Finding::Delay { chunk: 2, baseline: 3, current: 4 }, Finding::Executed { chunk: 2, baseline: 8, current: 7 }]
    );
    let refused = found(|trace| trace.chunks[2].outcome = Outcome::Refused { reason: "late".to_owned() });
    assert_eq!(refused, [Finding::Refused { chunk: 2, baseline: None, current: Some("late".to_owned()) }]);
    let gap = found(|trace| trace.gaps.push(Gap { from: 1, to: 2, inputs: BTreeMap::new() }));
    assert_eq!(gap, [Finding::Gaps { baseline: 0, current: 1 }]);
    let failed = found(|trace| _ = trace.failed.insert("out of memory".to_owned(), 3));
    assert_eq!(failed, [Finding::Failed { reason: "out of memory".to_owned(), baseline: 0, current: 3 }]);
    let latch = found(|trace| trace.latch = Some("drift".to_owned()));
    assert_eq!(latch, [Finding::Latch { baseline: None, current: Some("drift".to_owned()) }]);
    // The runs part at chunk 3, and have no other chunk in common from there on.
    let parted = found(|trace| trace.chunks.iter_mut().skip(3).for_each(|chunk| chunk.observed += 20_000_000));
    assert!(matches!(&parted[..], [Finding::OnlyIn { index: 3, .. }, Finding::OnlyIn { index: 3, .. }]), "{parted:?}");
}

#[test]
fn what_happened_to_commands_is_named() {
    let commands = |change: &dyn Fn(&mut Vec<Command>)| {
        let findings = found(|trace| change(&mut trace.commands));
        match &findings[..] {
            [Finding::Commands { change, .. }] => change.clone(),
            _ => panic!("{findings:?}"),
        }
    };
    let late = commands(&|commands| {
        let rows: Vec<Vec<f64>> = commands.iter().map(|command| command.row.clone()).collect();
        commands.iter_mut().skip(1).zip(rows).for_each(|(command, row)| command.row = row);
    });
    assert_eq!(late, ArrayChange::Shifted { rows: 1 });
    let limited = commands(&|commands| commands.iter_mut().for_each(|command| command.row[0] = command.row[0].min(0.1)));
    assert_eq!(limited, ArrayChange::Limited { limit: Limit::Position, columns: vec!["waist".to_owned()] });
    let slow = commands(&|commands| {
        let mut last = commands[0].row[1];
        for command in commands {
            last += (command.row[1] - last).clamp(-0.02, 0.02);
            command.row[1] = last;
        }
    });
    assert_eq!(slow, ArrayChange::Limited { limit: Limit::Velocity, columns: vec!["elbow".to_owned()] });
}

#[test]
fn only_the_first_difference_has_a_cause() {
    // Chunk 2 differs in its noise; chunk 3 is guided by it and differs too, and so do the commands.
    let findings = found(|trace| {
        trace.chunks[2].model.noise = new_digest();
        for chunk in &mut trace.chunks[2..] {
            chunk.model_actions.iter_mut().for_each(|value| *value *= -1.0);
            chunk.model.answer = new_digest();
        }
        trace.chunks[3..].iter_mut().for_each(|chunk| chunk.model.guidance = Some(new_digest()));
        trace.commands.iter_mut().skip(24).for_each(|command| command.row[0] += 1.0);
    });
    assert_eq!(findings, [Finding::Noise { chunk: 2 }]);
}

#[test]
fn every_setup_difference_is_named() {
    let comparison = exact(|trace| {
        trace.setup.seed = 7;
        trace.setup.steps = 5;
        trace.setup.latency = 0.1;
        trace.setup.files.insert("weights".to_owned(), new_digest());
        trace.setup.parameters.remove("resize");
        trace.setup.version = "0.2.0".to_owned();
        trace.inputs[0].messages = 19;
    });
    let sentences: Vec<String> = comparison.findings.iter().map(ToString::to_string).collect();
    let starts = [
        "The seed is 7 and was 0",
        "The number of denoise steps is 5",
        "The latency",
        "Changed: weights, whose hash is",
        "The parameter resize is not there and was openpi",
        "The bag has other messages of base: 19 of test, and it had 20 of test",
        "The version",
    ];
    assert_eq!(sentences.len(), starts.len(), "{sentences:#?}");
    for (sentence, start) in sentences.iter().zip(starts) {
        assert!(sentence.starts_with(start), "{sentence}");
    }
}
