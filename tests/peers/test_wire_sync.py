"""Which samples make an observation: lost cameras, stamps, skew, joints between samples, storms and clocks that jump."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable

import numpy as np
import pytest
import wire
from conftest import CAMERAS, INSTRUCTION, JOINTS
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock

INFERENCE_PERIOD = 0.1
MAX_AGE = 0.3
AGE_LIMITS = {f"cameras__{slot}__max_age_ms": MAX_AGE * 1e3 for slot in CAMERAS}


def ages_of(chunk) -> dict[str, float]:
    return {age.name: age.age for age in chunk.input_ages}


def observed(chunk) -> float:
    return wire.seconds(chunk.observation_stamp)


def first_observed_after(robot: wire.Robot, time: float):
    """The first chunk whose observation was taken after `time`."""

    def found():
        return next((chunk for chunk in robot.chunks if observed(chunk) > time), None)

    assert robot.spin_until(found), robot.health()
    return found()


def chunk_with_history(robot: wire.Robot):
    """A chunk of a node that has received joint states for a second."""
    return first_observed_after(robot, observed(robot.next_chunk()) + 1.0)


def first_status_after(robot: wire.Robot, task: str, level: bytes, time: float) -> float:
    """When the first status of a task with this level was made after `time`."""
    name = f"policy: {task}"

    def found():
        for array in robot.diagnostics:
            if wire.seconds(array.header.stamp) > time and any(s.name == name and s.level == level for s in array.status):
                return wire.seconds(array.header.stamp)
        return None

    assert robot.spin_until(found), f"{task}: {robot.status(task)}"
    return found()


@pytest.mark.parametrize("lost", [CAMERAS[:1], CAMERAS[1:], CAMERAS], ids=["one", "two", "all"])
def test_lost_cameras_stop_inference_within_their_age_limit_and_their_return_resumes_it_within_two_periods(start_policy, robot, lost):
    start_policy(**AGE_LIMITS)
    robot.next_chunk()
    for _ in range(2):
        robot.plugged -= set(lost)
        unplugged = robot.now()
        stale = [first_status_after(robot, slot, DiagnosticStatus.STALE, unplugged) for slot in lost]
        assert max(stale) - unplugged < 1.5
        robot.spin(0.5)
        assert max(observed(chunk) for chunk in robot.chunks) <= unplugged + MAX_AGE + INFERENCE_PERIOD
        for slot in set(CAMERAS) - set(lost):
            assert robot.status(slot).level == DiagnosticStatus.OK
        robot.plugged |= set(lost)
        plugged = robot.now()
        resumed = first_observed_after(robot, plugged)
        # The first image comes up to a thirtieth of a second after the camera was plugged in.
        assert observed(resumed) - plugged < 1 / 30 + 2 * INFERENCE_PERIOD
        assert max(ages_of(resumed)[slot] for slot in CAMERAS) <= MAX_AGE
        robot.wait_for_status(lost[0], lambda status: status.level == DiagnosticStatus.OK)


def test_images_without_a_stamp_are_counted_and_do_not_replace_the_one_before(start_policy, robot):
    start_policy()
    robot.next_chunk()
    unstamped = wire.image(np.zeros((wire.HEIGHT, wire.WIDTH, 3), dtype=np.uint8))
    timer = robot.node.create_timer(1 / 30, lambda: robot.publisher(CAMERAS[0]).publish(unstamped))
    status = robot.wait_for_status(CAMERAS[0], lambda status: int(wire.values_of(status)["unstamped"]) >= 30)
    assert status.level == DiagnosticStatus.OK
    assert 0.0 <= ages_of(first_observed_after(robot, robot.now()))[CAMERAS[0]] < 0.5
    robot.plugged.remove(CAMERAS[0])
    robot.wait_for_status(CAMERAS[0], lambda status: status.level == DiagnosticStatus.ERROR and "has no stamp" in status.message)
    robot.node.destroy_timer(timer)


def test_when_the_arrival_counts_no_stamp_is_needed(start_policy, robot):
    for name in (CAMERAS[0], "joint_states"):
        robot.stamp_lag[name] = robot.now() - 1.0
    start_policy(sync__stamps="receive")
    ages = ages_of(robot.next_chunk())
    assert all(0.0 <= ages[name] < 0.5 for name in [*CAMERAS, "joint_states"])
    assert wire.values_of(robot.wait_for_status(CAMERAS[0], lambda status: "age_ms" in wire.values_of(status)))["unstamped"] == "0"


def test_a_stamp_offset_moves_age_skew_and_joints(start_policy, robot):
    start_policy(**{f"cameras__{CAMERAS[0]}__stamp_offset_ms": -400.0})
    chunk = chunk_with_history(robot)
    ages = ages_of(chunk)
    # All cameras are stamped together.
    assert ages[CAMERAS[0]] - ages[CAMERAS[1]] == pytest.approx(0.4, abs=0.15)
    assert chunk.input_skew == pytest.approx(max(ages[slot] for slot in CAMERAS) - min(ages[slot] for slot in CAMERAS), abs=1e-6)
    assert ages["joint_states"] == pytest.approx((max(ages[slot] for slot in CAMERAS) + min(ages[slot] for slot in CAMERAS)) / 2, abs=1e-6)
    assert robot.set_parameter(f"cameras.{CAMERAS[0]}.stamp_offset_ms", 0.0).successful
    chunk = first_observed_after(robot, robot.now())
    assert ages_of(chunk)[CAMERAS[0]] < 0.2 and chunk.input_skew < 0.2


def test_cameras_that_are_out_of_step_are_refused_by_name_until_the_limit_allows_them(start_policy, robot):
    robot.stamp_lag[CAMERAS[1]] = 0.4
    start_policy(sync__max_skew_ms=250.0)
    status = robot.wait_for_status("inference", lambda status: "the limit is 250 ms" in status.message)
    assert f"{CAMERAS[1]}: its image was taken" in status.message
    assert f"ms before that of {CAMERAS[0]}" in status.message or f"ms before that of {CAMERAS[2]}" in status.message
    robot.wait_for_status(CAMERAS[1], lambda status: status.level == DiagnosticStatus.ERROR and "stamp_offset_ms" in status.message)
    assert robot.status(CAMERAS[0]).level == DiagnosticStatus.OK
    assert not robot.chunks
    assert robot.set_parameter("sync.max_skew_ms", 600.0).successful
    assert robot.next_chunk().input_skew == pytest.approx(0.4, abs=0.15)
    robot.wait_for_status(CAMERAS[1], lambda status: status.level == DiagnosticStatus.OK)


def test_the_policy_sees_the_joints_of_the_time_of_the_images(start_policy, robot, checkpoint, profile, tmp_path):
    """The joints move evenly, so their positions tell of which time they are."""
    start = robot.now()
    speeds = np.linspace(0.3, 1.0, len(JOINTS))

    def positions(time: float) -> np.ndarray:
        return speeds * np.sin(time - start)

    publish = robot.publish

    def move() -> None:
        robot.joint_state.position = list(positions(robot.now()))
        publish()

    robot.node.destroy_timer(robot._timer)
    robot.node.create_timer(1 / 30, move)
    for slot in CAMERAS:
        robot.stamp_lag[slot] = 0.4
    start_policy(seed=5)
    chunk = chunk_with_history(robot)
    joints_time = observed(chunk) - ages_of(chunk)["joint_states"]
    assert joints_time == pytest.approx(observed(chunk) - ages_of(chunk)[CAMERAS[0]], abs=0.2)

    def computed(joints: Iterable[float]) -> np.ndarray:
        command = [wire.BINARIES / "pi0_tt", "infer", "--json", "--checkpoint", checkpoint, "--robot", profile, "--seed", "5"]
        command += ["--index", str(chunk.chunk_index), "--instruction", INSTRUCTION]
        command += ["--joints=" + ",".join(f"{name}={value!r}" for name, value in zip(JOINTS, map(float, joints)))]
        for slot in CAMERAS:
            picture = np.frombuffer(robot.images[slot].data, dtype=np.uint8).reshape(wire.HEIGHT, wire.WIDTH, 3)
            (tmp_path / f"{slot}.png").write_bytes(wire.png(picture))
            command += ["--image", f"{slot}={tmp_path / slot}.png"]
        return np.ravel(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["model_actions"])

    actions = np.array(chunk.model_actions)
    error = np.abs(computed(positions(joints_time)) - actions).max()
    newest = np.abs(computed(positions(observed(chunk))) - actions).max()
    assert error < 0.1 * newest, (error, newest)


def test_a_storm_of_joint_states_at_1_khz_costs_neither_memory_nor_chunks(start_policy, robot):
    node = start_policy()
    robot.next_chunk()

    def received() -> int:
        return int(wire.values_of(robot.status("joint_states"))["received"])

    def storm(seconds: float) -> float:
        """Chunks a second during the storm."""
        begin = robot.now()
        robot.spin(seconds)
        end = robot.now()
        robot.spin(0.5)
        return sum(begin < observed(chunk) <= end for chunk in robot.chunks) / (end - begin)

    calm = storm(3.0)

    def publish() -> None:
        for _ in range(10):
            robot.joint_state.header.stamp = wire.stamp(robot.now())
            robot.publisher("joint_states").publish(robot.joint_state)

    timer = robot.node.create_timer(0.01, publish)
    # Until the history is full.
    storm(4.0)
    memory, count = wire.resident_megabytes(node.pid), received()
    rate = storm(10.0)
    robot.spin(1.2)
    assert received() - count > 5000
    assert wire.resident_megabytes(node.pid) < memory * 1.05
    assert rate > 0.9 * calm
    assert float(wire.values_of(robot.status("joint_states"))["callback_us_median"]) < 200.0
    robot.node.destroy_timer(timer)


class Simulation:
    """Publishes /clock, and the robot's inputs in its time, at the speed of real time."""

    STEP = 0.02

    def __init__(self, robot: wire.Robot, time: float) -> None:
        self.robot, self.time = robot, time
        self._clock = robot.node.create_publisher(Clock, "/clock", QoSProfile(depth=10))
        robot.frozen = True
        assert robot.spin_until(lambda: self._clock.get_subscription_count() > 0)

    def tick(self) -> None:
        self._clock.publish(Clock(clock=wire.stamp(self.time)))

    def sample(self) -> None:
        """One sample of every input."""
        for name in [*CAMERAS, "joint_states"]:
            self.robot.stamp_lag[name] = self.robot.now() - self.time
        self.robot.frozen = False
        self.robot.publish()
        self.robot.frozen = True

    def play(self, seconds: float, inputs: bool = True, inputs_first: bool = False) -> None:
        for _ in range(round(seconds / self.STEP)):
            self.time += self.STEP
            if inputs and inputs_first:
                self.sample()
                # The clock has another topic, and may come later.
                self.robot.spin(0.005)
            self.tick()
            if inputs and not inputs_first:
                self.sample()
            self.robot.spin(self.STEP)


@pytest.fixture
def simulation(start_policy, robot):
    # Limits that would take samples of before the jump, if the jump were not noticed.
    limits = {f"cameras__{slot}__max_age_ms": 20_000.0 for slot in CAMERAS}
    start_policy(use_sim_time=True, joint_states__max_age_ms=20_000.0, **limits)
    robot.frozen = True
    robot.wait_until_matched()
    simulation = Simulation(robot, 1000.0)
    simulation.play(1.0)
    assert robot.spin_until(lambda: robot.chunks), robot.health()
    return simulation


@pytest.mark.parametrize("jump", [-10.0, 10.0])
def test_a_clock_that_jumps_stops_inference_until_every_input_is_of_the_new_time(simulation, robot, jump):
    simulation.time += jump
    simulation.tick()
    robot.spin(0.3)
    count, jumped = len(robot.chunks), simulation.time
    simulation.play(0.5, inputs=False)
    robot.plugged.remove(CAMERAS[2])
    simulation.play(0.5)
    robot.spin(0.3)
    assert len(robot.chunks) == count, "An observation was made of samples from before the jump"
    robot.plugged.add(CAMERAS[2])
    complete = simulation.time
    simulation.play(1.0)
    assert robot.spin_until(lambda: len(robot.chunks) > count), robot.health()
    resumed = robot.chunks[count]
    assert jumped < complete < observed(resumed) <= complete + 2 * INFERENCE_PERIOD + 2 * Simulation.STEP
    assert all(-0.05 <= age < 1.0 for name, age in ages_of(resumed).items() if name in CAMERAS)
    assert len(robot.logged("The clock jumped")) == 1


@pytest.mark.parametrize("inputs_first", [False, True], ids=["clock first", "samples first"])
def test_a_bag_that_loops_resumes_in_every_loop(simulation, robot, inputs_first):
    start = simulation.time - 1.0
    for _ in range(4):
        count = len(robot.chunks)
        simulation.time = start
        simulation.play(1.5, inputs_first=inputs_first)
        robot.spin(0.3)
        loop = robot.chunks[count:]
        # A chunk of the loop before may have been on its way.
        resumed = [chunk for chunk in loop if observed(chunk) <= simulation.time and max(ages_of(chunk)[slot] for slot in CAMERAS) < 0.3]
        assert len(resumed) >= 10, robot.health()
        assert min(observed(chunk) for chunk in resumed) <= start + 2 * INFERENCE_PERIOD + 3 * Simulation.STEP
