//! What the node publishes, and the messages it is put into.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rclrs::{IntoPrimitiveOptions, Node, Publisher, RclrsError};
use ros_env::{
    builtin_interfaces,
    pi0_tt::msg::{ActionChunk, InputAge, StageTimes},
    std_msgs::msg::Header,
    trajectory_msgs::msg::{JointTrajectory, JointTrajectoryPoint},
};

use crate::{
    control::{CommandRows, Stamp},
    policy::PolicyChunk,
    robot::CommandKind,
};

struct Publishers {
    /// One for each kind of command that the robot takes: a controller takes one kind.
    trajectories: Vec<(CommandKind, Publisher<JointTrajectory>)>,
    chunk: Publisher<ActionChunk>,
    /// Whether anything may be published.
    open: bool,
}

/// The node's publishers: none before [`Outputs::advertise`] and after [`Outputs::withdraw`], whoever holds a clone. Nothing is published
/// before [`Outputs::open`] and after [`Outputs::close`].
#[derive(Clone, Default)]
pub struct Outputs(Arc<Mutex<Option<Publishers>>>);

/// A checked chunk with what a reader of it wants to know.
pub struct Finished {
    pub chunk: PolicyChunk,
    pub rows: CommandRows,
    pub backend: &'static str,
    pub instruction: String,
    /// When the observation was taken.
    pub observed: Stamp,
    /// Name and age in seconds of each input at that moment.
    pub input_ages: Vec<(String, f64)>,
    /// Image decoding, joint selection, and what the policy does with them before the model runs.
    pub observation_time: Duration,
    /// From taking the observation to finished commands.
    pub total_time: Duration,
}

impl Outputs {
    /// Makes the publishers of a robot that takes commands of these kinds, closed.
    pub fn advertise(&self, node: &Node, kinds: &[CommandKind]) -> Result<(), RclrsError> {
        let mut trajectories = Vec::new();
        for (kind, topic) in
            [(CommandKind::Position, "~/joint_trajectory"), (CommandKind::Velocity, "~/joint_velocity_trajectory")]
        {
            if kinds.contains(&kind) {
                trajectories.push((kind, node.create_publisher(topic.reliable().keep_last(1))?));
            }
        }
        *self.lock() = Some(Publishers {
            trajectories,
            chunk: node.create_publisher("~/action_chunk".reliable().keep_last(10))?,
            open: false,
        });
        Ok(())
    }

    /// What is published from here on is sent.
    pub fn open(&self) {
        self.set_open(true);
    }

    /// What is published later goes nowhere.
    pub fn close(&self) {
        self.set_open(false);
    }

    /// Drops the publishers.
    pub fn withdraw(&self) {
        self.lock().take();
    }

    fn set_open(&self, open: bool) {
        if let Some(publishers) = &mut *self.lock() {
            publishers.open = open;
        }
    }

    /// Publishes a chunk whose row 0 is to be executed at `start`.
    pub fn publish(&self, finished: Finished, start: Stamp) -> Result<(), RclrsError> {
        self.with(|publishers| {
            for (kind, publisher) in &publishers.trajectories {
                publisher.publish(joint_trajectory(*kind, &finished, start))?;
            }
            publishers.chunk.publish(action_chunk(finished, start))
        })
    }

    fn with(&self, publish: impl FnOnce(&Publishers) -> Result<(), RclrsError>) -> Result<(), RclrsError> {
        self.lock().as_ref().filter(|publishers| publishers.open).map_or(Ok(()), publish)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Publishers>> {
        // A panic ends the process (see `node::run`), so a poisoned lock is never looked at again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub fn time_message(stamp: Stamp) -> builtin_interfaces::msg::Time {
    let (sec, nanosec) = stamp.to_ros();
    builtin_interfaces::msg::Time { sec, nanosec }
}

fn header(stamp: Stamp) -> Header {
    Header { stamp: time_message(stamp), frame_id: String::new() }
}

/// The commands of one kind.
fn joint_trajectory(kind: CommandKind, finished: &Finished, start: Stamp) -> JointTrajectory {
    let Finished { chunk, rows, .. } = finished;
    let columns: Vec<usize> = (0..chunk.joints.len()).filter(|&column| chunk.kinds.get(column) == Some(&kind)).collect();
    let point = |(time, row): (Duration, &[f64])| {
        let values = columns.iter().map(|&column| row[column]).collect();
        let (positions, velocities) = match kind {
            CommandKind::Position => (values, Vec::new()),
            CommandKind::Velocity => (Vec::new(), values),
        };
        // At most 10 s per row (see `CommandRows`), so the seconds of any chunk fit.
        let time_from_start = builtin_interfaces::msg::Duration { sec: time.as_secs() as i32, nanosec: time.subsec_nanos() };
        JointTrajectoryPoint { positions, velocities, time_from_start, ..Default::default() }
    };
    JointTrajectory {
        header: header(start),
        joint_names: columns.iter().map(|&column| chunk.joints[column].clone()).collect(),
        points: rows.rows().map(point).collect(),
    }
}

fn action_chunk(finished: Finished, start: Stamp) -> ActionChunk {
    let Finished { chunk, rows, backend, instruction, observed, input_ages, observation_time, total_time } = finished;
    ActionChunk {
        header: header(start),
        observation_stamp: time_message(observed),
        chunk_index: chunk.index,
        seed: chunk.seed,
        backend: backend.to_string(),
        instruction,
        dropped_prompt_tokens: chunk.dropped_tokens as u32,
        horizon: chunk.horizon as u32,
        period: rows.period(),
        model_action_dim: chunk.action_dim as u32,
        model_actions: chunk.model_actions,
        joint_names: chunk.joints,
        actions: rows.into_values(),
        chunking: "none".to_owned(),
        delay_rows: 0,
        guided_rows: 0,
        stage_times: StageTimes {
            observation: observation_time.as_secs_f64(),
            vision: chunk.times.vision.as_secs_f64(),
            prefix: chunk.times.prefix.as_secs_f64(),
            denoise_steps: chunk.times.steps.iter().map(Duration::as_secs_f64).collect(),
            total: total_time.as_secs_f64(),
        },
        input_ages: input_ages.into_iter().map(|(name, age)| InputAge { name, age }).collect(),
        input_skew: 0.0,
    }
}
