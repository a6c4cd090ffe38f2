#!/usr/bin/env python3
"""Converts an episode of a LeRobot dataset (versions 2.0, 2.1 and 3.0) into a rosbag2 folder with the topics of the policy node.

The state becomes /joint_states, every camera /camera/SLOT/image[/compressed], the task /instruction. A frame's time is its number divided
by the dataset's rate. Positions keep the dataset's units, except those of --degrees and --linear. The recorded actions are not in the bag.

Set-up:  python3.12 -m venv build/bag-venv && build/bag-venv/bin/pip install -r tools/requirements-lerobot.txt
Example: build/bag-venv/bin/python tools/lerobot_to_bag.py DATASET --episode 3 --output build/my_bag \\
             --camera base_0_rgb=observation.images.top --camera left_wrist_0_rgb=observation.images.wrist
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pyarrow.dataset as arrow
from PIL import Image
from robot_bag import Encoder, RobotBag, add_arguments, encoder

STATE = "observation.state"
# Log time of the first message: 2026-01-01T00:00:00Z.
START_NS = 1_767_225_600_000_000_000


class DatasetError(Exception):
    """What is missing in the dataset, with what was found."""


@dataclass(frozen=True)
class Video:
    path: Path
    start: float  # of the episode in the file, in s


@dataclass(frozen=True)
class Episode:
    tasks: list[str]
    data: Path
    videos: dict[str, Video]


@dataclass(frozen=True)
class Joint:
    """Position of the robot's joint: value in the dataset times scale plus offset."""

    name: str
    scale: float = 1.0
    offset: float = 0.0


class Dataset:
    """A dataset's folder, whatever its version."""

    def __init__(self, root: Path) -> None:
        self.root = root
        info = root / "meta/info.json"
        if not info.is_file():
            raise DatasetError(f"{root} is no LeRobot dataset: it has no meta/info.json")
        self.info = json.loads(info.read_text())
        self.version = self.info["codebase_version"].removeprefix("v")
        if self.version not in ("2.0", "2.1", "3.0"):
            raise DatasetError(f"{root} has the version {self.version}; 2.0, 2.1 and 3.0 are read")
        self.fps = float(self.info["fps"])
        self.features: dict[str, dict] = self.info["features"]

    def cameras(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature["dtype"] in ("video", "image")]

    def joints(self) -> list[str]:
        if STATE not in self.features:
            raise DatasetError(f"The dataset has no feature {STATE}. It has: {', '.join(self.features)}")
        names = self.features[STATE].get("names")
        # Some datasets have {"motors": [...]}, and LeRobot's own drivers name the quantity too ("elbow_flex.pos").
        if isinstance(names, dict) and len(names) == 1:
            (names,) = names.values()
        (count,) = self.features[STATE]["shape"]
        if not isinstance(names, list) or len(names) != count:
            raise DatasetError(f"{STATE} has {count} columns and the names {names}. Give one name for each with --joints")
        return [name.removesuffix(".pos") for name in names]

    def episode(self, index: int) -> Episode:
        count = self.info["total_episodes"]
        if not 0 <= index < count:
            raise DatasetError(f"There is no episode {index}: the dataset has {count}, counted from 0")
        return self.episode_v3(index) if self.version == "3.0" else self.episode_v2(index)

    def episode_v2(self, index: int) -> Episode:
        """A data file and a video file for each episode."""
        lines = (self.root / "meta/episodes.jsonl").read_text().splitlines()
        row = next((row for row in map(json.loads, lines) if row["episode_index"] == index), None)
        if row is None:
            raise DatasetError(f"meta/episodes.jsonl has no episode {index}")
        place = {"episode_chunk": index // self.info["chunks_size"], "episode_index": index}
        videos = {
            name: Video(self.root / self.info["video_path"].format(video_key=name, **place), 0.0)
            for name in self.cameras()
            if self.features[name]["dtype"] == "video"
        }
        return Episode(row["tasks"], self.root / self.info["data_path"].format(**place), videos)

    def episode_v3(self, index: int) -> Episode:
        """Files of many episodes; tables in meta/episodes tell where each lies."""
        rows = arrow.dataset(self.root / "meta/episodes", format="parquet").to_table(filter=arrow.field("episode_index") == index)
        if rows.num_rows != 1:
            raise DatasetError(f"meta/episodes has {rows.num_rows} rows of episode {index}")
        row = rows.to_pylist()[0]

        def path(template: str, prefix: str, **names: str) -> Path:
            place = {"chunk_index": row[f"{prefix}/chunk_index"], "file_index": row[f"{prefix}/file_index"]}
            return self.root / template.format(**place, **names)

        videos = {
            name: Video(path(self.info["video_path"], f"videos/{name}", video_key=name), row[f"videos/{name}/from_timestamp"])
            for name in self.cameras()
            if self.features[name]["dtype"] == "video"
        }
        return Episode(row["tasks"], path(self.info["data_path"], "data"), videos)


def video_frames(video: Video, fps: float, count: int) -> Iterator[np.ndarray]:
    """The episode's frames as RGB `[height, width, 3]`."""
    with av.open(video.path) as file:
        stream = file.streams.video[0]
        # To the key frame in front of the episode.
        file.seek(int(video.start / stream.time_base), stream=stream)
        found = 0
        for frame in file.decode(stream):
            late = frame.time - (video.start + found / fps)
            if late < -0.5 / fps:
                continue
            if late > 0.5 / fps:
                raise DatasetError(f"{video.path} has no frame {found} of the episode at {frame.time - late:.3f} s; the next is {late:.3f} s later")
            yield frame.to_ndarray(format="rgb24")
            found += 1
            if found == count:
                return
    raise DatasetError(f"{video.path} ends after {found} of the episode's {count} frames")


def image_frames(root: Path, cells: Iterator[dict]) -> Iterator[np.ndarray]:
    for cell in cells:
        source = io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else root / cell["path"]
        yield np.asarray(Image.open(source).convert("RGB"))


def convert(
    dataset: Dataset, index: int, joints: list[Joint], cameras: dict[str, str], output: Path, storage: str, encode: Encoder
) -> int:
    """Writes the bag and gives the number of frames. `cameras` names the feature of every camera slot."""
    episode = dataset.episode(index)
    wanted = ["frame_index", STATE, *(feature for feature in cameras.values() if feature not in episode.videos)]
    rows = arrow.dataset(episode.data, format="parquet").to_table(wanted, filter=arrow.field("episode_index") == index)
    rows = rows.sort_by("frame_index")
    if rows.num_rows == 0:
        raise DatasetError(f"{episode.data} has no frames of episode {index}")
    if rows["frame_index"].to_pylist() != list(range(rows.num_rows)):
        raise DatasetError(f"{episode.data} lacks frames of episode {index}")
    states = np.array(rows[STATE].to_pylist(), dtype=np.float64).reshape(rows.num_rows, -1)
    states = states * [joint.scale for joint in joints] + [joint.offset for joint in joints]
    frames = [
        video_frames(episode.videos[feature], dataset.fps, rows.num_rows)
        if feature in episode.videos
        else image_frames(dataset.root, (cell.as_py() for cell in rows[feature]))
        for feature in cameras.values()
    ]
    second = -1
    with RobotBag(output, storage, list(cameras), encode) as bag:
        for step, (state, images) in enumerate(zip(states, zip(*frames) if frames else [()] * len(states))):
            now = START_NS + round(step * 1e9 / dataset.fps)
            # Once a second, so that a node that starts late hears it too.
            if int(step / dataset.fps) > second:
                second = int(step / dataset.fps)
                bag.write_instruction(now, episode.tasks[0] if episode.tasks else "")
            bag.write_joints(now, [joint.name for joint in joints], state)
            for slot, image in zip(cameras, images):
                bag.write_image(now, slot, image)
    return rows.num_rows


def camera(text: str) -> tuple[str, str]:
    slot, found, feature = text.partition("=")
    if not (found and slot and feature):
        raise argparse.ArgumentTypeError(f"{text!r} is not SLOT=FEATURE")
    return slot, feature


def linear(text: str) -> Joint:
    name, _, ends = text.partition("=")
    try:
        low, high, robot_low, robot_high = map(float, ends.split(","))
        scale = (robot_high - robot_low) / (high - low)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not JOINT=LOW,HIGH,ROBOT_LOW,ROBOT_HIGH with two different ends") from None
    return Joint(name, scale, robot_low - low * scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="its folder, with meta/info.json")
    parser.add_argument("--output", type=Path, required=True, help="folder to make; must not exist")
    parser.add_argument("--episode", type=int, default=0, help="its number, counted from 0 (default 0)")
    parser.add_argument(
        "--camera",
        type=camera,
        action="append",
        metavar="SLOT=FEATURE",
        help="camera slot and the dataset's feature that it shows, repeatable (default: every camera under its last name)",
    )
    parser.add_argument("--joints", nargs="+", metavar="NAME", help="names of the state's columns (default: the dataset's)")
    parser.add_argument("--degrees", nargs="+", default=[], metavar="NAME", help="joints whose positions become radians")
    parser.add_argument(
        "--linear",
        type=linear,
        action="append",
        default=[],
        metavar="NAME=LOW,HIGH,ROBOT_LOW,ROBOT_HIGH",
        help="joint whose positions LOW to HIGH become ROBOT_LOW to ROBOT_HIGH, repeatable",
    )
    add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.output.exists():
        sys.exit(f"{arguments.output} exists already. Remove it or choose another folder")
    try:
        dataset = Dataset(arguments.dataset)
        names = arguments.joints or dataset.joints()
        mapped = [*(Joint(name, np.pi / 180) for name in arguments.degrees), *arguments.linear]
        cameras = dict(arguments.camera or [(name.rsplit(".", 1)[-1], name) for name in dataset.cameras()])
        for what, given, known in [
            ("camera", list(cameras.values()), dataset.cameras()),
            ("joint", [joint.name for joint in mapped], names),
        ]:
            if unknown := [name for name in given if name not in known]:
                raise DatasetError(f"There is no {what} {unknown[0]}. There are: {', '.join(known)}")
        by_name = {joint.name: joint for joint in mapped}
        joints = [by_name.get(name, Joint(name)) for name in names]
        frames = convert(dataset, arguments.episode, joints, cameras, arguments.output, arguments.storage, encoder(arguments))
    except DatasetError as error:
        sys.exit(str(error))
    print(f"Wrote {arguments.output}: {frames} frames at {dataset.fps:g} Hz, cameras {cameras}, joints {', '.join(names)}")


if __name__ == "__main__":
    main()
