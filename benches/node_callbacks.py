#!/usr/bin/env python3
"""Three 640x480 cameras at 30 Hz into the policy node: time in its callbacks, lost samples, memory.

Needs the built node and the Python environment of tests/peers. Runs a tiny synthetic policy, so that what is measured is the node:

    benches/node_callbacks.py [--seconds 60]

Exit code 1 when a bound is broken: callbacks 1 ms in the median, nothing lost, memory within 5 % of what it was after the first quarter.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "peers"))

import conftest  # noqa: E402
import numpy as np  # noqa: E402
import wire  # noqa: E402

CALLBACK_MEDIAN_US = 1000.0
MEMORY_GROWTH = 0.05
# Each is a figure of one second; the table shows the median second.
TIMES = ["callback_us_median", "callback_us_p99", "delivery_us_median", "delivery_us_p99"]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long is measured (default 60)")
    parser.add_argument("--rate", type=float, default=5.0, help="inferences per second (default 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, wire.ros_domain() as domain:
        folder = Path(name)
        subprocess.run([wire.BINARIES / "pi0_tt", "synth", "--geometry", "tiny", folder / "checkpoint"], check=True)
        parameters = {
            "checkpoint": str(folder / "checkpoint"),
            "robot": str(conftest.write_profile(folder / "robot.yaml")),
            "inference.trigger": "rate",
            "inference.rate_hz": arguments.rate,
            # The robot stands still whatever it is told.
            "max_drift": 0.0,
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
    robot.frozen = True
    for index, slot in enumerate(robot.cameras):
        robot.images[slot] = wire.image(np.random.default_rng(index).integers(0, 256, (480, 640, 3), dtype=np.uint8))
    robot.wait_until_matched()
    robot.spin(1.0)
    robot.frozen = False
    robot.next_chunk()

    memory, cpu = [], cpu_seconds(node.pid)
    for _ in range(round(seconds)):
        robot.spin(1.0)
        memory.append(wire.resident_megabytes(node.pid))
    cpu = (cpu_seconds(node.pid) - cpu) / seconds
    # What is still under way arrives, and then two reports count it.
    robot.frozen = True
    robot.spin(2.5)

    broken = []
    print(f"{seconds:.0f} s, {len(robot.chunks)} chunks, node CPU {cpu * 100:.1f} % of a core")
    print(f"{'':20} {'':>6} {'':>8} {'':>5} {'in the callback':>17} {'write to stored':>17}")
    print(f"{'input':20} {'sent':>6} {'received':>8} {'lost':>5} {'median us':>9} {'p99':>7} {'median us':>9} {'p99':>7}")
    for name in [*robot.cameras, "joint_states"]:
        reports = [
            wire.values_of(status) for array in robot.diagnostics for status in array.status if status.name == f"policy: {name}"
        ]
        times = {key: [float(report[key]) for report in reports if key in report] for key in TIMES}
        callback, callback_p99, delivery, delivery_p99 = (statistics.median(times[key]) for key in TIMES)
        received = int(reports[-1]["received"])
        print(
            f"{name:20} {robot.sent[name]:6} {received:8} {reports[-1]['lost']:>5} "
            f"{callback:9.1f} {callback_p99:7.1f} {delivery:9.1f} {delivery_p99:7.1f}"
        )
        if received != robot.sent[name] or int(reports[-1]["lost"]):
            broken.append(f"{name} lost samples")
        if callback > CALLBACK_MEDIAN_US:
            broken.append(f"{name}'s callback takes too long")
    start, end = memory[len(memory) // 4], memory[-1]
    print(f"resident memory: {memory[0]:.1f} MB at first, {start:.1f} MB after a quarter, {max(memory):.1f} MB at most, {end:.1f} MB at the end")
    if end > start * (1 + MEMORY_GROWTH):
        broken.append("memory grows")
    for complaint in broken:
        print(f"BROKEN: {complaint}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
