"""The committed demo bag as two independent readers see it."""

import io
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from PIL import Image
from rosbags.highlevel import AnyReader

BAG = Path(__file__).parents[1] / "data/bags/aloha_transfer_cube"
CAMERA = "/camera/base_0_rgb/image/compressed"
TYPES = {
    CAMERA: "sensor_msgs/msg/CompressedImage",
    "/joint_states": "sensor_msgs/msg/JointState",
    "/instruction": "std_msgs/msg/String",
}
COUNTS = {CAMERA: 125, "/joint_states": 250, "/instruction": 5}
ARM = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]


@pytest.fixture(scope="module")
def messages() -> dict[str, list]:
    """(log time, message) by topic, read by rosbags."""
    found: dict[str, list] = {}
    with AnyReader([BAG]) as reader:
        assert {c.topic: c.msgtype for c in reader.connections} == TYPES
        for connection, time, data in reader.messages():
            found.setdefault(connection.topic, []).append((time, reader.deserialize(data, connection.msgtype)))
    return found


@pytest.fixture(scope="module")
def frames(messages) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(message.data.tobytes()))).astype(int) for _, message in messages[CAMERA]]


def test_it_is_small_enough_to_live_in_the_repository():
    assert sum(file.stat().st_size for file in BAG.iterdir()) <= 5_000_000


def test_every_topic_has_its_messages_at_its_rate(messages):
    assert {topic: len(found) for topic, found in messages.items()} == COUNTS
    for topic, period in [(CAMERA, 40_000_000), ("/joint_states", 20_000_000), ("/instruction", 1_000_000_000)]:
        times = np.array([time for time, _ in messages[topic]])
        assert (np.diff(times) == period).all()


def test_header_stamps_are_the_log_times(messages):
    for topic in (CAMERA, "/joint_states"):
        for time, message in messages[topic]:
            assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == time


def test_joint_states_have_fourteen_named_joints_that_move_smoothly(messages):
    names = [f"{side}_{joint}" for side in ("left", "right") for joint in ARM]
    for _, message in messages["/joint_states"]:
        assert message.name == names
    positions = np.array([message.position for _, message in messages["/joint_states"]])
    assert positions.shape == (250, 14)
    assert np.isfinite(positions).all()
    assert (np.ptp(positions, axis=0) > 0.01).all(), "every joint moves"
    assert np.abs(np.diff(positions, axis=0)).max() < 0.15, "no joint jumps within 20 ms"


def test_the_instruction_says_the_task(messages):
    assert {message.data for _, message in messages["/instruction"]} == {"Transfer the red cube to the other arm"}


def test_frames_are_640x480_rgb_jpeg(messages, frames):
    for (_, message), frame in zip(messages[CAMERA], frames, strict=True):
        assert "jpeg" in message.format
        assert frame.shape == (480, 640, 3)


def test_frames_show_the_red_cube_carried_from_right_to_left(frames):
    def cube_column(frame: np.ndarray) -> float:
        red = (frame[..., 0] > 150) & (frame[..., 1] < 90) & (frame[..., 2] < 90)
        assert 100 < red.sum() < 2500, "a cube of 4 cm seen from 0.8 m"
        return float(np.nonzero(red)[1].mean())

    first, last = cube_column(frames[0]), cube_column(frames[-1])
    assert 330 < first < 400
    assert last < first - 40


def test_frames_show_both_arms_over_the_table(frames):
    for frame in frames:
        table = frame[110:370, 110:530]
        assert 40 < np.median(table) < 110, "a dark grey table"
        for side in (frame[:, :213], frame[:, 427:]):
            assert (side.min(axis=-1) > 120).mean() > 0.005, "light grey metal on both sides"
    changes = [np.abs(after - before).mean() for before, after in zip(frames, frames[5:])]
    assert min(changes[:90]) > 0.05, "the scene moves"


def test_mcap_ros2_support_reads_the_same(messages):
    read: dict[str, list] = {}
    with next(BAG.glob("*.mcap")).open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        for _, channel, message, decoded in reader.iter_decoded_messages():
            read.setdefault(channel.topic, []).append((message.log_time, decoded))
    assert {topic: len(found) for topic, found in read.items()} == COUNTS
    for (time, ours), (other_time, theirs) in zip(messages["/joint_states"], read["/joint_states"], strict=True):
        assert time == other_time
        assert list(ours.position) == list(theirs.position)
    for (_, ours), (_, theirs) in zip(messages[CAMERA], read[CAMERA], strict=True):
        assert ours.data.tobytes() == bytes(theirs.data)
