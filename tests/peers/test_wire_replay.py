"""The same bag twice: played over DDS into the node with the time of the bag, and replayed without ROS. What both do must agree in bands: on the
wire nobody promises which sample an observation gets, so nothing is asked to be equal there."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import bags
import numpy as np
import pytest
import wire
from rosbags.highlevel import AnyReader
from ruamel.yaml import YAML

BAG = wire.REPOSITORY / "tests/data/bags/aloha_transfer_cube"
TOPICS = ["/camera/base_0_rgb/image/compressed", "/joint_states", "/instruction"]
PATIENCE = 120.0
RATE = 5.0
# What the node and the replay are both told. Chunks depend on seed and observation alone.
PARAMETERS: dict[str, object] = {
    "seed": 7,
    "inference.trigger": "rate",
    "inference.rate_hz": RATE,
    "chunking.mode": "none",
    "max_drift": 0.0,
    "joint_states.max_age_ms": 1000.0,
    "sync.max_skew_ms": 0.0,
    "cameras.base_0_rgb.transport": "compressed",
    "cameras.base_0_rgb.max_age_ms": 1000.0,
}


def write_parameters(path: Path, values: dict[str, object]) -> Path:
    # JSON is YAML.
    path.write_text(json.dumps({"/policy": {"ros__parameters": values}}))
    return path


def replay(folder: Path, checkpoint: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    parameters = write_parameters(folder / "parameters.yaml", PARAMETERS)
    command = [wire.BINARIES / "pi0_tt", "replay", BAG, "--checkpoint", checkpoint, "--robot", "aloha_sim", "--params", parameters]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=PATIENCE)


def chunks_of(bag: Path) -> dict[int, object]:
    """Action chunks by index."""
    with AnyReader([bag]) as reader:
        connections = [connection for connection in reader.connections if connection.topic == "/policy/action_chunk"]
        chunks = [reader.deserialize(data, connection.msgtype) for connection, _, data in reader.messages(connections)]
    return {chunk.chunk_index: chunk for chunk in chunks}


def rows(chunk) -> np.ndarray:
    return np.array(chunk.actions).reshape(chunk.horizon, -1)


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> tuple[Path, dict]:
    """The bag that a replay made, and what it printed."""
    folder = tmp_path_factory.mktemp("replay")
    result = replay(folder, checkpoint, "--latency-ms", "20", "--output", folder / "output", "--json")
    assert result.returncode == 0, result.stderr
    return folder / "output", json.loads(result.stdout)


def test_the_node_does_on_the_wire_what_the_replay_says(
    start_policy: Callable[..., wire.PolicyNode], domain: int, tmp_path: Path, replayed: tuple[Path, dict]
):
    maps = [argument for topic in TOPICS for argument in ("--map", f"{topic}=/policy{topic}")]
    command = [wire.REPOSITORY / "target/release/bag_play", BAG, "--clock", "--output", tmp_path / "output", *maps]
    # The player comes first and waits: what it played before every endpoint had been found would be lost.
    player = subprocess.Popen(command, env=os.environ | {"ROS_DOMAIN_ID": str(domain)}, stderr=subprocess.PIPE, text=True)
    try:
        absent = {f"cameras.{slot}.max_age_ms": None for slot in ("left_wrist_0_rgb", "right_wrist_0_rgb")}
        start_policy(robot="aloha_sim", use_sim_time=True, **{"instruction.default": None}, **PARAMETERS, **absent)
        _, errors = player.communicate(timeout=PATIENCE)
        assert player.returncode == 0, errors
    finally:
        player.kill()
        player.wait()
    online, offline = chunks_of(tmp_path / "output"), chunks_of(replayed[0])
    with AnyReader([BAG]) as reader:
        start, end = reader.start_time * 1e-9, reader.end_time * 1e-9
    observed = {index: wire.seconds(chunk.observation_stamp) for index, chunk in online.items()}
    assert min(observed.values()) < start + 0.5, "it was paused until the node listened"
    # The clock runs on for a moment after the bag, and the node with it until its samples are a second old.
    assert all(start <= stamp <= end + 1.5 for stamp in observed.values()), "the node lives in the time of the bag"
    inside = sum(stamp <= end for stamp in observed.values())
    assert len(offline) >= 4.5 * RATE
    assert 0.6 * len(offline) <= inside <= 1.1 * len(offline), (inside, len(offline))

    # A chunk of the same index has the same noise, so two of them differ by their observations alone; two of different indices by their noise.
    common = sorted(online.keys() & offline.keys())
    assert len(common) >= 0.6 * len(offline)
    apart = [abs(observed[index] - wire.seconds(offline[index].observation_stamp)) for index in common]
    assert np.median(apart) <= 0.1, apart
    same = [np.abs(rows(online[index]) - rows(offline[index])).mean() for index in common]
    other = [np.abs(rows(offline[index]) - rows(offline[index + 1])).mean() for index in common if index + 1 in offline]
    assert np.median(same) <= 0.1 * np.median(other), (np.median(same), np.median(other))
    for index in common:
        assert online[index].instruction == offline[index].instruction
        assert (online[index].seed, online[index].backend) == (offline[index].seed, offline[index].backend)
        assert list(online[index].joint_names) == list(offline[index].joint_names)


def test_other_readers_open_what_a_replay_records(replayed: tuple[Path, dict]):
    output, printed = replayed
    information = YAML(typ="safe").load(output / "metadata.yaml")["rosbag2_bagfile_information"]
    assert (information["version"], information["storage_identifier"]) == (9, "mcap")
    by_rosbags, by_mcap_ros2 = bags.read_rosbags(output), bags.read_mcap_ros2(output)
    chunks = [message for message in by_rosbags if message[0] == "/policy/action_chunk"]
    assert len(chunks) == printed["chunks"] > 0
    assert {message[0] for message in by_rosbags} == {"/policy/action_chunk", "/policy/joint_trajectory"}
    # Topics that were written at the same time may be read in any order.
    order = lambda messages: sorted(messages, key=lambda message: (message[2], message[0]))  # noqa: E731
    for ours, theirs in zip(order(by_rosbags), order(by_mcap_ros2), strict=True):
        assert ours[0] == theirs[0] and ours[2] == theirs[2]
        assert ours[3] == theirs[3]


def test_a_recorded_run_is_the_same_again_and_another_seed_is_named(tmp_path: Path, checkpoint: Path):
    baseline = tmp_path / "baseline.safetensors"
    recorded = replay(tmp_path, checkpoint, "--record", baseline)
    assert recorded.returncode == 0, recorded.stderr
    same = replay(tmp_path, checkpoint, "--baseline", baseline, "--report", tmp_path / "report")
    assert same.returncode == 0, same.stdout + same.stderr
    other = write_parameters(tmp_path / "other.yaml", {"seed": 8})
    different = replay(tmp_path, checkpoint, "--params", other, "--baseline", baseline, "--report", tmp_path / "different", "--json")
    assert different.returncode == 1, different.stdout + different.stderr
    comparison = json.loads(different.stdout)["comparison"]
    assert comparison["verdict"] == "different"
    lines = [json.loads(line) for line in (tmp_path / "different/chunks.jsonl").read_text().splitlines()]
    assert lines[-1]["exit_code"] == 1
    assert {"index.html", "junit.xml", "chunks.jsonl"} == {file.name for file in (tmp_path / "different").iterdir()}
