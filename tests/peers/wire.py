"""A robot made of rclpy publishers, and the policy node as a process, for the tests of what goes over the wire."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# The publisher's side decides how large a shared memory segment is. Read once, when the first participant of this process is made.
os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(REPOSITORY / "config" / "fastdds_shm32.xml")
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.pop("RMW_IMPLEMENTATION", None)

import numpy as np  # noqa: E402
import rclpy  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from lifecycle_msgs.msg import Transition, TransitionEvent  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from pi0_tt.msg import ActionChunk  # noqa: E402
from rcl_interfaces.msg import Log, Parameter, ParameterType, ParameterValue, SetParametersResult  # noqa: E402
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data  # noqa: E402
from rclpy.task import Future  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

# Where the binaries are; cargo's default unless the build says otherwise.
BINARIES = Path(os.environ.get("PI0_TT_BINARIES", REPOSITORY / "target" / "release"))
RELIABLE = QoSProfile(depth=10, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
HEIGHT, WIDTH = 48, 64
# Longer than anything should take on a machine that is busy with other builds.
PATIENCE = 20.0


@contextmanager
def ros_domain() -> Iterator[int]:
    """A ROS domain that no other test on this machine uses at the moment."""
    for domain in range(1, 102):
        try:
            # Another user's file cannot be opened.
            lock = open(Path(tempfile.gettempdir()) / f"ros_domain_{domain}.lock", "w")
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        with lock:
            yield domain
        return
    raise RuntimeError("All ROS domains from 1 to 101 are in use")


class PolicyNode:
    """The node under test as a process of its own."""

    def __init__(self, domain: int, folder: Path, parameters: dict[str, object], arguments: tuple[str, ...] = ()) -> None:
        values = [argument for name, value in parameters.items() for argument in ("-p", f"{name}:={_yaml(value)}")]
        environment = {key: value for key, value in os.environ.items() if key != "FASTDDS_DEFAULT_PROFILES_FILE"}
        environment |= {"ROS_DOMAIN_ID": str(domain), "ROS_LOG_DIR": str(folder)}
        self._log = tempfile.TemporaryFile("w+", dir=folder)
        self._process = subprocess.Popen(
            [BINARIES / "policy_node", "--ros-args", *arguments, *values], stdout=self._log, stderr=self._log, env=environment
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def wait(self, timeout: float) -> int:
        return self._process.wait(timeout)

    def end(self, signal_number: signal.Signals = signal.SIGINT) -> tuple[int, float]:
        """Exit code and seconds until the process was gone."""
        start = time.monotonic()
        self._process.send_signal(signal_number)
        code = self._process.wait(PATIENCE)
        return code, time.monotonic() - start

    def kill(self) -> None:
        if self.alive():
            self._process.kill()
            self._process.wait()


class Robot:
    """Publishes cameras, joint states and instructions, and keeps everything that the policy publishes."""

    def __init__(self, domain: int, cameras: list[str], joints: list[str], policy: str = "/policy", compressed: tuple[str, ...] = ()) -> None:
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node("robot", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.policy = policy
        self.cameras = list(cameras)
        self.images: dict[str, Image | CompressedImage] = {}
        for index, slot in enumerate(cameras):
            pixels = np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            self.images[slot] = image(pixels)
        self.joint_state = JointState(name=list(joints), position=[0.1 * index for index in range(len(joints))])
        # What is published at the moment; a test takes a camera away from here to unplug it.
        self.plugged = set(cameras) | {"joint_states"}
        # Seconds that are taken off every stamp.
        self.stamp_lag: dict[str, float] = defaultdict(float)
        self.sent = defaultdict(int)
        self._publishers = {
            slot: self.node.create_publisher(CompressedImage, f"{policy}/camera/{slot}/image/compressed", qos_profile_sensor_data)
            if slot in compressed
            else self.node.create_publisher(Image, f"{policy}/camera/{slot}/image", qos_profile_sensor_data)
            for slot in cameras
        }
        self._publishers["joint_states"] = self.node.create_publisher(JointState, f"{policy}/joint_states", qos_profile_sensor_data)
        self._instruction = self.node.create_publisher(String, f"{policy}/instruction", RELIABLE)
        self.chunks: list[ActionChunk] = []
        self.trajectories: list[JointTrajectory] = []
        self.diagnostics: list[DiagnosticArray] = []
        self.logs: list[Log] = []
        self.transitions: list[TransitionEvent] = []
        self.node.create_subscription(ActionChunk, f"{policy}/action_chunk", self.chunks.append, RELIABLE)
        self.node.create_subscription(JointTrajectory, f"{policy}/joint_trajectory", self.trajectories.append, RELIABLE)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, RELIABLE)
        self.node.create_subscription(Log, "/rosout", self.logs.append, LATCHED)
        self.node.create_subscription(TransitionEvent, f"{policy}/transition_event", self.transitions.append, RELIABLE)
        self.frozen = False
        self._timer = self.node.create_timer(1 / 30, self.publish)

    # --- inputs

    def publish(self) -> None:
        """One frame of every plugged input, stamped now."""
        if self.frozen:
            return
        now = self.now()
        for name in self.cameras + ["joint_states"]:
            if name in self.plugged:
                message = self.joint_state if name == "joint_states" else self.images[name]
                message.header.stamp = stamp(now - self.stamp_lag[name])
                self._publishers[name].publish(message)
                self.sent[name] += 1

    def now(self) -> float:
        return self.node.get_clock().now().nanoseconds * 1e-9

    def publisher(self, name: str):
        return self._publishers[name]

    def say(self, text: str) -> None:
        self._instruction.publish(String(data=text))

    def matched(self) -> bool:
        """Whether every publisher has found the policy."""
        return all(publisher.get_subscription_count() > 0 for publisher in [*self._publishers.values(), self._instruction])

    # --- outputs

    def spin(self, seconds: float) -> None:
        self.spin_until(lambda: False, seconds)

    def spin_until(self, condition: Callable[[], object], timeout: float = PATIENCE) -> bool:
        deadline = time.monotonic() + timeout
        while not condition():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(remaining, 0.1))
        return True

    def next_chunk(self, timeout: float = PATIENCE) -> ActionChunk:
        """The first chunk that arrives from now on."""
        count = len(self.chunks)
        assert self.spin_until(lambda: len(self.chunks) > count, timeout), f"No chunk within {timeout} s. {self.health()}"
        return self.chunks[count]

    def wait_until_matched(self) -> None:
        assert self.spin_until(self.matched), "The policy node did not subscribe to every input"

    def status(self, task: str) -> DiagnosticStatus | None:
        """The newest diagnostic status of a task of the policy."""
        name = f"{self.policy.lstrip('/')}: {task}"
        return next((status for array in reversed(self.diagnostics) for status in array.status if status.name == name), None)

    def wait_for_status(self, task: str, condition: Callable[[DiagnosticStatus], object]) -> DiagnosticStatus:
        def reached() -> bool:
            status = self.status(task)
            return status is not None and bool(condition(status))

        assert self.spin_until(reached), f"No such status of {task}: {self.status(task)}"
        status = self.status(task)
        assert status is not None
        return status

    def logged(self, text: str) -> list[str]:
        """Messages with `text` on /rosout, after waiting for the first: they may come later than what they tell of."""
        found = lambda: [log.msg for log in self.logs if text in log.msg]  # noqa: E731
        self.spin_until(found)
        return found()

    def health(self) -> str:
        status = self.status("inference")
        return f"inference: {status.message}" if status else "no diagnostics"

    # --- services

    def ask(self, type_: type, service: str, request: object) -> Future:
        """Sends a request and does not wait for its answer."""
        client = self.node.create_client(type_, f"{self.policy}/{service}")
        assert self.spin_until(client.service_is_ready), f"{service} is not offered"
        future = client.call_async(request)
        future.add_done_callback(lambda _: self.node.destroy_client(client))
        return future

    def answer(self, future: Future, timeout: float = PATIENCE) -> object:
        assert self.spin_until(future.done, timeout), "A service did not answer"
        return future.result()

    def call(self, type_: type, service: str, request: object) -> object:
        return self.answer(self.ask(type_, service, request))

    # --- lifecycle

    def ask_for(self, label: str = "", id: int = 0) -> Future:
        return self.ask(ChangeState, "change_state", ChangeState.Request(transition=Transition(id=id, label=label)))

    def change_state(self, label: str = "", id: int = 0) -> bool:
        return self.answer(self.ask_for(label, id)).success

    def state(self) -> str:
        return self.call(GetState, "get_state", GetState.Request()).current_state.label

    def wait_for_state(self, label: str) -> None:
        assert self.spin_until(lambda: self.state() == label), f"The node is {self.state()}"

    # --- parameters

    def set_parameter(self, name: str, value: object) -> SetParametersResult:
        request = SetParameters.Request(parameters=[Parameter(name=name, value=parameter_value(value))])
        return self.call(SetParameters, "set_parameters", request).results[0]

    def parameter_names(self) -> list[str]:
        return list(self.call(ListParameters, "list_parameters", ListParameters.Request()).result.names)

    def describe_parameters(self, names: list[str]):
        return self.call(DescribeParameters, "describe_parameters", DescribeParameters.Request(names=names)).descriptors

    def get_parameters(self, names: list[str]) -> list[ParameterValue]:
        return self.call(GetParameters, "get_parameters", GetParameters.Request(names=names)).values

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


def image(pixels: np.ndarray, encoding: str = "rgb8", padding: int = 0) -> Image:
    """A sensor_msgs/Image of `[height, width, channels]`, each row followed by `padding` bytes."""
    height, width = pixels.shape[:2]
    rows = np.full((height, pixels[0].nbytes + padding), 0xAA, dtype=np.uint8)
    rows[:, : pixels[0].nbytes] = pixels.reshape(height, -1)
    return Image(height=height, width=width, encoding=encoding, step=rows.shape[1], data=rows.tobytes())


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of `[height, width, 3]`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    # Each row begins with the number of its filter, 0: none.
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def stamp(seconds: float):
    return rclpy.time.Time(nanoseconds=round(seconds * 1e9)).to_msg()


def seconds(time_message) -> float:
    return time_message.sec + time_message.nanosec * 1e-9


def values_of(status: DiagnosticStatus) -> dict[str, str]:
    return {value.key: value.value for value in status.values}


def resident_megabytes(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"Process {pid} has no VmRSS")


def parameter_value(value: object) -> ParameterValue:
    match value:
        case bool():
            return ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=value)
        case int():
            return ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
        case float():
            return ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
        case str():
            return ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
    raise TypeError(f"No parameter type for {value!r}")


def _yaml(value: object) -> str:
    """A value as `-p name:=value` takes it: quoted text stays text."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return "'" + value.replace("'", "''") + "'"
    return repr(value)
