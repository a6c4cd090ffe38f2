//! The control thread: wakes once in a control period, and is the only place that publishes commands.
//!
//! It owns the [`Controller`] and tells it what happens in the order in which it happens: samples, finished chunks, services. So there is one
//! order of everything that a robot is told, and after the last command of a stop comes nothing.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rclrs::Clock;

use super::{
    inference::{Computed, InferenceError, LastChunk, Problem, Request, Shared},
    inputs::Inputs,
    log::{Change, ChangeLog},
    outputs::Outputs,
    priority,
    process::{self, Event},
};
use crate::{
    control::{ClockWatch, Controller, GuidanceRequest, Measured, NotUsable, Stamp, Ticket, Tick},
    model::PrefixSchedule,
    policy::{PolicyError, PrefixGuidance},
};

/// One line a second and cause is what a console bears.
const LOG_INTERVAL: Duration = Duration::from_secs(1);
/// How often the node's clock is looked at between two control steps: it may be `/clock`, and may be set at any time.
const POLL: Duration = Duration::from_millis(1);

/// Longest time for an order: the last commands of a stop take theirs.
const ORDER_LIMIT: Duration = Duration::from_secs(10);

/// A limit that cut nothing for so long has stopped cutting.
const LIMIT_QUIET: Duration = Duration::from_secs(3);

/// What the control thread is told.
pub enum Message {
    Order(Order, Sender<Result<String, String>>),
    Computed(Box<Computed>),
    InstructionChanged,
    /// `inference.rate_hz` was set.
    Rate(f64),
    End,
}

/// What an operator or a lifecycle manager orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Activate,
    /// The stall action is sent, and nothing after it.
    Deactivate,
    /// The stall action is sent, and nothing after it until [`Order::Reset`].
    Stop,
    Reset,
}

/// What the control thread works with.
pub struct Parts {
    pub controller: Controller,
    /// Joint names in the controller's order.
    pub joints: Vec<String>,
    /// Seconds between two rows.
    pub period: f64,
    /// Form and largest weight of the guidance towards the chunk before.
    pub guidance: (PrefixSchedule, f64),
    pub inputs: Arc<Inputs>,
    pub outputs: Outputs,
    pub clock: Clock,
    /// To the control thread itself.
    pub messages: Sender<Message>,
    pub requests: SyncSender<Request>,
    pub shared: Shared,
    /// To the main thread.
    pub events: Sender<Event>,
}

/// Handle of the control thread; dropping it ends the thread, without a last command.
pub struct Control {
    messages: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// `messages` come from [`channel`]; others may hold senders too, and may use them when the thread has ended.
    pub fn start((messages, inbox): (Sender<Message>, Receiver<Message>), parts: Parts) -> io::Result<Self> {
        let thread = thread::Builder::new().name("control".to_owned()).spawn(move || {
            if let Err(error) = priority::go_first() {
                tracing::info!(
                    "The control thread has no real-time priority ({error}): on a busy machine its commands come late. Allow rtprio in \
                     /etc/security/limits.conf"
                );
            }
            Loop::new(parts).run(&inbox);
        })?;
        Ok(Self { messages, thread: Some(thread) })
    }

    /// Carries out an order; comes back when its commands have been published.
    pub fn order(&self, order: Order) -> Result<String, String> {
        send_order(&self.messages, order)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // An error means that the thread has ended already. A panic in it was reported by the hook.
        let _ = self.messages.send(Message::End);
        if let Some(thread) = self.thread.take()
            && process::ends_within(&thread, ORDER_LIMIT)
        {
            let _ = thread.join();
        }
    }
}

/// Carries out an order; comes back with a sentence for the operator when its commands have been published.
pub fn send_order(messages: &Sender<Message>, order: Order) -> Result<String, String> {
    let (reply, answer) = channel();
    let gone = || "The policy is not configured".to_owned();
    messages.send(Message::Order(order, reply)).map_err(|_| gone())?;
    answer.recv_timeout(ORDER_LIMIT).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => Err("The control thread does not answer".to_owned()),
        RecvTimeoutError::Disconnected => Err(gone()),
    })
}

struct Loop {
    parts: Parts,
    watch: ClockWatch,
    log: ChangeLog,
    /// Values that each limit had cut, and when that grew last.
    cut: [(u64, Option<Instant>); 4],
}

impl Loop {
    fn new(parts: Parts) -> Self {
        Self { parts, watch: ClockWatch::default(), log: ChangeLog::new(LOG_INTERVAL, Instant::now()), cut: [(0, None); 4] }
    }

    fn run(mut self, inbox: &Receiver<Message>) {
        let mut next = self.now();
        loop {
            let wait = Duration::from_secs_f64(next.seconds_since(self.now()).max(0.0)).min(POLL);
            match inbox.recv_timeout(wait) {
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(message) => self.receive(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = self.now();
            if let Some(jump) = self.watch.observe(now) {
                tracing::warn!("{jump}. The chunk is dropped, and the robot held until there are new samples");
                self.parts.inputs.reset(now);
                self.parts.controller.clock_jumped();
                next = now;
            }
            if now >= next {
                self.parts.shared.control().lateness.record(now.seconds_since(next));
                self.tick(now);
                // A step that was slept through is not made up for, and the steps keep their phase.
                let missed = (now.seconds_since(next) / self.parts.period).floor();
                next = next.after((missed + 1.0) * self.parts.period);
            }
        }
    }

    fn now(&self) -> Stamp {
        Stamp::from_nanoseconds(self.parts.clock.now().nsec)
    }

    fn receive(&mut self, message: Message) {
        let now = self.now();
        match message {
            Message::Order(order, reply) => {
                let answer = self.carry_out(order, now);
                self.report();
                // Nobody waits any more when the node is on its way out.
                let _ = reply.send(answer);
            }
            Message::Computed(computed) => self.install(*computed, now),
            Message::InstructionChanged => self.parts.controller.instruction_changed(),
            Message::Rate(hz) => {
                // The parameter's range holds rates that the controller takes.
                if let Err(error) = self.parts.controller.set_rate(hz) {
                    tracing::warn!("{error}");
                }
            }
            // Taken by `run`.
            Message::End => {}
        }
    }

    fn carry_out(&mut self, order: Order, now: Stamp) -> Result<String, String> {
        let controller = &mut self.parts.controller;
        match order {
            Order::Activate => {
                controller.activate();
                Ok("Commands are published from the first chunk on".to_owned())
            }
            Order::Deactivate => {
                let last = controller.deactivate(now);
                self.publish_to_the_end(last);
                Ok("No command is published any more".to_owned())
            }
            Order::Stop => {
                let last = controller.stop(now);
                self.publish(last);
                tracing::warn!("Stopped. ~/reset lets the policy go on");
                Ok("Stopped until ~/reset".to_owned())
            }
            Order::Reset => {
                let answer = controller.reset().map_err(|error| error.to_string());
                match &answer {
                    Ok(()) => tracing::info!("Reset. The policy starts anew from the pose that the robot holds"),
                    Err(reason) => tracing::warn!("Not reset: {reason}"),
                }
                answer.map(|()| "The policy starts anew from the pose that the robot holds".to_owned())
            }
        }
    }

    fn tick(&mut self, now: Stamp) {
        let measured = self.measured(now);
        let tick = self.parts.controller.tick(now, measured.as_ref());
        self.publish(tick);
        if let Some(ticket) = self.parts.controller.request(now) {
            match self.parts.inputs.snapshot(now) {
                Ok(snapshot) => {
                    self.tell_inputs(&BTreeMap::new());
                    let mut status = self.parts.shared.status();
                    // The inference may take a while, and until it has ended nothing else would say that the inputs are there.
                    status.problem.take_if(|problem| matches!(problem, Problem::Waiting(_)));
                    status.running = Some(Instant::now());
                    drop(status);
                    // The queue has room: the thread has answered every request before. An error means that it has ended, which ends
                    // the node elsewhere.
                    let guidance = self.guidance(&ticket);
                    let answer = self.parts.messages.clone();
                    let _ = self.parts.requests.send(Request { snapshot, ticket, guidance, answer });
                }
                Err(problems) => {
                    self.parts.controller.abandon(&ticket);
                    let problems: BTreeMap<_, _> = problems.into_iter().collect();
                    self.tell_inputs(&problems);
                    let problems: Vec<_> = problems.iter().map(|(input, problem)| format!("{input}: {problem}")).collect();
                    let mut status = self.parts.shared.status();
                    status.waiting += 1;
                    status.problem = Some(Problem::Waiting(problems.join("; ")));
                }
            }
        }
        self.report();
    }

    /// What the controller asks for, in the form that the parameters choose.
    fn guidance(&self, ticket: &Ticket) -> Option<PrefixGuidance> {
        let GuidanceRequest { previous, previous_anchor, delay, horizon } = ticket.guidance.clone()?;
        let (schedule, max_weight) = self.parts.guidance;
        Some(PrefixGuidance { previous, previous_anchor, delay, horizon, schedule, max_weight })
    }

    /// Where the commanded joints are, when that is known now.
    fn measured(&self, now: Stamp) -> Option<Measured> {
        let (message, stamp) = self.parts.inputs.measured(now)?;
        let names: Vec<String> = message.name.iter().map(ToString::to_string).collect();
        let position = |joint: &String| {
            let index = names.iter().position(|name| name == joint)?;
            message.position.get(index).copied().filter(|position| position.is_finite())
        };
        Some(Measured { stamp, positions: self.parts.joints.iter().map(position).collect() })
    }

    fn install(&mut self, computed: Computed, now: Stamp) {
        let Computed { ticket, result } = computed;
        let result = match result {
            Ok((finished, chunk, last)) => match self.parts.controller.install(now, &ticket, chunk) {
                Ok(installed) => self.parts.outputs.publish_chunk(finished, &installed).map(|()| last).map_err(InferenceError::from),
                Err(refused) => Err(InferenceError::Refused(refused)),
            },
            Err(error) => {
                match &error {
                    InferenceError::Refused(refused) => self.parts.controller.refuse(&ticket, refused),
                    _ => self.parts.controller.abandon(&ticket),
                }
                Err(error)
            }
        };
        self.record(result);
        self.report();
    }

    fn record(&mut self, result: Result<LastChunk, InferenceError>) {
        let problem = result.as_ref().err().map(InferenceError::to_string);
        if let Err(InferenceError::Policy(PolicyError::Backend(error))) = &result
            && error.is_lost()
        {
            // An error means that the main thread is already on its way out.
            let _ = self.parts.events.send(Event::Lost(error.to_string()));
        }
        match (self.log.observe("inference", problem.as_deref(), Instant::now()), &problem) {
            (Some(Change::Problem), Some(problem)) => tracing::warn!("{problem}"),
            (Some(Change::Recovered), _) => tracing::info!("Inference succeeds again"),
            _ => {}
        }
        self.parts.shared.status().ended(result, problem);
    }

    fn publish(&mut self, tick: Tick) {
        let result = self.parts.outputs.publish(tick);
        let problem = result.err().map(|error| error.to_string());
        if let (Some(Change::Problem), Some(problem)) = (self.log.observe("publish", problem.as_deref(), Instant::now()), &problem) {
            tracing::error!("A command could not be published: {problem}");
        }
    }

    /// Publishes the last commands there are: a controller that takes row after row gets all of them, one in a period.
    fn publish_to_the_end(&mut self, last: Tick) {
        let rows = last.trajectory.as_ref().map(|trajectory| trajectory.rows.clone()).unwrap_or_default();
        self.publish(last);
        for row in rows.into_iter().skip(1) {
            thread::sleep(Duration::from_secs_f64(self.parts.period));
            self.publish(Tick { command: Some(row), trajectory: None });
        }
    }

    /// One line when an input is lost and one when it is back.
    fn tell_inputs(&mut self, problems: &BTreeMap<String, NotUsable>) {
        let now = Instant::now();
        for input in self.parts.inputs.names() {
            let problem = problems.get(input);
            match (self.log.observe(input, problem.map(NotUsable::kind), now), problem) {
                (Some(_), Some(problem)) => tracing::warn!("Input {input}: {problem}. No inference until it is back"),
                (Some(_), None) => tracing::info!("Input {input} is usable again"),
                (None, _) => {}
            }
        }
    }

    /// Tells the log and the diagnostics how the controller is.
    fn report(&mut self) {
        let status = self.parts.controller.status();
        let now = Instant::now();
        let latch = status.latch.as_ref().map(ToString::to_string);
        if let (Some(Change::Problem), Some(latch)) = (self.log.observe("control", latch.as_deref(), now), &latch) {
            tracing::error!("{latch}. Nothing is commanded until ~/reset");
        }
        let limits = &status.limits;
        let counts = [("position", &limits.position), ("step", &limits.step), ("velocity", &limits.velocity), ("acceleration", &limits.acceleration)];
        for ((kind, count), (known, since)) in counts.into_iter().zip(&mut self.cut) {
            if count.values > *known {
                (*known, *since) = (count.values, Some(now));
            }
            let lasts = since.is_some_and(|since| now.duration_since(since) < LIMIT_QUIET);
            if let (Some(Change::Problem), Some(cut)) = (self.log.observe(kind, lasts.then_some(kind), now), &count.last) {
                tracing::warn!("A limit changed a command: {cut}");
            }
        }
        self.parts.shared.control().status = Some(status);
    }
}
