//! The run itself: one thing after the other, in the time of the bag.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    Outputs, RunError, Witnessed,
    samples::{BagImage, BagJoints, joints_digest},
    topics::{Found, INSTRUCTION},
};
use crate::{
    control::{ControlState, JOINT_STATES, NotUsable, Stamp, Verdict},
    policy::PolicyError,
    replay::{
        BagMessage, cdr,
        messages::{CompressedImage, MessageType, Text},
        trace::{BagInput, ChunkTrace, Command, Digest, Gap, Outcome, Sample, Times},
    },
    session::{ChunkRequest, Finished, Inference, InferenceError, Instruction, Session, Snapshot},
};

/// A bag that is silent for longer, in seconds, is taken for one whose clock was set forward: nothing is commanded meanwhile.
const LONGEST_SILENCE: f64 = 60.0;
/// The clock is looked at at least so often, in seconds: one that gains more between two looks is taken to have jumped.
const LOOK: f64 = 0.5;
/// Different reasons that are counted apart.
const REASONS: usize = 20;

/// What a run works with.
pub(super) struct Parts<'a> {
    pub session: Session<BagImage, BagJoints>,
    pub inference: Inference,
    pub witnessed: Witnessed,
    pub instruction: Arc<Instruction>,
    /// Set when there is another instruction.
    pub changed: Arc<AtomicBool>,
    /// Bag time from an observation to its chunk, in seconds.
    pub latency: f64,
    pub outputs: &'a mut dyn Outputs,
}

/// What comes of a run.
pub(super) struct Ran {
    pub inputs: Vec<BagInput>,
    pub chunks: Vec<ChunkTrace>,
    pub commands: Vec<Command>,
    pub gaps: Vec<Gap>,
    pub failed: BTreeMap<String, u64>,
    pub latch: Option<String>,
    /// Inputs without a sample that could be used, and why.
    pub unusable: Vec<String>,
}

pub(super) struct Engine<'a> {
    parts: Parts<'a>,
    inputs: Vec<Received>,
    now: Stamp,
    /// What is computed, and when its chunk is there.
    pending: Option<(Stamp, ChunkRequest<BagImage, BagJoints>)>,
    chunks: Vec<ChunkTrace>,
    /// The chunk that was taken over last.
    current: Option<usize>,
    commands: Vec<Command>,
    gaps: Vec<Gap>,
    gap: Option<Gap>,
    /// Every input was there once.
    complete: bool,
    failed: BTreeMap<String, u64>,
}

/// An input with what was received of it.
struct Received {
    /// The topic's index in the bag.
    index: usize,
    bag: BagInput,
    kind: Kind,
    /// Messages that were the newest sample.
    kept: u64,
    /// Times that such a sample could be read for an inference, and times that it could not.
    read: u64,
    unreadable: u64,
}

enum Kind {
    /// Index among the policy's cameras.
    Camera(usize),
    Joints,
    Instruction,
}

impl<'a> Engine<'a> {
    /// Activates the policy. `cameras` are the policy's slots in their order.
    pub fn start(mut parts: Parts<'a>, found: Vec<Found>, cameras: &[String], now: Stamp) -> Self {
        parts.session.observe_clock(now);
        parts.session.controller.activate();
        let received = |Found { input, index, topic, type_name }| Received {
            index,
            kind: match &*input {
                JOINT_STATES => Kind::Joints,
                INSTRUCTION => Kind::Instruction,
                slot => Kind::Camera(cameras.iter().position(|camera| camera == slot).unwrap_or(0)),
            },
            bag: BagInput { name: input, topic, type_name: type_name.to_owned(), messages: 0, refused: BTreeMap::new() },
            kept: 0,
            read: 0,
            unreadable: 0,
        };
        let inputs = found.into_iter().map(received).collect();
        Self {
            parts,
            inputs,
            now,
            pending: None,
            chunks: Vec::new(),
            current: None,
            commands: Vec::new(),
            gaps: Vec::new(),
            gap: None,
            complete: false,
            failed: BTreeMap::new(),
        }
    }

    /// Takes a message at its log time, after everything that happens before it.
    pub fn receive(&mut self, message: BagMessage) -> Result<(), RunError> {
        let time = stamp(message.log_time);
        self.advance(time, false)?;
        self.look(time);
        if let Some(input) = self.inputs.iter_mut().find(|input| input.index == message.topic) {
            input.receive(message, time, &self.parts);
        }
        if self.parts.changed.swap(false, Ordering::Relaxed) {
            self.parts.session.controller.instruction_changed();
        }
        Ok(())
    }

    /// Lets the time up to and including `end` pass, at which the bag ends.
    pub fn finish(mut self, end: Stamp) -> Result<Ran, RunError> {
        self.advance(end, true)?;
        self.end_gap(end);
        let instructed = !self.parts.instruction.is_missing();
        let unusable = self.inputs.iter().filter_map(|input| input.unusable(instructed)).collect();
        let status = self.parts.session.controller.status();
        Ok(Ran {
            inputs: self.inputs.into_iter().map(|input| input.bag).collect(),
            chunks: self.chunks,
            commands: self.commands,
            gaps: self.gaps,
            failed: self.failed,
            latch: status.latch.map(|latch| latch.to_string()),
            unusable,
        })
    }

    /// Chunks that are there until `until` and control steps that are due before it, in their order; with `through` those of `until` too.
    fn advance(&mut self, until: Stamp, through: bool) -> Result<(), RunError> {
        if until.seconds_since(self.now) > LONGEST_SILENCE {
            self.be_silent(until);
        }
        loop {
            let step = self.parts.session.next_step();
            let ready = self.pending.as_ref().map(|(ready, _)| (*ready).max(self.now));
            if let Some(ready) = ready.filter(|&ready| ready <= until && ready <= step)
                && let Some((_, request)) = self.pending.take()
            {
                self.look(ready);
                self.compute(ready, request)?;
            } else if step < until || (through && step == until) {
                self.look(step);
                self.step(step)?;
            } else {
                return Ok(());
            }
        }
    }

    /// Nothing happens for a long time.
    fn be_silent(&mut self, until: Stamp) {
        if self.complete && self.gap.is_none() {
            let silence = format!("the bag is silent for {:.0} s", until.seconds_since(self.now));
            let inputs = self.inputs.iter().map(|input| (input.bag.name.clone(), silence.clone())).collect();
            self.gap = Some(Gap { from: self.now.nanoseconds(), to: until.nanoseconds(), inputs });
        }
        self.now = until;
        self.tell_jump(until);
    }

    /// The clock runs on to `to`.
    fn look(&mut self, to: Stamp) {
        while to.seconds_since(self.now) > LOOK {
            self.now = self.now.after(LOOK);
            self.tell_jump(self.now);
        }
        self.now = self.now.max(to);
        self.tell_jump(self.now);
    }

    fn tell_jump(&mut self, now: Stamp) {
        if let Some(jump) = self.parts.session.observe_clock(now) {
            tracing::warn!("{jump}. The chunk is dropped");
        }
    }

    fn step(&mut self, now: Stamp) -> Result<(), RunError> {
        let Some(step) = self.parts.session.step(now) else { return Ok(()) };
        let tick = self.parts.session.tick(step.due, now);
        self.parts.outputs.tick(now, &tick)?;
        if let Some(row) = tick.command {
            if self.parts.session.controller.status().state == ControlState::Executing
                && let Some(Outcome::Installed { executed, .. }) = self.current.map(|current| &mut self.chunks[current].outcome)
            {
                *executed += 1;
            }
            self.commands.push(Command { stamp: step.due.nanoseconds(), row });
        }
        let asked = self.parts.session.ask(step.due, now);
        self.note_problems(now, &asked.problems);
        if let Some(request) = asked.request {
            self.pending = Some((now.after(self.parts.latency), request));
        }
        Ok(())
    }

    fn note_problems(&mut self, now: Stamp, problems: &BTreeMap<String, NotUsable>) {
        if problems.is_empty() {
            self.complete = true;
            self.end_gap(now);
        } else if self.complete {
            let from = now.nanoseconds();
            let gap = self.gap.get_or_insert_with(|| Gap { from, to: from, inputs: BTreeMap::new() });
            for (input, problem) in problems {
                gap.inputs.entry(input.clone()).or_insert_with(|| problem.to_string());
            }
        }
    }

    fn end_gap(&mut self, now: Stamp) {
        if let Some(gap) = self.gap.take() {
            self.gaps.push(Gap { to: now.nanoseconds(), ..gap });
        }
    }

    /// Computes a chunk that is there at `now`, and hands it over.
    fn compute(&mut self, now: Stamp, request: ChunkRequest<BagImage, BagJoints>) -> Result<(), RunError> {
        let ChunkRequest { snapshot, ticket, guidance } = request;
        let inferred = self.parts.inference.infer(&snapshot, guidance.as_ref());
        self.note_reading(&inferred);
        let finished = match inferred {
            Ok(finished) => finished,
            Err(error) => {
                if let InferenceError::Policy(PolicyError::Backend(error)) = &error
                    && error.is_lost()
                {
                    return Err(RunError::Lost(error.to_string()));
                }
                count(&mut self.failed, error.to_string());
                self.parts.session.give_up(&ticket, &error);
                return Ok(());
            }
        };
        let installed = match finished.computed() {
            Ok(chunk) => self.parts.session.install(now, &ticket, chunk),
            Err(refused) => {
                self.parts.session.give_up(&ticket, &InferenceError::Refused(refused.clone()));
                Err(refused)
            }
        };
        let outcome = match installed {
            Ok(installed) => {
                self.current = Some(self.chunks.len());
                self.parts.outputs.chunk(now, &finished, &installed)?;
                Outcome::Installed {
                    start: installed.start.nanoseconds(),
                    delay_rows: installed.delay_rows,
                    guided_rows: installed.guided_rows,
                    join: installed.mode.to_string(),
                    executed: 0,
                }
            }
            Err(refused) => Outcome::Refused { reason: refused.to_string() },
        };
        let model = self.parts.witnessed.take().ok_or(RunError::NotWitnessed)?;
        let seconds = |time: std::time::Duration| time.as_secs_f64();
        let times = Times {
            observation: seconds(finished.observation_time),
            vision: seconds(finished.chunk.times.vision),
            prefix: seconds(finished.chunk.times.prefix),
            denoise: seconds(finished.chunk.times.steps.iter().sum()),
            total: seconds(finished.total_time),
        };
        self.chunks.push(ChunkTrace {
            index: finished.chunk.index,
            observed: snapshot.stamp.nanoseconds(),
            ready: now.nanoseconds(),
            samples: samples(&snapshot),
            skew: snapshot.skew,
            instruction: finished.instruction,
            positions: finished.positions,
            model,
            model_actions: finished.chunk.model_actions,
            actions: finished.chunk.actions,
            outcome,
            times,
        });
        Ok(())
    }

    /// Which samples of an observation could be read.
    fn note_reading(&mut self, result: &Result<Finished, InferenceError>) {
        for received in &mut self.inputs {
            match result {
                Err(InferenceError::Input { input, source }) if *input == received.bag.name => {
                    received.unreadable += 1;
                    count(&mut received.bag.refused, source.to_string());
                }
                // Others were perhaps not looked at.
                Err(InferenceError::Input { .. }) => {}
                _ => received.read += 1,
            }
        }
    }
}

impl Received {
    fn receive(&mut self, message: BagMessage, now: Stamp, parts: &Parts) {
        self.bag.messages += 1;
        let inputs = parts.session.inputs();
        let refused = match self.kind {
            Kind::Camera(camera) => {
                let image = if self.bag.type_name == CompressedImage::NAME {
                    BagImage::compressed(message.data)
                } else {
                    BagImage::raw(message.data)
                };
                let receive = |image: BagImage| inputs.samples().receive_image(camera, image.stamp(), image, || now, None);
                image.map(receive).map_or_else(|error| Some(error.to_string()), verdict)
            }
            Kind::Joints => {
                let receive = |joints: BagJoints| inputs.samples().receive_joints(joints.stamp(), joints, || now, None);
                BagJoints::new(&message.data).map(receive).map_or_else(|error| Some(error.to_string()), verdict)
            }
            Kind::Instruction => match cdr::decode::<Text>(&message.data) {
                Ok(text) => parts.instruction.set(text.data.as_bytes(), now, None).err().map(|error| error.to_string()),
                Err(error) => Some(error.to_string()),
            },
        };
        match refused {
            None => self.kept += 1,
            Some(reason) => count(&mut self.bag.refused, reason),
        }
    }

    /// Why none of its messages could be used, when that is so. An instruction may have come from elsewhere.
    fn unusable(&self, instructed: bool) -> Option<String> {
        let BagInput { name, topic, refused, .. } = &self.bag;
        let usable = match self.kind {
            Kind::Instruction => instructed,
            _ => self.kept > 0 && (self.read > 0 || self.unreadable == 0),
        };
        if usable {
            return None;
        }
        let reasons: Vec<_> = refused.iter().map(|(reason, count)| format!("{count} times: {reason}")).collect();
        let reasons = if reasons.is_empty() { "it has none".to_owned() } else { reasons.join("; ") };
        Some(format!("{name}: no message of {topic} can be used. {reasons}"))
    }
}

/// Why a sample was not taken.
fn verdict(verdict: Verdict) -> Option<String> {
    match verdict {
        Verdict::Newest { .. } => None,
        Verdict::Late => Some("it is older than one that came before".to_owned()),
        Verdict::Unstamped => Some(NotUsable::Unstamped.to_string()),
    }
}

/// Counts a reason; those after the first [`REASONS`] are counted together.
fn count(reasons: &mut BTreeMap<String, u64>, reason: String) {
    let reason = if reasons.len() < REASONS || reasons.contains_key(&reason) { reason } else { "other reasons".to_owned() };
    *reasons.entry(reason).or_default() += 1;
}

fn samples(snapshot: &Snapshot<BagImage, BagJoints>) -> BTreeMap<String, Sample> {
    let mut samples = BTreeMap::new();
    let mut add = |name: &str, age, digest| samples.insert(name.to_owned(), Sample { age, digest });
    for camera in &snapshot.cameras {
        add(camera.input.name(), camera.age, camera.value.digest());
    }
    let (joints, instruction) = (&snapshot.joint_states, &snapshot.instruction);
    add(joints.input.name(), joints.age, joints_digest(&joints.value));
    add(instruction.input.name(), instruction.age, Digest::of([instruction.value.as_bytes()]));
    samples
}

pub(super) fn stamp(log_time: u64) -> Stamp {
    Stamp::from_nanoseconds(i64::try_from(log_time).unwrap_or(i64::MAX))
}
