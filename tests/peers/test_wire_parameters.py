"""Parameters: described, bounded, and refused with a reason."""

from __future__ import annotations

import math
import re

import pytest
import wire
from conftest import CAMERAS, JOINTS

READ_ONLY = [
    *("autostart", "backend", "checkpoint", "denoise_steps", "norm_stats", "resize", "robot", "seed", "threads", "tokenizer", "trace", "weight_cache"),
    *("chunking.crossfade_ms", "chunking.mode", "chunking.rtc.max_guidance_weight", "chunking.rtc.schedule", "dry_run", "forward_commands"),
    *("inference.deadline_s", "inference.execution_horizon", "inference.trigger", "instruction.on_change", "max_drift", "stall.action", "sync.stamps", "urdf"),
]

SWITCHES = {"autostart", "dry_run", "forward_commands", "trace"}
INTEGERS = {"denoise_steps", "inference.execution_horizon", "seed", "threads"}
NUMBERS = {"chunking.crossfade_ms", "chunking.rtc.max_guidance_weight", "inference.deadline_s", "max_drift"}


def test_every_parameter_is_described_and_documented(start_policy, robot):
    start_policy()
    robot.next_chunk()
    names = robot.parameter_names()
    assert set(READ_ONLY) <= set(names)
    yaml = (wire.REPOSITORY / "config" / "policy.yaml").read_text()
    readme = (wire.REPOSITORY / "README.md").read_text()
    for descriptor in robot.describe_parameters(names):
        if descriptor.name == "use_sim_time":
            continue
        assert descriptor.description.endswith("."), descriptor.name
        assert descriptor.additional_constraints or descriptor.floating_point_range or descriptor.integer_range, descriptor.name
        assert descriptor.read_only == (
            descriptor.name in READ_ONLY or descriptor.name.endswith((".transport", "qos_durability")) or descriptor.name.startswith("joint_limits.")
        ), descriptor.name
        documented = re.sub(r"^cameras\.[^.]+", "cameras.<slot>", descriptor.name)
        documented = re.sub(r"^joint_limits\.[^.]+", "joint_limits.<joint>", documented)
        assert f"`{documented}`" in readme
        assert descriptor.name.split(".")[-1] + ":" in yaml, descriptor.name


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("inference.rate_hz", 0.0, "out of range"),
        ("inference.rate_hz", 200.1, "out of range"),
        ("inference.rate_hz", -math.inf, "out of range"),
        ("inference.rate_hz", math.nan, "out of range"),
        ("inference.rate_hz", "fast", "type"),
        ("inference.rate_hz", 10, "type"),
        ("joint_states.max_age_ms", 0.5, "out of range"),
        (f"cameras.{CAMERAS[0]}.max_age_ms", 60_001.0, "out of range"),
        (f"cameras.{CAMERAS[0]}.max_age_ms", math.nan, "out of range"),
        (f"cameras.{CAMERAS[0]}.stamp_offset_ms", -1000.1, "out of range"),
        ("sync.max_skew_ms", -1.0, "out of range"),
        ("sync.max_skew_ms", math.inf, "out of range"),
        ("instruction.default", "x" * 1025, "1025 bytes"),
        ("instruction.default", "  ", "empty"),
        ("no_such_parameter", 1.0, "not declared"),
        *((name, "other", "read only") for name in READ_ONLY if name not in NUMBERS | SWITCHES | INTEGERS),
        *((name, True, "read only") for name in SWITCHES),
        *((name, 3, "read only") for name in INTEGERS),
        *((name, 60.0, "read only") for name in NUMBERS),
        (f"joint_limits.{JOINTS[0]}.max_velocity", 0.1, "read only"),
        (f"cameras.{CAMERAS[0]}.transport", "compressed", "read only"),
        ("instruction.qos_durability", "transient_local", "read only"),
    ],
)
def test_a_bad_value_is_refused_with_a_reason_and_changes_nothing(shared_policy, name, value, reason):
    # As text: nan is not equal to nan.
    before = str(shared_policy.get_parameters([name]))
    result = shared_policy.set_parameter(name, value)
    assert not result.successful
    assert reason in result.reason
    assert str(shared_policy.get_parameters([name])) == before


@pytest.fixture(scope="module")
def shared_policy(tmp_path_factory, checkpoint, profile):
    """One policy for all refusals: none of them changes it."""
    with wire.ros_domain() as domain:
        parameters = {"checkpoint": str(checkpoint), "robot": str(profile)}
        node = wire.PolicyNode(domain, tmp_path_factory.mktemp("log"), parameters)
        robot = wire.Robot(domain, CAMERAS, JOINTS)
        robot.wait_until_matched()
        yield robot
        robot.close()
        assert node.end()[0] == 0


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("checkpoint", None, "Parameter checkpoint is not set"),
        ("checkpoint", "", "Parameter checkpoint: must not be empty"),
        ("robot", None, "Parameter robot is not set"),
        ("robot", "no_such_robot", "Robot profile no_such_robot is not installed"),
        ("backend", "cuda", 'Parameter backend: "cuda" is not one of reference, ttnn, ttnn_host'),
        ("backend", "ttnn", "The policy cannot be opened. This build has no backend ttnn"),
        ("resize", "nearest", 'Parameter resize: "nearest" is not one of auto, openpi, lerobot'),
        ("instruction.qos_durability", "latched", 'Parameter instruction.qos_durability: "latched" is not one of volatile, transient_local'),
        ("seed", -1, "Parameter seed is out of range: 0 to 9223372036854775807"),
        ("seed", "seven", "Parameter seed has a value of the wrong type, it must be an integer"),
        ("inference.rate_hz", 10, "Parameter inference.rate_hz has a value of the wrong type, it must be a number with a decimal point"),
        ("checkpoint", 7, "Parameter checkpoint has a value of the wrong type, it must be text"),
        ("denoise_steps", 1001, "Parameter denoise_steps is out of range: 0 to 1000"),
        ("inference.rate_hz", 0.0, "Parameter inference.rate_hz is out of range: 0.01 to 200"),
        ("instruction.default", "x" * 1025, "Parameter instruction.default: The instruction has 1025 bytes"),
        (f"cameras.{CAMERAS[0]}.transport", "h264", f'Parameter cameras.{CAMERAS[0]}.transport: "h264" is not one of raw, compressed'),
    ],
)
def test_a_bad_value_at_start_ends_the_node_with_the_reason(start_policy, name, value, complaint):
    node = start_policy(**{name.replace(".", "__"): value})
    assert node.wait(wire.PATIENCE) == 1
    assert complaint in node.output()


def test_the_parameter_file_of_the_package_is_accepted_and_later_arguments_override_it(start_policy, robot):
    start_policy("--params-file", str(wire.REPOSITORY / "config" / "policy.yaml"))
    robot.next_chunk()


def test_the_rate_can_be_changed_while_the_node_runs(start_policy, robot, long_chunks):
    start_policy(checkpoint=str(long_chunks), denoise_steps=1, inference__rate_hz=0.5)
    robot.next_chunk()
    # A chunk lasts for a second; the rate is slower, so each is asked for when the one before has run out.
    robot.chunks.clear()
    robot.spin(2.0)
    assert len(robot.chunks) <= 3
    assert robot.set_parameter("inference.rate_hz", 5.0).successful
    robot.chunks.clear()
    robot.spin(3.0)
    assert len(robot.chunks) >= 8


def test_an_age_limit_can_be_changed_while_the_node_runs(start_policy, robot):
    start_policy()
    robot.next_chunk()
    robot.stamp_lag["joint_states"] = 0.5
    robot.next_chunk()
    assert robot.set_parameter("joint_states.max_age_ms", 100.0).successful
    robot.wait_for_status("joint_states", lambda status: "the limit is 100 ms" in status.message)
    count = len(robot.chunks)
    robot.spin(1.0)
    assert len(robot.chunks) == count


def test_the_newest_of_topic_and_parameter_is_the_instruction(start_policy, robot):
    start_policy()
    robot.wait_until_matched()
    robot.say("from the topic")
    assert robot.spin_until(lambda: robot.chunks and robot.chunks[-1].instruction == "from the topic")
    assert robot.set_parameter("instruction.default", "from the parameter").successful
    assert robot.spin_until(lambda: robot.chunks[-1].instruction == "from the parameter")
