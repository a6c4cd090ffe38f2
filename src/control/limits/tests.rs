use std::f64::consts::PI;

use proptest::{prelude::*, test_runner::TestRunner};

use super::*;

const PERIOD: f64 = 0.02;

fn joint(name: &str, kind: CommandKind, limits: JointLimits) -> JointControl {
    JointControl { name: name.to_owned(), kind, gripper: false, limits }
}

fn limiter(limits: JointLimits) -> Limiter {
    Limiter::new(vec![joint("elbow", CommandKind::Position, limits)], PERIOD).unwrap()
}

fn refused(limits: JointLimits, period: f64) -> String {
    Limiter::new(vec![joint("elbow", CommandKind::Position, limits)], period).unwrap_err().to_string()
}

/// What comes out for one joint that starts at rest at `start`, and what was counted.
fn limited(limiter: &Limiter, start: f64, wanted: &[f64]) -> (Vec<f64>, LimitCounts) {
    let (mut motion, mut counts) = (limiter.start(&[Some(start)]).unwrap(), LimitCounts::default());
    let mut rows = wanted.to_vec();
    for value in &mut rows {
        limiter.limit(&mut motion, std::slice::from_mut(value), &mut counts);
    }
    (rows, counts)
}

fn close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-12), "{found:?} and {expected:?}");
}

#[test]
fn without_limits_every_value_passes() {
    let wanted = [3.0, -7e6, 0.0, -0.0, 1e-300];
    let (rows, counts) = limited(&limiter(JointLimits::default()), 0.0, &wanted);
    assert!(rows.iter().zip(&wanted).all(|(a, b)| a.to_bits() == b.to_bits()), "{rows:?}");
    assert_eq!(counts, LimitCounts::default());
}

#[test]
fn a_position_beyond_its_limit_is_cut_and_named() {
    let limits = JointLimits { position: Some([-1.8, 1.97]), ..Default::default() };
    let (rows, counts) = limited(&limiter(limits), 0.0, &[1.0, 2.1, -5.0]);
    assert_eq!(rows, [1.0, 1.97, -1.8]);
    assert_eq!(counts.position.values, 2);
    assert_eq!(counts.position.last.unwrap().to_string(), "elbow wanted -5, position limit -1.8");
    assert_eq!(
        limited(&limiter(limits), 0.0, &[2.1]).1.position.last.unwrap().to_string(),
        "elbow wanted 2.1, position limit 1.97"
    );
}

#[test]
fn a_step_is_cut_from_the_row_before_and_the_first_from_the_pose_that_is_held() {
    let (rows, counts) = limited(&limiter(JointLimits { step: Some(0.1), ..Default::default() }), 0.5, &[1.0, 1.0, 0.65, 0.0]);
    close(&rows, &[0.6, 0.7, 0.65, 0.55]);
    assert_eq!(counts.step.values, 3);
    assert_eq!(counts.step.last.unwrap().to_string(), "elbow wanted a step of 0.65, step limit 0.1");
}

#[test]
fn a_velocity_is_cut_per_second() {
    let (rows, counts) = limited(&limiter(JointLimits { velocity: Some(2.0), ..Default::default() }), 0.0, &[0.03, 0.08, -1.0]);
    close(&rows, &[0.03, 0.07, 0.03]);
    assert_eq!(counts.velocity.values, 2);
    assert_eq!(counts.velocity.last.unwrap().to_string(), "elbow wanted a velocity of 53.5, velocity limit 2");
}

#[test]
fn an_acceleration_is_cut_when_speeding_up_and_when_turning_round() {
    // 5 rad/s2 change a step by 0.002 rad from row to row.
    let (rows, counts) =
        limited(&limiter(JointLimits { acceleration: Some(5.0), ..Default::default() }), 0.0, &[1.0, 1.0, 0.0, 0.0]);
    close(&rows, &[0.002, 0.006, 0.008, 0.008]);
    assert_eq!(counts.acceleration.values, 4);
    assert_eq!(counts.acceleration.last.unwrap().to_string(), "elbow wanted an acceleration of 25, acceleration limit 5");
}

#[test]
fn a_value_counts_with_every_limit_that_cut_it_in_the_order_of_the_limits() {
    let limits = JointLimits {
        position: Some([-1.0, 1.0]),
        step: Some(0.5),
        velocity: Some(10.0),
        acceleration: Some(100.0),
        continuous: false,
    };
    let (rows, counts) = limited(&limiter(limits), 0.0, &[3.0]);
    close(&rows, &[0.04]);
    let message = |count: CutCount| (count.values, count.last.unwrap().to_string());
    assert_eq!(message(counts.position), (1, "elbow wanted 3, position limit 1".to_owned()));
    assert_eq!(message(counts.step), (1, "elbow wanted a step of 1, step limit 0.5".to_owned()));
    assert_eq!(message(counts.velocity), (1, "elbow wanted a velocity of 25, velocity limit 10".to_owned()));
    assert_eq!(message(counts.acceleration), (1, "elbow wanted an acceleration of 500, acceleration limit 100".to_owned()));
}

#[test]
fn a_joint_brakes_before_its_position_limit_reaches_it_and_does_not_pass_it() {
    let limits = JointLimits { position: Some([-1.0, 1.0]), acceleration: Some(5.0), ..Default::default() };
    let (rows, counts) = limited(&limiter(limits), 0.0, &[1.0; 200]);
    let fastest = rows.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max) / PERIOD;
    // Half of the way speeding up, half braking: sqrt(2 * 5 * 0.5) rad/s.
    assert!((2.0..=5f64.sqrt()).contains(&fastest), "{fastest}");
    // Steps of 0.002 rad more from row to row, up to 22 and down again, and the 0.032 rad that are left: 44 rows at least.
    let arrived = rows.iter().position(|&value| 1.0 - value < 1e-9).unwrap();
    assert!((43..=44).contains(&arrived), "{arrived}");
    assert!(rows.iter().all(|&value| value <= 1.0));
    let message = counts.acceleration.last.unwrap().to_string();
    assert_eq!(message, "elbow wanted 1, too fast to stop before position limit 1");
}

#[test]
fn a_range_that_is_open_on_one_side_limits_the_other() {
    let limits = JointLimits { position: Some([-1.0, f64::INFINITY]), acceleration: Some(500.0), ..Default::default() };
    let limiter = limiter(limits);
    close(&limited(&limiter, 0.0, &[0.2, 0.6, 1.2]).0, &[0.2, 0.6, 1.2]);
    let (rows, counts) = limited(&limiter, 0.0, &[-3.0; 10]);
    assert!(rows.iter().all(|&value| value >= -1.0) && rows[9] < -1.0 + 1e-9, "{rows:?}");
    assert_eq!(counts.position.values, 10);
    assert!(limiter.start(&[Some(-1.019)]).is_ok() && limiter.start(&[Some(-1.021)]).is_err());
    assert!(matches!(limiter.check_units(&[-90.0; 4]), Err(LimitError::CommandedUnit { .. })));
    assert!(matches!(limiter.check_units(&[90.0; 4]), Err(LimitError::FarCommanded { .. })));
    assert_eq!(limiter.check_units(&[12.5; 4]), Ok(()));
}

#[test]
fn a_braking_step_is_the_largest_from_which_a_joint_can_stop() {
    let distance = |mut step: f64, change: f64| {
        let mut distance = 0.0;
        while step > 0.0 {
            distance += step;
            step -= change;
        }
        distance
    };
    for change in [1e-6, 0.002, 0.3] {
        for room in [0.0, 1e-7, 0.002, 0.02, 0.7, 4.0] {
            let step = braking_step(room, change);
            let braked = distance(step, BRAKE_SHARE * change);
            assert!((braked - room).abs() <= 1e-9 * room, "{room} {change}: {step} is braked in {braked}");
        }
    }
}

#[test]
fn a_velocity_is_limited_and_brakes_before_the_predicted_position_reaches_its_limit() {
    let limits = JointLimits { position: Some([-1.0, 0.5]), velocity: Some(1.0), acceleration: Some(5.0), ..Default::default() };
    let limiter = Limiter::new(vec![joint("wheel", CommandKind::Velocity, limits)], PERIOD).unwrap();
    let (rows, counts) = limited(&limiter, 0.0, &[3.0; 12]);
    close(&rows, &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0]);
    assert_eq!(counts.velocity.last.unwrap().to_string(), "wheel wanted a velocity of 3, velocity limit 1");
    let (rows, _) = limited(&limiter, 0.0, &[3.0; 100]);
    assert!(rows[99].abs() < 1e-6);
    assert!((rows.iter().sum::<f64>() * PERIOD - 0.5).abs() < 1e-6);
}

#[test]
fn a_velocity_joint_that_is_measured_beyond_its_limit_may_only_come_back() {
    let limits = JointLimits { position: Some([-1.0, 1.0]), ..Default::default() };
    let limiter = Limiter::new(vec![joint("wheel", CommandKind::Velocity, limits)], PERIOD).unwrap();
    let (mut motion, mut counts) = (limiter.start(&[Some(0.9)]).unwrap(), LimitCounts::default());
    limiter.measure(&mut motion, &[Some(1.1)]);
    for (wanted, commanded) in [(0.5, 0.0), (-0.5, -0.5)] {
        let mut row = [wanted];
        limiter.limit(&mut motion, &mut row, &mut counts);
        assert_eq!(row, [commanded]);
    }
    assert_eq!(counts.position.last.unwrap().to_string(), "wheel wanted 1.11, position limit 1");
}

#[test]
fn without_rows_a_velocity_joint_goes_on_and_a_position_joint_waits() {
    let position = JointLimits { position: Some([-1.0, 1.0]), ..Default::default() };
    let joints = vec![joint("wheel", CommandKind::Velocity, position), joint("elbow", CommandKind::Position, position)];
    let limiter = Limiter::new(joints, PERIOD).unwrap();
    let mut motion = limiter.start(&[Some(0.0), Some(0.0)]).unwrap();
    limiter.follow(&mut motion, &[0.5, 0.1]);
    limiter.wait(&mut motion, 9);
    let positions: Vec<_> = motion.positions().flatten().collect();
    close(&positions, &[10.0 * 0.5 * PERIOD, 0.1]);
}

#[test]
fn a_stop_takes_every_joint_to_rest_within_its_own_acceleration_limit() {
    let slow = JointLimits { acceleration: Some(5.0), ..Default::default() };
    let joints = vec![
        joint("slow", CommandKind::Position, slow),
        joint("free", CommandKind::Position, JointLimits::default()),
        joint("wheel", CommandKind::Velocity, JointLimits { acceleration: Some(20.0), ..Default::default() }),
    ];
    let limiter = Limiter::new(joints, PERIOD).unwrap();
    let mut motion = limiter.start(&[Some(0.0), Some(0.0), None]).unwrap();
    let mut counts = LimitCounts::default();
    for mut row in [[0.002, 0.5, 0.4], [0.006, 1.0, 0.7]] {
        limiter.limit(&mut motion, &mut row, &mut counts);
    }
    assert_eq!(counts, LimitCounts::default());
    let (row, rest) = limiter.brake(&mut motion).unwrap();
    close(&row, &[0.008, 1.0, 0.3]);
    assert!(!rest);
    let (row, rest) = limiter.brake(&mut motion).unwrap();
    close(&row, &[0.008, 1.0, 0.0]);
    assert!(rest && motion.at_rest());
    assert_eq!(limiter.brake(&mut motion).unwrap(), (row, true));
}

#[test]
fn there_is_nothing_to_stop_before_an_unmeasured_joint_was_commanded() {
    let limiter = limiter(JointLimits::default());
    let mut motion = limiter.start(&[None]).unwrap();
    assert_eq!(limiter.brake(&mut motion), None);
    limiter.follow(&mut motion, &[0.3]);
    assert_eq!(limiter.brake(&mut motion), Some((vec![0.3], true)));
}

#[test]
fn a_pose_slightly_beyond_a_limit_is_held_and_one_further_away_is_refused() {
    let limiter = limiter(JointLimits { position: Some([-1.5, 2.0]), ..Default::default() });
    let start = |position| limiter.start(&[Some(position)]).map(|motion| motion.positions().next().unwrap());
    assert_eq!(start(1.9), Ok(Some(1.9)));
    assert_eq!(start(2.06), Ok(Some(2.06)));
    assert_eq!(
        start(-1.6).unwrap_err().to_string(),
        "Joint elbow stands at -1.6 and its position limits are [-1.5, 2]. Move the robot within its limits, or correct them"
    );
    assert_eq!(
        start(57.3).unwrap_err().to_string(),
        "Joint elbow stands at 57.3, far beyond its position limits [-1.5, 2]. \
         Joint states and limits must be in rad and m: does the driver report degrees or millimetres?"
    );
    assert!(matches!(start(-2.01), Err(LimitError::MeasuredUnit { .. })));
    assert!(matches!(start(-2.0), Err(LimitError::Outside { .. })));
    assert_eq!(start(f64::NAN).unwrap_err().to_string(), "Joint elbow is measured as NaN");
    assert_eq!(limiter.start(&[]), Err(LimitError::Width { found: 0, expected: 1 }));
}

#[test]
fn a_joint_whose_limits_count_from_its_position_must_be_measured() {
    let [position, step] = [(Some([-1.0, 1.0]), None), (None, Some(0.1))];
    for (kind, (position, step), refused) in [
        (CommandKind::Position, position, false),
        (CommandKind::Position, step, true),
        (CommandKind::Velocity, position, true),
        (CommandKind::Velocity, step, false),
    ] {
        let limits = JointLimits { position, step, ..Default::default() };
        let start = Limiter::new(vec![joint("elbow", kind, limits)], PERIOD).unwrap().start(&[None]);
        assert_eq!(start.is_err(), refused, "{kind:?} {limits:?}");
        assert!(start.is_ok() || start == Err(LimitError::NotMeasured { joint: "elbow".to_owned() }));
    }
}

#[test]
fn the_first_row_from_a_pose_beyond_a_limit_keeps_the_other_limits_and_may_only_come_back() {
    let limits = JointLimits {
        position: Some([-PI, PI]),
        step: Some(0.01),
        velocity: Some(0.5),
        acceleration: Some(5.0),
        continuous: false,
    };
    let limiter = limiter(limits);
    let wanted: Vec<_> = [9.0; 3].into_iter().chain([0.0; 40]).chain([9.0; 400]).collect();
    let (rows, counts) = limited(&limiter, 3.24, &wanted);
    assert_eq!(rows[..3], [3.24; 3], "no further out");
    assert!(rows[..30].windows(2).all(|pair| pair[1] <= pair[0] && pair[0] - pair[1] <= 0.01 + 1e-12), "{rows:?}");
    assert!((rows[2] - rows[3] - 0.002).abs() < 1e-12, "the acceleration limit lets it begin with 0.002 rad");
    assert!(rows[42] < PI && rows[43..].iter().all(|&row| row <= PI), "once within its limits it stays there: {rows:?}");
    assert!(counts.position.values > 0);
}

#[test]
fn a_joint_without_limits_that_is_more_than_two_turns_from_0_is_of_another_unit_unless_it_is_continuous() {
    let free = JointLimits::default();
    let message = limiter(free).start(&[Some(-90.0)]).unwrap_err().to_string();
    assert!(message.starts_with("Joint elbow stands at -90, more than two turns from 0"), "{message}");
    let message = limiter(free).check_units(&[0.0, 0.0, 0.0, 45.0]).unwrap_err().to_string();
    assert!(message.starts_with("The first chunk commands joint elbow to 45, more than two turns from 0"), "{message}");
    assert!(limiter(free).start(&[Some(12.5)]).is_ok() && limiter(free).check_units(&[-12.5]).is_ok());

    let endless = limiter(JointLimits { continuous: true, ..free });
    let wide = limiter(JointLimits { position: Some([-1e6, 1e6]), ..free });
    let gripper = JointControl { gripper: true, ..joint("gripper", CommandKind::Position, free) };
    let gripper = Limiter::new(vec![gripper], PERIOD).unwrap();
    let wheel = Limiter::new(vec![joint("wheel", CommandKind::Velocity, free)], PERIOD).unwrap();
    for limiter in [endless, wide, gripper, wheel] {
        assert!(limiter.start(&[Some(-90.0)]).is_ok() && limiter.check_units(&[45.0]).is_ok(), "{limiter:?}");
    }
}

#[test]
fn a_gripper_with_a_small_or_open_range_may_stand_a_little_beyond_its_end() {
    for position in [[0.0, f64::INFINITY], [0.0, 0.04]] {
        let limiter = limiter(JointLimits { position: Some(position), ..Default::default() });
        assert!(limiter.start(&[Some(-0.0001)]).is_ok() && limiter.start(&[Some(-0.019)]).is_ok(), "{position:?}");
        assert!(matches!(limiter.start(&[Some(-0.021)]), Err(LimitError::Outside { .. })), "{position:?}");
        assert_eq!(limiter.check_units(&[-0.019; 4]), Ok(()));
        assert!(matches!(limiter.check_units(&[-0.021; 4]), Err(LimitError::CommandedUnit { .. })));
    }
}

#[test]
fn a_joint_that_waited_catches_up_within_its_limits_and_does_not_overshoot_where_the_other_one_rests() {
    for (step, velocity, acceleration) in
        [(None, None, Some(5.0)), (None, Some(1.2), Some(3.0)), (Some(0.05), None, None), (None, None, None)]
    {
        let limits = JointLimits { step, velocity, acceleration, ..Default::default() };
        let limiter = limiter(limits);
        // From 0 to 1 rad and back to 0.5.
        let (lead, _) = limited(&limiter, 0.0, &[vec![1.0; 100], vec![0.5; 100]].concat());
        let mut told = limiter.start(&[Some(0.0)]).unwrap();
        let (mut sent, mut rows) = (told.clone(), Vec::new());
        for (index, row) in lead.iter().enumerate() {
            let before = told.clone();
            limiter.follow(&mut told, &[*row]);
            // Half of the way to 1 rad is missed.
            if !(8..20).contains(&index) {
                rows.extend(limiter.chase(&mut sent, &before, &[*row]));
            }
        }
        let end = *lead.last().unwrap();
        while !told.at_rest() {
            let before = told.clone();
            let row = limiter.brake(&mut told).unwrap().0;
            rows.extend(limiter.chase(&mut sent, &before, &row));
        }
        let rest = told.positions().next().unwrap().unwrap();
        let settled = rows.len();
        for _ in 0..300 {
            let before = told.clone();
            rows.extend(limiter.chase(&mut sent, &before, &[rest]));
        }
        let case = Case { kind: CommandKind::Position, period: PERIOD, limits, start: 0.0, chunks: vec![] };
        assert!(excess(&case, &rows) <= 1e-9, "{limits:?}: {rows:?}");
        assert_eq!(rows.last(), Some(&rest), "{limits:?}: it arrived, from {end}");
        assert!(rows[settled + 60..].iter().all(|row| *row == rest), "{limits:?}: {:?}", &rows[settled..]);
    }
}

#[test]
fn a_first_chunk_in_degrees_is_refused_and_one_that_squeezes_or_is_half_outside_is_not() {
    let limiter = limiter(JointLimits { position: Some([-2.0, 2.0]), ..Default::default() });
    let degrees: Vec<_> = (0..10).map(|row| f64::from(row) * 10.0).collect();
    assert_eq!(
        limiter.check_units(&degrees).unwrap_err().to_string(),
        "9 of the first chunk's 10 values for joint elbow are far beyond its position limits [-2, 2], such as 90. \
         Do the robot profile's units fit the checkpoint?"
    );
    assert_eq!(limiter.check_units(&[-2.3; 10]), Ok(()));
    assert_eq!(limiter.check_units(&[0.0, 90.0, 0.0, -90.0]), Ok(()));
    assert!(limiter.check_units(&[0.0, 90.0, 90.0]).is_err());
}

#[test]
fn the_units_of_a_first_chunk_are_checked_joint_by_joint() {
    let limits = JointLimits { position: Some([-2.0, 2.0]), ..Default::default() };
    let joints = vec![
        joint("free", CommandKind::Position, JointLimits { continuous: true, ..Default::default() }),
        joint("wheel", CommandKind::Velocity, limits),
        joint("wrist", CommandKind::Position, limits),
    ];
    let limiter = Limiter::new(joints, PERIOD).unwrap();
    assert_eq!(limiter.check_units(&[90.0, 90.0, 1.0, 90.0, 90.0, 1.0]), Ok(()));
    let error = limiter.check_units(&[0.0, 0.0, -90.0, 0.0, 0.0, 90.0]).unwrap_err();
    assert!(error.to_string().starts_with("2 of the first chunk's 2 values for joint wrist"), "{error}");
}

#[test]
fn limits_that_no_robot_has_are_refused_and_name_the_joint() {
    let position = |ends| JointLimits { position: Some(ends), ..Default::default() };
    for ends in [[0.0, 0.0], [1.0, -1.0], [f64::NAN, 1.0], [f64::INFINITY; 2]] {
        assert!(
            refused(position(ends), PERIOD).starts_with("The position limits of joint elbow must be the least and"),
            "{ends:?}"
        );
    }
    for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        for (what, limits) in [
            ("step", JointLimits { step: Some(value), ..Default::default() }),
            ("velocity", JointLimits { velocity: Some(value), ..Default::default() }),
            ("acceleration", JointLimits { acceleration: Some(value), ..Default::default() }),
        ] {
            assert_eq!(
                refused(limits, PERIOD),
                format!(
                    "The {what} limit of joint elbow must be above 0 and finite, not {value}. Correct the URDF or set joint_limits.elbow"
                )
            );
        }
    }
    for period in [0.0, -0.02, f64::NAN, f64::INFINITY] {
        assert!(refused(JointLimits::default(), period).starts_with("The control period"), "{period}");
    }
    let slow = JointLimits { acceleration: Some(1e-6), ..Default::default() };
    assert!(refused(slow, PERIOD).starts_with("The acceleration limit 0.000001 of joint elbow changes its step by 4e-10"));
}

/// A robot of one joint with random limits, and chunks that follow each other, each perhaps cut short by a few rows of braking.
#[derive(Clone, Debug)]
struct Case {
    kind: CommandKind,
    period: f64,
    limits: JointLimits,
    start: f64,
    chunks: Vec<(Vec<f64>, usize)>,
}

fn cases() -> impl Strategy<Value = Case> {
    let positive = |least: f64, largest: f64| (least.ln()..largest.ln()).prop_map(f64::exp);
    let optional = |least, largest| prop::option::of(positive(least, largest));
    let limits = (
        prop::option::of((-3.0..3.0, positive(1e-3, 6.0)).prop_map(|(least, range): (f64, f64)| [least, least + range])),
        optional(1e-4, 1.0),
        optional(0.01, 20.0),
        optional(0.01, 500.0),
    );
    let limits = limits.prop_map(|(position, step, velocity, acceleration)| JointLimits {
        position,
        step,
        velocity,
        acceleration,
        continuous: false,
    });
    let values = (positive(1e-3, 1e3), prop::collection::vec(-1.0..1.0, 1..16), prop::bool::ANY);
    // Either every value anywhere, or in steps from the one before.
    let values = values.prop_map(|(scale, shares, walk): (f64, Vec<f64>, bool)| {
        let mut sum = 0.0;
        shares
            .iter()
            .map(|share| {
                sum += share * scale * 0.1;
                if walk { sum } else { share * scale }
            })
            .collect()
    });
    let chunks = prop::collection::vec((values, prop_oneof![Just(0), 1usize..12]), 4);
    let kind = prop_oneof![Just(CommandKind::Position), Just(CommandKind::Velocity)];
    (kind, positive(0.002, 0.2), limits, 0.0..1.0, chunks).prop_map(|(kind, period, limits, share, chunks)| {
        let start = limits.position.map_or(share, |[least, largest]| least + share * (largest - least));
        Case { kind, period, limits, start, chunks }
    })
}

/// The largest excess over any limit of rows that follow a robot at rest at `start`, computed from the rows alone.
fn excess(case: &Case, rows: &[f64]) -> f64 {
    let JointLimits { position, step, velocity, acceleration, .. } = case.limits;
    let (mut place, mut speed, mut excess) = (case.start, 0.0, f64::NEG_INFINITY);
    for &value in rows {
        let (next, rate) = match case.kind {
            CommandKind::Position => (value, (value - place) / case.period),
            CommandKind::Velocity => (place + value * case.period, value),
        };
        if let Some([least, largest]) = position {
            excess = excess.max(next - largest).max(least - next);
        }
        for (found, limit) in
            [((next - place).abs(), step), (rate.abs(), velocity), ((rate - speed).abs() / case.period, acceleration)]
        {
            excess = excess.max(limit.map_or(f64::NEG_INFINITY, |limit| found - limit));
        }
        (place, speed) = (next, rate);
    }
    excess
}

#[test]
fn no_row_of_100_000_random_chunks_breaks_a_limit_and_limiting_twice_is_limiting_once() {
    let run = |case: Case| {
        let limiter = Limiter::new(vec![joint("any", case.kind, case.limits)], case.period).unwrap();
        let start = limiter.start(&[Some(case.start)]).unwrap();
        let (mut motion, mut counts, mut rows) = (start.clone(), LimitCounts::default(), Vec::new());
        for (values, braked) in &case.chunks {
            for &value in values {
                let mut row = [value];
                limiter.limit(&mut motion, &mut row, &mut counts);
                rows.extend(row);
            }
            for _ in 0..*braked {
                rows.extend(limiter.brake(&mut motion).unwrap().0);
            }
        }
        while !motion.at_rest() {
            rows.extend(limiter.brake(&mut motion).unwrap().0);
        }
        let excess = excess(&case, &rows);
        prop_assert!(excess <= 1e-9, "{excess} beyond a limit: {rows:?}");

        let (mut again, mut motion, mut counts) = (rows.clone(), start, LimitCounts::default());
        for value in &mut again {
            limiter.limit(&mut motion, std::slice::from_mut(value), &mut counts);
        }
        prop_assert!(again.iter().zip(&rows).all(|(a, b)| a.to_bits() == b.to_bits()), "{again:?} and {rows:?}");
        prop_assert_eq!(counts, LimitCounts::default());
        Ok(())
    };
    TestRunner::new(ProptestConfig::with_cases(25_000)).run(&cases(), run).unwrap();
}
