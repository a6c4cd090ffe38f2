"""Writes bags with the topics of the policy node: camera images, joint states, instruction. What the tools that make bags share."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
# RGB pixels `[height, width, 3]` to a JPEG file; None leaves images raw.
Encoder = Callable[[np.ndarray], bytes] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of how a bag is written."""
    parser.add_argument("--storage", choices=sorted(STORAGES), default="mcap", help="of the bag (default mcap)")
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--raw", action="store_true", help="images as sensor_msgs/Image (rgb8), not as JPEG")
    images.add_argument("--quality", type=int, default=85, help="JPEG quality (default 85)")


def encoder(arguments: argparse.Namespace) -> Encoder:
    def jpeg(pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=arguments.quality, optimize=True)
        return file.getvalue()

    return None if arguments.raw else jpeg


def qos(depth: int, reliability: QosReliability) -> list[Qos]:
    unset = QosTime(0, 0)
    return [
        Qos(QosHistory.KEEP_LAST, depth, reliability, QosDurability.VOLATILE, unset, unset, QosLiveliness.AUTOMATIC, unset, False)
    ]


class RobotBag:
    """A rosbag2 folder that is being written. Times are nanoseconds since the epoch; header stamps are the log times."""

    def __init__(self, path: Path, storage: str, slots: list[str], encode: Encoder) -> None:
        self.encode = encode
        self.store = get_typestore(Stores.ROS2_KILTED)
        self.writer = Writer(path, version=9, storage_plugin=STORAGES[storage])
        if storage == "mcap":
            self.writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self.writer.open()
        kind, suffix = ("sensor_msgs/msg/Image", "") if encode is None else ("sensor_msgs/msg/CompressedImage", "/compressed")
        self.images = {slot: self.topic(f"/camera/{slot}/image{suffix}", kind, 5, QosReliability.BEST_EFFORT) for slot in slots}
        self.joints = self.topic("/joint_states", "sensor_msgs/msg/JointState", 10, QosReliability.RELIABLE)
        self.instructions = self.topic("/instruction", "std_msgs/msg/String", 1, QosReliability.RELIABLE)

    def __enter__(self) -> RobotBag:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def topic(self, name: str, kind: str, depth: int, reliability: QosReliability):
        return self.writer.add_connection(name, kind, typestore=self.store, offered_qos_profiles=qos(depth, reliability))

    def make(self, kind: str, **fields: object):
        return self.store.types[kind](**fields)

    def header(self, now: int, frame: str):
        stamp = self.make("builtin_interfaces/msg/Time", sec=now // 10**9, nanosec=now % 10**9)
        return self.make("std_msgs/msg/Header", stamp=stamp, frame_id=frame)

    def put(self, now: int, connection, **fields: object) -> None:
        message = self.make(connection.msgtype, **fields)
        self.writer.write(connection, now, self.store.serialize_cdr(message, connection.msgtype))

    def write_instruction(self, now: int, text: str) -> None:
        self.put(now, self.instructions, data=text)

    def write_joints(self, now: int, names: list[str], positions: np.ndarray, velocities: np.ndarray | None = None) -> None:
        empty = np.zeros(0)
        velocities = empty if velocities is None else velocities
        header = self.header(now, "")
        self.put(now, self.joints, header=header, name=names, position=positions, velocity=velocities, effort=empty)

    def write_image(self, now: int, slot: str, pixels: np.ndarray) -> None:
        """Takes RGB `[height, width, 3]` uint8."""
        header = self.header(now, f"{slot}_optical_frame")
        if self.encode is not None:
            data = np.frombuffer(self.encode(pixels), dtype=np.uint8)
            self.put(now, self.images[slot], header=header, format="rgb8; jpeg compressed bgr8", data=data)
            return
        height, width, _ = pixels.shape
        data = np.ascontiguousarray(pixels).reshape(-1)
        raw = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * width, "data": data}
        self.put(now, self.images[slot], header=header, **raw)
