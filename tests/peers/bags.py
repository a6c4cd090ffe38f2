"""Reads and writes bags with Python rosbags and mcap-ros2-support, for tests/bag_peers.rs to compare with.

    bags.py read rosbags|mcap-ros2-support BAG      prints every message as JSON: [[topic, type, log time, fields], ...]
    bags.py write STORAGE BAG                       writes one message of every type with the fields that it prints in the same way;
                                                    STORAGE is mcap, sqlite3 or either with messages packed: mcap-message, sqlite3-message
"""

import json
import sys
from pathlib import Path

import numpy as np
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

REPOSITORY = Path(__file__).parents[2]


def plain(value):
    """A decoded message as JSON values, constants left out."""
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return list(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    fields = getattr(value, "__slots__", None) or getattr(value, "__dataclass_fields__", None)
    if fields:
        return {name: plain(getattr(value, name)) for name in fields if not name.startswith("_") and not name.isupper()}
    return value


def read_rosbags(path: Path) -> list:
    with AnyReader([path]) as reader:
        return [[c.topic, c.msgtype, time, plain(reader.deserialize(data, c.msgtype))] for c, time, data in reader.messages()]


def read_mcap_ros2(path: Path) -> list:
    file = next(path.glob("*.mcap")) if path.is_dir() else path
    with file.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        return [
            [channel.topic, schema.name, message.log_time, plain(decoded)]
            for schema, channel, message, decoded in reader.iter_decoded_messages()
        ]


def typestore():
    store = get_typestore(Stores.ROS2_KILTED)
    for name in ("InputAge", "StageTimes", "ActionChunk"):
        text = (REPOSITORY / "msg" / f"{name}.msg").read_text()
        store.register(get_types_from_msg(text, f"pi0_tt/msg/{name}"))
    return store


def write(path: Path, storage: str) -> None:
    store = typestore()
    kinds = {name.replace("/msg/", "/"): kind for name, kind in store.types.items()}

    def make(kind: str, **fields):
        return kinds[kind](**fields)

    stamp = make("builtin_interfaces/Time", sec=1_800_000_000, nanosec=123_456_789)
    header = make("std_msgs/Header", stamp=stamp, frame_id="Würfel")
    after = make("builtin_interfaces/Duration", sec=-1, nanosec=500_000_000)
    f64 = lambda *values: np.array(values, dtype=np.float64)  # noqa: E731
    f32 = lambda *values: np.array(values, dtype=np.float32)  # noqa: E731
    u8 = lambda *values: np.array(values, dtype=np.uint8)  # noqa: E731
    point = make(
        "trajectory_msgs/JointTrajectoryPoint",
        positions=f64(0.1, -2e300),
        velocities=f64(),
        accelerations=f64(5e-324),
        effort=f64(),
        time_from_start=after,
    )
    status = make(
        "diagnostic_msgs/DiagnosticStatus",
        level=2,
        name="policy: inference",
        message="",
        hardware_id="cpu",
        values=[make("diagnostic_msgs/KeyValue", key="overruns", value="3")],
    )
    messages = [
        make("std_msgs/String", data=""),
        make("std_msgs/String", data="Räum den Tisch auf"),
        make("sensor_msgs/JointState", header=header, name=["a", "", "ccc"], position=f64(1.5, 2.5), velocity=f64(), effort=f64(9)),
        make(
            "sensor_msgs/Image", header=header, height=1, width=2, encoding="rgb8", is_bigendian=0, step=6, data=u8(1, 2, 3, 4, 5, 255)
        ),
        make("sensor_msgs/CompressedImage", header=header, format="jpeg", data=u8(255, 216, 0)),
        make("trajectory_msgs/JointTrajectory", header=header, joint_names=["left", "right"], points=[point, point]),
        make("diagnostic_msgs/DiagnosticArray", header=header, status=[status]),
        make(
            "pi0_tt/ActionChunk",
            header=header,
            observation_stamp=stamp,
            chunk_index=2**64 - 1,
            seed=42,
            backend="reference",
            instruction="stack",
            dropped_prompt_tokens=1,
            horizon=2,
            period=0.02,
            model_action_dim=2,
            model_actions=f32(0.5, -0.25, 1, 3),
            joint_names=["elbow"],
            actions=f64(0.1, 0.2),
            chunking="rtc",
            delay_rows=7,
            guided_rows=25,
            stage_times=make("pi0_tt/StageTimes", observation=0.001, vision=0.01, prefix=0.02, denoise_steps=f64(0.1), total=0.2),
            input_ages=[make("pi0_tt/InputAge", name="base_0_rgb", age=0.03)],
            input_skew=0.004,
        ),
    ]
    written = []
    plugin, _, packed = storage.partition("-")
    writer = Writer(path, version=9, storage_plugin={"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[plugin])
    if packed:
        writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    elif plugin == "mcap":
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer as bag:
        connections = {}
        for index, message in enumerate(messages):
            kind = message.__msgtype__
            topic = "/" + kind.rsplit("/", 1)[1]
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, typestore=store)
            time = 10**18 + index
            bag.write(connections[topic], time, store.serialize_cdr(message, kind, little_endian=index % 2 == 0))
            written.append([topic, kind, time, plain(message)])
    json.dump(written, sys.stdout)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["read", "rosbags", bag]:
            json.dump(read_rosbags(Path(bag)), sys.stdout)
        case ["read", "mcap-ros2-support", bag]:
            json.dump(read_mcap_ros2(Path(bag)), sys.stdout)
        case ["write", storage, bag]:
            write(Path(bag), storage)
        case _:
            sys.exit(__doc__)
