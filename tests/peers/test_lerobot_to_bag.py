"""tools/lerobot_to_bag.py on small datasets in the layouts of LeRobot's versions 2.1 and 3.0, which this test writes itself."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from rosbags.highlevel import AnyReader

TOOL = Path(__file__).parents[2] / "tools/lerobot_to_bag.py"
FPS = 10
LENGTHS = [8, 15, 12]  # frames of each episode
JOINTS = ["shoulder_pan", "elbow_flex", "gripper"]
TASKS = ["stack the cups", "fold the towel"]
TOP, WRIST = "observation.images.top", "observation.images.wrist"
HEIGHT, WIDTH = 48, 64


def task(episode: int) -> str:
    return TASKS[episode % 2]


def state(episode: int, frame: int) -> list[float]:
    return [episode + 0.01 * frame, 90.0 + frame, 50.0]


def picture(episode: int, frame: int) -> np.ndarray:
    """A flat colour that tells episode and frame and survives video coding."""
    return np.full((HEIGHT, WIDTH, 3), [40 + 60 * episode, 20 + 14 * frame, 128], dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_video(path: Path, episodes: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as file:
        stream = file.add_stream("mpeg4", rate=FPS, options={"qscale": "1", "g": "6"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = WIDTH, HEIGHT, "yuv420p", Fraction(1, FPS)
        for episode in episodes:
            for frame in range(LENGTHS[episode]):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(episode, frame), format="rgb24")))
        file.mux(stream.encode())


def write_data(path: Path, episodes: list[int]) -> None:
    rows = [(episode, frame) for episode in episodes for frame in range(LENGTHS[episode])]
    table = {
        "observation.state": pa.array([state(*row) for row in rows], pa.list_(pa.float32(), 3)),
        # Images that are no video lie in the table.
        WRIST: pa.array([{"bytes": png(picture(*row)), "path": None} for row in rows]),
        "timestamp": pa.array([frame / FPS for _, frame in rows], pa.float32()),
        "frame_index": [frame for _, frame in rows],
        "episode_index": [episode for episode, _ in rows],
        "index": [sum(LENGTHS[:episode]) + frame for episode, frame in rows],
        "task_index": [episode % 2 for episode, _ in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(table), path)


def write_info(root: Path, version: str, names: object, **paths: str) -> None:
    shape = {"shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]}
    features = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": names},
        TOP: {"dtype": "video", **shape},
        WRIST: {"dtype": "image", **shape},
    }
    info = {"codebase_version": version, "fps": FPS, "total_episodes": 3, "chunks_size": 1000, "features": features, **paths}
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))


def write_v2(root: Path) -> None:
    write_info(
        root,
        "v2.1",
        {"motors": JOINTS},
        data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    )
    for episode in range(3):
        write_data(root / f"data/chunk-000/episode_{episode:06d}.parquet", [episode])
        write_video(root / f"videos/chunk-000/{TOP}/episode_{episode:06d}.mp4", [episode])
    rows = [{"episode_index": episode, "tasks": [task(episode)], "length": LENGTHS[episode]} for episode in range(3)]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_v3(root: Path) -> None:
    """Episodes 0 and 1 share their files; 2 has others."""
    write_info(
        root,
        "v3.0",
        [f"{joint}.pos" for joint in JOINTS],
        data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        video_path="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )
    for file, episodes in enumerate([[0, 1], [2]]):
        write_data(root / f"data/chunk-000/file-{file:03d}.parquet", episodes)
        write_video(root / f"videos/{TOP}/chunk-000/file-{file:03d}.mp4", episodes)
    starts = [0.0, LENGTHS[0] / FPS, 0.0]
    table = {
        "episode_index": [0, 1, 2],
        "tasks": [[task(episode)] for episode in range(3)],
        "length": LENGTHS,
        "data/chunk_index": [0, 0, 0],
        "data/file_index": [0, 0, 1],
        f"videos/{TOP}/chunk_index": [0, 0, 0],
        f"videos/{TOP}/file_index": [0, 0, 1],
        f"videos/{TOP}/from_timestamp": starts,
        f"videos/{TOP}/to_timestamp": [start + length / FPS for start, length in zip(starts, LENGTHS)],
    }
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    parquet.write_table(pa.table(table), root / "meta/episodes/chunk-000/file-000.parquet")


WRITERS = {"v2.1": write_v2, "v3.0": write_v3}


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, check=False)


def read(bag: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    with AnyReader([bag]) as reader:
        for connection, time, data in reader.messages():
            found.setdefault(connection.topic, []).append((time, reader.deserialize(data, connection.msgtype)))
    return found


@pytest.mark.parametrize("version", WRITERS)
@pytest.mark.parametrize("episode", [0, 1, 2])
def test_an_episode_becomes_a_bag(tmp_path: Path, version: str, episode: int):
    WRITERS[version](tmp_path / "dataset")
    options = ["--raw", "--storage", "sqlite3"] if episode == 1 else []
    cameras = ["--camera", f"base_0_rgb={TOP}", "--camera", f"left_wrist_0_rgb={WRIST}"]
    mapped = ["--degrees", "elbow_flex", "--linear", "gripper=0,100,-0.2,1.8"]
    done = run(tmp_path / "dataset", "--episode", episode, "--output", tmp_path / "bag", *cameras, *mapped, *options)
    assert done.returncode == 0, done.stderr
    bag = read(tmp_path / "bag")
    suffix = "" if options else "/compressed"
    images = [f"/camera/{slot}/image{suffix}" for slot in ("base_0_rgb", "left_wrist_0_rgb")]
    assert set(bag) == {"/joint_states", "/instruction", *images}

    length = LENGTHS[episode]
    start = bag["/joint_states"][0][0]
    times = [start + frame * 10**9 // FPS for frame in range(length)]
    assert [message.data for _, message in bag["/instruction"]] == [task(episode)] * (1 + (length - 1) // FPS)
    for topic in ("/joint_states", *images):
        assert [time for time, _ in bag[topic]] == times
        for time, message in bag[topic]:
            assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == time
    for frame, (_, message) in enumerate(bag["/joint_states"]):
        assert message.name == JOINTS
        first, second, _ = np.float32(state(episode, frame))
        assert message.position.tolist() == pytest.approx([first, np.radians(second), 0.8])
    for topic in images:
        for frame, (_, message) in enumerate(bag[topic]):
            if options:
                assert (message.height, message.width, message.encoding, message.step) == (HEIGHT, WIDTH, "rgb8", 3 * WIDTH)
                pixels = message.data.reshape(HEIGHT, WIDTH, 3)
            else:
                pixels = np.asarray(Image.open(io.BytesIO(message.data.tobytes())))
            # Neighbouring frames are 14 apart.
            assert np.abs(pixels.astype(int) - picture(episode, frame)).max() <= 6, f"{topic}, frame {frame}"


def test_what_is_missing_is_said(tmp_path: Path):
    dataset = tmp_path / "dataset"
    write_v3(dataset)
    info = json.loads((dataset / "meta/info.json").read_text())
    for arguments, words in [
        (["--episode", "3"], "the dataset has 3"),
        (["--camera", "base_0_rgb=observation.images.front"], TOP),
        (["--degrees", "knee"], "elbow_flex"),
    ]:
        done = run(dataset, "--output", tmp_path / "bag", *arguments)
        assert done.returncode == 1 and words in done.stderr, done.stderr
    info["features"]["observation.state"]["names"] = None
    (dataset / "meta/info.json").write_text(json.dumps(info))
    done = run(dataset, "--output", tmp_path / "bag")
    assert done.returncode == 1 and "--joints" in done.stderr, done.stderr
    assert run(dataset, "--output", tmp_path / "bag", "--joints", *JOINTS).returncode == 0
    (dataset / f"videos/{TOP}/chunk-000/file-000.mp4").write_bytes(b"")
    done = run(dataset, "--output", tmp_path / "other", "--joints", *JOINTS)
    assert done.returncode == 1
    assert not (tmp_path / "none").exists()
