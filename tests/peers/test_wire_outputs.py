"""What the policy node publishes: types, QoS, content, and that it can be computed again."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess

import numpy as np
import pytest
import wire
from conftest import CAMERAS, CONTROL_RATE, INSTRUCTION, JOINTS, write_profile
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy


def rows(trajectory) -> np.ndarray:
    return np.array([point.positions for point in trajectory.points])


def test_every_topic_has_the_documented_type_and_qos(start_policy, robot):
    start_policy()
    robot.next_chunk()
    reliable, best_effort = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
    subscriptions = {f"/policy/camera/{slot}/image": ("sensor_msgs/msg/Image", best_effort) for slot in CAMERAS}
    subscriptions["/policy/joint_states"] = ("sensor_msgs/msg/JointState", best_effort)
    subscriptions["/policy/instruction"] = ("std_msgs/msg/String", reliable)
    publishers = {
        "/policy/joint_trajectory": ("trajectory_msgs/msg/JointTrajectory", reliable),
        "/policy/action_chunk": ("pi0_tt/msg/ActionChunk", reliable),
        "/diagnostics": ("diagnostic_msgs/msg/DiagnosticArray", reliable),
    }
    for topics, endpoints in [
        (subscriptions, robot.node.get_subscriptions_info_by_topic),
        (publishers, robot.node.get_publishers_info_by_topic),
    ]:
        for topic, (type_name, reliability) in topics.items():
            # Which node an endpoint belongs to is told after the endpoint itself.
            assert robot.spin_until(lambda: any(info.node_name == "policy" for info in endpoints(topic))), topic
            (endpoint,) = [info for info in endpoints(topic) if info.node_name == "policy"]
            assert endpoint.topic_type == type_name
            assert endpoint.qos_profile.reliability == reliability, topic
            assert endpoint.qos_profile.durability == DurabilityPolicy.VOLATILE, topic


def trajectory_of(chunk, trajectories):
    """The trajectory that began with the chunk's first row whose time had not passed."""
    start = wire.seconds(chunk.header.stamp) + chunk.delay_rows * chunk.period
    return next((t for t in trajectories if abs(wire.seconds(t.header.stamp) - start) < 0.5 * chunk.period), None)


def test_the_trajectory_is_the_rest_of_the_chunk_in_robot_units(start_policy, robot):
    start_policy()
    chunk = robot.next_chunk()
    assert robot.spin_until(lambda: trajectory_of(chunk, robot.trajectories))
    trajectory = trajectory_of(chunk, robot.trajectories)
    assert list(trajectory.joint_names) == list(chunk.joint_names) == JOINTS
    actions = np.array(chunk.actions).reshape(chunk.horizon, len(JOINTS))
    np.testing.assert_array_equal(rows(trajectory), actions[chunk.delay_rows :])
    assert np.isfinite(actions).all() and np.isfinite(chunk.model_actions).all()
    assert len(chunk.model_actions) == chunk.horizon * chunk.model_action_dim


def test_each_row_is_reached_a_control_period_after_the_one_before_and_the_first_after_one_period(start_policy, robot):
    start_policy()
    chunk = robot.next_chunk()
    assert robot.spin_until(lambda: trajectory_of(chunk, robot.trajectories))
    times = [wire.seconds(point.time_from_start) for point in trajectory_of(chunk, robot.trajectories).points]
    assert times[0] == pytest.approx(chunk.period)
    np.testing.assert_allclose(np.diff(times), chunk.period, atol=2e-9)
    assert chunk.period == pytest.approx(1 / CONTROL_RATE)


def test_joints_that_are_commanded_by_velocity_have_a_topic_of_their_own(start_policy, robot, tmp_path):
    moving = tuple(JOINTS[2:5])
    velocities = []
    robot.node.create_subscription(wire.JointTrajectory, "/policy/joint_velocity_trajectory", velocities.append, wire.RELIABLE)
    start_policy(robot=str(write_profile(tmp_path / "mixed.yaml", velocity=moving)))
    chunk = robot.next_chunk()
    assert robot.spin_until(lambda: trajectory_of(chunk, velocities) and trajectory_of(chunk, robot.trajectories))
    velocity, position = trajectory_of(chunk, velocities), trajectory_of(chunk, robot.trajectories)
    assert list(velocity.joint_names) == list(moving)
    assert list(position.joint_names) == [joint for joint in JOINTS if joint not in moving]
    actions = np.array(chunk.actions).reshape(chunk.horizon, len(JOINTS))[chunk.delay_rows :]
    np.testing.assert_array_equal([point.velocities for point in velocity.points], actions[:, 2:5])
    np.testing.assert_array_equal(rows(position), np.delete(actions, [2, 3, 4], axis=1))
    assert not any(len(point.positions) for point in velocity.points)


def test_a_chunk_tells_when_and_of_what_it_was_computed(start_policy, robot):
    start_policy(seed=7)
    robot.stamp_lag[CAMERAS[1]] = 0.5
    chunk = robot.next_chunk()
    received = robot.now()
    observed, start = wire.seconds(chunk.observation_stamp), wire.seconds(chunk.header.stamp)
    # The robot held its pose: the chunk begins when it is there.
    assert observed < start < received + chunk.period
    assert chunk.delay_rows == 0
    assert start - observed == pytest.approx(chunk.stage_times.total, abs=0.05)
    assert (chunk.chunking, chunk.guided_rows) == ("none", 0)
    assert chunk.input_skew == pytest.approx(0.5, abs=0.05)
    stages = chunk.stage_times
    assert stages.observation + stages.vision + stages.prefix + sum(stages.denoise_steps) <= stages.total
    assert (chunk.seed, chunk.backend, chunk.instruction) == (7, "reference", INSTRUCTION)
    ages = {age.name: age.age for age in chunk.input_ages}
    assert list(ages) == [*CAMERAS, "joint_states", "instruction"]
    assert 0.5 <= ages[CAMERAS[1]] < 1.0
    assert all(0.0 <= ages[name] < 0.5 for name in ages if name not in (CAMERAS[1], "instruction"))


def test_chunks_are_numbered_from_zero_without_gaps(start_policy, robot):
    robot.frozen = True
    start_policy()
    robot.wait_until_matched()
    robot.spin(0.5)
    robot.frozen = False
    assert robot.spin_until(lambda: len(robot.chunks) >= 5)
    assert [chunk.chunk_index for chunk in robot.chunks[:5]] == [0, 1, 2, 3, 4]


def first_chunks(start_policy, robot, count: int = 3, **parameters) -> list[np.ndarray]:
    """The first chunks of a fresh node that sees the same images, joints and instruction every time."""
    robot.frozen = True
    node = start_policy(**parameters)
    robot.wait_until_matched()
    robot.spin(0.5)
    robot.chunks.clear()
    robot.frozen = False
    assert robot.spin_until(lambda: len(robot.chunks) >= count), robot.health()
    assert robot.chunks[0].chunk_index == 0
    assert node.end()[0] == 0
    assert robot.spin_until(lambda: not robot.matched())
    return [np.array(chunk.actions) for chunk in robot.chunks[:count]]


def test_the_same_seed_gives_the_same_chunks_after_a_restart(start_policy, robot):
    first, again, other = (first_chunks(start_policy, robot, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1]), "The chunk counter does not change the noise"
    assert not np.array_equal(first[0], other[0]), "The seed does not change the noise"


def test_the_node_computes_what_the_command_line_computes(start_policy, robot, checkpoint, profile, tmp_path):
    robot.joint_state.position = list(np.random.default_rng(8).uniform(-1, 1, len(JOINTS)))
    expected = first_chunks(start_policy, robot, count=2, seed=11)
    command = [wire.BINARIES / "pi0_tt", "infer", "--json", "--checkpoint", checkpoint, "--robot", profile, "--seed", "11"]
    command += ["--instruction", INSTRUCTION]
    command += ["--joints=" + ",".join(f"{name}={value!r}" for name, value in zip(JOINTS, robot.joint_state.position))]
    for slot in CAMERAS:
        picture = np.frombuffer(robot.images[slot].data, dtype=np.uint8).reshape(wire.HEIGHT, wire.WIDTH, 3)
        (tmp_path / f"{slot}.png").write_bytes(wire.png(picture))
        command += ["--image", f"{slot}={tmp_path / slot}.png"]
    for index, (actions, chunk) in enumerate(zip(expected, robot.chunks)):
        result = json.loads(subprocess.run([*command, "--index", str(index)], check=True, capture_output=True).stdout)
        assert (result["seed"], result["index"]) == (11, index) == (chunk.seed, chunk.chunk_index)
        np.testing.assert_array_equal(np.ravel(result["actions"]), actions)
        np.testing.assert_array_equal(np.ravel(result["model_actions"]).astype(np.float32), np.array(chunk.model_actions))


def test_the_cards_graph_on_the_cpu_commands_what_the_reference_commands(start_policy, robot, tmp_path):
    checkpoint = tmp_path / "small"
    subprocess.run([wire.BINARIES / "pi0_tt", "synth", "--geometry", "small", checkpoint], check=True)
    (reference,) = first_chunks(start_policy, robot, count=1, checkpoint=str(checkpoint))
    graph = {"backend": "ttnn_host", "weight_cache": str(tmp_path / "cache")}
    (actions,) = first_chunks(start_policy, robot, count=1, checkpoint=str(checkpoint), **graph)
    assert robot.chunks[0].backend == "ttnn_host"
    assert np.linalg.norm(actions - reference) <= 2e-2 * np.linalg.norm(reference)


def test_a_new_instruction_changes_the_chunk(start_policy, robot):
    start_policy()
    robot.wait_until_matched()
    before = robot.next_chunk()
    robot.say("put the cube into the drawer")
    assert robot.spin_until(lambda: robot.chunks[-1].instruction == "put the cube into the drawer")
    after = robot.chunks[-1]
    assert before.instruction == INSTRUCTION
    assert not np.array_equal(before.actions, after.actions)
    ages = {age.name: age.age for age in after.input_ages}
    assert ages["instruction"] < 2.0


def test_an_instruction_that_is_cut_off_is_told_once(start_policy, robot):
    start_policy()
    robot.wait_until_matched()
    robot.say("transfer the cube " * 20)
    assert robot.spin_until(lambda: robot.chunks and robot.chunks[-1].instruction.startswith("transfer the cube transfer"))
    dropped = robot.chunks[-1].dropped_prompt_tokens
    assert dropped > 0
    robot.spin(1.5)
    assert len(robot.logged(f"is too long for the model: {dropped} tokens were cut off")) == 1
    assert wire.values_of(robot.status("inference"))["dropped_prompt_tokens"] == str(dropped)


def test_images_and_joints_change_the_chunk(start_policy, make_robot):
    robot = make_robot()
    reference = first_chunks(start_policy, robot, count=1)[0]
    pixels = np.random.default_rng(99).integers(0, 256, (wire.HEIGHT, wire.WIDTH, 3), dtype=np.uint8)
    seen, robot.images[CAMERAS[2]] = robot.images[CAMERAS[2]], wire.image(pixels)
    assert not np.array_equal(first_chunks(start_policy, robot, count=1)[0], reference)
    robot.images[CAMERAS[2]] = seen
    robot.joint_state.position[1] += 0.3
    assert not np.array_equal(first_chunks(start_policy, robot, count=1)[0], reference)


def test_weights_whose_chunks_are_not_finite_are_refused_before_anything_is_commanded(start_policy, robot, checkpoint, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    weights = bytearray((broken / "model.safetensors").read_bytes())
    (length,) = struct.unpack("<Q", weights[:8])
    begin, _ = json.loads(weights[8 : 8 + length])["model.action_out_proj.bias"]["data_offsets"]
    # Joint 3 of every row; with a single denoise step it reaches no other.
    offset = 8 + length + begin + 3 * 4
    weights[offset : offset + 4] = np.float32("nan").tobytes()
    (broken / "model.safetensors").write_bytes(weights)
    node = start_policy(checkpoint=str(broken), denoise_steps=1)
    assert robot.spin_until(lambda: not node.alive())
    assert node.wait(wire.PATIENCE) == 1
    assert JOINTS[3] in node.output()
    assert not robot.trajectories and not robot.chunks
