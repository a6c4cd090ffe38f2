"""What the policy node does with inputs that are late, missing, wrong or hostile: no inference, and a reason."""

from __future__ import annotations

import numpy as np
import pytest
import wire
from conftest import CAMERAS
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CompressedImage

OK, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.ERROR, DiagnosticStatus.STALE


def assert_no_more_chunks(robot: wire.Robot, seconds: float = 1.5) -> None:
    robot.spin(0.3)
    count = len(robot.chunks)
    robot.spin(seconds)
    assert len(robot.chunks) == count


def pixels(seed: int = 5, shape: tuple[int, int, int] = (wire.HEIGHT, wire.WIDTH, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_a_camera_that_stops_stops_inference_and_its_return_resumes_it(start_policy, robot):
    start_policy(**{f"cameras__{CAMERAS[1]}__max_age_ms": 300.0})
    robot.next_chunk()
    robot.plugged.remove(CAMERAS[1])
    status = robot.wait_for_status(CAMERAS[1], lambda status: status.level == STALE)
    assert "the limit is 300 ms" in status.message
    assert_no_more_chunks(robot)
    assert robot.status(CAMERAS[0]).level == OK
    assert CAMERAS[1] in robot.status("inference").message
    robot.plugged.add(CAMERAS[1])
    robot.next_chunk()
    robot.wait_for_status(CAMERAS[1], lambda status: status.level == OK)
    assert len(robot.logged(f"Input {CAMERAS[1]}: the newest sample is")) == 1
    assert len(robot.logged(f"Input {CAMERAS[1]} is usable again")) == 1


def test_a_camera_that_never_came_is_named(start_policy, robot):
    robot.plugged.remove(CAMERAS[2])
    start_policy()
    status = robot.wait_for_status(CAMERAS[2], lambda status: status.level == ERROR)
    assert status.message == "Nothing was received yet"
    assert wire.values_of(status)["topic"] == f"/policy/camera/{CAMERAS[2]}/image"
    robot.wait_for_status("inference", lambda status: status.message == f"Waiting for inputs. {CAMERAS[2]}: nothing was received yet")
    assert not robot.chunks


def test_without_an_instruction_the_node_waits_for_one(start_policy, robot):
    start_policy(**{"instruction__default": None})
    robot.wait_for_status("inference", lambda status: "instruction: nothing was received yet" in status.message)
    assert not robot.chunks
    robot.say("pick up the cube")
    assert robot.next_chunk().instruction == "pick up the cube"


def test_stale_joint_states_stop_inference(start_policy, robot):
    start_policy(joint_states__max_age_ms=300.0)
    robot.next_chunk()
    robot.plugged.remove("joint_states")
    robot.wait_for_status("joint_states", lambda status: status.level == STALE)
    assert_no_more_chunks(robot)


@pytest.mark.parametrize(
    ("lag", "reason"), [(30.0, "the limit is 1000 ms"), (-30.0, "in the future"), (None, "has no stamp")], ids=["old", "future", "unstamped"]
)
def test_a_wrong_stamp_is_refused_with_its_reason(start_policy, robot, lag, reason):
    # Unstamped: the stamp minus itself.
    robot.stamp_lag[CAMERAS[0]] = robot.now() if lag is None else lag
    if lag is None:
        robot.frozen = True
        robot.images[CAMERAS[0]].header.stamp = wire.stamp(0)
        robot.node.create_timer(1 / 30, lambda: robot.publisher(CAMERAS[0]).publish(robot.images[CAMERAS[0]]))
    start_policy()
    status = robot.wait_for_status(CAMERAS[0], lambda status: "received" not in status.message)
    assert status.level in (ERROR, STALE) and reason in status.message
    assert not robot.chunks


def test_a_wrong_encoding_is_refused_by_name_and_the_node_lives_on(start_policy, robot):
    node = start_policy()
    robot.next_chunk()
    good = robot.images[CAMERAS[0]]
    robot.images[CAMERAS[0]] = wire.image(pixels(), encoding="yuv422_nonsense")
    status = robot.wait_for_status(CAMERAS[0], lambda status: status.level == ERROR)
    assert "yuv422_nonsense" in status.message
    assert_no_more_chunks(robot)
    robot.images[CAMERAS[0]] = good
    robot.next_chunk()
    robot.wait_for_status(CAMERAS[0], lambda status: status.level == OK)
    assert node.alive()
    assert 1 <= len(robot.logged("yuv422_nonsense")) <= 3


@pytest.mark.parametrize("fault", ["truncated", "step", "size", "empty"])
def test_an_image_that_contradicts_itself_is_refused(start_policy, robot, fault):
    node = start_policy()
    robot.next_chunk()
    message = wire.image(pixels())
    match fault:
        case "truncated":
            message.data = message.data[:-1]
        case "step":
            message.step -= 1
        case "size":
            message.width, message.height = 2**32 - 1, 2**32 - 1
        case "empty":
            message.width = message.height = message.step = 0
            message.data = b""
    robot.images[CAMERAS[1]] = message
    robot.wait_for_status(CAMERAS[1], lambda status: status.level == ERROR)
    assert_no_more_chunks(robot)
    assert node.alive()


def test_bytes_that_are_no_message_do_not_deafen_the_node(start_policy, robot):
    node = start_policy()
    robot.next_chunk()
    noise = np.random.default_rng(0)
    for size in (0, 1, 3, 4, 12, 40, 1000):
        for name in [*CAMERAS, "joint_states"]:
            robot.publisher(name).publish(b"\x00\x01\x00\x00" + noise.bytes(size))
        robot.spin(0.1)
    robot.spin(1.5)
    ages = {age.name: age.age for age in robot.next_chunk().input_ages}
    assert all(ages[name] < 0.5 for name in [*CAMERAS, "joint_states"])
    assert node.alive()


def test_padded_rows_and_bgr_show_the_same_image(start_policy, make_robot):
    from test_wire_outputs import first_chunks

    robot = make_robot()
    seen = pixels()
    variants = [wire.image(seen), wire.image(seen, padding=13), wire.image(seen[:, :, ::-1].copy(), encoding="bgr8")]
    chunks = []
    for variant in variants:
        robot.images[CAMERAS[0]] = variant
        chunks.append(first_chunks(start_policy, robot, count=1)[0])
    np.testing.assert_array_equal(chunks[0], chunks[1])
    np.testing.assert_array_equal(chunks[0], chunks[2])


def test_a_compressed_camera_sees_what_a_raw_one_sees(start_policy, make_robot):
    from test_wire_outputs import first_chunks

    raw = make_robot()
    raw.images[CAMERAS[0]] = wire.image(pixels())
    expected = first_chunks(start_policy, raw, count=1)[0]
    raw.frozen = True
    robot = make_robot(compressed=(CAMERAS[0],))
    robot.images[CAMERAS[0]] = CompressedImage(format="rgb8; png compressed bgr8", data=wire.png(pixels()))
    transport = {f"cameras__{CAMERAS[0]}__transport": "compressed"}
    np.testing.assert_array_equal(first_chunks(start_policy, robot, count=1, **transport)[0], expected)


def test_a_compressed_image_that_was_cut_off_is_refused(start_policy, make_robot):
    robot = make_robot(compressed=(CAMERAS[0],))
    robot.images[CAMERAS[0]] = CompressedImage(format="png", data=wire.png(pixels())[:-200])
    node = start_policy(**{f"cameras__{CAMERAS[0]}__transport": "compressed"})
    robot.wait_for_status(CAMERAS[0], lambda status: status.level == ERROR and "cannot be decoded" in status.message)
    assert not robot.chunks
    assert node.alive()


def test_reordered_and_additional_joints_give_the_same_chunk(start_policy, robot):
    from test_wire_outputs import first_chunks

    expected = first_chunks(start_policy, robot, count=1)[0]
    state = robot.joint_state
    names, positions = list(state.name), list(state.position)
    order = np.random.default_rng(1).permutation(len(names))
    state.name = ["wheel", *(names[index] for index in order)]
    state.position = [float("nan"), *(positions[index] for index in order)]
    np.testing.assert_array_equal(first_chunks(start_policy, robot, count=1)[0], expected)


@pytest.mark.parametrize("fault", ["nan", "infinite", "missing", "duplicate", "lengths", "empty"])
def test_joint_states_that_cannot_be_trusted_are_refused_by_name(start_policy, robot, fault):
    node = start_policy()
    robot.next_chunk()
    state = robot.joint_state
    joint = state.name[1]
    match fault:
        case "nan":
            state.position[1] = float("nan")
        case "infinite":
            state.position[1] = float("inf")
        case "missing":
            state.name = [name for name in state.name if name != joint]
            state.position = state.position[: len(state.name)]
        case "duplicate":
            state.name = [*state.name, joint]
            state.position = [*state.position, 0.0]
        case "lengths":
            state.position = state.position[:-1]
        case "empty":
            state.name, state.position = [], []
    status = robot.wait_for_status("joint_states", lambda status: status.level == ERROR)
    if fault in ("nan", "infinite", "missing", "duplicate"):
        assert joint in status.message
    assert_no_more_chunks(robot)
    assert node.alive()


@pytest.mark.parametrize(("text", "reason"), [("", "empty"), (" \n", "empty"), ("x" * 1025, "1025 bytes"), ("x" * 1_000_000, "1000000 bytes")])
def test_an_unusable_instruction_is_refused_and_the_one_before_stays(start_policy, robot, text, reason):
    start_policy()
    robot.wait_until_matched()
    before = robot.next_chunk().instruction
    robot.say(text)
    assert robot.logged(reason)
    robot.spin(0.3)
    assert robot.next_chunk().instruction == before


def test_an_instruction_that_is_not_utf8_is_refused(start_policy, robot):
    start_policy()
    robot.wait_until_matched()
    before = robot.next_chunk().instruction
    robot._instruction.publish(b"\x00\x01\x00\x00\x05\x00\x00\x00pi\xff\xfe\x00")
    assert robot.logged("not valid UTF-8")
    assert robot.next_chunk().instruction == before


# The robot's own publisher of instructions is volatile, which rclpy warns of with a function that it has deprecated itself.
@pytest.mark.filterwarnings("ignore:Deprecated in favor of:DeprecationWarning")
def test_a_latched_instruction_reaches_a_node_that_asks_for_it(start_policy, robot):
    latched = robot.node.create_publisher(wire.String, "/policy/instruction", wire.LATCHED)
    latched.publish(wire.String(data="said before the node was there"))
    start_policy(**{"instruction__default": None, "instruction__qos_durability": "transient_local"})
    assert robot.next_chunk().instruction == "said before the node was there"


def test_a_storm_of_joint_states_and_instructions_leaves_rate_and_memory_as_they_are(start_policy, robot):
    node = start_policy()
    robot.next_chunk()
    robot.spin(2.0)
    before, chunks, received = wire.resident_megabytes(node.pid), len(robot.chunks), received_by(robot, "joint_states")

    def storm() -> None:
        for _ in range(10):
            robot.joint_state.header.stamp = wire.stamp(robot.now())
            robot.publisher("joint_states").publish(robot.joint_state)
        robot.say("transfer the cube")

    timer = robot.node.create_timer(0.01, storm)
    robot.spin(5.0)
    robot.node.destroy_timer(timer)
    robot.spin(1.5)
    assert received_by(robot, "joint_states") - received > 1000
    assert len(robot.chunks) - chunks > 0.5 * 10 * 5
    assert wire.resident_megabytes(node.pid) < before * 1.05 + 2.0
    ages = {age.name: age.age for age in robot.next_chunk().input_ages}
    assert ages["joint_states"] < 0.5


def received_by(robot: wire.Robot, name: str) -> int:
    return int(wire.values_of(robot.status(name))["received"])
