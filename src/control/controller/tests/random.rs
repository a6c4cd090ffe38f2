//! Random sequences of events: whatever happens in whatever order, what is published keeps the limits.

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
        JointLimits { position: end.map(|end| [-end, end]), step, velocity, acceleration }
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

/// Checks every published row against the limits and the row before it, with arithmetic of its own.
struct Judge {
    joints: Vec<JointControl>,
    /// Position, or velocity of a wheel, and the change before; `None` until the robot is told something after it was measured.
    last: Option<Vec<(f64, f64)>>,
}

impl Judge {
    /// The robot rests in a measured pose.
    fn rests(&mut self, positions: &[Option<f64>]) {
        let at = |(joint, position): (&JointControl, &Option<f64>)| match joint.kind {
            CommandKind::Position => {
                let [least, largest] = joint.limits.position.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
                (position.unwrap().clamp(least, largest), 0.0)
            }
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
            let JointLimits { position, step, velocity, acceleration } = joint.limits;
            let (change, before) = match joint.kind {
                CommandKind::Position => (value - last.0, last.1),
                CommandKind::Velocity => (value * PERIOD, last.0 * PERIOD),
            };
            let within = |what: &str, value: f64, limit: Option<f64>| {
                assert!(value.abs() <= limit.unwrap_or(f64::INFINITY) + 1e-9, "{what} of {}: {value} {limit:?}", joint.name);
            };
            if let (CommandKind::Position, Some([least, largest])) = (joint.kind, position) {
                assert!((least - 1e-9..=largest + 1e-9).contains(value), "position of {}: {value}", joint.name);
            }
            within("step", change, step);
            within("velocity", change, velocity.map(|velocity| velocity * PERIOD));
            within("acceleration", change - before, acceleration.map(|acceleration| acceleration * PERIOD * PERIOD));
            *last = (*value, change);
        }
    }

    fn judge(&mut self, tick: &Tick) {
        if let Some(trajectory) = &tick.trajectory {
            assert_eq!(trajectory.rows.first(), tick.command.as_ref());
            let mut ahead = Judge { joints: self.joints.clone(), last: self.last.clone() };
            trajectory.rows.iter().for_each(|row| ahead.row(row));
        }
        if let Some(row) = &tick.command {
            self.row(row);
        }
    }
}

fn run(config: ControlConfig, events: Vec<Event>) {
    let mut judge = Judge { joints: config.joints.clone(), last: None };
    let mut rig = Rig::new(config);
    let (mut active, mut stopped, mut braking, mut ticket) = (true, false, false, None);
    let mut commanded = [0.0; 2];
    let mut push = 0.0;
    for event in events {
        match event {
            Event::Step(milliseconds) => {
                rig.pass(milliseconds);
                rig.positions = commanded.iter().map(|position| Some(position + push)).collect();
                let tick = rig.tick();
                assert!(active || tick == Tick::default(), "inactive");
                assert!(!stopped || braking || tick == Tick::default(), "stopped");
                judge.judge(&tick);
                if let Some(row) = tick.command {
                    commanded = [row[0], row[1]];
                }
                match rig.state() {
                    ControlState::Waiting => {
                        commanded = commanded.map(|position: f64| position.clamp(-0.5, 0.5));
                        judge.rests(&rig.positions);
                    }
                    ControlState::Holding => judge.stays(),
                    _ => {}
                }
                braking = rig.state() == ControlState::Braking;
                if let Some(new) = rig.controller.request(rig.now) {
                    assert!(active && !stopped && ticket.is_none());
                    ticket = Some(new);
                }
            }
            Event::Install(seed, step) => {
                if let Some(ticket) = ticket.take() {
                    let planned = rig.controller.status().rows_left;
                    if rig.install(&ticket, walk(seed, step)).is_err() {
                        assert!(rig.controller.status().rows_left == planned || rig.controller.status().latch.is_some());
                    }
                }
            }
            Event::Abandon => {
                if let Some(ticket) = ticket.take() {
                    rig.controller.abandon(&ticket);
                }
            }
            Event::Stop => {
                let tick = rig.controller.stop(rig.now);
                assert!(active || tick == Tick::default());
                judge.judge(&tick);
                stopped = true;
                braking = rig.state() == ControlState::Braking;
            }
            Event::Reset => stopped = rig.controller.reset().is_err(),
            Event::Activate => {
                rig.controller.activate();
                active = true;
            }
            Event::Deactivate => {
                let tick = rig.controller.deactivate(rig.now);
                assert!(active || tick == Tick::default());
                judge.judge(&tick);
                active = false;
            }
            Event::ClockJump(seconds) => {
                rig.now = rig.now.after(seconds);
                rig.controller.clock_jumped();
            }
            Event::InstructionChanged => rig.controller.instruction_changed(),
            Event::Push(distance) => push = distance,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_published_rows_keep_the_limits_and_nothing_is_published_while_inactive_or_stopped(
        config in any_config(),
        events in proptest::collection::vec(event(), 1..400),
    ) {
        run(config, events);
    }
}
