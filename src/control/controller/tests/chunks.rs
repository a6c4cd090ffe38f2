//! Chunks: when they are asked for, where they begin, how they are joined, when they are refused.

use super::*;

#[test]
fn the_first_chunk_begins_with_row_0_however_long_it_took() {
    let mut rig = Rig::new(config());
    rig.step();
    let ticket = rig.request();
    assert_eq!(rig.elbow(200), [None; 200], "nothing is commanded before the first chunk");
    let installed = rig.install(&ticket, counting(0.0)).unwrap();
    assert_eq!((installed.delay_rows, installed.start), (0, rig.now.after(PERIOD)));
    assert_eq!(rig.elbow(3), rows([0, 1, 2]));
}

#[test]
fn an_inference_overlaps_with_the_execution_and_its_chunk_takes_over_at_the_row_that_is_next() {
    let mut rig = Rig::with_delay(config(), 7);
    let (_, ticket) = rig.steps_until_request();
    let asked = rig.now;
    let before = rig.elbow(7);
    assert!(before.iter().all(Option::is_some), "rows are commanded while the inference runs");
    let installed = rig.install(&ticket, counting(1000.0)).unwrap();
    assert_eq!((installed.delay_rows, installed.start), (7, asked.after(PERIOD)), "row 0 was next when it was asked for");
    assert_eq!(rig.elbow(3), rows([1007, 1008, 1009]));
}

#[test]
fn a_chunk_that_comes_before_the_next_step_begins_with_row_0() {
    let mut rig = Rig::with_delay(config(), 7);
    let (_, ticket) = rig.steps_until_request();
    assert_eq!(rig.install(&ticket, counting(1000.0)).unwrap().delay_rows, 0);
    assert_eq!(rig.elbow(2), rows([1000, 1001]));
}

#[test]
fn the_delay_counts_rows_that_were_really_consumed_not_those_of_a_hold() {
    let mut rig = Rig::with_first(config(), counting(0.0));
    rig.elbow(1);
    let ticket = rig.request();
    let left = rig.controller.status().rows_left;
    assert_eq!(left, 49);
    // 49 rows, and the hold is sent.
    let commands = rig.elbow(left + 1);
    assert_eq!(commands[left - 2..], [Some(48.0), Some(49.0), Some(49.0)]);
    assert_eq!(rig.state(), ControlState::Holding);
    let installed = rig.install(&ticket, counting(1000.0)).unwrap();
    assert_eq!(installed.delay_rows, left);
    assert_eq!(rig.elbow(1), rows([1049]), "its only row that has not passed");
}

#[test]
fn a_chunk_that_is_asked_for_in_a_hold_begins_with_row_0() {
    let mut rig = Rig::with_first(config(), counting(0.0));
    rig.elbow(60);
    let ticket = rig.request();
    rig.elbow(40);
    assert_eq!(rig.install(&ticket, counting(1000.0)).unwrap().delay_rows, 0);
    assert_eq!(rig.elbow(2), rows([1000, 1001]));
}

#[test]
fn a_late_control_step_skips_rows_by_index_and_counts_them() {
    let mut rig = Rig::with_delay(config(), 0);
    let (_, ticket) = rig.steps_until_request();
    rig.install(&ticket, counting(1000.0)).unwrap();
    assert_eq!(rig.elbow(2), rows([1000, 1001]));
    rig.pass(75);
    assert_eq!(rig.tick().command.unwrap()[0], 1004.0);
    assert_eq!(rig.controller.status().counts.skipped_rows, 2);
    rig.pass(5);
    assert_eq!(rig.tick().command.unwrap()[0], 1005.0, "the steps keep their times");
    assert_eq!(rig.tick().command, None, "the step has happened");
    rig.pass(20);
    assert_eq!(rig.tick().command.unwrap()[0], 1006.0);
}

#[test]
fn rows_that_a_late_step_skipped_are_consumed() {
    let mut rig = Rig::with_delay(config(), 7);
    let (_, ticket) = rig.steps_until_request();
    rig.pass(100);
    rig.tick();
    assert_eq!(rig.install(&ticket, counting(1000.0)).unwrap().delay_rows, 5);
    assert_eq!(rig.elbow(1), rows([1005]));
}

#[test]
fn a_late_step_skips_nothing_of_a_chunk_that_begins_from_a_held_pose() {
    let mut rig = Rig::new(config());
    rig.step();
    let ticket = rig.request();
    rig.pass(110);
    rig.install(&ticket, counting(0.0)).unwrap();
    assert_eq!(rig.tick().command.unwrap()[0], 0.0);
}

#[test]
fn after_an_activation_the_delay_is_measured_anew() {
    let mut rig = Rig::with_delay(config(), 7);
    rig.controller.deactivate(rig.now);
    rig.controller.activate();
    assert_eq!(rig.controller.status().delay_p95, None);
}

#[test]
fn the_cold_start_is_no_measure_of_the_delay() {
    let mut rig = Rig::new(config());
    rig.step();
    let ticket = rig.request();
    rig.elbow(300);
    rig.install(&ticket, counting(0.0)).unwrap();
    assert_eq!(rig.controller.status().delay_p95, None);
    rig.elbow(1);
    let ticket = rig.request();
    rig.elbow(6);
    rig.install(&ticket, counting(0.0)).unwrap();
    let status = rig.controller.status();
    assert_eq!((status.delay_p95, status.last_delay), (Some(6), Some(6)));
}

#[test]
fn until_a_delay_was_measured_the_next_inference_starts_as_early_as_a_cold_start_needs() {
    // Of 25 rows to execute.
    for (cold, wanted) in [(0, 25), (10, 15), (24, 1), (300, 1)] {
        let mut rig = Rig::new(config());
        rig.step();
        let ticket = rig.request();
        rig.elbow(cold);
        rig.install(&ticket, counting(0.0)).unwrap();
        assert_eq!(rig.steps_until_request().0, wanted, "{cold}");
    }
}

#[test]
fn an_inference_starts_so_early_that_its_chunk_takes_over_at_the_execution_horizon() {
    let mut rig = Rig::with_delay(config(), 7);
    for _ in 0..5 {
        let (steps, ticket) = rig.steps_until_request();
        assert_eq!(steps, 25 - 7);
        rig.elbow(7);
        rig.install(&ticket, counting(0.0)).unwrap();
    }
    assert_eq!(rig.controller.status().counts.stalls, 0);
}

#[test]
fn an_inference_starts_when_no_more_rows_are_left_than_it_takes() {
    let mut rig = Rig::with_delay(ControlConfig { execution_horizon: 40, ..config() }, 10);
    // A chunk that came at once and leaves room for one that comes later than any before: few of its rows are left.
    for delay in [0, 20] {
        let (_, ticket) = rig.steps_until_request();
        rig.elbow(delay);
        rig.install(&ticket, counting(0.0)).unwrap();
        rig.controller.delays = Delays::default();
        (0..2).for_each(|_| rig.controller.delays.record(10));
    }
    assert_eq!(rig.controller.status().rows_left, 30);
    rig.steps_until_request();
    assert_eq!(rig.controller.status().rows_left, 10);
}

#[test]
fn at_most_one_inference_runs() {
    let mut rig = Rig::new(config());
    rig.step();
    let ticket = rig.request();
    for _ in 0..100 {
        rig.step();
        assert_eq!(rig.controller.request(rig.now), None);
    }
    rig.controller.abandon(&ticket);
    rig.request();
    assert_eq!(rig.controller.status().counts.abandoned, 1);
}

#[test]
fn at_a_fixed_rate_inferences_start_by_time_and_one_that_finds_another_running_is_skipped() {
    let mut rig = Rig::new(ControlConfig { replan: Replan::Rate(5.0), ..config() });
    rig.step();
    let ticket = rig.request();
    rig.install(&ticket, counting(0.0)).unwrap();
    let mut starts = Vec::new();
    for step in 1..=65 {
        rig.step();
        if let Some(ticket) = rig.controller.request(rig.now) {
            starts.push(step);
            rig.install(&ticket, counting(0.0)).unwrap();
        }
    }
    assert_eq!(starts, [10, 20, 30, 40, 50, 60]);
    // The one due at 70 runs until 95: those due at 80 and 90 are skipped.
    rig.elbow(5);
    let ticket = rig.request();
    for _ in 71..=95 {
        rig.step();
        assert_eq!(rig.controller.request(rig.now), None);
    }
    rig.install(&ticket, counting(0.0)).unwrap();
    assert_eq!(rig.controller.status().counts.overruns, 2);
    assert_eq!(rig.steps_until_request().0, 5);
}

#[test]
fn a_rate_that_does_not_fit_the_control_steps_is_kept_in_the_mean() {
    let mut rig = Rig::new(ControlConfig { replan: Replan::Rate(7.0), ..config() });
    rig.step();
    let ticket = rig.request();
    rig.install(&ticket, counting(0.0)).unwrap();
    let mut starts = Vec::new();
    for step in 1..=45 {
        rig.step();
        if let Some(ticket) = rig.controller.request(rig.now) {
            starts.push(step);
            rig.install(&ticket, counting(0.0)).unwrap();
        }
    }
    // Every 7.14 steps.
    assert_eq!(starts, [8, 15, 22, 29, 36, 43]);
}

#[test]
fn a_new_rate_takes_effect_at_once_and_a_senseless_one_is_refused() {
    let mut rig = Rig::with_first(ControlConfig { replan: Replan::Rate(0.1), ..config() }, counting(0.0));
    rig.elbow(3);
    assert_eq!(rig.controller.request(rig.now), None);
    rig.controller.set_rate(10.0).unwrap();
    let ticket = rig.request();
    rig.install(&ticket, counting(0.0)).unwrap();
    assert_eq!(rig.steps_until_request().0, 5);
    for hz in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(rig.controller.set_rate(hz), Err(ControlError::Rate(_))), "{hz}");
    }
}

#[test]
fn at_a_fixed_rate_a_robot_that_holds_does_not_wait_for_the_next_time() {
    let mut rig = Rig::with_first(ControlConfig { replan: Replan::Rate(0.1), ..config() }, counting(0.0));
    assert_eq!(rig.steps_until_request().0, HORIZON + 1);
}

#[test]
fn the_execution_horizon_leaves_room_for_the_delay_on_both_sides() {
    let in_force = |execution_horizon, delay| {
        let rig = Rig::with_delay(ControlConfig { execution_horizon, chunking: Chunking::Rtc, ..config() }, delay);
        let status = rig.controller.status();
        (status.execution_horizon, status.unguided)
    };
    assert_eq!(in_force(2, 10), (10, false), "d <= s");
    assert_eq!(in_force(48, 10), (40, false), "s <= H - d");
    assert_eq!(in_force(30, 10), (30, false));
    assert_eq!(in_force(30, 25), (25, false));
    assert_eq!(in_force(30, 26), (26, true), "no execution horizon is within d <= s <= H - d");
}

#[test]
fn at_a_fixed_rate_the_rows_to_execute_follow_from_the_rate_and_leave_the_same_room() {
    let in_force = |hz, delay| {
        let replan = Replan::Rate(hz);
        let mut rig = Rig::with_first(ControlConfig { replan, chunking: Chunking::Rtc, ..config() }, counting(0.0));
        let (_, ticket) = rig.steps_until_request();
        rig.elbow(delay);
        rig.install(&ticket, counting(0.0)).unwrap();
        let status = rig.controller.status();
        let (_, ticket) = rig.steps_until_request();
        let guidance = ticket.guidance.map(|guidance| guidance.horizon);
        (status.execution_horizon, status.unguided, guidance.is_some_and(|rows| rows <= HORIZON - status.execution_horizon))
    };
    assert_eq!(in_force(5.0, 7), (10, false, true), "a chunk is executed for 10 rows");
    assert_eq!(in_force(5.0, 12), (12, false, true), "d <= s");
    assert_eq!(in_force(1.1, 7), (43, false, true), "s <= H - d");
    assert!(in_force(5.0, 26).1);
}

#[test]
fn steps_at_rest_that_came_late_cost_no_command_when_the_robot_moves() {
    for late in [0.0, 10.5, 19.0] {
        let mut rig = Rig::new(config());
        let begin = rig.now;
        let mut at = |milliseconds: f64| {
            rig.now = begin.after(milliseconds * 1e-3);
            let tick = rig.tick();
            if let Some(ticket) = rig.controller.request(rig.now) {
                rig.install(&ticket, counting(0.0)).unwrap();
            }
            tick.command.is_some()
        };
        at(late);
        let commanded = (1..46).filter(|step| at(20.0 * f64::from(*step) + f64::from(step % 2))).count();
        assert_eq!(commanded, 45, "{late} ms");
        assert_eq!(rig.controller.status().counts.skipped_rows, 0, "{late} ms");
    }
}

#[test]
fn guidance_is_what_is_left_of_the_chunk_before_from_the_next_row_on() {
    let mut rig = Rig::with_delay(ControlConfig { chunking: Chunking::Rtc, execution_horizon: 20, ..config() }, 7);
    let (_, ticket) = rig.steps_until_request();
    let left = rig.controller.status().rows_left;
    let guidance = ticket.guidance.clone().unwrap();
    // The model's row i holds i: the row that is next is the first.
    let first = (HORIZON - left) as f32;
    assert_eq!(guidance.previous.len(), left * ACTION_DIM);
    assert_eq!(guidance.previous[..4], [first, first, first, first + 1.0]);
    assert_eq!(guidance.previous.last(), Some(&49.0));
    assert_eq!(guidance.previous_anchor, [0.5]);
    assert_eq!((guidance.delay, guidance.horizon), (7, HORIZON - 20));
    rig.elbow(7);
    let installed = rig.install(&ticket, counting(0.0)).unwrap();
    assert_eq!((installed.mode, installed.guided_rows), (Join::Rtc, 30));
}

#[test]
fn there_is_no_guidance_without_a_chunk_before_or_when_an_inference_takes_too_long() {
    let mut rig = Rig::new(ControlConfig { chunking: Chunking::Rtc, ..config() });
    rig.step();
    let ticket = rig.request();
    assert_eq!(ticket.guidance, None);
    assert_eq!(rig.install(&ticket, counting(0.0)).unwrap().mode, Join::None);

    let mut rig = Rig::with_delay(ControlConfig { chunking: Chunking::Rtc, ..config() }, 26);
    let (_, ticket) = rig.steps_until_request();
    assert_eq!(ticket.guidance, None);
    assert!(rig.controller.status().unguided);
}

#[test]
fn a_crossfade_goes_from_the_old_plan_to_the_new_one_and_grippers_switch_at_once() {
    let mut rig = Rig::with_delay(ControlConfig { chunking: Chunking::Crossfade { seconds: 0.08 }, ..config() }, 0);
    let (_, ticket) = rig.steps_until_request();
    rig.install(&ticket, constant(0.0)).unwrap();
    rig.elbow(10);
    let (_, ticket) = rig.steps_until_request();
    let installed = rig.install(&ticket, constant(1.0)).unwrap();
    assert_eq!(installed.mode, Join::Crossfade);
    let commands: Vec<_> = (0..6).map(|_| rig.step().command.unwrap()).collect();
    for (row, wanted) in commands.iter().zip([0.2, 0.4, 0.6, 0.8, 1.0, 1.0]) {
        assert!((row[0] - wanted).abs() < 1e-12, "{commands:?}");
        assert_eq!(row[1], 1.0);
    }
}

#[test]
fn there_is_no_crossfade_from_a_pose_that_is_not_known() {
    let mut rig = Rig::new(ControlConfig { chunking: Chunking::Crossfade { seconds: 0.08 }, ..config() });
    rig.positions = vec![Some(2.0), None];
    rig.step();
    let ticket = rig.request();
    assert_eq!(rig.install(&ticket, constant(1.0)).unwrap().mode, Join::None);
    assert_eq!(rig.elbow(1), [Some(1.0)]);
}

#[test]
fn the_first_crossfade_begins_at_the_held_pose() {
    let mut rig = Rig::new(ControlConfig { chunking: Chunking::Crossfade { seconds: 0.08 }, ..config() });
    rig.positions = vec![Some(2.0), Some(2.0)];
    rig.step();
    let ticket = rig.request();
    rig.install(&ticket, constant(1.0)).unwrap();
    let first = rig.step().command.unwrap();
    assert!((first[0] - 1.8).abs() < 1e-12 && first[1] == 1.0, "{first:?}");
}

#[test]
fn the_first_chunk_moves_from_the_held_pose_within_the_limits() {
    let limits = JointLimits { step: Some(0.1), ..ENDLESS };
    let mut rig = Rig::new(with_limits(config(), limits));
    rig.positions = vec![Some(0.5), Some(0.0)];
    rig.step();
    let ticket = rig.request();
    // The robot moves until the chunk is there.
    rig.positions = vec![Some(0.7), Some(0.0)];
    rig.elbow(10);
    rig.install(&ticket, constant(1.0)).unwrap();
    let elbow: Vec<_> = rig.elbow(4).into_iter().flatten().collect();
    for (found, wanted) in elbow.iter().zip([0.8, 0.9, 1.0, 1.0]) {
        assert!((found - wanted).abs() < 1e-12, "{elbow:?}");
    }
    assert_eq!(rig.controller.status().limits.step.last.unwrap().joint, "gripper");
}

#[test]
fn later_chunks_move_on_from_what_was_commanded_not_from_what_was_measured() {
    let limits = JointLimits { step: Some(0.1), ..ENDLESS };
    let mut rig = Rig::with_delay(with_limits(config(), limits), 0);
    rig.elbow(5);
    let before = rig.elbow(1)[0].unwrap();
    rig.positions = vec![Some(0.0), Some(0.0)];
    let (steps, ticket) = rig.steps_until_request();
    rig.install(&ticket, constant(100.0)).unwrap();
    let after = rig.elbow(1)[0].unwrap();
    assert!((after - before - 0.1 * (steps + 1) as f64).abs() < 1e-9, "{before} {after}");
}

#[test]
fn a_joint_that_takes_velocities_is_where_it_is_measured_when_a_chunk_takes_over() {
    let mut config = mobile();
    config.joints[1].limits = JointLimits { position: Some([-1.0, 1.0]), ..ENDLESS };
    let mut rig = Rig::with_delay(ControlConfig { chunking: Chunking::None, ..config }, 0);
    rig.elbow(5);
    rig.positions = vec![Some(0.0), Some(0.98)];
    let (_, ticket) = rig.steps_until_request();
    rig.install(&ticket, constant(9.0)).unwrap();
    let wheel: Vec<_> = (0..2).map(|_| rig.step().command.unwrap()[1]).collect();
    assert!((wheel[0] - 1.0).abs() < 1e-9 && wheel[1] == 0.0, "0.02 rad to its limit: {wheel:?}");
}

#[test]
fn a_trajectory_tells_the_rows_from_the_commanded_one_on_once_for_each_plan() {
    let mut rig = Rig::with_delay(config(), 7);
    let (_, ticket) = rig.steps_until_request();
    rig.elbow(7);
    rig.install(&ticket, counting(1000.0)).unwrap();
    let tick = rig.step();
    let trajectory = tick.trajectory.unwrap();
    assert_eq!((trajectory.start, trajectory.period), (rig.now, PERIOD));
    let elbow: Vec<_> = trajectory.rows.iter().map(|row| row[0]).collect();
    assert_eq!(elbow, (7..50).map(|row| 1000.0 + f64::from(row)).collect::<Vec<_>>());
    assert_eq!(tick.command.as_ref(), trajectory.rows.first());
    for row in &trajectory.rows[1..10] {
        assert_eq!(rig.step(), Tick { command: Some(row.clone()), trajectory: None });
    }
}

#[test]
fn a_refused_chunk_changes_nothing_that_is_planned_and_is_counted_by_its_reason() {
    let mut rig = Rig::with_delay(ControlConfig { deadline: 0.5, ..config() }, 7);
    let (_, ticket) = rig.steps_until_request();
    rig.elbow(3);
    let names = |count: usize| (0..count).map(|joint| joint.to_string()).collect::<Vec<_>>();
    let check = |joints, rows, period| CommandRows::check(&names(joints), rows, period, vec![0.0; joints * rows]).unwrap();
    let good = counting(1000.0);
    let cases = [
        (0, ComputedChunk { rows: check(3, HORIZON, PERIOD), ..good.clone() }, "width", "commands 3 joints and the robot has 2"),
        (0, ComputedChunk { rows: check(2, 49, PERIOD), ..good.clone() }, "width", "49 rows and the policy's horizon is 50"),
        (0, ComputedChunk { action_dim: 4, ..good.clone() }, "width", "150 values and 50 rows of 4 need 200"),
        (0, ComputedChunk { action_dim: usize::MAX, ..good.clone() }, "width", "150 values"),
        (0, ComputedChunk { rows: check(2, HORIZON, 0.03), ..good.clone() }, "period", "every 0.03 s"),
        (510, good.clone(), "deadline", "took 0.57 s and the deadline is 0.5 s"),
        (-5_000, good.clone(), "future", "begins 5.0 s from now"),
    ];
    for (later, chunk, reason, sentence) in cases {
        let mut refused = rig.clone();
        let mut other = rig.clone();
        let now = rig.now.after(f64::from(later) * 1e-3);
        let error = refused.controller.install(now, &ticket, chunk).unwrap_err();
        assert!(error.to_string().contains(sentence), "{error}");
        let counts = refused.controller.status().counts;
        assert_eq!((counts.refused.get(reason), counts.last_refusal), (Some(&1), Some(error.to_string())));
        assert_eq!(counts.chunks, rig.controller.status().counts.chunks);
        for _ in 0..60 {
            assert_eq!(refused.step(), other.step(), "{error}");
        }
    }
}

#[test]
fn a_chunk_of_which_all_rows_have_passed_is_refused() {
    let mut rig = Rig::with_delay(config(), 7);
    let (_, ticket) = rig.steps_until_request();
    rig.elbow(1000);
    let error = rig.install(&ticket, counting(0.0)).unwrap_err();
    assert!(error.to_string().starts_with("The chunk came 20.00 s after its observation, when all of its 50 rows"), "{error}");
    assert_eq!((error.reason(), rig.controller.status().counts.refused["past"]), ("past", 1));
    assert_eq!(rig.elbow(1), [None]);
}

#[test]
fn an_old_chunk_is_refused_though_some_of_its_rows_were_not_consumed_and_one_for_a_held_pose_is_not() {
    let mut rig = Rig::with_delay(config(), 7);
    let (_, ticket) = rig.steps_until_request();
    let left = rig.controller.status().rows_left;
    rig.elbow(51);
    assert!(left < HORIZON && rig.state() == ControlState::Holding);
    let age = |error| if let Err(ChunkError::Past { age, .. }) = error { age } else { 0.0 };
    assert!((age(rig.install(&ticket, counting(0.0))) - 1.02).abs() < 1e-9);

    let ticket = rig.request();
    rig.elbow(51);
    assert_eq!(rig.install(&ticket, counting(0.0)).map(|installed| installed.delay_rows), Ok(0), "the deadline decides");
    let mut rig = Rig::new(config());
    rig.step();
    let ticket = rig.request();
    rig.elbow(501);
    assert!(matches!(rig.install(&ticket, counting(0.0)), Err(ChunkError::Deadline { .. })));
}

#[test]
fn a_chunk_that_did_not_pass_its_check_is_counted_and_the_next_inference_may_start() {
    let mut rig = Rig::new(config());
    rig.step();
    let ticket = rig.request();
    let error = CommandRows::check(&["elbow".to_owned()], 1, PERIOD, vec![f64::NAN]).unwrap_err();
    rig.controller.refuse(&ticket, &error);
    let error = CommandRows::check(&[], 0, PERIOD, vec![]).unwrap_err();
    let ticket = rig.request();
    rig.controller.refuse(&ticket, &error);
    let refused = rig.controller.status().counts.refused;
    assert_eq!((refused["not_finite"], refused["empty"]), (1, 1));
    rig.request();
}

#[test]
fn a_ticket_is_good_for_one_chunk() {
    let mut rig = Rig::new(config());
    rig.step();
    let ticket = rig.request();
    rig.install(&ticket, counting(0.0)).unwrap();
    assert_eq!(rig.install(&ticket, counting(1000.0)), Err(ChunkError::Stale));
    assert_eq!(rig.elbow(1), rows([0]));
}

#[test]
fn a_new_instruction_drops_the_plan_and_the_running_inference_and_asks_anew() {
    let mut rig = Rig::with_delay(config(), 7);
    let (_, old) = rig.steps_until_request();
    let before = rig.elbow(2)[1];
    rig.controller.instruction_changed();
    assert_eq!(rig.elbow(2), [before, None], "the last command is held");
    assert_eq!(rig.controller.request(rig.now), None, "one inference runs");
    assert_eq!(rig.install(&old, counting(1000.0)), Err(ChunkError::Stale));
    let new = rig.request();
    assert_eq!(new.guidance, None);
    rig.elbow(3);
    assert_eq!(rig.install(&new, counting(2000.0)).unwrap().delay_rows, 0);
    assert_eq!(rig.elbow(2), rows([2000, 2001]));
}

#[test]
fn with_finish_a_new_instruction_waits_for_the_next_chunk() {
    let mut rig = Rig::with_delay(ControlConfig { on_instruction: OnInstruction::Finish, ..config() }, 7);
    let (_, ticket) = rig.steps_until_request();
    let mut other = rig.clone();
    rig.controller.instruction_changed();
    for _ in 0..7 {
        assert_eq!(rig.step(), other.step());
    }
    rig.install(&ticket, counting(1000.0)).unwrap();
}

#[test]
fn a_configuration_that_commands_nothing_or_makes_no_sense_is_refused() {
    let refused = |config| Controller::new(config).unwrap_err().to_string();
    for (config, sentence) in [
        (ControlConfig { joints: vec![], ..config() }, "no joints"),
        (ControlConfig { horizon: 0, ..config() }, "no rows"),
        (ControlConfig { execution_horizon: 0, ..config() }, "at least 1"),
        (ControlConfig { execution_horizon: 51, ..config() }, "at most the chunk's 50 rows"),
        (ControlConfig { chunking: Chunking::Crossfade { seconds: 0.2 }, ..config() }, "not 0.2 s"),
        (ControlConfig { chunking: Chunking::Crossfade { seconds: f64::NAN }, ..config() }, "not NaN s"),
        (ControlConfig { replan: Replan::Rate(0.0), ..config() }, "not 0 Hz"),
        (ControlConfig { deadline: 0.0, ..config() }, "not 0 s"),
        (ControlConfig { deadline: f64::NAN, ..config() }, "not NaN s"),
        (ControlConfig { drift: Some(0.0), ..config() }, "drift"),
        (ControlConfig { period: 0.0, ..config() }, "period"),
    ] {
        assert!(refused(config.clone()).contains(sentence), "{config:?}");
    }
}
