#!/usr/bin/env python3
"""Replays a recording of `pi0_tt graph` op by op on TTNN itself, and names the first thing that TTNN does otherwise.

    build/ttnn-0.66.0/bin/python tests/peers/replay_graph.py graph.json            on TTNN's mock of a Wormhole n150
    build/ttnn-0.66.0/bin/python tests/peers/replay_graph.py --card graph.json     on the card of this machine

TTNN has to accept every op and run it as one program (a view as none; newer versions masked attention as two), its outputs need the recorded shape, number format, layout
and memory, and after every event its allocator has to hold exactly the tensors that the recording holds. What TTNN refuses (shapes,
configurations, full DRAM or L1, circular buffers that outgrow L1 or reach into tensors) is shown in its own words. Where the device
computes, the values of every op are compared with NumPy's: see ttnn_numbers.py. The mock computes nothing, and the summary says so.

Exit status: 0 everything is as recorded, 1 a difference, 2 there is no recording or no device to use.
"""

from __future__ import annotations

import argparse
import atexit
import ctypes
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ttnn_numbers import Numbers
from ttnn_ops import TILE, WRITTEN, Ops, padded

MOCK = Path(__file__).resolve().parents[1] / "data" / "wormhole_n150.yaml"
FORMAT = 1
TILE_BYTES = {"float32": 4096, "bfloat16": 2048, "bfloat8_b": 1088}


class Difference(Exception):
    """TTNN does something else than the recording says."""


class Unusable(Exception):
    """There is nothing to replay, or nothing to replay it on."""


class Memory:
    """What TTNN's allocator should hold in one kind of memory, and what it does hold. Bytes are those of one bank."""

    def __init__(self, ttnn: Any, device: Any, kind: str, buffer_type: Any):
        self.kind = kind
        self.view = lambda: ttnn.get_memory_view(device, buffer_type)
        start = self.view()
        self.banks, self.bank_bytes, self.at_start = start.num_banks, start.total_bytes_per_bank, start.total_bytes_allocated_per_bank
        self.held = self.peak = 0

    def taken_by(self, spec: dict) -> int:
        """The tiles of an interleaved tensor go to the banks in turn."""
        *outer, rows, columns = padded(spec["shape"])
        tiles = rows // TILE * (columns // TILE)
        for extent in outer:
            tiles *= extent
        return -(-tiles // self.banks) * TILE_BYTES[spec["dtype"]]

    def check(self) -> None:
        found = self.view().total_bytes_allocated_per_bank - self.at_start
        self.peak = max(self.peak, found)
        if found != self.held:
            raise Difference(f"TTNN holds {found} B of {self.kind} in every bank, and the tensors of the recording take {self.held} B")


class Storage:
    """Memory of a tensor and of its views."""

    def __init__(self, memory: Memory, taken: int):
        self.memory, self.taken, self.tensors = memory, taken, 0

    def share(self) -> Storage:
        self.memory.held += 0 if self.tensors else self.taken
        self.tensors += 1
        return self

    def leave(self) -> None:
        self.tensors -= 1
        self.memory.held -= 0 if self.tensors else self.taken


class Replay:
    """A method `on_...` for each kind of event of a recording."""

    def __init__(self, ttnn: Any, device: Any, recording: dict, numbers: Any = None):
        self.ttnn, self.device, self.numbers = ttnn, device, numbers
        self.events, self.specs = recording["events"], recording["tensors"]
        self.ops = Ops(ttnn)
        self.version = tuple(int(part) for part in importlib.metadata.version("ttnn").split(".")[:2])
        self.memories = {
            "dram_interleaved": Memory(ttnn, device, "DRAM", ttnn.BufferType.DRAM),
            "l1_interleaved": Memory(ttnn, device, "L1", ttnn.BufferType.L1),
        }
        self.live: dict[int, tuple[Any, Storage]] = {}
        self.scopes: list[str] = []
        self.counts: Counter = Counter()
        # Where the circular buffers of a program end. TTNN tells when it makes the program, at its first launch.
        self.buffers_end: dict[str, int] = {}
        # Bytes of L1 between circular buffers and tensors where they come closest, and the op.
        self.closest: tuple[int, str] | None = None
        probe = ttnn.empty([1, 1, TILE, TILE], ttnn.bfloat16, ttnn.TILE_LAYOUT, device, ttnn.L1_MEMORY_CONFIG)
        self.top_of_l1 = probe.buffer_address() + TILE_BYTES["bfloat16"]
        self.fits_device(recording["device"])

    def fits_device(self, planned: dict) -> None:
        grid, wanted = self.device.compute_with_storage_grid_size(), planned["grid"]
        if grid.x < wanted["x"] or grid.y < wanted["y"]:
            raise Difference(f"The recording is planned for {wanted['x']}x{wanted['y']} cores, and the device has {grid.x}x{grid.y}")
        dram, l1 = self.memories["dram_interleaved"], self.memories["l1_interleaved"]
        for kind, plan, has in (("DRAM", planned["dram_bytes"], dram.bank_bytes * dram.banks), ("L1", planned["l1_bytes"], l1.bank_bytes)):
            if plan > has:
                raise Difference(f"The recording is planned for {plan} B of {kind}, and the device has {has} B")

    def run(self) -> None:
        for number, event in enumerate(self.events):
            arguments = dict(event)
            kind = arguments.pop("event")
            try:
                getattr(self, f"on_{kind}")(**arguments)
                for memory in self.memories.values():
                    memory.check()
            except Exception as error:
                where = "/".join([*self.scopes, event["call"]["op"] if kind == "run" else kind])
                reason = str(error) if isinstance(error, Difference) else own_words(error)
                raise Difference(f"Event {number}, {where}: {reason}") from error

    def on_enter(self, scope: str) -> None:
        self.scopes.append(scope)

    def on_leave(self) -> None:
        self.scopes.pop()

    def on_upload(self, tensor: int) -> None:
        spec, terms = self.specs[tensor], self.ops.terms
        dtype, memory = terms.dtypes[spec["dtype"]], terms.memories[spec["memory"]]
        if self.numbers:
            value = self.numbers.random(spec["shape"], dtype, memory)
        else:
            value = self.ttnn.empty(spec["shape"], dtype, self.ttnn.TILE_LAYOUT, self.device, memory)
        self.hold(tensor, value)
        self.counts["uploads"] += 1

    def on_write(self, tensor: int) -> None:
        self.value(tensor)
        self.counts["writes"] += 1

    def on_download(self, tensor: int) -> None:
        self.value(tensor).cpu()
        self.counts["downloads"] += 1

    def on_run(self, call: dict, inputs: list[int], outputs: list[int]) -> None:
        operands = [self.value(tensor) for tensor in inputs]
        expected = self.numbers.expected(call, operands) if self.numbers else None
        # The wrapper in ttnn.graph wants torch in newer versions.
        tracker = self.ttnn._ttnn.graph
        tracker.begin_graph_capture(tracker.RunMode.NORMAL)
        try:
            values = self.ops(call, operands)
        finally:
            graph = tracker.end_graph_capture()

        started = [node["params"]["name"] for node in graph if node["node_type"] == "function_start"]
        programs = [name for name in started if name.endswith("Operation")]
        wanted = self.programs(call, inputs)
        if len(programs) != wanted:
            raise Difference(f"TTNN runs {len(programs)} programs ({', '.join(programs)}) in place of {wanted}")
        if len(values) != len(outputs):
            raise Difference(f"TTNN gives {len(values)} outputs, recorded {len(outputs)}")
        view = call["op"] == "reshape"
        for tensor, value in zip(outputs, values):
            self.hold(tensor, value, view_of=inputs[0] if view else None)
        self.measure(call, inputs, graph)
        if self.numbers:
            self.numbers.compare(expected, values or operands[WRITTEN[call["op"]]])
        self.counts["views" if view else "ops"] += 1
        self.counts["programs"] += wanted

    def programs(self, call: dict, inputs: list[int]) -> int:
        """What an op is to the card."""
        if call["op"] == "reshape":
            return 0
        # Seen with 0.81.1: a program of its own scales the mask. Not so with 0.67.0.
        masked = call["op"] == "scaled_dot_product_attention" and len(inputs) == 4
        return 2 if masked and self.version >= (0, 68) else 1

    def on_deallocate(self, tensor: int) -> None:
        self.value(tensor)
        self.live.pop(tensor)[1].leave()

    def on_begin_capture(self) -> None:
        self.counts["captures"] += 1

    def on_end_capture(self) -> None:
        pass

    def on_replay(self, trace: int) -> None:
        """Its ops ran when they were captured: what TTNN does with them is known."""
        self.counts["replays"] += 1

    def value(self, tensor: int) -> Any:
        if tensor not in self.live:
            raise Difference(f"tensor {tensor} is not on the device")
        return self.live[tensor][0]

    def hold(self, tensor: int, value: Any, view_of: int | None = None) -> None:
        """Takes in a new tensor, which has to be as recorded."""
        spec, terms = self.specs[tensor], self.ops.terms
        wanted, memory = terms.memories[spec["memory"]], value.memory_config()
        checks = [
            ("shape", list(value.shape), spec["shape"]),
            ("padded shape", list(value.padded_shape), padded(spec["shape"])),
            ("number format", value.dtype, terms.dtypes[spec["dtype"]]),
            ("layout", value.layout, self.ttnn.TILE_LAYOUT),
            ("memory", (memory.memory_layout, memory.buffer_type), (wanted.memory_layout, wanted.buffer_type)),
        ]
        for what, found, recorded in checks:
            if found != recorded:
                raise Difference(f"TTNN's {what} of tensor {tensor} is {found}, recorded {recorded}")
        if view_of is None:
            holder = self.memories[spec["memory"]]
            storage = Storage(holder, holder.taken_by(spec))
        else:
            original, storage = self.live[view_of]
            if value.buffer_address() != original.buffer_address():
                raise Difference(f"tensor {tensor} is recorded as a view of tensor {view_of}, and TTNN has moved it")
        self.live[tensor] = (value, storage.share())

    def measure(self, call: dict, inputs: list[int], graph: list[dict]) -> None:
        """How close circular buffers, which grow up from the bottom of L1, come to the tensors, which grow down from its top."""
        buffers = [node["params"] for node in graph if node["node_type"] == "circular_buffer_allocate"]
        program = json.dumps([call, [self.specs[tensor] for tensor in inputs]])
        end = self.buffers_end.setdefault(program, max((int(buffer["address"]) + int(buffer["size"]) for buffer in buffers), default=0))
        l1 = self.memories["l1_interleaved"]
        lowest = min((value.buffer_address() for value, storage in self.live.values() if storage.memory is l1), default=self.top_of_l1)
        if end and (self.closest is None or lowest - end < self.closest[0]):
            self.closest = (lowest - end, "/".join([*self.scopes, call["op"]]))

    def summary(self, seconds: float) -> str:
        dram, l1, count = self.memories["dram_interleaved"], self.memories["l1_interleaved"], self.counts
        free = "; no circular buffers" if self.closest is None else f"; {self.closest[0]} B are free where circular buffers come closest ({self.closest[1]})"
        return "\n".join([
            f"TTNN {importlib.metadata.version('ttnn')}: {count['ops']} ops and {count['views']} views as recorded, {count['programs']} programs, in {seconds:.1f} s",
            f"Transfers: {count['uploads']} uploads, {count['writes']} writes, {count['downloads']} downloads, {count['captures']} captures, {count['replays']} replays",
            f"DRAM: at most {dram.peak * dram.banks / 1e9:.3f} GB of {dram.bank_bytes * dram.banks / 1e9:.3f} GB",
            f"L1: at most {l1.peak} B of {l1.bank_bytes} B in a core are tensors{free}",
            self.numbers.summary() if self.numbers else "Values: not compared, because this device computes nothing (1 + 1 reads 0)",
        ])


def own_words(error: Exception) -> str:
    """What TTNN says, without the backtrace."""
    return f"{type(error).__name__}: {str(error).split('backtrace:')[0].strip()}"


def read(path: Path) -> dict:
    try:
        recording = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Unusable(f"{path} is no recording of `pi0_tt graph`: {error}") from error
    if not isinstance(recording, dict) or recording.get("format") != FORMAT:
        raise Unusable(f"{path} is no recording of `pi0_tt graph` in format {FORMAT}")
    return recording


def open_device(card: bool) -> tuple[Any, Any]:
    """TTNN and its device: the card of this machine, or the mock."""
    os.environ.setdefault("TT_METAL_LOGGER_LEVEL", "FATAL")
    os.environ.setdefault("LOGURU_LEVEL", "ERROR")
    # TTNN writes lists of programs and kernels, to the current folder unless told where.
    logs = tempfile.TemporaryDirectory(prefix="ttnn-")
    os.environ.setdefault("TT_METAL_LOGS_PATH", logs.name)
    if not card:
        # Newer versions would keep what the compiler's stand-in makes for good.
        os.environ["TT_METAL_CACHE"] = logs.name
    atexit.register(logs.cleanup)
    if not card:
        os.environ["TT_METAL_MOCK_CLUSTER_DESC_PATH"] = str(MOCK)
    try:
        import ttnn
    except ImportError as error:
        raise Unusable(f"This Python has no TTNN ({error}). tools/setup_ttnn.sh makes one that has: build/ttnn-0.66.0/bin/python") from error
    try:
        device = ttnn.open_device(device_id=0)
    except RuntimeError as error:
        raise Unusable(f"TTNN opens no device. {own_words(error)}") from error
    if not card and importlib.metadata.version("ttnn").startswith("0.67."):
        add_build_environment(Path(ttnn.__file__).parent / "build/lib/libtt_metal.so")
    return ttnn, device


def add_build_environment(library: Path) -> None:
    """TTNN 0.67 opens a mock without the build environment of its kernels and then trips over that: `add_build_env(0, 1)` makes it."""
    metal = ctypes.CDLL(str(library))
    instance = metal._ZN2tt8tt_metal15BuildEnvManager12get_instanceEv
    instance.restype = ctypes.c_void_p
    add = metal._ZN2tt8tt_metal15BuildEnvManager13add_build_envEih
    add.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint8]
    add.restype = None
    add(instance(), 0, 1)


def computes(ttnn: Any, device: Any) -> bool:
    """A device without kernels reads zeros."""
    one = ttnn.ones([1, 1, TILE, TILE], dtype=ttnn.float32, layout=ttnn.TILE_LAYOUT, device=device)
    return ttnn.add(one, one).cpu().to_numpy().flat[0] == 2


def replayed(ttnn: Any, device: Any, recording: dict) -> str:
    """Replays the whole recording; the summary."""
    numbers = Numbers(ttnn, device) if computes(ttnn, device) else None
    start = time.monotonic()
    replay = Replay(ttnn, device, recording, numbers)
    replay.run()
    return replay.summary(time.monotonic() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description="Replays a recording of `pi0_tt graph` on TTNN.")
    parser.add_argument("graph", type=Path, help="the recording")
    parser.add_argument("--card", action="store_true", help="on the card of this machine instead of TTNN's mock")
    arguments = parser.parse_args()
    try:
        recording = read(arguments.graph)
        ttnn, device = open_device(arguments.card)
        try:
            print(replayed(ttnn, device, recording))
        finally:
            ttnn.close_device(device)
    except Difference as difference:
        print(difference, file=sys.stderr)
        return 1
    except Unusable as reason:
        print(reason, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
