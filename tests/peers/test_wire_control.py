"""From chunks to commands: rate, joints' limits, stop and reset, dry run, drift, units, instruction changes, chunking, clock jumps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import wire
from conftest import CAMERAS, CONTROL_RATE, JOINTS, write_profile
from diagnostic_msgs.msg import DiagnosticStatus
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

PERIOD = 1 / CONTROL_RATE


def call(robot: wire.Robot, service: str) -> Trigger.Response:
    return robot.call(Trigger, service, Trigger.Request())


def listen(robot: wire.Robot, topic: str, kind: type) -> list:
    heard: list = []
    robot.node.create_subscription(kind, topic, heard.append, wire.RELIABLE)
    return heard


def positions(trajectory) -> np.ndarray:
    return np.array([point.positions for point in trajectory.points])


class Follower:
    """The robot's joints go where the streamed commands tell them."""

    def __init__(self, robot: wire.Robot) -> None:
        self.commands: list[np.ndarray] = []
        # When the policy handed each command to the middleware, in s.
        self.sent: list[float] = []
        self._robot = robot
        robot.node.create_subscription(Float64MultiArray, "/policy/position_commands", self._hear, wire.RELIABLE)

    def _hear(self, message: Float64MultiArray, info: dict) -> None:
        self.commands.append(np.array(message.data))
        self.sent.append(info["source_timestamp"] * 1e-9)
        self._follow(message)

    def _follow(self, message: Float64MultiArray) -> None:
        self._robot.joint_state.position = list(message.data)


def test_commands_are_streamed_at_the_control_rate_while_chunks_are_computed(start_policy, robot):
    follower = Follower(robot)
    start_policy(forward_commands=True, inference__trigger="drain")
    robot.next_chunk()
    robot.spin(1.0)
    start = len(follower.sent)
    chunks = len(robot.chunks)
    robot.spin(4.0)
    sent = follower.sent[start:]
    steps = round((sent[-1] - sent[0]) / PERIOD) + 1
    assert steps >= 3.8 * CONTROL_RATE
    # A busy machine may take a step or two away; benches/control_jitter.py measures how late they are.
    assert steps - len(sent) <= 2
    assert len(robot.chunks) >= chunks + 4


def test_the_streamed_rows_are_the_rows_of_the_trajectories(start_policy, robot):
    follower = Follower(robot)
    start_policy(forward_commands=True)
    robot.next_chunk()
    assert robot.spin_until(lambda: len(follower.commands) >= 20)
    planned = np.concatenate([positions(trajectory) for trajectory in robot.trajectories])
    for command in follower.commands[:20]:
        assert (planned == command).all(axis=1).any()


def test_stop_holds_the_pose_once_and_nothing_moves_until_reset(start_policy, robot):
    follower = Follower(robot)
    start_policy(forward_commands=True)
    robot.next_chunk()
    robot.spin(1.0)
    answer = call(robot, "stop")
    assert answer.success, answer.message
    robot.spin(0.3)
    commands, trajectories, chunks = len(follower.commands), len(robot.trajectories), len(robot.chunks)
    np.testing.assert_array_equal(positions(robot.trajectories[-1])[-1], follower.commands[-1])
    # The last command is the one before it: the pose is held where the robot was told to be.
    np.testing.assert_array_equal(follower.commands[-1], follower.commands[-2])
    robot.spin(1.5)
    assert (len(follower.commands), len(robot.trajectories)) == (commands, trajectories)
    assert len(robot.chunks) == chunks
    status = robot.wait_for_status("control", lambda status: status.level == DiagnosticStatus.ERROR)
    assert "reset" in status.message
    assert call(robot, "stop").success, "A second stop is a stop as well"
    assert call(robot, "reset").success
    robot.next_chunk()
    assert robot.spin_until(lambda: len(follower.commands) > commands)


def test_a_dry_run_publishes_its_commands_to_the_preview_only(start_policy, robot):
    previews, streamed = listen(robot, "/policy/preview", wire.JointTrajectory), listen(robot, "/policy/position_commands", Float64MultiArray)
    # The robot does not follow, which a dry run does not mind.
    start_policy(dry_run=True, forward_commands=True, max_drift=0.01)
    chunk = robot.next_chunk()
    assert robot.spin_until(lambda: len(previews) >= 3)
    assert not robot.trajectories and not streamed
    assert not robot.node.get_publishers_info_by_topic("/policy/joint_trajectory")
    np.testing.assert_array_equal(positions(previews[0]), np.array(chunk.actions).reshape(chunk.horizon, -1)[chunk.delay_rows :])


LIMITS = {"min_position": -0.6, "max_position": 2.0, "max_step": 0.02, "max_velocity": 0.8, "max_acceleration": 6.0}


def test_no_command_breaks_a_limit_at_the_start_between_chunks_and_at_the_stop(start_policy, robot):
    follower = Follower(robot)
    limits = {f"joint_limits.{joint}.{name}": value for joint in JOINTS for name, value in LIMITS.items()}
    start_policy(forward_commands=True, inference__trigger="drain", **limits)
    start = np.array(robot.joint_state.position)
    robot.next_chunk()
    robot.spin(4.0)
    assert call(robot, "stop").success
    robot.spin(0.5)
    path = np.vstack([start, start, *follower.commands])
    # A subscriber that misses a row would see two steps as one.
    velocity = np.diff(path, axis=0) / PERIOD
    assert path.min() >= LIMITS["min_position"] - 1e-9 and path.max() <= LIMITS["max_position"] + 1e-9
    assert np.abs(velocity * PERIOD).max() <= LIMITS["max_step"] + 1e-9
    assert np.abs(velocity).max() <= LIMITS["max_velocity"] + 1e-9
    assert np.abs(np.diff(velocity, axis=0)).max() / PERIOD <= LIMITS["max_acceleration"] + 1e-6
    np.testing.assert_allclose(velocity[-1], 0.0, atol=1e-9)
    values = wire.values_of(robot.wait_for_status("limits", lambda status: True))
    assert sum(int(values[f"{kind}_cut"]) for kind in ("position", "step", "velocity", "acceleration")) > 0
    assert robot.logged("A limit changed a command")


def test_limits_of_the_urdf_hold_where_parameters_say_nothing(start_policy, robot, tmp_path):
    limit = '<limit lower="-1" upper="1" velocity="{velocity}" effort="1"/>'
    joints = "".join(
        f'<link name="link{index + 1}"/><joint name="{joint}" type="revolute"><parent link="link0"/><child link="link{index + 1}"/>'
        f'<axis xyz="0 0 1"/>{limit.format(velocity=0.5)}</joint>'
        for index, joint in enumerate(JOINTS)
    )
    urdf = tmp_path / "robot.urdf"
    urdf.write_text(f'<robot name="test"><link name="link0"/>{joints}</robot>')
    robot.joint_state.position = [0.0] * len(JOINTS)
    follower = Follower(robot)
    start_policy(forward_commands=True, urdf=str(urdf), **{f"joint_limits.{JOINTS[0]}.max_velocity": 0.25})
    robot.next_chunk()
    robot.spin(3.0)
    velocity = np.abs(np.diff(np.vstack([np.zeros(len(JOINTS)), *follower.commands]), axis=0)) / PERIOD
    assert velocity[:, 0].max() <= 0.25 + 1e-9
    assert 0.25 < velocity[:, 1:].max() <= 0.5 + 1e-9
    assert np.abs(follower.commands).max() <= 1 + 1e-9


def test_a_urdf_that_cannot_be_read_ends_the_node_with_its_name(start_policy, tmp_path):
    (tmp_path / "broken.urdf").write_text("<robot name='x'><link")
    node = start_policy(urdf=str(tmp_path / "broken.urdf"))
    assert node.wait(wire.PATIENCE) == 1
    assert "broken.urdf" in node.output()


def test_a_robot_that_does_not_go_where_it_is_told_is_stopped_until_reset(start_policy, robot):
    start_policy(forward_commands=True, max_drift=0.05, inference__trigger="drain")
    robot.next_chunk()
    status = robot.wait_for_status("control", lambda status: status.level == DiagnosticStatus.ERROR)
    assert any(joint in status.message for joint in JOINTS), status.message
    robot.spin(0.5)
    trajectories = len(robot.trajectories)
    robot.spin(1.5)
    assert len(robot.trajectories) == trajectories
    assert robot.logged("Nothing is commanded until ~/reset")
    chunks = len(robot.chunks)
    assert call(robot, "reset").success
    assert robot.spin_until(lambda: len(robot.chunks) > chunks)


def test_joint_states_in_degrees_stop_everything_at_the_first_frame(start_policy, robot):
    robot.joint_state.position = [math.degrees(0.1 * index) for index in range(len(JOINTS))]
    start_policy(**{f"joint_limits.{joint}.{end}_position": value for joint in JOINTS for end, value in (("min", -3.14), ("max", 3.14))})
    status = robot.wait_for_status("control", lambda status: status.level == DiagnosticStatus.ERROR)
    assert "degrees" in status.message
    robot.spin(1.0)
    assert not robot.trajectories
    answer = call(robot, "reset")
    assert not answer.success and "degrees" in answer.message
    robot.joint_state.position = [0.1] * len(JOINTS)
    robot.spin(0.5)
    assert call(robot, "reset").success
    robot.next_chunk()


def test_a_lost_camera_holds_the_pose_once_and_commands_resume_with_it(start_policy, robot):
    follower = Follower(robot)
    start_policy(forward_commands=True, **{f"cameras.{CAMERAS[1]}.max_age_ms": 200.0})
    robot.next_chunk()
    robot.spin(1.0)
    robot.plugged.remove(CAMERAS[1])
    robot.wait_for_status(CAMERAS[1], lambda status: status.level == DiagnosticStatus.STALE)
    commands = len(follower.commands)
    robot.spin(1.5)
    assert len(follower.commands) == commands
    np.testing.assert_array_equal(positions(robot.trajectories[-1])[-1], follower.commands[-1])
    robot.plugged.add(CAMERAS[1])
    assert robot.spin_until(lambda: len(follower.commands) > commands + CONTROL_RATE)


def test_rtc_guides_a_chunk_towards_the_rest_of_the_one_before(start_policy, robot):
    follower = Follower(robot)
    start_policy(forward_commands=True, inference__trigger="drain", chunking__mode="rtc")
    robot.next_chunk()
    assert robot.spin_until(lambda: len(robot.chunks) >= 8)
    first, *others = robot.chunks[:8]
    # There is nothing yet to guide it.
    assert (first.chunking, first.guided_rows, first.delay_rows) == ("none", 0, 0)
    assert all(chunk.chunking == "rtc" and chunk.guided_rows > 0 for chunk in others[1:])
    assert follower.commands


@pytest.mark.parametrize(("on_change", "holds"), [("flush", True), ("finish", False)])
def test_a_new_instruction_stops_the_chunk_at_once_or_waits_for_the_next(start_policy, robot, long_chunks, on_change, holds):
    follower = Follower(robot)
    # One denoise step: an inference takes a small part of a chunk even on a busy machine.
    start_policy(
        checkpoint=str(long_chunks),
        denoise_steps=1,
        forward_commands=True,
        inference__trigger="drain",
        instruction__on_change=on_change,
        chunking__mode="rtc",
    )
    robot.wait_until_matched()
    assert robot.spin_until(lambda: len(robot.chunks) >= 3)
    said = robot.now()
    robot.say("put the cube back")
    assert robot.spin_until(lambda: robot.chunks[-1].instruction == "put the cube back")
    first = robot.chunks[-1]
    robot.spin(0.2)
    # The pose is held until there is a chunk for the new instruction, which begins there; or the old chunk goes on until then.
    held = [trajectory for trajectory in robot.trajectories if len(trajectory.points) == 1 and wire.seconds(trajectory.header.stamp) > said]
    assert bool(held) == holds
    assert (first.delay_rows == 0 and first.guided_rows == 0) == holds
    assert follower.commands


@pytest.mark.parametrize("jump", [-10.0, 10.0])
def test_a_clock_that_jumps_drops_the_chunk_and_the_policy_goes_on_with_new_samples(start_policy, robot, jump):
    clock = robot.node.create_publisher(Clock, "/clock", 10)
    robot.frozen = True
    time = 1000.0

    def play(seconds: float) -> None:
        nonlocal time
        for _ in range(round(seconds / PERIOD)):
            time += PERIOD
            clock.publish(Clock(clock=wire.stamp(time)))
            for name in [*CAMERAS, "joint_states"]:
                robot.stamp_lag[name] = robot.now() - time
            robot.frozen = False
            robot.publish()
            robot.frozen = True
            robot.spin(PERIOD)

    start_policy(use_sim_time=True, inference__trigger="drain")
    robot.wait_until_matched()
    assert robot.spin_until(lambda: clock.get_subscription_count() > 0)
    play(2.0)
    assert robot.spin_until(lambda: robot.chunks)
    chunks = len(robot.chunks)
    trajectories = len(robot.trajectories)
    time += jump
    before = time
    # Time goes on, and no input does.
    for _ in range(25):
        time += PERIOD
        clock.publish(Clock(clock=wire.stamp(time)))
        robot.spin(PERIOD)
    # The robot is held where it was told to be last; no row of the chunk is commanded in the new time.
    told = [trajectory for trajectory in robot.trajectories[trajectories:] if wire.seconds(trajectory.header.stamp) > before - 0.5]
    assert all(len(trajectory.points) == 1 for trajectory in told)
    assert len(told) <= 1
    assert robot.logged("The chunk is dropped")
    play(2.0)
    assert len(robot.chunks) > chunks
    start = wire.seconds(robot.trajectories[-1].header.stamp)
    assert time - 3.0 < start <= time + PERIOD


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("chunking.mode", "average", 'Parameter chunking.mode: "average" is not one of rtc, crossfade, none'),
        ("chunking.crossfade_ms", 20.0, "Parameter chunking.crossfade_ms is out of range: 50 to 150"),
        ("chunking.rtc.schedule", "cosine", 'Parameter chunking.rtc.schedule: "cosine" is not one of linear, exp, ones, zeros'),
        ("chunking.rtc.max_guidance_weight", -1.0, "Parameter chunking.rtc.max_guidance_weight is out of range"),
        ("inference.trigger", "always", 'Parameter inference.trigger: "always" is not one of drain, rate'),
        ("inference.deadline_s", 0.0, "Parameter inference.deadline_s is out of range: 0.05 to 600"),
        ("inference.execution_horizon", 1001, "Parameter inference.execution_horizon is out of range: 0 to 1000"),
        ("instruction.on_change", "ignore", 'Parameter instruction.on_change: "ignore" is not one of flush, finish'),
        ("stall.action", "freeze", 'Parameter stall.action: "freeze" is not one of hold, zero_velocity, none'),
        ("max_drift", -0.1, "Parameter max_drift is out of range: 0 to 100"),
        (f"joint_limits.{JOINTS[2]}.max_velocity", 0.0, f"The velocity limit of joint {JOINTS[2]} must be above 0"),
        (f"joint_limits.{JOINTS[2]}.max_step", -1.0, f"Parameter joint_limits.{JOINTS[2]}.max_step is out of range"),
        (f"joint_limits.{JOINTS[2]}.min_position", 1e9, f"Parameter joint_limits.{JOINTS[2]}.min_position is out of range"),
        ("urdf", "/nowhere/robot.urdf", "/nowhere/robot.urdf"),
    ],
)
def test_a_bad_control_parameter_ends_the_node_with_its_name(start_policy, name, value, complaint):
    node = start_policy(**{name: value})
    assert node.wait(wire.PATIENCE) == 1
    assert complaint in node.output()


@pytest.mark.parametrize("missing", ["joint_states", CAMERAS[2]])
def test_an_input_that_never_comes_is_named_in_the_log_and_the_diagnostics(start_policy, robot, missing):
    robot.plugged.remove(missing)
    start_policy()
    assert robot.logged(f"Input {missing}: nothing was received yet")
    status = robot.wait_for_status("inference", lambda status: missing in status.message)
    assert status.level == DiagnosticStatus.WARN
    assert not robot.trajectories
    robot.plugged.add(missing)
    robot.next_chunk()


def test_velocity_joints_get_zero_at_the_stop_and_position_joints_their_pose(start_policy, robot, tmp_path):
    velocities = listen(robot, "/policy/joint_velocity_trajectory", wire.JointTrajectory)
    start_policy(robot=str(write_profile(tmp_path / "mixed.yaml", velocity=tuple(JOINTS[:3]))))
    robot.next_chunk()
    assert robot.spin_until(lambda: velocities and robot.trajectories)
    assert call(robot, "stop").success
    robot.spin(0.3)
    np.testing.assert_array_equal([*velocities[-1].points[-1].velocities], [0.0] * 3)
    assert len(robot.trajectories[-1].points[-1].positions) == len(JOINTS) - 3
