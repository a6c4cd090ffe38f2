//! Definitions of the message types that this project records, as a bag's schema text holds them.

use super::{error::ReplayError, messages::MessageType};

/// `.msg` texts by `package/Type`: fields as in common_interfaces, comments left out; this package's own are the installed files.
const DEFINITIONS: &[(&str, &str)] = &[
    ("builtin_interfaces/Duration", "int32 sec\nuint32 nanosec\n"),
    ("builtin_interfaces/Time", "int32 sec\nuint32 nanosec\n"),
    ("diagnostic_msgs/DiagnosticArray", "std_msgs/Header header\nDiagnosticStatus[] status\n"),
    (
        "diagnostic_msgs/DiagnosticStatus",
        "byte OK=0\nbyte WARN=1\nbyte ERROR=2\nbyte STALE=3\nbyte level\nstring name\nstring message\nstring hardware_id\n\
         KeyValue[] values\n",
    ),
    ("diagnostic_msgs/KeyValue", "string key\nstring value\n"),
    ("pi0_tt/ActionChunk", include_str!("../../msg/ActionChunk.msg")),
    ("pi0_tt/InputAge", include_str!("../../msg/InputAge.msg")),
    ("pi0_tt/StageTimes", include_str!("../../msg/StageTimes.msg")),
    ("sensor_msgs/CompressedImage", "std_msgs/Header header\nstring format\nuint8[] data\n"),
    (
        "sensor_msgs/Image",
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data\n",
    ),
    (
        "sensor_msgs/JointState",
        "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n",
    ),
    ("std_msgs/Header", "builtin_interfaces/Time stamp\nstring frame_id\n"),
    ("std_msgs/String", "string data\n"),
    ("trajectory_msgs/JointTrajectory", "std_msgs/Header header\nstring[] joint_names\nJointTrajectoryPoint[] points\n"),
    (
        "trajectory_msgs/JointTrajectoryPoint",
        "float64[] positions\nfloat64[] velocities\nfloat64[] accelerations\nfloat64[] effort\n\
         builtin_interfaces/Duration time_from_start\n",
    ),
];

/// Schema text of a type (`sensor_msgs/msg/JointState`): its definition and those of the types it uses.
pub fn definition(type_name: &str) -> Result<String, ReplayError> {
    let unknown = || ReplayError::UnknownType(type_name.into());
    let (package, name) = type_name.split_once("/msg/").ok_or_else(unknown)?;
    let mut names = vec![format!("{package}/{name}")];
    let mut text = String::new();
    let mut at = 0;
    while let Some(name) = names.get(at).cloned() {
        let (_, definition) = DEFINITIONS.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?;
        if at > 0 {
            text.push_str(&format!("{}\nMSG: {name}\n", "=".repeat(80)));
        }
        text.push_str(definition);
        for used in used_types(&name, definition) {
            if !names.contains(&used) {
                names.push(used);
            }
        }
        at += 1;
    }
    Ok(text)
}

/// Schema text of a message type.
pub(super) fn definition_of<T: MessageType>() -> Result<String, ReplayError> {
    definition(T::NAME)
}

/// Types of fields that are messages themselves; a name without package belongs to the package of `owner`.
fn used_types(owner: &str, definition: &str) -> Vec<String> {
    let package = owner.split('/').next().unwrap_or_default();
    let fields = definition.lines().filter_map(|line| line.split('#').next()?.split_whitespace().next());
    let types = fields.map(|field| field.split('[').next().unwrap_or_default());
    types
        .filter(|name| name.chars().any(char::is_uppercase))
        .map(|name| if name.contains('/') { name.to_string() } else { format!("{package}/{name}") })
        .collect()
}
