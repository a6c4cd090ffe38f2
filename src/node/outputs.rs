//! What the node publishes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rclrs::{IntoPrimitiveOptions, Node, Publisher, RclrsError};
use ros_env::{
    builtin_interfaces,
    pi0_tt::msg::{ActionChunk, InputAge, StageTimes},
    std_msgs::msg::{Float64MultiArray, Header},
    trajectory_msgs::msg::{JointTrajectory, JointTrajectoryPoint},
};

use crate::{
    control::{Installed, Stamp, Tick},
    replay::{
        messages,
        outputs::{CommandColumns, action_chunk},
    },
    robot::{ActionColumn, CommandKind},
    session::Finished,
};

struct Publishers {
    /// One for each kind of command that the robot takes: a controller takes one kind.
    trajectories: Vec<(CommandColumns, Publisher<JointTrajectory>)>,
    /// The same for controllers that take row after row.
    rows: Vec<(CommandColumns, Publisher<Float64MultiArray>)>,
    chunk: Publisher<ActionChunk>,
}

/// The node's command publishers: none before [`Outputs::advertise`] and after [`Outputs::close`], whoever holds a clone.
#[derive(Clone, Default)]
pub struct Outputs(Arc<Mutex<Option<Publishers>>>);

/// Where commands go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// To `~/preview` instead of to the robot.
    pub dry_run: bool,
    /// Row after row too.
    pub forward: bool,
}

impl Outputs {
    /// Makes the publishers for a robot with these commands.
    pub fn advertise(&self, node: &Node, commands: &[ActionColumn], to: Destination) -> Result<(), RclrsError> {
        let (mut trajectories, mut rows) = (Vec::new(), Vec::new());
        for (kind, command, preview, forward) in [
            (CommandKind::Position, "~/joint_trajectory", "~/preview", "~/position_commands"),
            (CommandKind::Velocity, "~/joint_velocity_trajectory", "~/preview_velocity", "~/velocity_commands"),
        ] {
            let Some(columns) = CommandColumns::of(kind, commands) else { continue };
            let topic = if to.dry_run { preview } else { command };
            trajectories.push((columns.clone(), node.create_publisher(topic.reliable().keep_last(1))?));
            if to.forward && !to.dry_run {
                rows.push((columns, node.create_publisher(forward.reliable().keep_last(1))?));
            }
        }
        let chunk = node.create_publisher("~/action_chunk".reliable().keep_last(10))?;
        *self.lock() = Some(Publishers { trajectories, rows, chunk });
        Ok(())
    }

    /// Drops the publishers. What is published later goes nowhere.
    pub fn close(&self) {
        self.lock().take();
    }

    /// Publishes what a control step commands.
    pub fn publish(&self, tick: Tick) -> Result<(), RclrsError> {
        self.with(|publishers| {
            if let Some(rows) = &tick.trajectory {
                for (columns, publisher) in &publishers.trajectories {
                    publisher.publish(trajectory(columns.trajectory(rows)))?;
                }
            }
            if let Some(row) = &tick.command {
                for (columns, publisher) in &publishers.rows {
                    publisher.publish(Float64MultiArray { data: columns.pick(row), ..Default::default() })?;
                }
            }
            Ok(())
        })
    }

    /// Publishes a chunk with how it was installed.
    pub fn publish_chunk(&self, finished: Finished, installed: &Installed) -> Result<(), RclrsError> {
        self.with(|publishers| publishers.chunk.publish(chunk(action_chunk(finished, installed))))
    }

    fn with(&self, publish: impl FnOnce(&Publishers) -> Result<(), RclrsError>) -> Result<(), RclrsError> {
        self.lock().as_ref().map_or(Ok(()), publish)
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

// The messages of bags in the types that rclrs publishes.

fn time(time: messages::Time) -> builtin_interfaces::msg::Time {
    builtin_interfaces::msg::Time { sec: time.sec, nanosec: time.nanosec }
}

fn header(header: messages::Header) -> Header {
    Header { stamp: time(header.stamp), frame_id: header.frame_id }
}

fn trajectory(trajectory: messages::JointTrajectory) -> JointTrajectory {
    let point = |point: messages::JointTrajectoryPoint| {
        let messages::JointTrajectoryPoint { positions, velocities, accelerations, effort, time_from_start } = point;
        let messages::Duration { sec, nanosec } = time_from_start;
        let time_from_start = builtin_interfaces::msg::Duration { sec, nanosec };
        JointTrajectoryPoint { positions, velocities, accelerations, effort, time_from_start }
    };
    JointTrajectory {
        header: header(trajectory.header),
        joint_names: trajectory.joint_names,
        points: trajectory.points.into_iter().map(point).collect(),
    }
}

fn chunk(chunk: messages::ActionChunk) -> ActionChunk {
    let messages::StageTimes { observation, vision, prefix, denoise_steps, total } = chunk.stage_times;
    let age = |messages::InputAge { name, age }| InputAge { name, age };
    ActionChunk {
        header: header(chunk.header),
        observation_stamp: time(chunk.observation_stamp),
        chunk_index: chunk.chunk_index,
        seed: chunk.seed,
        backend: chunk.backend,
        instruction: chunk.instruction,
        dropped_prompt_tokens: chunk.dropped_prompt_tokens,
        horizon: chunk.horizon,
        period: chunk.period,
        model_action_dim: chunk.model_action_dim,
        model_actions: chunk.model_actions,
        joint_names: chunk.joint_names,
        actions: chunk.actions,
        chunking: chunk.chunking,
        delay_rows: chunk.delay_rows,
        guided_rows: chunk.guided_rows,
        stage_times: StageTimes { observation, vision, prefix, denoise_steps, total },
        input_ages: chunk.input_ages.into_iter().map(age).collect(),
        input_skew: chunk.input_skew,
    }
}
