//! What a policy publishes, as messages. The node sends them, a replay writes them into a bag.

use std::path::{Path, PathBuf};

use super::{
    BagWriter, Qos, Reliability, ReplayError, TopicId,
    messages::{ActionChunk, Duration, Header, InputAge, JointTrajectory, JointTrajectoryPoint, StageTimes, Time},
    run::Outputs,
    trace::Setup,
};
use crate::{
    control::{Installed, Stamp, Tick, Trajectory},
    robot::{ActionColumn, CommandKind},
    session::Finished,
};

/// The joints that take one kind of command: a controller takes one kind.
#[derive(Clone, Debug)]
pub struct CommandColumns {
    kind: CommandKind,
    /// Columns of a row, and the joints' names.
    columns: Vec<usize>,
    joints: Vec<String>,
}

impl CommandColumns {
    /// `None` when no joint takes this kind.
    pub fn of(kind: CommandKind, commands: &[ActionColumn]) -> Option<Self> {
        let columns: Vec<usize> = (0..commands.len()).filter(|&column| commands[column].kind == kind).collect();
        let joints = columns.iter().map(|&column| commands[column].joint.clone()).collect();
        (!columns.is_empty()).then_some(Self { kind, columns, joints })
    }

    /// What a row commands to these joints.
    pub fn pick(&self, row: &[f64]) -> Vec<f64> {
        self.columns.iter().map(|&column| row[column]).collect()
    }

    /// Row `k` is to be reached `k + 1` periods after the start: a controller that gets it in time has the whole period for it.
    pub fn trajectory(&self, trajectory: &Trajectory) -> JointTrajectory {
        let point = |(index, row): (usize, &Vec<f64>)| {
            let (positions, velocities) = match self.kind {
                CommandKind::Position => (self.pick(row), Vec::new()),
                CommandKind::Velocity => (Vec::new(), self.pick(row)),
            };
            let time = std::time::Duration::from_secs_f64((index + 1) as f64 * trajectory.period);
            // At most 10 s per row (see `CommandRows`), so the seconds of any chunk fit.
            let time_from_start = Duration { sec: time.as_secs() as i32, nanosec: time.subsec_nanos() };
            JointTrajectoryPoint { positions, velocities, time_from_start, ..Default::default() }
        };
        JointTrajectory {
            header: header(trajectory.start),
            joint_names: self.joints.clone(),
            points: trajectory.rows.iter().enumerate().map(point).collect(),
        }
    }
}

/// A chunk with how it was taken over.
pub fn action_chunk(finished: Finished, installed: &Installed) -> ActionChunk {
    let Finished { chunk, backend, instruction, observed, input_ages, input_skew, observation_time, total_time, .. } = finished;
    ActionChunk {
        header: header(installed.start),
        observation_stamp: time(observed),
        chunk_index: chunk.index,
        seed: chunk.seed,
        backend: backend.to_owned(),
        instruction,
        dropped_prompt_tokens: chunk.dropped_tokens as u32,
        horizon: chunk.horizon as u32,
        period: chunk.period,
        model_action_dim: chunk.action_dim as u32,
        model_actions: chunk.model_actions,
        joint_names: chunk.joints,
        actions: chunk.actions,
        chunking: installed.mode.to_string(),
        delay_rows: installed.delay_rows as u32,
        guided_rows: installed.guided_rows as u32,
        stage_times: StageTimes {
            observation: observation_time.as_secs_f64(),
            vision: chunk.times.vision.as_secs_f64(),
            prefix: chunk.times.prefix.as_secs_f64(),
            denoise_steps: chunk.times.steps.iter().map(std::time::Duration::as_secs_f64).collect(),
            total: total_time.as_secs_f64(),
        },
        input_ages: input_ages.into_iter().map(|(name, age)| InputAge { name, age }).collect(),
        input_skew,
    }
}

fn header(stamp: Stamp) -> Header {
    Header { stamp: time(stamp), frame_id: String::new() }
}

fn time(stamp: Stamp) -> Time {
    let (sec, nanosec) = stamp.to_ros();
    Time { sec, nanosec }
}

/// Writes what the node would publish into a bag, at the times of the bag that is replayed.
pub struct Recorder {
    path: PathBuf,
    recording: Option<Recording>,
}

struct Recording {
    bag: BagWriter,
    chunks: TopicId,
    trajectories: Vec<(CommandColumns, TopicId)>,
}

impl Recorder {
    /// The bag's folder must not exist. It is made when the run begins.
    pub fn new(path: &Path) -> Result<Self, ReplayError> {
        if path.exists() {
            return Err(ReplayError::Exists(path.into()));
        }
        Ok(Self { path: path.into(), recording: None })
    }

    /// Completes the bag.
    pub fn finish(self) -> Result<(), ReplayError> {
        self.recording.map_or(Ok(()), |recording| recording.bag.finish())
    }
}

impl Outputs for Recorder {
    fn begin(&mut self, _: &Setup, commands: &[ActionColumn]) -> Result<(), ReplayError> {
        let mut bag = BagWriter::create(&self.path)?;
        let chunks = bag.add_topic_of::<ActionChunk>("/policy/action_chunk", Qos::keep_last(10, Reliability::Reliable))?;
        let mut trajectories = Vec::new();
        for (kind, topic) in
            [(CommandKind::Position, "/policy/joint_trajectory"), (CommandKind::Velocity, "/policy/joint_velocity_trajectory")]
        {
            if let Some(columns) = CommandColumns::of(kind, commands) {
                let topic = bag.add_topic_of::<JointTrajectory>(topic, Qos::keep_last(1, Reliability::Reliable))?;
                trajectories.push((columns, topic));
            }
        }
        self.recording = Some(Recording { bag, chunks, trajectories });
        Ok(())
    }

    fn chunk(&mut self, now: Stamp, finished: &Finished, installed: &Installed) -> Result<(), ReplayError> {
        let Some(Recording { bag, chunks, .. }) = &mut self.recording else { return Ok(()) };
        bag.write_message(*chunks, log_time(now), &action_chunk(finished.clone(), installed))
    }

    fn tick(&mut self, now: Stamp, tick: &Tick) -> Result<(), ReplayError> {
        let (Some(trajectory), Some(Recording { bag, trajectories, .. })) = (&tick.trajectory, &mut self.recording) else {
            return Ok(());
        };
        for (columns, topic) in trajectories {
            bag.write_message(*topic, log_time(now), &columns.trajectory(trajectory))?;
        }
        Ok(())
    }
}

fn log_time(now: Stamp) -> u64 {
    u64::try_from(now.nanoseconds()).unwrap_or(0)
}
