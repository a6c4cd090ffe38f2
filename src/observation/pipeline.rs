//! One observation to model inputs, and a chunk of model actions back to robot commands.

use std::sync::Arc;

use super::{Observation, ObservationError, ResizeKernel, Resizer};
use crate::{
    checkpoint::{Checkpoint, Family, Normalizer, PromptEncoder},
    model::{Camera, ModelInputs},
    robot::{ActionColumn, CameraSlot, CommandKind, RobotProfile, StateColumn, StateMap},
};

/// Everything between sensor values and the model for one checkpoint on one robot.
///
/// In: resize, map the joints to the policy's values, normalize, pad, tokenize. Out: un-normalize, add the anchor to relative columns,
/// map to the robot's values. That is the order of both families (openpi `policy_config.py`, LeRobot `processor_pi0.py`).
#[derive(Debug)]
pub struct Pipeline {
    resizer: Resizer,
    /// In the checkpoint's order.
    cameras: Vec<(String, CameraSlot)>,
    state: Vec<StateColumn>,
    state_norm: Normalizer,
    /// Width of the padded state.
    state_dim: usize,
    actions: Vec<ActionColumn>,
    action_norm: Normalizer,
    /// For each action column the state column that is added to it.
    anchors: Vec<Option<usize>>,
    horizon: usize,
    action_dim: usize,
    prompt: Arc<PromptEncoder>,
}

/// An observation in model space.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedInputs {
    pub inputs: ModelInputs,
    /// Prompt tokens cut off because the model has fewer slots.
    pub dropped_tokens: usize,
    /// The state in the policy's units, not normalized: what relative actions of this observation's chunk are added to.
    pub anchor: Vec<f32>,
}

/// A chunk in robot units.
#[derive(Clone, Debug, PartialEq)]
pub struct RobotActions {
    /// Names and kinds of the columns.
    pub joints: Vec<String>,
    pub kinds: Vec<CommandKind>,
    /// `[horizon, joints]`, row-major, absolute.
    pub rows: Vec<f64>,
}

impl Pipeline {
    /// Joins a checkpoint and a profile that fit together; what does not fit is listed. The resize is `resize`, else the profile's, else
    /// that of the checkpoint's family.
    pub fn new(checkpoint: &Checkpoint, profile: &RobotProfile, resize: Option<ResizeKernel>) -> Result<Self, ObservationError> {
        let mut problems = Vec::new();
        for (what, columns, width) in
            [("state", profile.state.len(), checkpoint.state_width), ("actions", profile.actions.len(), checkpoint.action_width)]
        {
            if columns != width {
                problems.push(format!("{what} has {columns} joints, and the checkpoint has {width}"));
            }
        }
        let cameras = match_cameras(&checkpoint.cameras, profile, &mut problems);
        let anchors = match checkpoint.family {
            // These checkpoints do not say what their actions are relative to.
            Family::Openpi | Family::LerobotLegacy => profile.actions.iter().map(|column| column.delta).collect(),
            Family::Lerobot => match_relative_actions(checkpoint.relative_actions.as_deref(), profile, &mut problems),
        };
        let geometry = &checkpoint.geometry;
        if let Some(rows) = profile.execution_horizon.filter(|&rows| rows > geometry.horizon) {
            problems.push(format!("execution_horizon is {rows}, and the checkpoint's chunks have {} rows", geometry.horizon));
        }
        if !problems.is_empty() {
            return Err(ObservationError::Profile { profile: profile.name.clone(), problems });
        }
        let family_resize = match checkpoint.family {
            Family::Openpi => ResizeKernel::Openpi,
            Family::Lerobot => ResizeKernel::Lerobot,
            Family::LerobotLegacy => ResizeKernel::LerobotLegacy,
        };
        Ok(Self {
            resizer: Resizer::new(resize.or(profile.resize).unwrap_or(family_resize), geometry.vision.image_size),
            cameras,
            state: profile.state.clone(),
            state_norm: checkpoint.state_norm.clone(),
            state_dim: geometry.state_dim,
            actions: profile.actions.clone(),
            action_norm: checkpoint.action_norm.clone(),
            anchors,
            horizon: geometry.horizon,
            action_dim: geometry.action_dim,
            prompt: checkpoint.prompt.clone(),
        })
    }

    /// Camera slots that must have an image, in the checkpoint's order.
    pub fn required_cameras(&self) -> impl Iterator<Item = &str> {
        let present = |(_, camera): &&(String, CameraSlot)| *camera != CameraSlot::Absent;
        self.cameras.iter().filter(present).map(|(slot, _)| slot.as_str())
    }

    /// Every camera slot, absent ones included, in the checkpoint's order.
    pub fn camera_slots(&self) -> impl Iterator<Item = &str> {
        self.cameras.iter().map(|(slot, _)| slot.as_str())
    }

    /// The statistics of the state and of the actions.
    pub fn normalizers(&self) -> [&Normalizer; 2] {
        [&self.state_norm, &self.action_norm]
    }

    /// What the model is to see of an observation.
    pub fn model_inputs(&self, observation: &Observation) -> Result<PreparedInputs, ObservationError> {
        let cameras = self.camera_inputs(observation)?;
        let anchor = self.policy_state(&observation.joints)?;
        let mut state = anchor.clone();
        self.state_norm.normalize(&mut state);
        state.resize(self.state_dim, 0.0);
        let encoded = self.prompt.encode(&observation.instruction)?;
        let inputs = ModelInputs { cameras, prompt: encoded.prompt, state };
        Ok(PreparedInputs { inputs, dropped_tokens: encoded.dropped, anchor })
    }

    /// An observation that no sensor made: gray images and the middle of the normalized state.
    pub fn neutral_inputs(&self, instruction: &str) -> Result<PreparedInputs, ObservationError> {
        let gray = |(_, camera): &(String, CameraSlot)| match camera {
            CameraSlot::Absent => Camera::Masked,
            CameraSlot::Present { .. } => Camera::Present(vec![0.0; 3 * self.resizer.side().pow(2)]),
        };
        let mut anchor = vec![0.0; self.state.len()];
        self.state_norm.unnormalize(&mut anchor);
        let encoded = self.prompt.encode(instruction)?;
        let cameras = self.cameras.iter().map(gray).collect();
        let inputs = ModelInputs { cameras, prompt: encoded.prompt, state: vec![0.0; self.state_dim] };
        Ok(PreparedInputs { inputs, dropped_tokens: encoded.dropped, anchor })
    }

    /// What the robot is to do: `actions` are `[horizon, action_dim]` as the model gave them, `anchor` is the one of the observation that
    /// they were computed from.
    pub fn robot_actions(&self, actions: &[f32], anchor: &[f32]) -> Result<RobotActions, ObservationError> {
        width("chunk", actions.len(), self.horizon * self.action_dim)?;
        width("anchor", anchor.len(), self.state.len())?;
        let mut rows = Vec::with_capacity(self.horizon * self.actions.len());
        for (row, values) in actions.chunks_exact(self.action_dim).enumerate() {
            let mut values = values[..self.actions.len()].to_vec();
            self.action_norm.unnormalize(&mut values);
            for ((column, value), origin) in self.actions.iter().zip(values).zip(&self.anchors) {
                let refuse = |value| ObservationError::ActionNotFinite { row, joint: column.joint.clone(), value };
                let absolute = f64::from(value) + origin.map_or(0.0, |i| f64::from(anchor[i]));
                if !absolute.is_finite() {
                    return Err(refuse(absolute));
                }
                let command = column.to_robot(absolute);
                if !command.is_finite() {
                    return Err(refuse(command));
                }
                rows.push(command);
            }
        }
        let joints = self.actions.iter().map(|column| column.joint.clone()).collect();
        Ok(RobotActions { joints, kinds: self.actions.iter().map(|column| column.kind).collect(), rows })
    }

    /// The unexecuted rows of the chunk before, `[rows, action_dim]` as the model gave them, as the model would give them at another
    /// state: relative columns count from `anchor` instead of `previous_anchor`. `[horizon, action_dim]`, zero behind the last row and
    /// in the columns that the robot does not use.
    ///
    /// What LeRobot does between two chunks (`rollout/inference/rtc.py`).
    pub fn previous_rows(&self, previous: &[f32], previous_anchor: &[f32], anchor: &[f32]) -> Result<Vec<f32>, ObservationError> {
        let rows = previous.len() / self.action_dim;
        if previous.len() != rows * self.action_dim || !(1..=self.horizon).contains(&rows) {
            let (action_dim, horizon) = (self.action_dim, self.horizon);
            return Err(ObservationError::PreviousRows { values: previous.len(), action_dim, horizon });
        }
        width("anchor", anchor.len(), self.state.len())?;
        width("anchor of the chunk before", previous_anchor.len(), self.state.len())?;
        let mut guiding = vec![0.0; self.horizon * self.action_dim];
        for (row, out) in previous.chunks_exact(self.action_dim).zip(guiding.chunks_exact_mut(self.action_dim)) {
            let model_values = &row[..self.actions.len()];
            let mut moved = model_values.to_vec();
            self.action_norm.unnormalize(&mut moved);
            for (value, origin) in moved.iter_mut().zip(&self.anchors) {
                if let &Some(i) = origin {
                    *value = *value + previous_anchor[i] - anchor[i];
                }
            }
            self.action_norm.normalize(&mut moved);
            for (column, origin) in self.anchors.iter().enumerate() {
                // Absolute columns keep the model's own values: there and back would round them.
                out[column] = if origin.is_some() { moved[column] } else { model_values[column] };
            }
        }
        Ok(guiding)
    }

    fn camera_inputs(&self, observation: &Observation) -> Result<Vec<Camera>, ObservationError> {
        if let Some(slot) = observation.images.keys().find(|slot| !self.required_cameras().any(|required| required == *slot)) {
            let required = self.required_cameras().map(str::to_owned).collect();
            return Err(ObservationError::UnknownCamera { slot: slot.clone(), required });
        }
        let input = |(slot, camera): &(String, CameraSlot)| match camera {
            CameraSlot::Absent => Ok(Camera::Masked),
            CameraSlot::Present { name, rotate_180 } => {
                let image = observation
                    .images
                    .get(slot)
                    .ok_or_else(|| ObservationError::MissingCamera { slot: slot.clone(), camera: name.clone() })?;
                let pixels = if *rotate_180 { self.resizer.resize(&image.rotated_180()) } else { self.resizer.resize(image) };
                Ok(Camera::Present(pixels?))
            }
        };
        self.cameras.iter().map(input).collect()
    }

    /// Joint values to the policy's units.
    fn policy_state(&self, joints: &[f64]) -> Result<Vec<f32>, ObservationError> {
        width("state", joints.len(), self.state.len())?;
        let value = |(column, &joint): (&StateColumn, &f64)| {
            let value = column.map.to_policy(joint) as f32;
            match value.is_finite() {
                true => Ok(value),
                false => Err(ObservationError::JointNotFinite { joint: column.joint.clone(), value: joint }),
            }
        };
        self.state.iter().zip(joints).map(value).collect()
    }
}

fn width(what: &'static str, found: usize, expected: usize) -> Result<(), ObservationError> {
    if found == expected { Ok(()) } else { Err(ObservationError::Width { what, found, expected }) }
}

/// The profile's cameras in the checkpoint's order.
fn match_cameras(slots: &[String], profile: &RobotProfile, problems: &mut Vec<String>) -> Vec<(String, CameraSlot)> {
    let declared = |slot: &String| match profile.cameras.get(slot) {
        Some(camera) => Some((slot.clone(), camera.clone())),
        None => {
            problems.push(format!("the checkpoint's camera slot {slot} is not declared. Name its camera or write absent: true"));
            None
        }
    };
    let cameras: Vec<_> = slots.iter().filter_map(declared).collect();
    for (slot, camera) in &profile.cameras {
        if let CameraSlot::Present { name, .. } = camera
            && !slots.contains(slot)
        {
            problems.push(format!("camera {name} has the slot {slot}, which the checkpoint lacks. It has {}", slots.join(", ")));
        }
    }
    if cameras.iter().all(|(_, camera)| *camera == CameraSlot::Absent) {
        problems.push("every camera slot of the checkpoint is absent. At least one needs a camera".to_owned());
    }
    cameras
}

/// LeRobot's relative actions add the state entry of the same index. Deltas in the profile, when there are any, must say the same.
fn match_relative_actions(relative: Option<&[bool]>, profile: &RobotProfile, problems: &mut Vec<String>) -> Vec<Option<usize>> {
    let declared = profile.actions.iter().any(|column| column.delta.is_some());
    let anchor = |(index, column): (usize, &ActionColumn)| {
        let is_relative = relative.is_some_and(|mask| mask.get(index) == Some(&true));
        let joint = &column.joint;
        if declared && column.delta.is_some() != is_relative {
            let [says, checkpoint] = if is_relative { ["absolute", "relative"] } else { ["a delta", "absolute"] };
            problems.push(format!(
                "action joint {joint} is {says} here and {checkpoint} in the checkpoint. Take delta out of the profile: a LeRobot checkpoint \
                 says this in its relative_actions_processor"
            ));
        }
        if !is_relative {
            return None;
        }
        let same = |state: &StateColumn| state.joint == *joint && state.map == StateMap::Affine(column.map);
        if !profile.state.get(index).is_some_and(same) {
            problems.push(format!(
                "action joint {joint} is relative in the checkpoint: entry {index} of state must be the same joint with the same unit, sign and map"
            ));
        }
        Some(index)
    };
    profile.actions.iter().enumerate().map(anchor).collect()
}
