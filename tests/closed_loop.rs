//! The closed loop of policy, controller and arm in virtual time, for latencies of 0, 7 and 17 control steps and the three ways of joining
//! chunks.

use pi0_tt::{
    control::{Chunking, ControlConfig, JointControl, JointLimits, OnInstruction, Replan, StallAction},
    model::PrefixSchedule,
    sim::{Arm, Outcome, Simulation, Undecided},
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
    let arm = Arm::new(&control.joints, vec![0.0; control.joints.len()], 0.06);
    Simulation { control, arm, latency, steps: 1000 }
}

fn undecided(chunking: Chunking, latency: usize, limits: JointLimits, seed: u64) -> Outcome {
    let mut joints = Undecided::joints();
    joints.iter_mut().filter(|joint| !joint.gripper).for_each(|joint| joint.limits = limits);
    let mut policy = Undecided::new(HORIZON, PERIOD, PrefixSchedule::Linear, 10.0, seed);
    simulation(control(joints, chunking), latency).run(|scene, guidance| policy.chunk(scene, guidance)).unwrap()
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
    // Between what the swing needs, 0.02 rad a row, and what borders would take, 0.1 rad and more.
    let limits = JointLimits { step: Some(0.04), velocity: Some(1.8), acceleration: Some(30.0), ..JointLimits::default() };
    for latency in LATENCIES {
        for mode in MODES {
            let outcome = undecided(mode, latency, limits, 2);
            let commands: Vec<_> = outcome.commands.iter().flatten().collect();
            for rows in commands.windows(3) {
                for joint in 0..2 {
                    let [before, step] = [rows[1][joint] - rows[0][joint], rows[2][joint] - rows[1][joint]];
                    assert!(step.abs() <= 1.8 * PERIOD + 1e-9, "{mode:?} {latency}: {step}");
                    assert!((step - before).abs() <= 30.0 * PERIOD * PERIOD + 1e-9, "{mode:?} {latency}: {before} {step}");
                }
            }
            assert_eq!(outcome.commanded(), 1.0, "{mode:?} {latency}");
            if mode == Chunking::None {
                assert!(outcome.status.limits.velocity.values > 0, "the limits were not needed");
            }
        }
    }
}

#[test]
fn guided_chunks_jump_at_most_a_third_as_far_as_unjoined_ones_on_the_same_seeds() {
    for latency in LATENCIES {
        for seed in 0..5 {
            let jump =
                |mode| undecided(mode, latency, JointLimits::default(), seed).largest_jump(&Undecided::joints()).unwrap().0;
            let [none, crossfade, rtc] = MODES.map(jump);
            println!("latency {latency}, seed {seed}: none {none:.4}, crossfade {crossfade:.4}, rtc {rtc:.4}");
            assert!(rtc <= none / 3.0, "latency {latency}, seed {seed}: none {none}, rtc {rtc}");
            assert!(crossfade <= none / 3.0, "latency {latency}, seed {seed}: none {none}, crossfade {crossfade}");
        }
    }
}
