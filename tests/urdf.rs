//! Limits of joints from a robot's URDF.

use std::{f64::consts::PI, path::Path};

use pi0_tt::robot::{JointLimits, RobotError, UrdfError, UrdfLimits};

const VIPERX: &str = include_str!("data/viperx.urdf");

fn read(xml: &str, joints: &[&str]) -> Result<UrdfLimits, UrdfError> {
    UrdfLimits::from_xml(xml, joints.iter().copied())
}

fn limits(position: Option<[f64; 2]>, velocity: Option<f64>) -> JointLimits {
    JointLimits { position, velocity, ..Default::default() }
}

/// A URDF with one joint `elbow`.
fn one_joint(version: &str, kind: &str, limit: &str) -> String {
    format!(
        r#"<robot name="one" {version}><link name="a"/><link name="b"/>
           <joint name="elbow" type="{kind}"><parent link="a"/><child link="b"/>{limit}</joint></robot>"#
    )
}

#[test]
fn turning_and_sliding_joints_have_the_limits_of_the_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/viperx.urdf");
    let joints = ["left_waist", "left_shoulder", "left_elbow", "left_left_finger"];
    let urdf = UrdfLimits::load(&path, joints.into_iter()).unwrap();
    assert_eq!(urdf.of("left_waist"), limits(Some([-3.141582653589793, 3.141582653589793]), Some(PI)));
    assert_eq!(urdf.of("left_shoulder"), limits(Some([-1.850049007113989, 1.2566370614359172]), Some(PI)));
    assert_eq!(urdf.of("left_elbow"), limits(Some([-1.7627825445142729, 1.6057029118347832]), Some(PI)));
    assert_eq!(urdf.of("left_left_finger"), limits(Some([0.021, 0.057]), Some(1.0)));
    assert!(urdf.missing().is_empty());
}

#[test]
fn a_continuous_joint_has_no_limits_of_position_and_one_without_a_limit_has_none_at_all() {
    let urdf = read(VIPERX, &["left_gripper", "left_camera_pan"]).unwrap();
    assert_eq!(urdf.of("left_gripper"), JointLimits { continuous: true, ..limits(None, Some(PI)) });
    assert_eq!(urdf.of("left_camera_pan"), JointLimits { continuous: true, ..Default::default() });
    assert!(urdf.missing().is_empty());
}

#[test]
fn a_mimic_joint_has_its_own_limits() {
    assert_eq!(read(VIPERX, &["left_right_finger"]).unwrap().of("left_right_finger"), limits(Some([-0.057, -0.021]), Some(1.0)));
}

#[test]
fn joints_that_are_missing_or_do_not_move_have_no_limits_and_are_listed() {
    let urdf = read(VIPERX, &["left_waist", "left_gripper_bar", "left_wrist"]).unwrap();
    assert_eq!(urdf.missing(), ["left_gripper_bar", "left_wrist"]);
    assert_eq!(urdf.of("left_wrist"), JointLimits::default());
    assert_eq!(urdf.of("left_elbow"), JointLimits::default(), "it was not asked for");
    assert_ne!(urdf.of("left_waist"), JointLimits::default());
}

#[test]
fn a_urdf_of_another_robot_is_refused() {
    let error = read(VIPERX, &["waist", "shoulder"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "none of the joints waist, shoulder moves in it. Does the robot profile have a prefix that the URDF has not?"
    );
}

#[test]
fn a_xacro_that_was_not_expanded_is_refused_with_the_command_that_expands_it() {
    let number = VIPERX.replace("3.141592653589793", "${pi}");
    let include =
        r#"<robot name="arm" xmlns:xacro="http://www.ros.org/wiki/xacro"><xacro:include filename="arm.xacro"/></robot>"#;
    let no_namespace = r#"<robot name="arm"><xacro:arm prefix="left"/></robot>"#;
    for xml in [number.as_str(), include, no_namespace] {
        let error = read(xml, &["left_waist"]).unwrap_err();
        assert!(matches!(error, UrdfError::Xacro), "{error}");
        assert!(error.to_string().contains("xacro robot.urdf.xacro > robot.urdf"));
    }
}

#[test]
fn what_is_no_urdf_is_refused_and_the_file_is_named() {
    for xml in
        ["", "name: aloha", "<robot", "<robot name=\"a\"><joint></robot>", "<robot name=\"a\"><joint name=\"elbow\"/></robot>"]
    {
        assert!(matches!(read(xml, &["elbow"]), Err(UrdfError::Xml(_))), "{xml}: {:?}", read(xml, &["elbow"]));
    }
    for limit in ["<limit lower='-1' upper='1'/>", "<limit lower='a' upper='1' velocity='1'/>"] {
        assert!(matches!(read(&one_joint("", "revolute", limit), &["elbow"]), Err(UrdfError::Xml(_))), "{limit}");
    }
    let missing = UrdfLimits::load(Path::new("unicorn.urdf"), ["elbow"].into_iter()).unwrap_err();
    assert!(matches!(&missing, RobotError::ReadUrdf { .. }) && missing.to_string().contains("unicorn.urdf"), "{missing}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/robots/aloha.yaml");
    let other = UrdfLimits::load(&path, ["elbow"].into_iter()).unwrap_err();
    assert!(matches!(&other, RobotError::Urdf { .. }) && other.to_string().contains("aloha.yaml"), "{other}");
}

#[test]
fn a_joint_that_is_described_twice_is_refused() {
    let xml = VIPERX.replace("name=\"left_elbow\"", "name=\"left_waist\"");
    assert_eq!(read(&xml, &["left_waist"]).unwrap_err().to_string(), "it describes two joints left_waist");
}

#[test]
fn zeros_of_an_exporter_stay_zeros_for_whoever_uses_the_limits_to_refuse() {
    let found = read(&one_joint("", "revolute", "<limit effort='0' velocity='0'/>"), &["elbow"]).unwrap().of("elbow");
    assert_eq!(found, limits(Some([0.0, 0.0]), Some(0.0)));
}

#[test]
fn a_joint_of_version_1_2_may_leave_limits_out_and_limit_its_acceleration() {
    let read = |limit| read(&one_joint("version='1.2'", "revolute", limit), &["elbow"]).unwrap().of("elbow");
    assert_eq!(read("<limit velocity='2'/>"), limits(None, Some(2.0)));
    assert_eq!(read("<limit upper='1'/>"), limits(Some([f64::NEG_INFINITY, 1.0]), None));
    assert_eq!(read("<limit acceleration='5' deceleration='4'/>").acceleration, Some(4.0));
}

#[test]
fn damaged_urdfs_are_read_or_refused() {
    use proptest::{prelude::*, sample::Index, test_runner::TestRunner};
    let damage = prop::collection::vec((any::<Index>(), any::<Index>(), prop_oneof!["[ -~\n]{0,4}", ".{0,3}"]), 1..5);
    TestRunner::new(ProptestConfig::with_cases(2_000))
        .run(&damage, |damage| {
            let mut text: Vec<char> = VIPERX.chars().collect();
            for (at, length, with) in damage {
                let start = at.index(text.len());
                let end = (start + length.index(6)).min(text.len());
                text.splice(start..end, with.chars());
            }
            let _ = read(&text.into_iter().collect::<String>(), &["left_waist", "left_gripper"]);
            Ok(())
        })
        .unwrap();
}
