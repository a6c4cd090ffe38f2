//! The check that every chunk passes before anything of it is published.

use std::time::Duration;

use super::LimitError;

/// Two rows closer than this are not control steps of a robot.
const SHORTEST_PERIOD: f64 = 1e-4;
/// Two rows further apart than this are not control steps of a robot.
const LONGEST_PERIOD: f64 = 10.0;

/// The commands of one chunk, checked as a whole: rectangular, finite, with strictly increasing times.
#[derive(Clone, Debug, PartialEq)]
pub struct CommandRows {
    joints: usize,
    period: f64,
    /// `[rows, joints]`, row-major.
    values: Vec<f64>,
}

/// Why a chunk was refused. Nothing of a refused chunk is published.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ChunkError {
    #[error("The chunk has no rows or no joints")]
    Empty,
    #[error("The chunk has {found} values and {rows} rows of {joints} joints need {}", rows.saturating_mul(*joints))]
    Width { found: usize, rows: usize, joints: usize },
    #[error("Row {row} commands {value} to joint {joint}")]
    NotFinite { row: usize, joint: String, value: f64 },
    #[error("The model's output holds {value} in row {row}, column {column}")]
    ModelNotFinite { row: usize, column: usize, value: f32 },
    #[error("The period between two rows is {0} s and must be between {SHORTEST_PERIOD} s and {LONGEST_PERIOD} s")]
    Period(f64),
    #[error("The chunk has {found} rows and the policy's horizon is {expected}")]
    Horizon { found: usize, expected: usize },
    #[error("The chunk commands {found} joints and the robot has {expected}")]
    Joints { found: usize, expected: usize },
    #[error("The model's output has {found} values and {rows} rows of {action_dim} need {}", rows.saturating_mul(*action_dim))]
    ModelWidth { found: usize, rows: usize, action_dim: usize },
    #[error("The chunk has a row every {found} s and the robot takes one every {expected} s")]
    OtherPeriod { found: f64, expected: f64 },
    #[error(
        "The chunk came {age:.2} s after its observation, when all of its {rows} rows had passed. The inference takes longer than a chunk lasts"
    )]
    Past { age: f64, rows: usize },
    #[error("The chunk begins {ahead:.1} s from now. Was the clock set back?")]
    Future { ahead: f64 },
    #[error("The chunk took {took:.2} s and the deadline is {deadline} s")]
    Deadline { took: f64, deadline: f64 },
    #[error("Where the robot stands was not measured when the chunk came. Are its joint states published?")]
    Pose,
    #[error("The chunk was asked for before the robot was stopped, the clock jumped or the instruction changed")]
    Stale,
    #[error(transparent)]
    Units(LimitError),
}

impl ChunkError {
    /// The cause in one word, for counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Width { .. } | Self::Horizon { .. } | Self::Joints { .. } | Self::ModelWidth { .. } => "width",
            Self::NotFinite { .. } | Self::ModelNotFinite { .. } => "not_finite",
            Self::Period(_) | Self::OtherPeriod { .. } => "period",
            Self::Past { .. } => "past",
            Self::Future { .. } => "future",
            Self::Deadline { .. } => "deadline",
            Self::Pose => "pose",
            Self::Stale => "stale",
            Self::Units(_) => "units",
        }
    }
}

impl CommandRows {
    /// Checks commands `[rows, joints]` with `period` seconds between two rows.
    pub fn check(joints: &[String], rows: usize, period: f64, values: Vec<f64>) -> Result<Self, ChunkError> {
        if rows == 0 || joints.is_empty() {
            return Err(ChunkError::Empty);
        }
        if rows.checked_mul(joints.len()) != Some(values.len()) {
            return Err(ChunkError::Width { found: values.len(), rows, joints: joints.len() });
        }
        // NaN is in no range.
        if !(SHORTEST_PERIOD..=LONGEST_PERIOD).contains(&period) {
            return Err(ChunkError::Period(period));
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let joint = joints[index % joints.len()].clone();
            return Err(ChunkError::NotFinite { row: index / joints.len(), joint, value: values[index] });
        }
        Ok(Self { joints: joints.len(), period, values })
    }

    /// Checks that the model's output `[rows, columns]` is finite: un-normalization may hide it (a clipped gripper, an unused column).
    pub fn check_model_output(values: &[f32], columns: usize) -> Result<(), ChunkError> {
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => {
                let columns = columns.max(1);
                Err(ChunkError::ModelNotFinite { row: index / columns, column: index % columns, value: values[index] })
            }
            None => Ok(()),
        }
    }

    /// Time of each row after the chunk's start and its commands, one per joint.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (Duration, &[f64])> {
        self.values
            .chunks_exact(self.joints)
            .enumerate()
            .map(|(row, values)| (Duration::from_secs_f64(row as f64 * self.period), values))
    }

    pub fn joints(&self) -> usize {
        self.joints
    }

    /// `[rows, joints]`, row-major.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// `[rows, joints]`, row-major.
    pub fn into_values(self) -> Vec<f64> {
        self.values
    }

    /// Seconds between two rows.
    pub fn period(&self) -> f64 {
        self.period
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joints(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("joint_{index}")).collect()
    }

    #[test]
    fn rows_come_back_in_order_and_start_at_zero() {
        let rows = CommandRows::check(&joints(2), 3, 0.02, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let rows: Vec<_> = rows.rows().map(|(time, values)| (time.as_millis(), values.to_vec())).collect();
        assert_eq!(rows, [(0, vec![1.0, 2.0]), (20, vec![3.0, 4.0]), (40, vec![5.0, 6.0])]);
    }

    #[test]
    fn one_value_that_is_not_finite_refuses_the_whole_chunk_and_names_row_and_joint() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = CommandRows::check(&joints(3), 2, 0.02, vec![0.0, 0.0, 0.0, 0.0, 0.0, value]).unwrap_err();
            assert_eq!(error.to_string(), format!("Row 1 commands {value} to joint joint_2"));
        }
    }

    #[test]
    fn a_chunk_that_is_not_rectangular_is_refused_with_both_sizes() {
        for count in [0, 5, 7, 12] {
            assert_eq!(
                CommandRows::check(&joints(3), 2, 0.02, vec![0.0; count]),
                Err(ChunkError::Width { found: count, rows: 2, joints: 3 })
            );
        }
        assert!(matches!(CommandRows::check(&joints(3), usize::MAX, 0.02, vec![0.0; 3]), Err(ChunkError::Width { .. })));
    }

    #[test]
    fn an_empty_chunk_is_refused() {
        assert_eq!(CommandRows::check(&joints(3), 0, 0.02, vec![]), Err(ChunkError::Empty));
        assert_eq!(CommandRows::check(&[], 3, 0.02, vec![]), Err(ChunkError::Empty));
    }

    #[test]
    fn a_period_that_no_controller_has_is_refused() {
        for period in [0.0, -0.02, f64::NAN, f64::INFINITY, 1e-9, 1e9] {
            assert!(matches!(CommandRows::check(&joints(1), 1, period, vec![0.0]), Err(ChunkError::Period(_))), "{period}");
        }
    }

    #[test]
    fn model_output_that_is_not_finite_is_refused_even_in_a_padded_column() {
        let error = CommandRows::check_model_output(&[0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN], 3).unwrap_err();
        assert_eq!(error.to_string(), "The model's output holds NaN in row 1, column 2");
        assert_eq!(CommandRows::check_model_output(&[0.0; 6], 3), Ok(()));
    }

    proptest! {
        #[test]
        fn times_strictly_increase_for_every_period(period in SHORTEST_PERIOD..LONGEST_PERIOD, rows in 2usize..500) {
            let chunk = CommandRows::check(&joints(1), rows, period, vec![0.0; rows]).unwrap();
            let times: Vec<_> = chunk.rows().map(|(time, _)| time).collect();
            prop_assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(times[0], Duration::ZERO);
        }
    }
}
