//! What is sent last, and what ends only with a reset.

use super::*;

/// Executes 20 rows of a chunk that moves the elbow, and the wheel or gripper, by 0.02 rad (m, rad/s) each row; the robot is where it
/// is to be.
fn moving(config: ControlConfig) -> Rig {
    let mut rig = Rig::with_first(config, chunk_of(|row| [0.02 * row as f64; 2]));
    for _ in 0..20 {
        rig.positions = rig.step().command.unwrap().into_iter().map(Some).collect();
    }
    rig
}

fn slow(acceleration: f64) -> JointLimits {
    JointLimits { acceleration: Some(acceleration), ..ENDLESS }
}

#[test]
fn nothing_is_commanded_before_activation_and_after_deactivation() {
    let mut rig = Rig::new(config());
    rig.controller = Controller::new(config()).unwrap();
    for _ in 0..10 {
        assert_eq!(rig.step(), Tick::default());
        assert_eq!(rig.controller.request(rig.now), None);
    }
    assert_eq!(rig.state(), ControlState::Inactive);

    let mut rig = moving(config());
    let last = rig.controller.deactivate(rig.now);
    assert_eq!(last.command, Some(vec![0.38; 2]), "the hold");
    assert_eq!(last.trajectory.unwrap().rows, [vec![0.38; 2]]);
    for _ in 0..10 {
        assert_eq!(rig.step(), Tick::default());
        assert_eq!(rig.controller.request(rig.now), None);
    }
    assert_eq!(rig.controller.deactivate(rig.now), Tick::default());
    assert_eq!(rig.controller.stop(rig.now), Tick::default());
}

#[test]
fn the_chunk_of_an_inference_that_ran_during_deactivation_is_refused_even_when_active_again() {
    let mut rig = moving(config());
    let ticket = rig.request();
    rig.controller.deactivate(rig.now);
    rig.controller.activate();
    rig.elbow(3);
    assert_eq!(rig.controller.request(rig.now), None, "one inference runs");
    assert_eq!(rig.install(&ticket, counting(0.0)), Err(ChunkError::Stale));
    assert_eq!(rig.elbow(3), [None; 3]);
    rig.request();
}

#[test]
fn a_plan_that_runs_out_holds_the_last_command_and_says_so_once() {
    let mut rig = Rig::with_first(config(), counting(0.0));
    rig.elbow(HORIZON);
    let hold = rig.step();
    assert_eq!((hold.command, hold.trajectory.unwrap().rows), (Some(vec![49.0; 2]), vec![vec![49.0; 2]]));
    assert_eq!(rig.elbow(100), [None; 100]);
    assert_eq!((rig.state(), rig.controller.status().counts.stalls), (ControlState::Holding, 1));
}

#[test]
fn a_hold_stops_velocities_and_keeps_positions() {
    let mut rig = moving(mobile());
    assert_eq!(rig.controller.stop(rig.now).command, Some(vec![0.38, 0.0]));
}

#[test]
fn the_stall_action_decides_what_is_sent_when_a_plan_runs_out() {
    let last = |config, stall| {
        let mut rig = moving(ControlConfig { stall, ..config });
        rig.elbow(30);
        rig.step().command
    };
    assert_eq!(last(config(), StallAction::Hold), Some(vec![0.98; 2]));
    assert_eq!(last(config(), StallAction::ZeroVelocity), None);
    assert_eq!(last(config(), StallAction::None), None);
    assert_eq!(last(mobile(), StallAction::ZeroVelocity), Some(vec![0.98, 0.0]));
    assert_eq!(last(mobile(), StallAction::None), None);
}

/// Ends a plan before its end; what is told then.
type Cut = fn(&mut Rig) -> Tick;

#[test]
fn a_plan_that_is_cut_short_is_replaced_by_the_way_to_rest_whatever_the_stall_action() {
    let limits = slow(10.0);
    for stall in [StallAction::Hold, StallAction::ZeroVelocity, StallAction::None] {
        for robot in [config(), mobile()] {
            let wheel = robot.joints[1].kind == CommandKind::Velocity;
            let start = || moving(ControlConfig { stall, drift: Some(0.5), ..with_limits(robot.clone(), limits) });
            let cuts: [(&str, Cut); 6] = [
                ("stop", |rig| rig.controller.stop(rig.now)),
                ("deactivate", |rig| rig.controller.deactivate(rig.now)),
                ("flush", |rig| {
                    rig.controller.instruction_changed();
                    rig.step()
                }),
                ("clock jump", |rig| {
                    rig.pass(-10_000);
                    rig.controller.clock_jumped();
                    rig.step()
                }),
                ("drift", |rig| {
                    rig.positions = vec![Some(-2.0); 2];
                    rig.step()
                }),
                ("lost joint states", |rig| {
                    (0..25).for_each(|_| {
                        rig.pass(20);
                        rig.controller.tick(rig.now, None);
                    });
                    rig.pass(20);
                    rig.controller.tick(rig.now, None)
                }),
            ];
            for (name, cut) in cuts {
                let mut rig = start();
                let rows = cut(&mut rig).trajectory.unwrap_or_else(|| panic!("{name}, {stall:?}: a controller goes on")).rows;
                assert!(rows.len() > 3, "{name}, {stall:?}: {rows:?}");
                let [before, last] = [&rows[rows.len() - 2], &rows[rows.len() - 1]];
                assert!((last[0] - before[0]).abs() <= 0.004 + 1e-12, "{name}, {stall:?}: {rows:?}");
                assert!(if wheel { last[1] == 0.0 } else { (last[1] - before[1]).abs() <= 0.004 + 1e-12 }, "{name}: {rows:?}");
            }
        }
    }
}

#[test]
fn wheels_that_nobody_stopped_when_the_plan_ran_out_are_stopped_by_a_stop() {
    let mut rig = moving(ControlConfig { stall: StallAction::None, ..mobile() });
    rig.elbow(31);
    assert_eq!(rig.state(), ControlState::Holding);
    let tick = rig.controller.stop(rig.now);
    assert_eq!((tick.command, tick.trajectory.unwrap().rows), (Some(vec![0.98, 0.0]), vec![vec![0.98, 0.0]]));
}

#[test]
fn stops_while_the_robot_brakes_and_a_deactivation_after_them_tell_nothing_twice() {
    let mut rig = moving(with_limits(config(), slow(10.0)));
    let first = rig.controller.stop(rig.now);
    let path = first.trajectory.unwrap();
    for _ in 0..6 {
        rig.pass(1);
        assert_eq!(rig.controller.stop(rig.now), Tick::default());
    }
    assert_eq!(rig.controller.deactivate(rig.now), Tick::default());
    assert_eq!(rig.state(), ControlState::Braking);
    rig.pass(14);
    let mut rows = vec![first.command.unwrap()];
    assert_eq!(rig.tick(), Tick::default(), "its row was sent in advance");
    while rig.state() == ControlState::Braking {
        let tick = rig.step();
        assert_eq!(tick.trajectory, None);
        rows.extend(tick.command);
    }
    assert_eq!(rows, path.rows, "one row in a period");
    assert_eq!(rig.state(), ControlState::Inactive);
    assert_eq!(rig.elbow(10), [None; 10]);
}

#[test]
fn the_way_to_rest_is_told_again_when_the_clock_jumps_on_it() {
    let mut rig = moving(with_limits(config(), slow(10.0)));
    let path = rig.controller.stop(rig.now).trajectory.unwrap();
    rig.pass(-10_000);
    rig.controller.clock_jumped();
    let again = rig.step().trajectory.unwrap();
    assert_eq!((again.start, &again.rows[..]), (rig.now, &path.rows[1..]));
}

#[test]
fn a_stop_at_a_time_before_the_last_step_tells_no_trajectory_of_the_future() {
    for jump in [-0.2, -9.0, -1e9] {
        let mut rig = moving(config());
        rig.now = rig.now.after(jump);
        let path = rig.controller.stop(rig.now).trajectory.unwrap();
        assert_eq!((path.start, path.rows), (rig.now, vec![vec![0.38; 2]]), "{jump}");
    }
}

#[test]
fn a_robot_that_is_not_measured_any_more_stops_within_half_a_second_and_goes_on_when_it_is_measured() {
    let mut rig = moving(config());
    let commanded = (0..60).filter(|_| {
        rig.pass(20);
        rig.controller.tick(rig.now, None).command.is_some()
    });
    assert_eq!(commanded.count(), 26, "25 rows and the hold");
    assert_eq!((rig.state(), rig.controller.status().counts.blind), (ControlState::Holding, 1));
    let ticket = rig.request();
    assert_eq!(rig.install(&ticket, constant(0.9)), Err(ChunkError::Pose));
    rig.step();
    let ticket = rig.request();
    rig.install(&ticket, constant(0.9)).unwrap();
    assert_eq!(rig.elbow(1), [Some(0.9)]);
}

#[test]
fn a_first_chunk_is_refused_when_the_pose_that_it_would_start_from_is_not_measured_any_more() {
    let mut rig = Rig::new(config());
    rig.step();
    let ticket = rig.request();
    rig.pass(20);
    rig.controller.tick(rig.now, None);
    let error = rig.install(&ticket, constant(1.0)).unwrap_err();
    assert_eq!((error.reason(), rig.controller.status().counts.refused["pose"]), ("pose", 1));
    assert_eq!(rig.state(), ControlState::Waiting);
    rig.pass(20);
    rig.controller.tick(rig.now, None);
    assert_eq!(rig.controller.request(rig.now), None, "nothing is asked for without a pose");
}

#[test]
fn a_reset_while_inactive_is_not_refused_for_a_pose_of_before() {
    let limits = JointLimits { position: Some([-1.0, 1.0]), ..JointLimits::default() };
    let mut rig = Rig::new(with_limits(config(), limits));
    rig.positions = vec![Some(1.2), Some(0.0)];
    rig.step();
    assert!(rig.controller.reset().is_err());
    rig.controller.deactivate(rig.now);
    assert_eq!(rig.controller.reset(), Ok(true));
}

#[test]
fn latches_are_counted_by_reason_once_each() {
    let mut rig = moving(ControlConfig { drift: Some(0.5), ..config() });
    rig.positions = vec![Some(-2.0); 2];
    rig.elbow(3);
    (0..3).for_each(|_| drop(rig.controller.stop(rig.now)));
    assert_eq!(rig.controller.reset(), Ok(true));
    (0..3).for_each(|_| drop(rig.controller.stop(rig.now)));
    rig.controller.reset().unwrap();
    assert_eq!(rig.controller.status().counts.latches, [("drift", 1), ("stopped", 1)].into());
}

#[test]
fn a_hold_brakes_within_the_acceleration_limit_and_tells_the_whole_way_at_once() {
    // 1 rad/s in rows of 0.02 rad, braked by 0.004 rad a row.
    let mut rig = moving(with_limits(config(), slow(10.0)));
    let tick = rig.controller.stop(rig.now);
    assert_eq!(rig.state(), ControlState::Braking);
    let path = tick.trajectory.unwrap();
    assert_eq!(path.start, rig.now.after(PERIOD));
    let mut told = vec![tick.command.unwrap()];
    // The first row was sent in advance of this step.
    rig.pass(20);
    assert_eq!(rig.tick(), Tick::default());
    while let Some(row) = rig.step().command {
        told.push(row);
    }
    assert_eq!(told, path.rows);
    let elbow: Vec<_> = told.iter().map(|row| row[0]).collect();
    assert!(elbow.len() >= 5 && elbow.windows(2).all(|pair| pair[0] <= pair[1]), "{elbow:?}");
    assert_eq!(rig.state(), ControlState::Latched);
}

#[test]
fn the_last_trajectory_before_deactivation_comes_to_rest() {
    let mut rig = moving(with_limits(mobile(), slow(10.0)));
    let last = rig.controller.deactivate(rig.now);
    let rows = last.trajectory.unwrap().rows;
    assert_eq!(last.command.as_ref(), rows.first());
    assert!(rows.len() > 1);
    assert_eq!(rows.last().unwrap()[1], 0.0, "the wheel stands");
    assert_eq!(rig.step(), Tick::default());
}

#[test]
fn a_stop_is_latched_until_the_reset_and_then_the_robot_starts_anew_from_where_it_is() {
    let limits = JointLimits { step: Some(0.1), ..ENDLESS };
    let mut rig = moving(with_limits(config(), limits));
    let ticket = rig.request();
    rig.controller.stop(rig.now);
    assert_eq!(rig.install(&ticket, constant(1.0)), Err(ChunkError::Stale));
    rig.controller.activate();
    rig.controller.instruction_changed();
    for _ in 0..100 {
        assert_eq!(rig.step(), Tick::default());
        assert_eq!(rig.controller.request(rig.now), None);
    }
    let status = rig.controller.status();
    assert_eq!((status.state, status.latch), (ControlState::Latched, Some(Latch::Stopped)));

    // Somebody moved it by hand.
    rig.positions = vec![Some(-0.5), Some(0.0)];
    rig.controller.reset().unwrap();
    rig.step();
    let ticket = rig.request();
    rig.install(&ticket, constant(1.0)).unwrap();
    assert!((rig.elbow(1)[0].unwrap() + 0.4).abs() < 1e-12);
}

#[test]
fn a_stop_while_inactive_holds_after_the_activation() {
    let mut rig = Rig::new(config());
    rig.controller.deactivate(rig.now);
    assert_eq!(rig.controller.stop(rig.now), Tick::default());
    rig.controller.activate();
    rig.step();
    assert_eq!(rig.controller.request(rig.now), None);
    assert_eq!(rig.state(), ControlState::Latched);
}

#[test]
fn a_stop_before_the_first_command_sends_nothing() {
    let mut rig = Rig::with_first(config(), counting(0.0));
    assert_eq!(rig.controller.stop(rig.now), Tick::default());
    assert_eq!(rig.elbow(5), [None; 5]);
}

#[test]
fn the_hold_is_not_sent_again_when_a_holding_robot_is_stopped_or_deactivated() {
    let mut rig = moving(config());
    rig.elbow(40);
    assert_eq!(rig.state(), ControlState::Holding);
    assert_eq!(rig.controller.stop(rig.now), Tick::default());
    assert_eq!(rig.controller.deactivate(rig.now), Tick::default());
}

#[test]
fn a_reset_without_a_latch_changes_nothing() {
    let mut rig = moving(config());
    let mut other = rig.clone();
    assert_eq!(rig.controller.reset(), Ok(false));
    for _ in 0..60 {
        assert_eq!(rig.step(), other.step());
    }
}

#[test]
fn a_robot_that_drifts_from_its_commands_is_stopped_within_a_step_until_the_reset() {
    let mut rig = moving(ControlConfig { drift: Some(0.5), ..config() });
    rig.positions = vec![Some(0.0); 2];
    // Commanded to 0.4 and more: a blocked arm.
    let commands: Vec<_> = rig.elbow(30).into_iter().flatten().collect();
    assert!(commands.len() < 10, "{commands:?}");
    assert_eq!(commands[commands.len() - 1], commands[commands.len() - 2], "the last one is the hold");
    let latch = rig.controller.status().latch.unwrap();
    assert!(matches!(latch, Latch::Drift(_)) && latch.to_string().contains("elbow is at 0.000"), "{latch}");
    rig.positions = vec![Some(0.5); 2];
    rig.elbow(10);
    assert_eq!(rig.controller.request(rig.now), None, "it is latched");
    rig.controller.reset().unwrap();
    rig.step();
    rig.request();
}

#[test]
fn a_robot_that_reaches_each_row_one_period_later_does_not_drift() {
    let mut rig = moving(ControlConfig { drift: Some(0.001), ..config() });
    // Row 20 is next, so it stands at row 19 then.
    for row in 19..49 {
        rig.positions = vec![Some(0.02 * f64::from(row)); 2];
        rig.step();
    }
    assert_eq!(rig.state(), ControlState::Executing);
    rig.positions = vec![Some(0.02 * 49.0 - 0.002); 2];
    rig.step();
    rig.step();
    assert_eq!(rig.state(), ControlState::Latched);
}

#[test]
fn a_simulation_that_begins_anew_and_puts_the_robot_elsewhere_is_no_drift() {
    let mut rig = moving(ControlConfig { drift: Some(0.1), ..with_limits(config(), slow(10.0)) });
    rig.positions = vec![Some(-0.7); 2];
    rig.pass(-10_000);
    rig.controller.clock_jumped();
    for _ in 0..20 {
        if rig.state() == ControlState::Braking {
            assert_eq!(rig.controller.request(rig.now), None, "it comes to rest first");
        }
        rig.step();
    }
    assert_eq!(rig.controller.status().latch, None);
    let ticket = rig.request();
    rig.install(&ticket, constant(-0.7)).unwrap();
    assert_eq!(rig.elbow(2), [Some(-0.7); 2]);
}

#[test]
fn a_stop_during_a_new_start_while_braking_is_sent() {
    let mut rig = moving(with_limits(config(), slow(10.0)));
    rig.controller.instruction_changed();
    rig.step();
    let ticket = rig.request();
    rig.install(&ticket, constant(9.0)).unwrap();
    assert!(rig.controller.stop(rig.now).command.is_some());
}

#[test]
fn a_robot_that_is_moved_while_it_holds_has_drifted() {
    let mut rig = moving(ControlConfig { drift: Some(0.5), ..config() });
    (0..40).for_each(|row| {
        rig.positions = vec![Some((0.4 + 0.02 * f64::from(row)).min(0.98)); 2];
        rig.step();
    });
    assert_eq!(rig.state(), ControlState::Holding);
    rig.positions = vec![Some(0.2); 2];
    assert_eq!(rig.elbow(3), [None; 3]);
    assert_eq!(rig.state(), ControlState::Latched);
}

#[test]
fn a_pose_far_outside_the_limits_is_latched_at_the_first_sample() {
    let limits = JointLimits { position: Some([-1.0, 1.0]), ..ENDLESS };
    let mut rig = Rig::new(with_limits(config(), limits));
    rig.positions = vec![Some(57.3), Some(0.0)];
    rig.step();
    assert_eq!(rig.controller.request(rig.now), None);
    let latch = rig.controller.status().latch.unwrap().to_string();
    assert!(latch.contains("elbow") && latch.contains("degrees"), "{latch}");

    assert!(rig.controller.reset().unwrap_err().to_string().contains("degrees"), "it still stands there");
    assert_eq!(rig.state(), ControlState::Latched);
    rig.positions = vec![Some(0.5), Some(0.0)];
    rig.step();
    assert_eq!(rig.state(), ControlState::Latched, "only a reset ends it");
    rig.controller.reset().unwrap();
    rig.step();
    rig.request();
}

#[test]
fn a_first_chunk_in_other_units_is_refused_and_latched() {
    let limits = JointLimits { position: Some([-1.0, 1.0]), ..ENDLESS };
    let mut rig = Rig::new(with_limits(config(), limits));
    rig.step();
    let ticket = rig.request();
    let error = rig.install(&ticket, constant(40.0)).unwrap_err();
    assert!(matches!(error, ChunkError::Units(_)), "{error}");
    assert_eq!(rig.controller.status().counts.refused["units"], 1);
    assert_eq!(rig.elbow(3), [None; 3]);
    assert_eq!(rig.state(), ControlState::Latched);
}

#[test]
fn without_a_measured_pose_nothing_is_asked_for_and_what_is_missing_is_told() {
    let mut rig = Rig::new(with_limits(config(), slow(10.0)));
    rig.pass(20);
    assert_eq!(rig.controller.tick(rig.now, None), Tick::default());
    assert_eq!(rig.controller.request(rig.now), None);
    rig.positions = vec![None, Some(0.0)];
    rig.step();
    assert_eq!(rig.controller.request(rig.now), None);
    let status = rig.controller.status();
    assert_eq!((status.state, status.latch), (ControlState::Waiting, None));
    assert!(status.waiting.unwrap().to_string().contains("elbow is not measured"));
    rig.positions = vec![Some(0.0); 2];
    rig.step();
    rig.request();
    assert_eq!(rig.controller.status().waiting, None);
}

#[test]
fn a_clock_that_jumps_drops_the_plan_and_the_robot_starts_anew_from_where_it_holds() {
    for jump in [-10.0, 10.0, -1e9, 1e9] {
        let limits = JointLimits { step: Some(0.1), ..ENDLESS };
        let mut rig = moving(with_limits(config(), limits));
        let ticket = rig.request();
        rig.now = rig.now.after(jump);
        rig.controller.clock_jumped();
        assert_eq!(rig.install(&ticket, constant(1.0)), Err(ChunkError::Stale), "{jump}");
        let hold = rig.tick();
        assert_eq!((hold.command, hold.trajectory.unwrap().start), (Some(vec![0.38; 2]), rig.now), "{jump}");
        rig.positions = vec![Some(0.3); 2];
        assert_eq!(rig.elbow(1), [None], "{jump}");
        let ticket = rig.request();
        let installed = rig.install(&ticket, constant(1.0)).unwrap();
        assert_eq!((installed.delay_rows, installed.start), (0, rig.now.after(PERIOD)), "{jump}");
        assert!((rig.elbow(1)[0].unwrap() - 0.4).abs() < 1e-12, "{jump}");
    }
}

#[test]
fn a_clock_that_jumps_on_unnoticed_ends_the_plan_and_one_that_jumps_back_commands_nothing() {
    let mut rig = moving(config());
    rig.pass(10_000);
    assert_eq!(rig.tick().command, Some(vec![0.38; 2]), "the hold");
    assert_eq!(rig.elbow(3), [None; 3]);

    let mut rig = moving(config());
    rig.pass(-10_000);
    assert_eq!(rig.elbow(400), [None; 400]);
}

#[test]
fn a_new_instruction_brakes_within_the_limits_and_the_next_chunk_moves_on_from_there() {
    let mut rig = moving(with_limits(config(), slow(10.0)));
    rig.controller.instruction_changed();
    let before = rig.step().command.unwrap()[0];
    assert_eq!(rig.state(), ControlState::Braking);
    let ticket = rig.request();
    rig.install(&ticket, constant(9.0)).unwrap();
    let after = rig.step().command.unwrap()[0];
    assert!(after - before > 0.015, "it did not come to rest first: {before} {after}");
}
