//! The closed loop of policy, controller and arm in virtual time, for latencies of 0, 7 and 17 control steps and the three ways of joining
//! chunks.

use std::collections::BTreeMap;

use pi0_tt::{
    backend::{BackendKind, BackendOptions},
    checkpoint::synth,
    control::{
        Chunking, CommandRows, ComputedChunk, ControlConfig, GuidanceRequest, JointControl, JointLimits, OnInstruction, Replan,
        StallAction,
    },
    model::{Geometry, PrefixSchedule},
    observation::{Observation, RgbImage},
    policy::{Policy, PolicyError, PolicyOptions, PrefixGuidance},
    sim::{Arm, Executes, Outcome, Scene, Simulation, Undecided},
};

const PERIOD: f64 = 0.02;
const HORIZON: usize = 50;
const LATENCIES: [usize; 3] = [0, 7, 17];
const MODES: [Chunking; 3] = [Chunking::None, Chunking::Crossfade { seconds: 0.1 }, Chunking::Rtc];

fn control(joints: Vec<JointControl>, chunking: Chunking) -> ControlConfig {
    ControlConfig {
        joints,
        period: PERIOD,
        horizon: HORIZON,
        chunking,
        replan: Replan::Drain,
        execution_horizon: 25,
        stall: StallAction::Hold,
        deadline: 10.0,
        drift: None,
        on_instruction: OnInstruction::Flush,
    }
}

fn simulation(control: ControlConfig, latency: usize) -> Simulation {
    let arm = Arm::new(&control.joints, vec![0.0; control.joints.len()], 0.06, Executes::Rows);
    Simulation { control, arm, latency, steps: 1000, missed: Vec::new() }
}

fn undecided(chunking: Chunking, latency: usize, limits: JointLimits, seed: u64) -> Outcome {
    executed(Executes::Rows, Vec::new(), chunking, latency, limits, seed)
}

fn executed(
    executes: Executes,
    missed: Vec<usize>,
    chunking: Chunking,
    latency: usize,
    limits: JointLimits,
    seed: u64,
) -> Outcome {
    let mut joints = Undecided::joints();
    joints.iter_mut().filter(|joint| !joint.gripper).for_each(|joint| joint.limits = limits);
    let arm = Arm::new(&joints, vec![0.0; joints.len()], 0.06, executes);
    let mut policy = Undecided::new(HORIZON, PERIOD, PrefixSchedule::Linear, 10.0, seed);
    let simulation = Simulation { arm, missed, ..simulation(control(joints, chunking), latency) };
    simulation.run(|scene, guidance| policy.chunk(scene, guidance)).unwrap()
}

/// What the swing needs is 0.02 rad a row, and what borders would take 0.1 rad and more.
const LIMITS: JointLimits =
    JointLimits { position: None, step: Some(0.04), velocity: Some(1.8), acceleration: Some(30.0), continuous: false };

fn assert_within_limits(outcome: &Outcome, case: &str) {
    let commands: Vec<_> = outcome.commands.iter().flatten().collect();
    for rows in commands.windows(3) {
        // The gripper, which has no limits, comes last.
        for ((first, second), third) in rows[0].iter().zip(rows[1]).zip(rows[2]).take(2) {
            let [before, step] = [second - first, third - second];
            assert!(step.abs() <= 1.8 * PERIOD + 1e-9, "{case}: {step}");
            assert!((step - before).abs() <= 30.0 * PERIOD * PERIOD + 1e-9, "{case}: {before} {step}");
        }
    }
}

#[test]
fn the_command_rate_never_drops_at_any_latency_in_any_mode() {
    for latency in LATENCIES {
        for mode in MODES {
            let outcome = undecided(mode, latency, JointLimits::default(), 1);
            assert_eq!(outcome.commanded(), 1.0, "{mode:?} {latency}");
            let first = outcome.commands.iter().position(Option::is_some).unwrap();
            assert!(first <= latency + 2, "{mode:?} {latency}: {first}");
            let status = outcome.status;
            assert_eq!((status.counts.stalls, status.counts.skipped_rows, status.counts.refused.len()), (0, 0, 0));
            assert_eq!(status.delay_p95, Some(latency), "{mode:?}");
            assert!(outcome.borders.len() > 30, "{mode:?} {latency}: {}", outcome.borders.len());
        }
    }
}

#[test]
fn no_step_is_larger_than_the_limits_across_any_border() {
    for latency in LATENCIES {
        for mode in MODES {
            let outcome = undecided(mode, latency, LIMITS, 2);
            assert_within_limits(&outcome, &format!("{mode:?} {latency}"));
            assert_eq!(outcome.commanded(), 1.0, "{mode:?} {latency}");
            if mode == Chunking::None {
                assert!(outcome.status.limits.velocity.values > 0, "the limits were not needed");
            }
        }
    }
}

#[test]
fn an_arm_that_executes_trajectories_goes_the_same_way_as_one_that_takes_row_after_row() {
    for latency in LATENCIES {
        for mode in MODES {
            let [rows, trajectories] =
                [Executes::Rows, Executes::Trajectories].map(|executes| executed(executes, vec![], mode, latency, LIMITS, 4));
            assert!(rows.commands == trajectories.commands, "{mode:?} {latency}");
        }
    }
}

#[test]
fn rows_and_trajectories_keep_the_limits_when_control_steps_are_missed_and_trajectories_have_no_gap() {
    // Single ones, and up to three in a row, also where chunks follow each other.
    let missed: Vec<_> = (60..1000).filter(|step| step % 13 == 0 || step % 41 < 3).collect();
    for latency in LATENCIES {
        for mode in MODES {
            for executes in [Executes::Rows, Executes::Trajectories] {
                let case = format!("{executes:?} {mode:?} {latency}");
                let outcome = executed(executes, missed.clone(), mode, latency, LIMITS, 3);
                assert_within_limits(&outcome, &case);
                assert!(outcome.status.counts.skipped_rows >= missed.len() as u64, "{case}: {:?}", outcome.status.counts);
                if executes == Executes::Trajectories {
                    assert_eq!(outcome.commanded(), 1.0, "{case}");
                }
            }
        }
    }
}

#[test]
fn guided_chunks_jump_at_most_a_third_as_far_as_unjoined_ones_on_the_same_seeds() {
    for latency in LATENCIES {
        for seed in 0..5 {
            let jump = |mode| {
                undecided(mode, latency, JointLimits::default(), seed).largest_jump(&Undecided::joints()).unwrap().distance
            };
            let [none, crossfade, rtc] = MODES.map(jump);
            println!("latency {latency}, seed {seed}: none {none:.4}, crossfade {crossfade:.4}, rtc {rtc:.4}");
            assert!(rtc <= none / 3.0, "latency {latency}, seed {seed}: none {none}, rtc {rtc}");
            assert!(crossfade <= none / 3.0, "latency {latency}, seed {seed}: none {none}, crossfade {crossfade}");
        }
    }
}

/// A tiny model with synthetic weights on an ALOHA robot.
fn policy(checkpoint: &std::path::Path, seed: u64) -> Policy {
    let geometry = Geometry { horizon: HORIZON, ..Geometry::tiny() };
    if !checkpoint.exists() {
        synth::write_synthetic(checkpoint, &geometry, synth::Precision::Float32, |_| ()).unwrap();
    }
    Policy::open(&PolicyOptions {
        checkpoint: checkpoint.to_owned(),
        robot: pi0_tt::robot::find("config/robots/aloha_sim.yaml").unwrap(),
        backend: BackendOptions { threads: Some(2), ..BackendOptions::new(BackendKind::Reference) },
        tokenizer: None,
        norm_stats: None,
        resize: None,
        seed,
        steps: None,
    })
    .unwrap()
}

/// The policy's chunk number `index` for a scene.
fn infer(
    policy: &mut Policy,
    index: u64,
    scene: &Scene,
    guidance: Option<&GuidanceRequest>,
) -> Result<ComputedChunk, PolicyError> {
    let image = RgbImage::new(32, 32, (0..3 * 32 * 32).map(|i| (i * (scene.step + 7) % 251) as u8).collect())?;
    let observation = Observation {
        images: BTreeMap::from([("base_0_rgb".to_owned(), image)]),
        joints: scene.positions.clone(),
        instruction: "transfer the red cube".to_owned(),
    };
    let guidance = guidance.cloned().map(|request| PrefixGuidance::new(request, PrefixSchedule::Linear, 10.0));
    let chunk = policy.infer_at(&observation, index, guidance.as_ref())?;
    let rows = CommandRows::check(&chunk.joints, chunk.horizon, chunk.period, chunk.actions).unwrap();
    Ok(ComputedChunk { rows, model_actions: chunk.model_actions, action_dim: chunk.action_dim, anchor: chunk.anchor })
}

#[test]
fn the_denoise_loop_of_a_model_guides_its_chunks_to_a_third_of_the_jumps_on_the_same_seeds() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..2 {
        let mut policy = policy(&folder.path().join("checkpoint"), seed);
        let joint = |column: &pi0_tt::robot::ActionColumn| JointControl {
            name: column.joint.clone(),
            kind: column.kind,
            gripper: column.gripper,
            limits: JointLimits::default(),
        };
        let joints: Vec<_> = policy.commands().iter().map(joint).collect();
        for latency in LATENCIES {
            let [none, crossfade, rtc] = MODES.map(|mode| {
                let mut index = 0;
                let simulation = Simulation { steps: 300, ..simulation(control(joints.clone(), mode), latency) };
                let outcome = simulation.run(|scene, guidance| {
                    index += 1;
                    infer(&mut policy, index, scene, guidance)
                });
                let outcome = outcome.unwrap();
                assert_eq!((outcome.commanded(), outcome.status.counts.stalls), (1.0, 0), "{mode:?} {latency}");
                assert!(outcome.borders.len() >= 10, "{mode:?} {latency}");
                outcome.largest_jump(&joints).unwrap().distance
            });
            println!("latency {latency}, seed {seed}: none {none:.4}, crossfade {crossfade:.4}, rtc {rtc:.4}");
            assert!(rtc <= none / 3.0, "latency {latency}, seed {seed}: none {none}, rtc {rtc}");
        }
    }
}
