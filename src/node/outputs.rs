//! What the node publishes, and the messages it is put into.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rclrs::{IntoPrimitiveOptions, Node, Publisher, RclrsError};
use ros_env::{
    builtin_interfaces,
    pi0_tt::msg::{ActionChunk, InputAge, StageTimes},
    std_msgs::msg::{Float64MultiArray, Header},
    trajectory_msgs::msg::{JointTrajectory, JointTrajectoryPoint},
};

use crate::{
    control::{CommandRows, Installed, Stamp, Tick, Trajectory},
    policy::PolicyChunk,
    robot::{ActionColumn, CommandKind},
};

struct Publishers {
    /// One for each kind of command that the robot takes: a controller takes one kind.
    trajectories: Vec<(CommandColumns, Publisher<JointTrajectory>)>,
    /// The same for controllers that take row after row.
    rows: Vec<(CommandColumns, Publisher<Float64MultiArray>)>,
    chunk: Publisher<ActionChunk>,
}

/// The joints that take one kind of command.
struct CommandColumns {
    kind: CommandKind,
    /// Columns of a row, and the joints' names.
    columns: Vec<usize>,
    joints: Vec<String>,
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
    /// Largest difference between the exposure times of the cameras, in seconds.
    pub input_skew: f64,
    /// Image decoding, joint selection, and what the policy does with them before the model runs.
    pub observation_time: Duration,
    /// From taking the observation to finished commands.
    pub total_time: Duration,
}

impl Outputs {
    /// Makes the publishers for a robot with these commands.
    pub fn advertise(&self, node: &Node, commands: &[ActionColumn], to: Destination) -> Result<(), RclrsError> {
        let (mut trajectories, mut rows) = (Vec::new(), Vec::new());
        for (kind, command, preview, forward) in [
            (CommandKind::Position, "~/joint_trajectory", "~/preview", "~/position_commands"),
            (CommandKind::Velocity, "~/joint_velocity_trajectory", "~/preview_velocity", "~/velocity_commands"),
        ] {
            let columns = || CommandColumns::of(kind, commands);
            if columns().columns.is_empty() {
                continue;
            }
            let topic = if to.dry_run { preview } else { command };
            trajectories.push((columns(), node.create_publisher(topic.reliable().keep_last(1))?));
            if to.forward && !to.dry_run {
                rows.push((columns(), node.create_publisher(forward.reliable().keep_last(1))?));
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
            if let Some(trajectory) = &tick.trajectory {
                for (columns, publisher) in &publishers.trajectories {
                    publisher.publish(columns.trajectory(trajectory))?;
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
        self.with(|publishers| publishers.chunk.publish(action_chunk(finished, installed)))
    }

    fn with(&self, publish: impl FnOnce(&Publishers) -> Result<(), RclrsError>) -> Result<(), RclrsError> {
        self.lock().as_ref().map_or(Ok(()), publish)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Publishers>> {
        // A panic ends the process (see `node::run`), so a poisoned lock is never looked at again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CommandColumns {
    fn of(kind: CommandKind, commands: &[ActionColumn]) -> Self {
        let columns: Vec<usize> = (0..commands.len()).filter(|&column| commands[column].kind == kind).collect();
        let joints = columns.iter().map(|&column| commands[column].joint.clone()).collect();
        Self { kind, columns, joints }
    }

    fn pick(&self, row: &[f64]) -> Vec<f64> {
        self.columns.iter().map(|&column| row[column]).collect()
    }

    /// Row `k` is to be reached `k + 1` periods after the start: a controller that gets it in time has the whole period for it.
    fn trajectory(&self, trajectory: &Trajectory) -> JointTrajectory {
        let point = |(index, row): (usize, &Vec<f64>)| {
            let (positions, velocities) = match self.kind {
                CommandKind::Position => (self.pick(row), Vec::new()),
                CommandKind::Velocity => (Vec::new(), self.pick(row)),
            };
            let time = Duration::from_secs_f64((index + 1) as f64 * trajectory.period);
            // At most 10 s per row (see `CommandRows`), so the seconds of any chunk fit.
            let time_from_start = builtin_interfaces::msg::Duration { sec: time.as_secs() as i32, nanosec: time.subsec_nanos() };
            JointTrajectoryPoint { positions, velocities, time_from_start, ..Default::default() }
        };
        JointTrajectory {
            header: header(trajectory.start),
            joint_names: self.joints.clone(),
            points: trajectory.rows.iter().enumerate().map(point).collect(),
        }
    }
}

pub fn time_message(stamp: Stamp) -> builtin_interfaces::msg::Time {
    let (sec, nanosec) = stamp.to_ros();
    builtin_interfaces::msg::Time { sec, nanosec }
}

fn header(stamp: Stamp) -> Header {
    Header { stamp: time_message(stamp), frame_id: String::new() }
}

fn action_chunk(finished: Finished, installed: &Installed) -> ActionChunk {
    let Finished { chunk, rows, backend, instruction, observed, input_ages, input_skew, observation_time, total_time } = finished;
    ActionChunk {
        header: header(installed.start),
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
        chunking: installed.mode.to_string(),
        delay_rows: installed.delay_rows as u32,
        guided_rows: installed.guided_rows as u32,
        stage_times: StageTimes {
            observation: observation_time.as_secs_f64(),
            vision: chunk.times.vision.as_secs_f64(),
            prefix: chunk.times.prefix.as_secs_f64(),
            denoise_steps: chunk.times.steps.iter().map(Duration::as_secs_f64).collect(),
            total: total_time.as_secs_f64(),
        },
        input_ages: input_ages.into_iter().map(|(name, age)| InputAge { name, age }).collect(),
        input_skew,
    }
}
