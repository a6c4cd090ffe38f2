//! What the node publishes, and the messages it is put into.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rclrs::{IntoPrimitiveOptions, Node, Publisher, RclrsError};
use ros_env::{
    builtin_interfaces,
    diagnostic_msgs::msg::DiagnosticArray,
    pi0_tt::msg::{ActionChunk, InputAge, StageTimes},
    std_msgs::msg::Header,
    trajectory_msgs::msg::{JointTrajectory, JointTrajectoryPoint},
};

use crate::{
    control::{CommandRows, Stamp},
    policy::PolicyChunk,
};

struct Publishers {
    trajectory: Publisher<JointTrajectory>,
    chunk: Publisher<ActionChunk>,
    diagnostics: Publisher<DiagnosticArray>,
}

/// The node's publishers. A clone in the inference thread does not keep them alive after [`Outputs::close`].
#[derive(Clone)]
pub struct Outputs(Arc<Mutex<Option<Publishers>>>);

/// A checked chunk with what a reader of it wants to know.
pub struct Finished {
    pub chunk: PolicyChunk,
    pub rows: CommandRows,
    pub backend: Arc<str>,
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
    pub fn advertise(node: &Node) -> Result<Self, RclrsError> {
        let publishers = Publishers {
            trajectory: node.create_publisher("~/joint_trajectory".reliable().keep_last(1))?,
            chunk: node.create_publisher("~/action_chunk".reliable().keep_last(10))?,
            diagnostics: node.create_publisher("/diagnostics".reliable().keep_last(10))?,
        };
        Ok(Self(Arc::new(Mutex::new(Some(publishers)))))
    }

    /// Drops the publishers. What is published later goes nowhere.
    pub fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Publishes a chunk whose row 0 is to be executed at `start`.
    pub fn publish(&self, finished: Finished, start: Stamp) -> Result<(), RclrsError> {
        self.with(|publishers| {
            publishers.trajectory.publish(joint_trajectory(&finished.chunk.joints, &finished.rows, start))?;
            publishers.chunk.publish(action_chunk(finished, start))
        })
    }

    pub fn publish_diagnostics(&self, message: DiagnosticArray) -> Result<(), RclrsError> {
        self.with(|publishers| publishers.diagnostics.publish(message))
    }

    fn with(&self, publish: impl FnOnce(&Publishers) -> Result<(), RclrsError>) -> Result<(), RclrsError> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(publishers) => publish(publishers),
            None => Ok(()),
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

fn joint_trajectory(joints: &[String], rows: &CommandRows, start: Stamp) -> JointTrajectory {
    let point = |(time, positions): (Duration, &[f64])| JointTrajectoryPoint {
        positions: positions.to_vec(),
        // At most 10 s per row (see `CommandRows`), so the seconds of any chunk fit.
        time_from_start: builtin_interfaces::msg::Duration { sec: time.as_secs() as i32, nanosec: time.subsec_nanos() },
        ..Default::default()
    };
    JointTrajectory { header: header(start), joint_names: joints.to_vec(), points: rows.rows().map(point).collect() }
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
        stage_times: StageTimes {
            observation: observation_time.as_secs_f64(),
            vision: chunk.times.vision.as_secs_f64(),
            prefix: chunk.times.prefix.as_secs_f64(),
            denoise_steps: chunk.times.steps.iter().map(Duration::as_secs_f64).collect(),
            total: total_time.as_secs_f64(),
        },
        input_ages: input_ages.into_iter().map(|(name, age)| InputAge { name, age }).collect(),
    }
}
