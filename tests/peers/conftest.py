"""Fixtures of the wire tests: a synthetic checkpoint, a ROS domain per test, the policy node as a process, and a robot around it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wire

# Camera slots and joints of the synthetic checkpoint and the profile it is used with.
CAMERAS = ["top", "left_wrist", "right_wrist"]
JOINTS = ["a", "b", "c"]
PROFILE = wire.REPOSITORY / "config" / "robots" / "aloha.yaml"
INSTRUCTION = "transfer the cube"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny π0 with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return folder


@pytest.fixture
def domain() -> Iterator[int]:
    with wire.ros_domain() as number:
        yield number


@pytest.fixture
def start_policy(domain: int, tmp_path: Path, checkpoint: Path) -> Iterator[Callable[..., wire.PolicyNode]]:
    """Starts policy nodes; ends and shows those that still run after the test."""
    nodes: list[wire.PolicyNode] = []

    def start(*arguments: str, **parameters: object) -> wire.PolicyNode:
        defaults = {
            "checkpoint": str(checkpoint),
            "robot": str(PROFILE),
            "inference.rate_hz": 10.0,
            "instruction.default": INSTRUCTION,
            # The machine that runs the tests may be busy; the limits themselves are tested with values of their own.
            "joint_states.max_age_ms": 1000.0,
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
