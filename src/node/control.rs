//! The control thread: wakes once in a control period, and is the only place that publishes commands.
//!
//! It owns the [`Session`] and tells it what happens in the order in which it happens: samples, finished chunks, services. So there is one
//! order of everything that a robot is told, and after the last command of a stop comes nothing.

use std::{
    collections::BTreeMap,
    io,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rclrs::Clock;

use super::{
    control_health,
    inference::{Computed, LastChunk, Problem, Request, Shared},
    log::{Change, ChangeLog, LOG_INTERVAL},
    messages::Session,
    outputs::Outputs,
    priority,
    process::{self, Event},
};
use crate::{
    control::{ControlState, NotUsable, Stamp, Tick},
    policy::PolicyError,
    session::{Asked, InferenceError},
};

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
    pub session: Session,
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
    log: ChangeLog,
    active: bool,
    /// Who waits for the last command.
    deactivated: Option<Sender<Result<String, String>>>,
    /// Values that each limit had cut, and when that grew last.
    cut: [(u64, Option<Instant>); 4],
}

impl Loop {
    fn new(parts: Parts) -> Self {
        Self { parts, log: ChangeLog::new(LOG_INTERVAL, Instant::now()), active: false, deactivated: None, cut: [(0, None); 4] }
    }

    fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let wait = Duration::from_secs_f64(self.parts.session.next_step().seconds_since(self.now()).max(0.0)).min(POLL);
            let message = inbox.recv_timeout(wait);
            let now = self.now();
            // Before the message: an order that is carried out in another time than the plan was made in would plan from a wrong step.
            if let Some(jump) = self.parts.session.observe_clock(now) {
                tracing::warn!("{jump}. The chunk is dropped, and the robot held until there are new samples");
            }
            match message {
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(message) => self.receive(message, now),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(step) = self.parts.session.step(now) {
                self.parts.shared.control().lateness.record(step.late);
                self.tick(step.due, now);
            }
        }
    }

    fn now(&self) -> Stamp {
        Stamp::from_nanoseconds(self.parts.clock.now().nsec)
    }

    fn receive(&mut self, message: Message, now: Stamp) {
        match message {
            Message::Order(order, reply) => {
                self.carry_out(order, now, reply);
                self.report();
            }
            Message::Computed(computed) => self.install(*computed, now),
            Message::InstructionChanged => self.parts.session.controller.instruction_changed(),
            Message::Rate(hz) => {
                // The parameter's range holds rates that the controller takes.
                if let Err(error) = self.parts.session.controller.set_rate(hz) {
                    tracing::warn!("{error}");
                }
            }
            // Taken by `run`.
            Message::End => {}
        }
    }

    fn answer_deactivated(&mut self) {
        if self.deactivated.is_some()
            && self.parts.session.controller.status().state != ControlState::Braking
            && let Some(reply) = self.deactivated.take()
        {
            // Nobody waits any more when the node is on its way out.
            let _ = reply.send(Ok("No command is published any more".to_owned()));
        }
    }

    fn carry_out(&mut self, order: Order, now: Stamp, reply: Sender<Result<String, String>>) {
        let controller = &mut self.parts.session.controller;
        let answer = match order {
            Order::Activate => {
                controller.activate();
                self.active = true;
                Ok("Commands are published from the first chunk on".to_owned())
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
                    Ok(true) => tracing::info!("Reset. The policy starts anew from the pose that the robot holds"),
                    Ok(false) => {}
                    Err(reason) => tracing::warn!("Not reset: {reason}"),
                }
                let told = |latched| match latched {
                    true => "The policy starts anew from the pose that the robot holds",
                    false => "Nothing was stopped",
                };
                answer.map(|latched| told(latched).to_owned())
            }
            // The other commands come with the control steps, and the answer after the last of them.
            Order::Deactivate => {
                self.active = false;
                let tick = controller.deactivate(now);
                self.publish(tick);
                self.deactivated = Some(reply);
                return self.answer_deactivated();
            }
        };
        // Nobody waits any more when the node is on its way out.
        let _ = reply.send(answer);
    }

    /// The control step that was due at `due`.
    fn tick(&mut self, due: Stamp, now: Stamp) {
        let tick = self.parts.session.tick(due, now);
        self.publish(tick);
        self.answer_deactivated();
        if self.active {
            self.ask_for_a_chunk(due, now);
        }
        self.report();
    }

    /// Starts an inference if it is time for one and there is everything that it needs.
    fn ask_for_a_chunk(&mut self, due: Stamp, now: Stamp) {
        let Asked { request, problems } = self.parts.session.ask(due, now);
        if let Some(asked) = request {
            self.parts.shared.status().running = Some(Instant::now());
            let answer = self.parts.messages.clone();
            // The queue has room: the thread has answered every request before. An error means that it has ended, which ends the node
            // elsewhere.
            let _ = self.parts.requests.send(Request { asked, answer });
        }
        self.tell_inputs(&problems);
        let mut status = self.parts.shared.status();
        if problems.is_empty() {
            status.problem.take_if(|problem| matches!(problem, Problem::Waiting(_)));
        } else {
            let problems: Vec<_> = problems.iter().map(|(input, problem)| format!("{input}: {problem}")).collect();
            status.problem = Some(Problem::Waiting(problems.join("; ")));
        }
    }

    fn install(&mut self, computed: Computed, now: Stamp) {
        let Computed { ticket, result } = computed;
        let result = match result {
            Ok((finished, chunk, last)) => match self.parts.session.install(now, &ticket, chunk) {
                Ok(installed) => {
                    let published = self.parts.outputs.publish_chunk(finished, &installed);
                    published.map(|()| last).map_err(|error| InferenceError::Publish(error.to_string()))
                }
                Err(refused) => Err(InferenceError::Refused(refused)),
            },
            Err(error) => {
                self.parts.session.give_up(&ticket, &error);
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
        if let (Some(Change::Problem), Some(problem)) =
            (self.log.observe("publish", problem.as_deref(), Instant::now()), &problem)
        {
            tracing::error!("A command could not be published: {problem}");
        }
    }

    /// One line when an input is lost and one when it is back.
    fn tell_inputs(&mut self, problems: &BTreeMap<String, NotUsable>) {
        let now = Instant::now();
        for input in self.parts.session.inputs().names() {
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
        let status = self.parts.session.controller.status();
        let now = Instant::now();
        let latch = status.latch.as_ref().map(ToString::to_string);
        if let (Some(Change::Problem), Some(latch)) = (self.log.observe("control", latch.as_deref(), now), &latch) {
            tracing::error!("{latch}. Nothing is commanded until ~/reset");
        }
        let waiting = status.waiting.as_ref().map(ToString::to_string);
        match (self.log.observe("pose", waiting.as_deref(), now), &waiting) {
            (Some(Change::Problem), Some(waiting)) => tracing::warn!("{waiting}. Nothing is commanded until then"),
            (Some(Change::Recovered), _) => tracing::info!("The pose of the robot is known"),
            _ => {}
        }
        for ((kind, count), (known, since)) in control_health::by_kind(&status.limits).into_iter().zip(&mut self.cut) {
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
