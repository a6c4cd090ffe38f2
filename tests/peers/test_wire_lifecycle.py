"""The policy node as a managed node: what its services answer, and what it publishes in which state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import rclpy
import rclpy_lifecycle
import wire
from conftest import CAMERAS
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.srv import GetAvailableStates, GetAvailableTransitions
from rclpy.context import Context
from std_msgs.msg import Float64MultiArray

TRANSITION_LIMIT = 60.0
# States, and how they are reached from a new node.
REST = rclpy_lifecycle.REST


@pytest.fixture
def managed(start_policy, robot):
    """Starts a node that waits for somebody to configure it, and whose events are heard."""

    def start(**parameters: object) -> wire.PolicyNode:
        node = start_policy(autostart=False, **parameters)
        hear_events_of(robot)
        return node

    return start


def hear_events_of(robot: wire.Robot) -> None:
    topic = f"{robot.policy}/transition_event"
    assert robot.spin_until(lambda: robot.node.count_publishers(topic) > 0)
    # The publisher has to find the subscription too: nothing but a sample tells that it has.
    robot.spin(1.0)


def steps(robot: wire.Robot) -> list[tuple[str, str]]:
    """Start and goal of every transition event so far."""
    return [(event.start_state.label, event.goal_state.label) for event in robot.transitions]


def published(robot: wire.Robot) -> int:
    return len(robot.chunks) + len(robot.trajectories)


class BlockedProfile:
    """A robot profile that nobody can read to its end until it is released."""

    def __init__(self, folder: Path, profile: Path) -> None:
        self.path = folder / "blocked.yaml"
        self._content = profile.read_bytes()
        os.mkfifo(self.path)

    def release(self) -> None:
        # Waits for a reader.
        thread = threading.Thread(target=self.path.write_bytes, args=(self._content,), daemon=True)
        thread.start()
        thread.join(wire.PATIENCE)
        assert not thread.is_alive(), "Nobody reads the profile"


@pytest.fixture
def blocked(tmp_path, profile) -> BlockedProfile:
    return BlockedProfile(tmp_path, profile)


# --- the same answers as rclpy


def test_the_record_of_rclpy_is_that_of_the_installed_rclpy(domain):
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    try:
        rclpy.logging.set_logger_level("rcl_lifecycle", rclpy.logging.LoggingSeverity.FATAL)
        assert rclpy_lifecycle.record(context) == json.loads(rclpy_lifecycle.RECORD.read_text())
    finally:
        rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    "walk",
    [
        ["configure", "activate", "deactivate", "cleanup", "configure", "shutdown"],
        ["activate", "shutdown", "configure"],
        ["configure", "activate", "configure", "cleanup", "shutdown"],
    ],
)
def test_every_service_answers_on_the_way_what_a_node_of_rclpy_answers(managed, robot, make_robot, domain, walk):
    def everything(asked: wire.Robot) -> list:
        graphs = [
            asked.call(GetAvailableTransitions, name, GetAvailableTransitions.Request()).available_transitions
            for name in ("get_available_transitions", "get_transition_graph")
        ]
        return [asked.state(), asked.call(GetAvailableStates, "get_available_states", GetAvailableStates.Request()).available_states, graphs]

    managed()
    other = make_robot(policy="/peer")
    with rclpy_lifecycle.peer_at_work("peer", domain):
        hear_events_of(other)
        assert everything(robot) == everything(other)
        for label in walk:
            assert robot.change_state(label) == other.change_state(label), label
            assert everything(robot) == everything(other), label
        assert robot.spin_until(lambda: len(robot.transitions) == len(other.transitions))
        assert steps(robot) == steps(other) != []
        services = [dict(asked.node.get_service_names_and_types_by_node(asked.policy[1:], "/")) for asked in (robot, other)]
        ours, theirs = ({name.split("/")[-1]: types for name, types in of.items() if "lifecycle_msgs" in types[0]} for of in services)
        assert ours == theirs and len(ours) == 5
        qualities = [asked.node.get_publishers_info_by_topic(f"{asked.policy}/transition_event")[0].qos_profile for asked in (robot, other)]
        assert (qualities[0].reliability, qualities[0].durability) == (qualities[1].reliability, qualities[1].durability)


def test_every_step_is_told_with_its_id_label_and_time(managed, robot):
    managed()
    start = robot.now()
    for label in ["configure", "activate", "deactivate", "cleanup", "shutdown"]:
        assert robot.change_state(label)
    assert robot.spin_until(lambda: len(robot.transitions) == 10)
    events = [(event.transition.id, event.transition.label) for event in robot.transitions]
    done = "transition_success"
    assert events == [
        *((1, "configure"), (10, done), (3, "activate"), (30, done), (4, "deactivate"), (40, done)),
        *((2, "cleanup"), (20, done), (5, "shutdown"), (50, done)),
    ]
    times = [event.timestamp * 1e-9 for event in robot.transitions]
    assert start <= times[0] and times == sorted(times) and times[-1] <= robot.now()


@pytest.mark.parametrize("state", REST)
def test_what_is_illegal_in_a_state_is_refused_and_changes_nothing(managed, robot, state):
    managed()
    assert all(robot.change_state(label) for label in REST[state])
    assert robot.spin_until(lambda: len(robot.transitions) == 2 * len(REST[state]))
    record = json.loads(rclpy_lifecycle.RECORD.read_text())
    ids = {id for id, *_ in record["graph"]} | {0, 8, 9, 97, 98, 99, 255}
    labels = {label for _, label, *_ in record["graph"]} | {"destroy", "no_such"}
    for id in sorted(ids - set(record["accepted_ids"][state])):
        assert not robot.change_state(id=id), id
    for label in sorted(labels - set(record["accepted_labels"][state])):
        assert not robot.change_state(label), label
    assert robot.state() == state
    assert len(robot.transitions) == 2 * len(REST[state])
    assert robot.logged(f'There is no transition "no_such" from state {state}')


# --- what happens in which state


def test_nothing_is_published_before_activate_and_after_deactivate(managed, robot):
    managed()
    robot.spin(1.0)
    assert robot.change_state("configure")
    robot.wait_until_matched()
    robot.spin(1.0)
    assert published(robot) == 0
    for _ in range(3):
        assert robot.change_state("activate")
        robot.next_chunk()
        assert robot.change_state("deactivate")
        # What was sent before may still be on its way.
        robot.spin(0.2)
        count = published(robot)
        robot.spin(1.0)
        assert published(robot) == count
    indices = [chunk.chunk_index for chunk in robot.chunks]
    assert indices == sorted(set(indices))


@pytest.mark.parametrize("again", [False, True])
def test_a_chunk_that_is_computed_during_deactivate_is_never_published(managed, robot, tmp_path, again):
    checkpoint = tmp_path / "small"
    subprocess.run([wire.BINARIES / "pi0_tt", "synth", "--geometry", "small", checkpoint], check=True)
    managed(checkpoint=str(checkpoint), denoise_steps=200, threads=1)
    assert robot.answer(robot.ask_for("configure"), TRANSITION_LIMIT).success
    robot.wait_until_matched()
    assert robot.change_state("activate")
    robot.wait_for_status("inference", lambda status: "runs for" in status.message)

    def ended() -> int:
        values = wire.values_of(robot.status("inference"))
        return int(values["chunks"]) + int(values["refused_chunks"])

    before, count = ended(), published(robot)
    start = time.monotonic()
    assert robot.change_state("deactivate")
    assert time.monotonic() - start < 1.0, "Deactivate waited for the inference"
    if again:
        start = robot.now()
        assert robot.change_state("activate")
        assert wire.seconds(robot.next_chunk(TRANSITION_LIMIT).observation_stamp) >= start
    else:
        assert robot.spin_until(lambda: ended() > before, TRANSITION_LIMIT)
        assert published(robot) == count


@pytest.mark.parametrize("end", ["deactivate", "shutdown", signal.SIGINT, signal.SIGTERM])
def test_the_last_command_of_an_active_node_holds_the_pose(managed, robot, end):
    commands: list[Float64MultiArray] = []
    robot.node.create_subscription(Float64MultiArray, "/policy/position_commands", commands.append, wire.RELIABLE)
    node = managed(forward_commands=True)
    assert robot.change_state("configure") and robot.change_state("activate")
    assert robot.spin_until(lambda: len(commands) >= 20)
    assert commands[-1] != commands[-2]
    if isinstance(end, str):
        assert robot.change_state(end)
    else:
        code, seconds = node.end(end)
        assert code == 0
        assert seconds < 2.0
    # What was sent before may still be on its way.
    assert robot.spin_until(lambda: robot.trajectories[-1].points[-1].positions == commands[-1].data and commands[-1] == commands[-2])
    robot.spin(0.3)
    count = len(commands), published(robot)
    robot.spin(1.0)
    assert (len(commands), published(robot)) == count


def test_diagnostics_come_in_every_state_and_name_it(managed, robot):
    managed()
    for label, state in [(None, "unconfigured"), ("configure", "inactive"), ("activate", "active"), ("deactivate", "inactive")]:
        assert label is None or robot.change_state(label)
        status = robot.wait_for_status("lifecycle", lambda status: wire.values_of(status)["state"] == state)
        assert status.level == DiagnosticStatus.OK
        assert status.message.lower().startswith(state)
        names = {status.name for status in robot.diagnostics[-1].status}
        assert ("policy: inference" in names) == (state != "unconfigured")
        assert state != "inactive" or robot.status("inference").message == "Inactive"
    assert robot.change_state("cleanup")
    robot.wait_for_status("lifecycle", lambda status: wire.values_of(status)["state"] == "unconfigured")
    assert [status.name for status in robot.diagnostics[-1].status] == ["policy: lifecycle"]
    assert robot.change_state("shutdown")
    robot.wait_for_status("lifecycle", lambda status: wire.values_of(status)["state"] == "finalized")


def test_cleanup_ends_the_subscriptions_and_undeclares_the_cameras_parameters(managed, robot):
    managed()
    fresh = set(robot.parameter_names())
    for _ in range(3):
        assert robot.change_state("configure")
        configured = set(robot.parameter_names())
        assert {f"cameras.{CAMERAS[0]}.transport", "joint_states.max_age_ms"} <= configured - fresh
        robot.wait_until_matched()
        assert robot.change_state("cleanup")
        assert set(robot.parameter_names()) == fresh
        assert robot.spin_until(lambda: robot.node.count_subscribers(f"{robot.policy}/joint_states") == 0)
        assert robot.spin_until(lambda: robot.node.count_publishers(f"{robot.policy}/action_chunk") == 0)


def test_an_instruction_from_before_a_cleanup_is_not_followed_after_it(managed, robot):
    managed()
    assert robot.change_state("configure")
    robot.wait_until_matched()
    robot.say("from before")
    robot.logged("New instruction")
    assert robot.change_state("cleanup") and robot.change_state("configure") and robot.change_state("activate")
    assert robot.next_chunk().instruction != "from before"


def test_cleanup_frees_the_memory_of_the_policy(managed, robot, tmp_path, monkeypatch):
    # glibc keeps freed memory in up to sixteen pools: with one, and large blocks outside of it, what is left is what is held.
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    checkpoint = tmp_path / "small"
    subprocess.run([wire.BINARIES / "pi0_tt", "synth", "--geometry", "small", checkpoint], check=True)
    node = managed(checkpoint=str(checkpoint), denoise_steps=1)
    configured, cleaned = [], []

    def threads() -> int:
        return len(list(Path(f"/proc/{node.pid}/task").iterdir()))

    unconfigured = threads()
    for _ in range(30):
        assert robot.answer(robot.ask_for("configure"), TRANSITION_LIMIT).success
        configured.append(wire.resident_megabytes(node.pid))
        assert robot.change_state("activate") and robot.change_state("deactivate") and robot.change_state("cleanup")
        # The backend's threads end by themselves a moment later, and their stacks and buffers with them.
        assert robot.spin_until(lambda: threads() <= unconfigured)
        cleaned.append(wire.resident_megabytes(node.pid))
    print(f"MB when configured {configured}, after cleanup {cleaned}")
    assert configured[-1] <= 1.02 * configured[5]
    assert cleaned[-1] <= 1.02 * cleaned[5]
    # The prompt's tokens use only a part of their table, which is read from the file when it is used.
    weights = (checkpoint / "model.safetensors").stat().st_size / 2**20
    assert all(before - after > 0.75 * weights for before, after in zip(configured, cleaned))


# --- failures


def test_a_configure_that_fails_says_why_and_can_be_tried_again(managed, robot, tmp_path, checkpoint):
    folder = tmp_path / "later"
    managed(checkpoint=str(folder))
    for _ in range(2):
        assert not robot.change_state("configure")
        assert robot.state() == "unconfigured"
    assert steps(robot) == 2 * [("unconfigured", "configuring"), ("configuring", "unconfigured")]
    assert robot.logged(f"The node is unconfigured: The policy cannot be opened. The checkpoint {folder} was refused")
    status = robot.wait_for_status("lifecycle", lambda status: status.level == DiagnosticStatus.ERROR)
    assert str(folder) in status.message
    folder.symlink_to(checkpoint)
    assert robot.change_state("configure")
    robot.wait_for_status("lifecycle", lambda status: status.level == DiagnosticStatus.OK)
    assert robot.change_state("activate")
    robot.next_chunk()


def test_a_camera_parameter_that_is_refused_fails_configure_and_frees_the_policy(managed, robot):
    managed(**{f"cameras__{CAMERAS[0]}__transport": "h264"})
    for _ in range(2):
        assert not robot.change_state("configure")
        assert robot.state() == "unconfigured"
    assert robot.logged('"h264" is not one of raw, compressed')


def test_while_one_client_configures_everything_else_is_answered_and_another_client_is_refused(managed, robot, make_robot, blocked):
    managed(robot=str(blocked.path))
    other = make_robot()
    configured = robot.ask_for("configure")
    other.wait_for_state("configuring")
    for label in ["configure", "activate", "cleanup", "shutdown", "transition_success"]:
        assert not other.change_state(label)
    assert not other.change_state(id=10)
    assert other.logged('Transition "shutdown" was refused: the node is configuring')
    assert robot.parameter_names()
    other.wait_for_status("lifecycle", lambda status: "configuring for" in status.message)
    assert not configured.done()
    blocked.release()
    assert robot.answer(configured).success
    assert other.state() == "inactive"


def test_of_two_clients_that_ask_at_once_exactly_one_is_served(managed, robot, make_robot):
    managed()
    other = make_robot()
    for label in ["configure", "activate", "deactivate", "cleanup"]:
        futures = [(robot, robot.ask_for(label)), (other, other.ask_for(label))]
        assert sorted(asked.answer(future).success for asked, future in futures) == [False, True], label


@pytest.mark.full
def test_a_configure_that_takes_too_long_is_given_up_and_the_next_one_goes_on_with_it(managed, robot, blocked):
    managed(robot=str(blocked.path))
    start = time.monotonic()
    assert not robot.answer(robot.ask_for("configure"), 2 * TRANSITION_LIMIT).success
    assert TRANSITION_LIMIT <= time.monotonic() - start < TRANSITION_LIMIT + 2.0
    assert robot.state() == "unconfigured"
    assert robot.logged("The policy is not open after 60 s")
    blocked.release()
    assert robot.logged("The policy is open now")
    assert robot.change_state("configure") and robot.change_state("activate")
    robot.next_chunk()


# --- the end


def test_a_signal_in_active_ends_the_node_through_the_lifecycle(managed, robot):
    node = managed()
    assert robot.change_state("configure") and robot.change_state("activate")
    robot.next_chunk()
    code, seconds = node.end(signal.SIGTERM)
    assert code == 0
    assert seconds < 2.0
    assert robot.spin_until(lambda: steps(robot)[-2:] == [("active", "shuttingdown"), ("shuttingdown", "finalized")])


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_configure_ends_the_node_and_answers_its_client(managed, robot, blocked, signal_number):
    node = managed(robot=str(blocked.path))
    configured = robot.ask_for("configure")
    robot.wait_for_state("configuring")
    code, seconds = node.end(signal_number)
    assert code == 0
    assert seconds < 2.0
    assert not robot.answer(configured).success
    told = [("configuring", "unconfigured"), ("unconfigured", "shuttingdown"), ("shuttingdown", "finalized")]
    assert robot.spin_until(lambda: steps(robot)[-3:] == told)


@pytest.mark.parametrize("state", REST)
def test_a_node_can_be_ended_in_every_state(managed, robot, state):
    node = managed()
    assert all(robot.change_state(label) for label in REST[state])
    code, seconds = node.end(signal.SIGTERM)
    assert code == 0
    assert seconds < 2.0


@pytest.mark.parametrize("state", [state for state in REST if state != "finalized"])
def test_shutdown_from_every_state_frees_the_policy_and_leaves_a_node_that_answers(managed, robot, state):
    node = managed()
    assert all(robot.change_state(label) for label in REST[state])
    assert robot.change_state("shutdown")
    assert robot.state() == "finalized"
    assert robot.spin_until(lambda: robot.node.count_publishers(f"{robot.policy}/action_chunk") == 0)
    robot.spin(0.5)
    assert node.alive()


# --- autostart


def test_with_autostart_the_node_configures_and_activates_itself(start_policy, robot):
    start_policy()
    robot.next_chunk()
    assert robot.state() == "active"
    assert robot.change_state("deactivate") and robot.change_state("cleanup") and robot.change_state("configure")
    assert robot.state() == "inactive"


def test_without_autostart_the_node_opens_nothing(managed, robot, tmp_path):
    managed(checkpoint=str(tmp_path / "nowhere"))
    robot.spin(1.0)
    assert robot.state() == "unconfigured"
    assert robot.transitions == []
    assert robot.wait_for_status("lifecycle", lambda status: True).message == "Unconfigured: no policy is open"
    assert robot.node.count_subscribers(f"{robot.policy}/joint_states") == 0
