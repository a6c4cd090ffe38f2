//! Random sequences of events: whatever happens in whatever order, what is published keeps the limits.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// What can happen between two control steps.
#[derive(Clone, Debug)]
enum Event {
    /// A control step, so many milliseconds after the one before.
    Step(i64),
    /// The running inference ends with a chunk of a random walk with this seed and this largest step.
    Install(u64, f64),
    Abandon,
    Stop,
    Reset,
    Activate,
    Deactivate,
    /// Seconds
    ClockJump(f64),
    InstructionChanged,
    /// The robot is measured this far from its command.
    Push(f64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        40 => (15i64..25).prop_map(Event::Step),
        3 => (30i64..300).prop_map(Event::Step),
        8 => (any::<u64>(), 0.0..0.6).prop_map(|(seed, step)| Event::Install(seed, step)),
        1 => Just(Event::Abandon),
        1 => Just(Event::Stop),
        3 => Just(Event::Reset),
        2 => Just(Event::Activate),
        1 => Just(Event::Deactivate),
        1 => (-20.0..20.0).prop_map(Event::ClockJump),
        1 => Just(Event::InstructionChanged),
        1 => (-0.7..0.7).prop_map(Event::Push),
    ]
}

fn limits() -> impl Strategy<Value = JointLimits> {
    let some = |range: std::ops::Range<f64>| proptest::option::of(range);
    (some(0.5..2.0), some(0.01..0.3), some(0.3..3.0), some(0.5..20.0)).prop_map(|(end, step, velocity, acceleration)| {
        JointLimits { position: end.map(|end| [-end, end]), step, velocity, acceleration, continuous: false }
    })
}

fn any_config() -> impl Strategy<Value = ControlConfig> {
    let chunking = prop_oneof![Just(Chunking::None), Just(Chunking::Rtc), Just(Chunking::Crossfade { seconds: 0.1 })];
    let replan = prop_oneof![Just(Replan::Drain), (0.5..30.0).prop_map(Replan::Rate)];
    let stall = prop_oneof![Just(StallAction::Hold), Just(StallAction::ZeroVelocity), Just(StallAction::None)];
    let on_instruction = prop_oneof![Just(OnInstruction::Flush), Just(OnInstruction::Finish)];
    let drift = proptest::option::of(0.3..1.0);
    (limits(), limits(), any::<bool>(), chunking, replan, stall, on_instruction, drift, 1..=HORIZON).prop_map(
        |(arm, other, wheel, chunking, replan, stall, on_instruction, drift, execution_horizon)| {
            let mut joints = if wheel { mobile().joints } else { config().joints };
            joints[0].limits = arm;
            // Where a wheel is depends on its measurements, which are free here.
            joints[1].limits = if wheel { JointLimits { position: None, ..other } } else { other };
            ControlConfig { joints, chunking, replan, stall, on_instruction, drift, execution_horizon, ..config() }
        },
    )
}

/// A random walk, the same for the same seed.
fn walk(seed: u64, step: f64) -> ComputedChunk {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1u64 << 31) as f64 * 2.0 - 1.0
    };
    let mut position = [uniform(), uniform()];
    let rows: Vec<_> = (0..HORIZON)
        .map(|_| {
            position = position.map(|position| position + step * uniform());
            position
        })
        .collect();
    chunk_of(|row| rows[row])
}

/// Checks row after row of one way of commanding against the limits and the row before it, with arithmetic of its own.
struct Judge {
    joints: Vec<JointControl>,
    /// Position, or velocity of a wheel, and the change before; `None` until the robot is told something after it was measured.
    last: Option<Vec<(f64, f64)>>,
}

impl Judge {
    /// The robot rests in a measured pose.
    fn rests(&mut self, positions: &[Option<f64>]) {
        let at = |(joint, position): (&JointControl, &Option<f64>)| match joint.kind {
            CommandKind::Position => (position.unwrap(), 0.0),
            CommandKind::Velocity => (0.0, 0.0),
        };
        self.last = Some(self.joints.iter().zip(positions).map(at).collect());
    }

    /// Nothing is sent any more: positions are kept.
    fn stays(&mut self) {
        for (joint, last) in self.joints.iter().zip(self.last.iter_mut().flatten()) {
            if joint.kind == CommandKind::Position {
                last.1 = 0.0;
            }
        }
    }

    fn row(&mut self, row: &[f64]) {
        let last = self.last.as_mut().expect("the pose was measured before the first command");
        for ((joint, last), value) in self.joints.iter().zip(last).zip(row) {
            let JointLimits { position, step, velocity, acceleration, .. } = joint.limits;
            let (change, before) = match joint.kind {
                CommandKind::Position => (value - last.0, last.1),
                CommandKind::Velocity => (value * PERIOD, last.0 * PERIOD),
            };
            let within = |what: &str, value: f64, limit: Option<f64>| {
                assert!(value.abs() <= limit.unwrap_or(f64::INFINITY) + 1e-9, "{what} of {}: {value} {limit:?}", joint.name);
            };
            if let (CommandKind::Position, Some([least, largest])) = (joint.kind, position) {
                let range = least.min(last.0) - 1e-9..=largest.max(last.0) + 1e-9;
                assert!(range.contains(value), "position of {}: {value}", joint.name);
            }
            within("step", change, step);
            within("velocity", change, velocity.map(|velocity| velocity * PERIOD));
            within("acceleration", change - before, acceleration.map(|acceleration| acceleration * PERIOD * PERIOD));
            *last = (*value, change);
        }
    }
}

/// An arm whose controller executes trajectories: it goes on with the newest one whether control steps happen or not.
struct Executor {
    judge: Judge,
    start: Stamp,
    /// What is not reached yet: row `k` is, one period after `start + k * period`.
    rows: VecDeque<Vec<f64>>,
    /// Control steps since the start that happened.
    steps: usize,
    /// The clock has jumped: the next trajectory goes on from here.
    lost: bool,
}

impl Executor {
    fn new(joints: Vec<JointControl>) -> Self {
        let judge = Judge { joints, last: None };
        Self { judge, start: Stamp::from_nanoseconds(0), rows: VecDeque::new(), steps: 0, lost: false }
    }

    /// Executes the rows before `until`.
    fn execute(&mut self, until: Stamp) {
        let periods = (until.seconds_since(self.start) / PERIOD).round() as i64;
        for _ in 0..periods {
            let Some(row) = self.rows.pop_front() else {
                self.judge.stays();
                break;
            };
            self.judge.row(&row);
            self.start = self.start.after(PERIOD);
        }
    }

    fn take(&mut self, trajectory: &Trajectory) {
        if !self.lost {
            let periods = trajectory.start.seconds_since(self.start) / PERIOD;
            // A robot that was told to rest may be told the next thing while its last row is executed.
            let moves = self.rows.len() as f64 > periods + 1.0;
            assert!(!moves || (periods - periods.round()).abs() < 1e-6, "the steps lost their times: {periods}, {:?}", self.rows);
            assert!(!moves || periods > -0.5, "told in the past: {periods}");
            self.execute(trajectory.start);
        }
        (self.start, self.rows, self.lost, self.steps) = (trajectory.start, trajectory.rows.clone().into(), false, 0);
    }

    /// The clock jumps: the controller cannot know more than the steps that happened.
    fn lose_time(&mut self, now: Stamp) {
        if !self.lost {
            self.execute(now);
            self.lost = true;
        }
    }
}

/// A controller, and an arm that executes its rows and another one that executes its trajectories.
struct Arms {
    rig: Rig,
    rows: Judge,
    trajectories: Executor,
    /// Where the arms were commanded to be.
    commanded: [Vec<f64>; 2],
}

impl Arms {
    fn new(config: ControlConfig) -> Self {
        let joints = config.joints.clone();
        let rows = Judge { joints: joints.clone(), last: None };
        Self { rig: Rig::new(config), rows, trajectories: Executor::new(joints), commanded: [vec![0.0; 2], vec![0.0; 2]] }
    }

    fn judge(&mut self, tick: &Tick) {
        if let Some(trajectory) = &tick.trajectory {
            self.trajectories.take(trajectory);
        }
        if let Some(row) = &tick.command {
            self.rows.row(row);
            self.commanded[0] = row.clone();
        }
    }

    /// A control step after the one before; the arm that is measured is `push` from where it was commanded to be.
    fn step(&mut self, milliseconds: i64, measured: usize, push: f64) -> Tick {
        self.rig.pass(milliseconds);
        self.rig.positions = self.commanded[measured].iter().map(|position| Some(position + push)).collect();
        let tick = self.rig.tick();
        self.judge(&tick);
        if let Some(row) = self.trajectories.rows.front() {
            self.commanded[1] = row.clone();
        }
        match self.rig.state() {
            ControlState::Waiting => {
                assert!(self.trajectories.lost || self.left() <= 2, "it moves on while it is measured");
                self.trajectories.rows.clear();
                self.trajectories.judge.rests(&self.rig.positions);
                self.rows.rests(&self.rig.positions);
                let bounded = |at: &Vec<f64>| at.iter().map(|position| position.clamp(-0.4, 0.4)).collect();
                self.commanded = self.commanded.each_ref().map(bounded);
            }
            ControlState::Holding => self.rows.stays(),
            _ => {}
        }
        tick
    }

    /// Rows of the trajectory that are not executed yet.
    fn left(&mut self) -> usize {
        self.trajectories.execute(self.rig.now);
        self.trajectories.rows.len()
    }
}

fn run(config: ControlConfig, measured: usize, events: Vec<Event>) {
    let mut arms = Arms::new(config);
    let (mut active, mut stopped, mut braking, mut jumped, mut ticket, mut push) = (true, false, false, false, None, 0.0);
    for event in events {
        match event {
            Event::Step(milliseconds) => {
                let tick = arms.step(milliseconds, measured, push);
                jumped = false;
                assert!(active || braking || tick == Tick::default(), "inactive");
                assert!(!stopped || braking || tick == Tick::default(), "stopped");
                let rig = &mut arms.rig;
                if let Some(new) = rig.controller.request(rig.now) {
                    assert!(active && !stopped && ticket.is_none());
                    ticket = Some(new);
                }
            }
            Event::Install(seed, step) => {
                if let Some(ticket) = ticket.take() {
                    let rig = &mut arms.rig;
                    let planned = rig.controller.status().rows_left;
                    if rig.install(&ticket, walk(seed, step)).is_err() {
                        assert!(rig.controller.status().rows_left == planned || rig.controller.status().latch.is_some());
                    }
                }
            }
            Event::Abandon => {
                if let Some(ticket) = ticket.take() {
                    arms.rig.controller.abandon(&ticket);
                }
            }
            Event::Stop => {
                let tick = arms.rig.controller.stop(arms.rig.now);
                assert!(active || braking || tick == Tick::default());
                assert!(!(stopped && braking) || jumped || tick == Tick::default(), "told twice");
                arms.judge(&tick);
                stopped = true;
            }
            Event::Reset => stopped = arms.rig.controller.reset().is_err(),
            Event::Activate => {
                arms.rig.controller.activate();
                active = true;
            }
            Event::Deactivate => {
                let tick = arms.rig.controller.deactivate(arms.rig.now);
                assert!(active || braking || tick == Tick::default());
                arms.judge(&tick);
                active = false;
            }
            Event::ClockJump(seconds) => {
                let last = arms.rig.controller.steps.last();
                arms.trajectories.lose_time(arms.rig.controller.steps.time_of(last + 1, arms.rig.now));
                arms.rig.now = arms.rig.now.after(seconds);
                arms.rig.controller.clock_jumped();
                jumped = true;
            }
            Event::InstructionChanged => arms.rig.controller.instruction_changed(),
            Event::Push(distance) => push = distance,
        }
        braking = arms.rig.state() == ControlState::Braking;
    }
}

/// Executes 20 rows, each `step` further than the one before; 0.02 rad are allowed.
fn moving(step: f64) -> Arms {
    let limits = JointLimits { velocity: Some(1.0), acceleration: Some(5.0), ..JointLimits::default() };
    let mut arms = Arms::new(with_limits(config(), limits));
    arms.step(20, 1, 0.0);
    let ticket = arms.rig.request();
    arms.rig.install(&ticket, chunk_of(|row| [step * row as f64; 2])).unwrap();
    (0..20).for_each(|_| drop(arms.step(20, 1, 0.0)));
    arms
}

#[test]
fn after_skipped_steps_a_stop_is_told_from_where_the_trajectory_is_and_sent_from_where_the_rows_are() {
    let mut arms = moving(0.02);
    let before = arms.commanded.clone();
    arms.step(100, 1, 0.0);
    arms.step(20, 1, 0.0);
    arms.trajectories.execute(arms.rig.now);
    let trajectory = arms.trajectories.rows[0][0];
    assert!(arms.commanded[0][0] - before[0][0] <= 0.04 + 1e-9, "rows do not jump: {:?} {before:?}", arms.commanded);
    let stop = arms.rig.controller.stop(arms.rig.now);
    let path = stop.trajectory.clone().unwrap();
    arms.judge(&stop);
    assert!(path.rows[0][0] > trajectory, "it does not go back: {trajectory} {path:?}");
    assert!(stop.command.as_ref().unwrap()[0] < trajectory - 0.05, "nor do the rows jump: {stop:?}");
    while arms.rig.state() == ControlState::Braking {
        arms.step(20, 1, 0.0);
    }
}

#[test]
fn rows_that_fell_behind_a_trajectory_meet_it_again() {
    let mut arms = moving(0.01);
    arms.step(100, 1, 0.0);
    let apart = (0..25).map(|_| {
        let sent = arms.step(20, 1, 0.0).command.unwrap()[0];
        arms.trajectories.execute(arms.rig.now);
        arms.trajectories.rows[0][0] - sent
    });
    let apart: Vec<_> = apart.collect();
    assert!(apart[0] > 0.03 && apart.windows(2).all(|pair| pair[1] <= pair[0]), "{apart:?}");
    assert_eq!(apart[20..], [0.0; 5], "{apart:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_rows_and_trajectories_keep_the_limits_and_nothing_is_published_while_inactive_or_stopped(
        config in any_config(),
        measured in 0..2usize,
        events in proptest::collection::vec(event(), 1..400),
    ) {
        run(config, measured, events);
    }
}
