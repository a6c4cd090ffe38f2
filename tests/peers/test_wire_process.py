"""The policy node as a process: how it starts, ends, is renamed, and lives in simulated time."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest
import wire
from conftest import CAMERAS, JOINTS
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock


def segments_of(pid: int) -> set[str]:
    """Names of the shared memory segments that a process has mapped: its own and those of its peers."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return set()
    return set(re.findall(r"/dev/shm/(fastdds_[0-9a-f]{16})$", maps, re.MULTILINE))


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_cleanly_within_two_seconds(start_policy, robot, signal_number):
    node = start_policy()
    robot.next_chunk()
    own = segments_of(node.pid)
    assert own
    code, seconds = node.end(signal_number)
    assert code == 0
    assert seconds < 2.0
    others = set().union(*(segments_of(int(process.name)) for process in Path("/proc").glob("[0-9]*")))
    assert not {name for name in own - others if Path("/dev/shm", name).exists()}, "The node left shared memory behind"


def test_a_signal_does_not_wait_for_an_inference_that_runs_for_seconds(start_policy, robot, tmp_path):
    checkpoint = tmp_path / "small"
    subprocess.run([wire.BINARIES / "pi0_tt", "synth", "--geometry", "small", checkpoint], check=True)
    node = start_policy(checkpoint=str(checkpoint), denoise_steps=150, threads=1)
    status = robot.wait_for_status("inference", lambda status: "The first inference runs" in status.message)
    assert wire.values_of(status)["chunks"] == "0"
    code, seconds = node.end(signal.SIGTERM)
    assert code == 0
    assert seconds < 2.0
    assert not robot.chunks


def test_the_control_thread_goes_first_and_the_threads_that_compute_last(start_policy, robot):
    node = start_policy(threads=2)
    robot.next_chunk()
    niceness, real_time = {}, {}
    for thread in Path(f"/proc/{node.pid}/task").iterdir():
        name, _, fields = (thread / "stat").read_text().partition("(")[2].rpartition(")")
        # Fields 19, 40 and 41 of proc(5), which counts from 1 and two fields before these.
        niceness[name], *real_time[name] = (int(fields.split()[field - 3]) for field in (19, 40, 41))
    computing = {name for name in niceness if name == "inference" or name.startswith("reference-")}
    assert computing >= {"inference", "reference-0", "reference-1"}
    own = niceness["policy_node"]
    assert niceness == {name: own + 10 if name in computing else own for name in niceness}
    # SCHED_FIFO where the user may have it.
    first = [name for name, values in real_time.items() if values == [40, 1]]
    assert first == ["control"] or (not first and robot.logged("The control thread has no real-time priority"))


def test_a_signal_while_the_policy_is_opened_ends_the_node_cleanly(start_policy):
    for _ in range(3):
        node = start_policy()
        code, seconds = node.end(signal.SIGTERM)
        # Before the handler is installed the signal's default action ends the process.
        assert code in (0, -signal.SIGTERM)
        assert seconds < 2.0


def test_the_node_says_at_start_what_it_runs(start_policy, robot, checkpoint):
    start_policy()
    (summary,) = robot.logged("Ready after")
    for part in [str(checkpoint), "reference: CPU", "wire_test", ", ".join(JOINTS), "/policy/joint_states", "a chunk 10 times a second, to the robot"]:
        assert part in summary
    assert robot.logged("The weights are SYNTHETIC")
    assert robot.logged("No joint has a limit")


def test_a_checkpoint_that_cannot_be_opened_is_named_and_the_exit_code_tells(start_policy, robot, tmp_path):
    node = start_policy(checkpoint=str(tmp_path / "nowhere"))
    assert robot.spin_until(lambda: not node.alive())
    assert node.wait(0) == 1
    assert str(tmp_path / "nowhere") in node.output()
    assert robot.logged(str(tmp_path / "nowhere"))


def test_an_argument_that_is_not_for_ros_is_refused(domain, tmp_path):
    node = wire.PolicyNode(domain, tmp_path, {}, ("--", "--checkpoint=somewhere", "--ros-args"))
    assert node.wait(wire.PATIENCE) == 2
    assert "Unknown argument --checkpoint=somewhere" in node.output()


def test_two_nodes_in_two_namespaces_do_not_hear_each_other(start_policy, make_robot):
    left, right = make_robot(policy="/left/policy"), make_robot(policy="/right/policy")
    start_policy("-r", "__ns:=/left", seed=1)
    start_policy("-r", "__ns:=/right", seed=2)
    assert {left.next_chunk().seed, right.next_chunk().seed} == {1, 2}
    right.frozen = True
    right.wait_for_status("inference", lambda status: "Waiting for inputs" in status.message)
    count = len(right.chunks)
    left.next_chunk()
    right.spin(0.5)
    assert len(right.chunks) == count
    assert all(chunk.seed == 1 for chunk in left.chunks)


def test_the_node_and_its_topics_can_be_renamed(start_policy, make_robot):
    robot = make_robot(policy="/arm/pi0")
    chunks = []
    robot.node.create_subscription(wire.JointTrajectory, "/arm/controller/joint_trajectory", chunks.append, wire.RELIABLE)
    camera = robot.node.create_publisher(wire.Image, "/front/image_raw", wire.qos_profile_sensor_data)
    robot.plugged.remove(CAMERAS[0])
    front = wire.image(_grey())

    def publish() -> None:
        front.header.stamp = wire.stamp(robot.now())
        camera.publish(front)

    robot.node.create_timer(1 / 30, publish)
    start_policy(
        *("-r", "__ns:=/arm", "-r", "__node:=pi0"),
        *("-r", "~/joint_trajectory:=/arm/controller/joint_trajectory"),
        *("-r", f"~/camera/{CAMERAS[0]}/image:=/front/image_raw"),
    )
    robot.next_chunk()
    assert robot.spin_until(lambda: chunks)
    assert list(chunks[0].joint_names) == JOINTS
    assert not robot.trajectories
    status = robot.wait_for_status(CAMERAS[0], lambda status: True)
    assert wire.values_of(status)["topic"] == "/front/image_raw"


def test_in_simulated_time_inference_follows_the_clock(start_policy, robot):
    clock = robot.node.create_publisher(Clock, "/clock", QoSProfile(depth=10))
    robot.frozen = True
    time = 1000.0

    def advance(seconds: float, publish_inputs: bool = True) -> None:
        """Plays `seconds` of simulation in steps of 20 ms, three times faster than real time."""
        nonlocal time
        for _ in range(round(seconds / 0.02)):
            time += 0.02
            clock.publish(Clock(clock=wire.stamp(time)))
            if publish_inputs:
                robot.stamp_lag.clear()
                for name in [*CAMERAS, "joint_states"]:
                    robot.stamp_lag[name] = robot.now() - time
                robot.frozen = False
                robot.publish()
                robot.frozen = True
            robot.spin(0.02 / 3)

    start_policy(use_sim_time=True, **{"inference__rate_hz": 5.0})
    robot.wait_until_matched()
    assert robot.spin_until(lambda: clock.get_subscription_count() > 0)
    robot.wait_for_status("inference", lambda status: "nothing was received on /clock" in status.message)
    assert not robot.chunks, "Inference ran although simulated time stands still"
    advance(3.0)
    assert robot.spin_until(lambda: robot.chunks)
    assert 1000.0 <= wire.seconds(robot.chunks[-1].header.stamp) <= 1003.1
    assert 5 <= len(robot.chunks) <= 16
    # A bag that starts over: samples of the old time are in the future now, and then inference resumes.
    time = 500.0
    robot.spin(0.5)
    count = len(robot.chunks)
    advance(0.5, publish_inputs=False)
    robot.spin(0.5)
    assert len(robot.chunks) == count
    advance(3.0)
    assert robot.spin_until(lambda: len(robot.chunks) > count)
    assert 500.0 <= wire.seconds(robot.chunks[-1].header.stamp) <= 503.6


def test_inputs_and_inference_are_counted_in_the_diagnostics(start_policy, robot):
    start_policy()
    robot.next_chunk()
    robot.spin(3.0)
    for name in [*CAMERAS, "joint_states"]:
        values = wire.values_of(robot.status(name))
        assert float(values["frequency_hz"]) == pytest.approx(30.0, rel=0.3)
        assert 0 < int(values["received"]) <= robot.sent[name]
        assert float(values["age_ms"]) < 500.0
        assert float(values["callback_us_median"]) <= float(values["callback_us_p99"])
        assert int(values["refused"]) == 0
    values = wire.values_of(robot.status("inference"))
    assert 0 < int(values["chunks"]) <= len(robot.chunks) + 2
    assert values["device"]
    arrays = [array for array in robot.diagnostics if any(status.name.startswith("policy: ") for status in array.status)]
    gaps = [wire.seconds(b.header.stamp) - wire.seconds(a.header.stamp) for a, b in zip(arrays, arrays[1:])]
    assert gaps and all(0.5 < gap < 1.5 for gap in gaps)


def _grey():
    import numpy as np

    return np.full((wire.HEIGHT, wire.WIDTH, 3), 128, dtype=np.uint8)
