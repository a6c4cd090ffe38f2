//! How far two runs may be apart: tiers, and the YAML file that says so.

use std::{collections::BTreeMap, fmt, path::Path, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    replay::trace::{Joint, Setup},
    robot::CommandKind,
};

/// How strictly two runs are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Bit for bit
    Exact,
    /// Another build or another machine, whose last bits differ
    #[value(name = "same_backend")]
    SameBackend,
    /// Another arithmetic
    #[value(name = "across_backends")]
    AcrossBackends,
}

impl Tier {
    /// The strictest tier that two setups allow, and why. Bits are the same only on the reference backend, whose sums have an order.
    pub fn of(baseline: &Setup, current: &Setup) -> (Self, String) {
        let (tier, reason) = if baseline.backend != current.backend {
            return (Self::AcrossBackends, format!("backend {} against {}", current.backend, baseline.backend));
        } else if baseline.build != current.build {
            (Self::SameBackend, "another build")
        } else if baseline.machine != current.machine {
            (Self::SameBackend, "another machine")
        } else if baseline.backend != "reference" {
            (Self::SameBackend, "only the reference backend gives the same bits again")
        } else {
            (Self::Exact, "the same build on the same machine")
        };
        (tier, reason.to_owned())
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::SameBackend => "same_backend",
            Self::AcrossBackends => "across_backends",
        })
    }
}

/// The bounds of every tier but `exact`, which has none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerances {
    pub same_backend: TierTolerances,
    pub across_backends: TierTolerances,
}

/// The bounds of one tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierTolerances {
    /// Root mean square of the difference of the model actions over that of the baseline.
    pub relative_rms: f64,
    /// Least Pearson correlation of the model actions.
    pub pcc: f64,
    pub actions: JointTolerances,
    pub commands: JointTolerances,
}

/// Bounds by joint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JointTolerances {
    /// Joints of an arm that are commanded by position: rad or m.
    pub position: Bound,
    /// Joints of an arm that are commanded by velocity: rad/s or m/s.
    pub velocity: Bound,
    /// Grippers, in the unit of their driver.
    pub gripper: Bound,
    /// Joints with bounds of their own, by name.
    #[serde(default)]
    pub joints: BTreeMap<String, Bound>,
}

/// Largest and mean absolute difference of a joint, in its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    pub max: f64,
    pub mean: f64,
}

/// The bounds of one joint in one tier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JointBounds {
    pub joint: String,
    pub actions: Bound,
    pub commands: Bound,
}

/// The tolerances that come with the package.
const DEFAULT: &str = include_str!("../../../config/tolerances.yaml");

impl Default for Tolerances {
    fn default() -> Self {
        Self::from_yaml(DEFAULT).expect("a test reads the file that comes with the package")
    }
}

impl Tolerances {
    /// Reads and checks a tolerance file.
    pub fn load(path: &Path) -> Result<Self, ToleranceError> {
        let yaml = std::fs::read_to_string(path).map_err(|source| ToleranceError::Read { path: path.to_owned(), source })?;
        Self::from_yaml(&yaml).map_err(|error| ToleranceError::File { path: path.to_owned(), error: Box::new(error) })
    }

    /// Reads and checks the text of a tolerance file. Every problem with its values is listed in one error.
    pub fn from_yaml(yaml: &str) -> Result<Self, ToleranceError> {
        let tolerances: Self = serde_saphyr::from_str(yaml).map_err(|error| ToleranceError::Yaml(error.to_string()))?;
        let mut problems = Vec::new();
        for (tier, bounds) in tolerances.tiers() {
            bounds.check(tier, &mut problems);
        }
        if problems.is_empty() { Ok(tolerances) } else { Err(ToleranceError::Invalid(problems)) }
    }

    /// Refuses joints that the robot does not have, in any tier.
    pub fn check_joints(&self, joints: &[Joint]) -> Result<(), ToleranceError> {
        for (tier, bounds) in self.tiers() {
            for (table, by_joint) in bounds.tables() {
                if let Some(name) = by_joint.joints.keys().find(|name| !joints.iter().any(|joint| joint.name == **name)) {
                    let known = joints.iter().map(|joint| joint.name.as_str()).collect::<Vec<_>>().join(", ");
                    return Err(ToleranceError::UnknownJoint {
                        place: format!("{tier}.{table}.joints"),
                        name: name.clone(),
                        known,
                    });
                }
            }
        }
        Ok(())
    }

    /// The bounds of a tier; `None` for [`Tier::Exact`].
    pub fn tier(&self, tier: Tier) -> Option<&TierTolerances> {
        match tier {
            Tier::Exact => None,
            Tier::SameBackend => Some(&self.same_backend),
            Tier::AcrossBackends => Some(&self.across_backends),
        }
    }

    fn tiers(&self) -> [(Tier, &TierTolerances); 2] {
        [(Tier::SameBackend, &self.same_backend), (Tier::AcrossBackends, &self.across_backends)]
    }
}

impl TierTolerances {
    fn tables(&self) -> [(&'static str, &JointTolerances); 2] {
        [("actions", &self.actions), ("commands", &self.commands)]
    }

    fn check(&self, tier: Tier, problems: &mut Vec<String>) {
        let mut bound = |place: String, value: f64| {
            if !(value.is_finite() && value >= 0.0) {
                problems.push(format!("{tier}.{place} is {value}. It must be a number of at least 0"));
            }
        };
        bound("relative_rms".to_owned(), self.relative_rms);
        for (table, joints) in self.tables() {
            let kinds = [("position", &joints.position), ("velocity", &joints.velocity), ("gripper", &joints.gripper)];
            let kinds = kinds.map(|(kind, bound)| (kind.to_owned(), bound));
            for (name, values) in
                kinds.into_iter().chain(joints.joints.iter().map(|(name, bound)| (format!("joints.{name}"), bound)))
            {
                bound(format!("{table}.{name}.max"), values.max);
                bound(format!("{table}.{name}.mean"), values.mean);
            }
        }
        if !(self.pcc >= -1.0 && self.pcc <= 1.0) {
            problems.push(format!("{tier}.pcc is {}. A correlation lies between -1 and 1", self.pcc));
        }
    }
}

impl JointTolerances {
    /// The bound of a joint: its own, else that of its kind.
    pub fn of(&self, joint: &Joint) -> Bound {
        match self.joints.get(&joint.name) {
            Some(bound) => *bound,
            None if joint.gripper => self.gripper,
            None => match joint.kind {
                CommandKind::Position => self.position,
                CommandKind::Velocity => self.velocity,
            },
        }
    }
}

/// Why tolerances were refused.
#[derive(Debug, thiserror::Error)]
pub enum ToleranceError {
    #[error("Cannot read the tolerances {path}: {source}. config/tolerances.yaml comes with the package")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {error}")]
    File { path: PathBuf, error: Box<ToleranceError> },
    #[error("The tolerances are not as expected. {0}. Start from config/tolerances.yaml, which explains every line")]
    Yaml(String),
    #[error("The tolerances have {} problem{}:{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, .0.iter().map(|p| format!("\n- {p}")).collect::<String>())]
    Invalid(Vec<String>),
    #[error("The tolerances name the joint {name} in {place}, and the robot has no such joint. It has: {known}")]
    UnknownJoint { place: String, name: String, known: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tolerances_of_the_package_are_read() {
        let tolerances = Tolerances::default();
        assert!(tolerances.same_backend.relative_rms < tolerances.across_backends.relative_rms);
        let joint = |name: &str, kind, gripper| Joint { name: name.to_owned(), kind, gripper };
        let tier = &tolerances.across_backends.actions;
        assert_eq!(tier.of(&joint("waist", CommandKind::Position, false)), Bound { max: 0.02, mean: 0.005 });
        assert_eq!(tier.of(&joint("hand", CommandKind::Position, true)), tier.gripper);
        assert_eq!(tier.of(&joint("wheel", CommandKind::Velocity, false)), tier.velocity);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        let refusal = |from: &str, to: &str| {
            assert!(DEFAULT.contains(from));
            Tolerances::from_yaml(&DEFAULT.replace(from, to)).unwrap_err().to_string()
        };
        assert!(refusal("pcc: 0.9995", "pcc: 1.5").contains("across_backends.pcc is 1.5"));
        assert!(refusal("pcc: 0.9995", "corr: 1.0").contains("corr"));
        assert!(refusal("across_backends:", "across:").contains("across"));
        let problems = refusal("{max: 1.0e-4, mean: 2.0e-5}", "{max: -1.0, mean: .nan}");
        assert!(problems.contains("12 problems") && problems.contains("same_backend.commands.gripper.mean is NaN"), "{problems}");
        assert!(refusal("relative_rms: 1.0e-5", "relative_rms: .inf").contains("same_backend.relative_rms is inf"));
        assert!(Tolerances::from_yaml("exact: {}\n").is_err() && Tolerances::from_yaml("").is_err());
        let missing = Tolerances::load(Path::new("/nowhere/tolerances.yaml")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/tolerances.yaml"));
    }

    #[test]
    fn a_joint_that_the_robot_lacks_is_named() {
        let yaml = DEFAULT.replacen("joints: {}", "joints: {waist: {max: 0.5, mean: 0.1}}", 1);
        let tolerances = Tolerances::from_yaml(&yaml).unwrap();
        let joints = ["waist", "knee"].map(|name| Joint { name: name.to_owned(), kind: CommandKind::Position, gripper: false });
        tolerances.check_joints(&joints).unwrap();
        assert_eq!(tolerances.same_backend.actions.of(&joints[0]), Bound { max: 0.5, mean: 0.1 });
        let unknown = tolerances.check_joints(&joints[1..]).unwrap_err().to_string();
        assert!(unknown.contains("waist in same_backend.actions.joints") && unknown.contains("knee"), "{unknown}");
    }
}
