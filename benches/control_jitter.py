#!/usr/bin/env python3
"""Control steps at 50 Hz while the reference backend keeps every core busy: how late they are.

Needs the built node and the Python environment of tests/peers. Runs a synthetic policy of small geometry, one inference after the other:

    benches/control_jitter.py [--seconds 60]

Two views of the same steps: what the node reports on /diagnostics, and when the middleware was given each row of ~/position_commands, against
a grid of the control period that most rows lie on. Exit code 1 when the 99th percentile of either is above 1 ms, or rows are missing.
A user who may not have real-time priorities (rtprio in /etc/security/limits.conf) measures the machine's other load too.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "peers"))

import conftest  # noqa: E402
import numpy as np  # noqa: E402
import wire  # noqa: E402
from node_callbacks import cpu_seconds  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from std_msgs.msg import Float64MultiArray  # noqa: E402

PERIOD_MS = 1000.0 / conftest.CONTROL_RATE
P99_MS = 1.0
DIAGNOSED = ["lateness_ms_median", "lateness_ms_p99", "lateness_ms_max"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long is measured (default 60)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, wire.ros_domain() as domain:
        folder = Path(name)
        subprocess.run([wire.BINARIES / "pi0_tt", "synth", "--geometry", "small", folder / "checkpoint"], check=True)
        parameters = {
            "checkpoint": str(folder / "checkpoint"),
            "robot": str(conftest.write_profile(folder / "robot.yaml")),
            # Always one inference running, and a robot that stands still whatever it is told.
            "inference.trigger": "rate",
            "inference.rate_hz": 100.0,
            # An inference is a fraction of a chunk, so that the rows never run out on a machine that is slow or busy.
            "denoise_steps": 2,
            "max_drift": 0.0,
            "forward_commands": True,
            "instruction.default": conftest.INSTRUCTION,
        }
        node = wire.PolicyNode(domain, folder, parameters)
        robot = wire.Robot(domain, conftest.CAMERAS, conftest.JOINTS)
        try:
            return measure(node, robot, arguments.seconds)
        finally:
            robot.close()
            node.end()


def measure(node: wire.PolicyNode, robot: wire.Robot, seconds: float) -> int:
    sent: list[int] = []
    robot.node.create_subscription(
        Float64MultiArray,
        f"{robot.policy}/position_commands",
        lambda _, info: sent.append(info["source_timestamp"]),
        QoSProfile(depth=1000),
    )
    robot.wait_until_matched()
    robot.next_chunk()
    # The delays of the first chunks are not the usual ones.
    robot.spin(2.0)

    sent.clear()
    robot.diagnostics.clear()
    chunks, cpu = len(robot.chunks), cpu_seconds(node.pid)
    robot.spin(seconds)
    cpu, chunks = (cpu_seconds(node.pid) - cpu) / seconds, len(robot.chunks) - chunks

    late, missing = lateness_ms(sent)
    wire_p99 = float(np.percentile(late, 99))
    reports = [wire.values_of(status) for array in robot.diagnostics for status in array.status if status.name == "policy: control"]
    medians, p99s, largest = ([float(report[key]) for report in reports if key in report] for key in DIAGNOSED)
    # The 99th percentile of a second of 50 steps is its largest but one at best: over all of them, one in a hundred may be larger.
    node_p99 = float(np.percentile(p99s, 50))

    stalls = int(reports[-1]["stalls"]) - int(reports[0]["stalls"])
    print(f"{seconds:.0f} s, {chunks} chunks, {len(sent)} rows, {missing} missing, {stalls} stalls, node CPU {cpu * 100:.0f} % of a core")
    print(f"{'lateness in ms':32} {'p50':>7} {'p99':>7} {'max':>7}")
    print(f"{'rows given to the middleware':32} {np.median(late):7.3f} {wire_p99:7.3f} {late.max():7.3f}")
    print(f"{'as the node reports it':32} {statistics.median(medians):7.3f} {node_p99:7.3f} {max(largest):7.3f}")
    broken = []
    if max(wire_p99, node_p99) > P99_MS:
        broken.append(f"control steps are late by more than {P99_MS} ms")
    if missing or stalls:
        broken.append("rows are missing")
    for complaint in broken:
        print(f"BROKEN: {complaint}")
    return 1 if broken else 0


def lateness_ms(sent: list[int]) -> tuple[np.ndarray, int]:
    """How long after its control step each row was sent, and how many steps had none. `sent` is in ns.

    The steps are a grid of the control period on which most rows lie; a row belongs to the step before it, because none is early.
    """
    times = (np.array(sent) - sent[0]) * 1e-6
    phase = np.angle(np.exp(2j * np.pi * times / PERIOD_MS).mean()) / (2 * np.pi) * PERIOD_MS
    # The grid is as exact as the rows on it: half a millisecond keeps a row that is on time from falling to the step before.
    steps = np.floor((times - phase + 0.5) / PERIOD_MS)
    late = times - phase - steps * PERIOD_MS
    return late - np.percentile(late, 1), int(steps[-1] - steps[0]) + 1 - len(np.unique(steps))


if __name__ == "__main__":
    sys.exit(main())
