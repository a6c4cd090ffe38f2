"""Fixtures of the wire tests: a synthetic checkpoint, a ROS domain per test, the policy node as a process, and a robot around it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wire

# Camera slots of the synthetic checkpoint, and the joints of a robot that has as many as it has columns.
CAMERAS = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]
JOINTS = [f"{side}_{joint}" for side in ("left", "right") for joint in ("waist", "shoulder", "elbow", "roll", "angle", "rotate", "gripper")]
CONTROL_RATE = 50
INSTRUCTION = "transfer the cube"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny π0 with synthetic weights."""
    folder = tmp_path_factory.mktemp("policy") / "checkpoint"
    subprocess.run([wire.BINARIES / "pi0_tt", "synth", "--geometry", "tiny", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def long_chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with chunks of 50 rows: a second of motion."""
    folder = tmp_path_factory.mktemp("policy") / "small"
    subprocess.run([wire.BINARIES / "pi0_tt", "synth", "--geometry", "small", folder], check=True)
    return folder


def write_profile(path: Path, velocity: tuple[str, ...] = ()) -> Path:
    """A robot profile with every camera; the joints in `velocity` are commanded by their velocity."""
    lines = ["name: wire_test", f"control_rate_hz: {CONTROL_RATE}", "state:"]
    lines += [f"  - {{joint: {joint}, unit: rad}}" for joint in JOINTS]
    lines += ["actions:"]
    lines += [f"  - {{joint: {joint}, command: {'velocity' if joint in velocity else 'position'}, unit: rad}}" for joint in JOINTS]
    lines += ["cameras:", *(f"  {slot}: {{name: {slot}}}" for slot in CAMERAS)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_profile(tmp_path_factory.mktemp("robot") / "wire_test.yaml")


@pytest.fixture
def domain() -> Iterator[int]:
    with wire.ros_domain() as number:
        yield number


@pytest.fixture
def start_policy(domain: int, tmp_path: Path, checkpoint: Path, profile: Path) -> Iterator[Callable[..., wire.PolicyNode]]:
    """Starts policy nodes; ends and shows those that still run after the test."""
    nodes: list[wire.PolicyNode] = []

    def start(*arguments: str, **parameters: object) -> wire.PolicyNode:
        defaults = {
            "checkpoint": str(checkpoint),
            "robot": str(profile),
            # Chunks that depend on nothing but seed and inputs, and a robot that follows no command.
            "inference.trigger": "rate",
            "inference.rate_hz": 10.0,
            "chunking.mode": "none",
            "max_drift": 0.0,
            "instruction.default": INSTRUCTION,
            # The machine that runs the tests may be busy; the limits themselves are tested with values of their own.
            "joint_states.max_age_ms": 1000.0,
            "sync.max_skew_ms": 0.0,
            **{f"cameras.{slot}.max_age_ms": 1000.0 for slot in CAMERAS},
        }
        values = defaults | {name.replace("__", "."): value for name, value in parameters.items()}
        node = wire.PolicyNode(domain, tmp_path, {name: value for name, value in values.items() if value is not None}, arguments)
        nodes.append(node)
        return node

    yield start
    ended = [node.end() for node in nodes if node.alive()]
    for node in nodes:
        print(f"--- policy node {node.pid}\n{node.output()}")
    assert all(code == 0 for code, _ in ended), "A policy node did not end cleanly"


@pytest.fixture
def make_robot(domain: int) -> Iterator[Callable[..., wire.Robot]]:
    robots: list[wire.Robot] = []

    def make(**options: object) -> wire.Robot:
        robot = wire.Robot(domain, CAMERAS, JOINTS, **options)
        robots.append(robot)
        return robot

    yield make
    for robot in robots:
        robot.close()


@pytest.fixture
def robot(make_robot: Callable[..., wire.Robot]) -> wire.Robot:
    return make_robot()
