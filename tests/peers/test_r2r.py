"""The node as an independent Rust client (r2r) sees it, and the bag player of `make run`. The bag is the committed demo."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import wire
from rosbags.highlevel import AnyReader

BAG = wire.REPOSITORY / "tests/data/bags/aloha_transfer_cube"
R2R = wire.REPOSITORY / "target/release"
PATIENCE = 120.0


@pytest.fixture
def start_aloha(start_policy: Callable[..., wire.PolicyNode]) -> Callable[..., wire.PolicyNode]:
    """Starts a node for the robot and the camera of the bag."""

    def start(*arguments: str) -> wire.PolicyNode:
        transport = {"cameras.base_0_rgb.transport": "compressed"}
        absent = {f"cameras.{slot}.max_age_ms": None for slot in ("left_wrist_0_rgb", "right_wrist_0_rgb")}
        return start_policy(*arguments, robot="aloha_sim", **transport, **absent, **{"instruction.default": None})

    return start


@pytest.fixture
def environment(domain: int) -> dict[str, str]:
    return os.environ | {"ROS_DOMAIN_ID": str(domain)}


def wire_check(environment: dict[str, str], *arguments: str) -> None:
    process = subprocess.run([R2R / "wire_check", BAG, *arguments], env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert process.returncode == 0, process.stdout + process.stderr


def test_types_qos_and_content_of_every_output(start_aloha, environment):
    start_aloha()
    wire_check(environment, "outputs", "/policy")


def test_a_restarted_node_is_found_again_and_counts_from_zero(start_aloha, environment):
    node = start_aloha()
    command = [R2R / "wire_check", BAG, "restart", "/policy"]
    check = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert check.stdout.readline() == "restart now\n", check.stderr.read()
        code, seconds = node.end()
        assert code == 0
        assert seconds < 2.0
        start_aloha()
        _, errors = check.communicate(timeout=PATIENCE)
        assert check.returncode == 0, errors
    finally:
        check.kill()
        check.wait()


def test_two_nodes_in_two_namespaces_do_not_hear_each_other(start_aloha, environment):
    for namespace in ("/left", "/right"):
        start_aloha("-r", f"__ns:={namespace}")
    wire_check(environment, "isolation", "/left/policy", "/right/policy")


def test_bag_play_records_what_the_node_says(start_aloha, environment, tmp_path: Path):
    start_aloha()
    output = tmp_path / "output"
    topics = ["/camera/base_0_rgb/image/compressed", "/joint_states", "/instruction"]
    maps = [argument for topic in topics for argument in ("--map", f"{topic}=/policy{topic}")]
    command = [R2R / "bag_play", BAG, "--output", output, "--rate", "1.5", *maps]
    played = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert played.returncode == 0, played.stderr
    with AnyReader([output]) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        chunks = [
            reader.deserialize(data, connection.msgtype)
            for connection, _, data in reader.messages()
            if connection.topic == "/policy/action_chunk"
        ]
    assert counts["/joint_states"] == 250
    assert counts["/instruction"] == 5
    # Every chunk has a trajectory; where the chunks ran out there is one more that holds the pose.
    assert counts["/policy/joint_trajectory"] >= counts["/policy/action_chunk"] == len(chunks) >= 5
    assert counts["/diagnostics"] >= 2
    assert [chunk.chunk_index for chunk in chunks] == list(range(chunks[0].chunk_index, chunks[0].chunk_index + len(chunks)))

    svg = tmp_path / "joints.svg"
    shown = subprocess.run([wire.BINARIES / "pi0_tt", "summary", output, "--json", "--svg", svg], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    summary = json.loads(shown.stdout)
    assert summary["chunks"] == len(chunks)
    assert [age["name"] for age in summary["input_ages"]] == ["base_0_rgb", "instruction", "joint_states"]
    assert summary["first_chunk"]["joints"] == chunks[0].joint_names
    assert summary["first_chunk"]["rows"][0][1] == list(chunks[0].actions[:14])
    assert svg.read_text().count("left_waist") == 1


def test_bag_play_says_who_does_not_listen_and_records_nothing(environment, tmp_path: Path):
    command = [R2R / "bag_play", BAG, "--output", tmp_path / "output", "--wait", "1"]
    played = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert played.returncode == 1
    assert "Nobody subscribed to /camera/base_0_rgb/image/compressed" in played.stderr
    assert "ROS_DOMAIN_ID" in played.stderr
    assert not (tmp_path / "output").exists()
