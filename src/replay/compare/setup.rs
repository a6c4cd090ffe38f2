//! Differences between two setups.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, SetupItem};
use crate::{
    replay::trace::{Joint, Setup},
    robot::CommandKind,
};

/// Parameters of which the setup holds what became of them.
const RESOLVED: [&str; 3] = ["backend", "denoise_steps", "seed"];

/// Everything that is set up differently: what decides the outcome first.
pub(super) fn differences(baseline: &Setup, current: &Setup) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut check = |item: SetupItem, baseline: String, current: String| {
        if baseline != current {
            out.push(Finding::Setup { item, baseline, current });
        }
    };
    let Setup {
        version,
        build,
        machine,
        backend,
        dtypes,
        bag,
        files,
        parameters,
        seed,
        steps,
        latency,
        horizon,
        action_dim,
        period,
        joints,
        state_joints,
        cameras,
    } = baseline;
    check(SetupItem::Seed, seed.to_string(), current.seed.to_string());
    check(SetupItem::Steps, steps.to_string(), current.steps.to_string());
    check(SetupItem::Latency, latency.to_string(), current.latency.to_string());
    check(SetupItem::Horizon, horizon.to_string(), current.horizon.to_string());
    check(SetupItem::ActionDim, action_dim.to_string(), current.action_dim.to_string());
    check(SetupItem::Period, period.to_string(), current.period.to_string());
    let commanded = |joints: &[Joint]| {
        let name = |joint: &Joint| match (joint.kind, joint.gripper) {
            (CommandKind::Position, false) => joint.name.clone(),
            (CommandKind::Position, true) => format!("{} (gripper)", joint.name),
            (CommandKind::Velocity, false) => format!("{} (velocity)", joint.name),
            (CommandKind::Velocity, true) => format!("{} (gripper, velocity)", joint.name),
        };
        joints.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    check(SetupItem::Joints, commanded(joints), commanded(&current.joints));
    check(SetupItem::StateJoints, state_joints.join(", "), current.state_joints.join(", "));
    check(SetupItem::Cameras, cameras.join(", "), current.cameras.join(", "));
    each(files, &current.files, |name, baseline, current| check(SetupItem::File(name), baseline, current));
    each(parameters, &current.parameters, |name, baseline, current| {
        if !RESOLVED.contains(&name.as_str()) {
            check(SetupItem::Parameter(name), baseline, current);
        }
    });
    check(SetupItem::Backend, backend.clone(), current.backend.clone());
    check(SetupItem::Dtypes, dtypes.clone(), current.dtypes.clone());
    check(SetupItem::Version, version.clone(), current.version.clone());
    check(SetupItem::Build, build.to_string(), current.build.to_string());
    check(SetupItem::Machine, machine.clone(), current.machine.clone());
    check(SetupItem::Bag, bag.clone(), current.bag.clone());
    out
}

/// Calls `check` with both values of every name.
fn each<T: ToString>(
    baseline: &BTreeMap<String, T>,
    current: &BTreeMap<String, T>,
    mut check: impl FnMut(String, String, String),
) {
    let names: BTreeSet<&String> = baseline.keys().chain(current.keys()).collect();
    let value = |of: &BTreeMap<String, T>, name: &String| of.get(name).map_or("not there".to_owned(), T::to_string);
    for name in names {
        check(name.clone(), value(baseline, name), value(current, name));
    }
}
