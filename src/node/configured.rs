//! What a configured node has: subscriptions, publishers, services, and the control thread.

use std::{
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

use rclrs::{Node, QoSDurabilityPolicy, Worker};

use super::{
    NodeError,
    control::{Control, Message, Order, Parts},
    diagnostics::{Reporter, device},
    messages::{Inputs, Session},
    now,
    outputs::{Destination, Outputs},
    parameters::Declaring,
    policy_thread::PolicyThread,
    process::Opened,
    services::Services,
    subscriptions::{self, Subscriptions},
};
use crate::{
    control::{ControlConfig, Controller, JointLimits, Latch, Replan},
    parameters::{InstructionDurability, JointParameters, Parameters},
    policy::PolicyInfo,
    session::Instruction,
};

/// Time between the last command and the end of its publisher. A subscriber that hears of the end before it has taken the sample never
/// takes it, and the two come on different ways.
const DELIVERY: Duration = Duration::from_millis(100);

/// The workers of the node. They live as long as the executor, whoever drops them, so they are made once.
pub struct Workers {
    /// Takes all samples, so that neither an inference nor a service call delays them.
    pub samples: Worker<()>,
    /// Runs the timers.
    pub timers: Worker<()>,
}

impl Workers {
    pub fn new(node: &Node) -> Self {
        Self { samples: node.create_worker(()), timers: node.create_worker(()) }
    }
}

/// Ends with [`Configured::close`].
pub struct Configured {
    inputs: Arc<Inputs>,
    subscriptions: Subscriptions,
    outputs: Outputs,
    control: Control,
    config: ControlConfig,
    _services: Services,
    _joint_parameters: JointParameters,
}

impl Configured {
    /// Subscribes, makes the publishers and starts the control thread, which commands nothing yet.
    pub fn new(
        node: &Node,
        parameters: &Parameters,
        opened: &Opened,
        thread: &PolicyThread,
        workers: &Workers,
    ) -> Result<Self, NodeError> {
        let horizon = (opened.info.geometry.horizon, opened.period, opened.execution_horizon);
        let joint_parameters = JointParameters::declare(&mut Declaring(node), &opened.commands)?;
        let config = parameters.control.config(&joint_parameters, &opened.commands, horizon)?;
        let controller = Controller::new(config.clone())?;
        let (messages, inbox) = channel();
        let instruction = instruction(node, parameters, messages.clone());
        if let Some(text) = &opened.default_instruction
            && instruction.is_missing()
        {
            instruction.set(text.as_bytes(), now(&node.get_clock()), None)?;
        }
        let durability = match parameters.instruction_durability()? {
            InstructionDurability::Volatile => QoSDurabilityPolicy::Volatile,
            InstructionDurability::TransientLocal => QoSDurabilityPolicy::TransientLocal,
        };
        let (inputs, subscriptions) = subscriptions::subscribe(node, &workers.samples, &opened.cameras, instruction, durability)?;
        let inputs = Arc::new(inputs);
        let outputs = Outputs::default();
        let destination =
            Destination { dry_run: parameters.control.dry_run.get(), forward: parameters.control.forward_commands.get() };
        outputs.advertise(node, &opened.commands, destination)?;
        let services = Services::offer(node, &messages)?;
        let rate = messages.clone();
        parameters.control.rate_hz.on_change(Box::new(move |&hz| {
            // An error means that this policy is closed.
            let _ = rate.send(Message::Rate(hz));
        }));
        let (joints, clock) = (opened.commands.iter().map(|column| column.joint.clone()).collect(), node.get_clock());
        let guidance = parameters.control.guidance()?;
        let parts = Parts {
            session: Session::new(controller, inputs.clone(), joints, opened.period, guidance, now(&clock)),
            outputs: outputs.clone(),
            clock,
            messages: messages.clone(),
            requests: thread.requests.clone(),
            shared: thread.shared.clone(),
            events: thread.events.clone(),
        };
        let control = Control::start((messages, inbox), parts)?;
        Ok(Self { inputs, subscriptions, outputs, control, config, _services: services, _joint_parameters: joint_parameters })
    }

    /// What reports the inputs and the inference.
    pub fn reporter(&self, node: &Node, opened: &Opened, thread: &PolicyThread) -> Reporter {
        let topics = self.subscriptions.topics.clone();
        Reporter::new(node, &opened.info.backend, self.inputs.clone(), topics, thread.shared.clone())
    }

    /// From here on chunks are computed and commanded. After an error nothing is published any more, even if the order is carried out late.
    pub fn activate(&self) -> Result<(), NodeError> {
        self.order(Order::Activate).inspect_err(|_| self.outputs.close())
    }

    /// Commands nothing until `~/reset`.
    pub fn stop(&self) -> Result<(), NodeError> {
        self.order(Order::Stop)
    }

    /// When this returns, the stall action was published, and nothing is published any more, not even by an inference that still runs.
    /// After an error it may not have been published, but nothing else is either.
    pub fn deactivate(&self) -> Result<(), NodeError> {
        self.order(Order::Deactivate).inspect_err(|_| self.outputs.close())
    }

    fn order(&self, order: Order) -> Result<(), NodeError> {
        self.control.order(order).map(drop).map_err(NodeError::Order)
    }

    /// Takes everything down and undeclares the parameters of cameras and joints. Nothing may be active any more. Whether the robot was
    /// stopped and not reset.
    pub fn close(self, policy: &PolicyThread) -> bool {
        thread::sleep(DELIVERY);
        self.outputs.close();
        let report = policy.shared.control();
        let latch = report.status.as_ref().and_then(|status| status.latch.as_ref());
        matches!(latch, Some(Latch::Stopped | Latch::Drift(_)))
    }

    /// What the operator compares with the robot in front of him.
    pub fn summary(&self, opened: &Opened, parameters: &Parameters) -> String {
        let Opened { info, joints, time, .. } = opened;
        let PolicyInfo { checkpoint, family, geometry, robot, backend, steps, seed, synthetic: _, tokenizer: _ } = info;
        format!(
            "Ready after {:.1} s\n  checkpoint  {} ({family:?}), {} px images, chunks of {} rows, {steps} denoise steps, seed {seed}\n  \
             backend     {}, {}, {:.0} MB of weights\n  robot       {robot}, {} joints: {}\n  inputs      {}\n  \
             commands    {}, {}",
            time.as_secs_f64(),
            checkpoint.display(),
            geometry.vision.image_size,
            geometry.horizon,
            device(backend),
            backend.dtypes,
            backend.weight_bytes as f64 / 1e6,
            joints.len(),
            joints.join(", "),
            self.subscriptions.topics.join(", "),
            match self.config.replan {
                Replan::Drain => format!("a chunk for every {} rows", self.config.execution_horizon),
                Replan::Rate(hz) => format!("a chunk {hz} times a second"),
            },
            if parameters.control.dry_run.get() { "to ~/preview only: this is a dry run" } else { "to the robot" },
        )
    }

    /// Joints whose commands are only checked to be finite.
    pub fn unlimited_joints(&self) -> Vec<&str> {
        // To turn without end is no limit.
        let none = |limits: JointLimits| JointLimits { continuous: false, ..limits } == JointLimits::default();
        let bare = self.config.joints.iter().filter(|joint| none(joint.limits));
        bare.map(|joint| joint.name.as_str()).collect()
    }
}

/// The instruction in force, which follows its parameter from now on.
fn instruction(node: &Node, parameters: &Parameters, changes: Sender<Message>) -> Arc<Instruction> {
    let instruction = Arc::new(Instruction::new(move || {
        // An error means that the control thread has ended.
        let _ = changes.send(Message::InstructionChanged);
    }));
    let (set, clock) = (instruction.clone(), node.get_clock());
    let follow = move |text: &Arc<str>| {
        // The parameter was validated; only an empty text, which sets nothing, is refused here.
        if !text.is_empty() {
            let _ = set.set(text.as_bytes(), now(&clock), None);
        }
    };
    follow(&parameters.default_instruction.get());
    parameters.default_instruction.on_change(Box::new(follow));
    instruction
}
