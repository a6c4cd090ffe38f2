"""The graph of a full-size π0 on TTNN itself: every op of `pi0_tt graph` runs on TTNN's mock card, with the outputs that were recorded."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import wire
from ttnn_numbers import Reference, difference

ROOT = Path(__file__).resolve().parents[2]
OLDEST = "0.66.0"
VERSIONS = [OLDEST, "0.67.0", "0.81.1"]


def python_with_ttnn(version: str) -> Path:
    python = ROOT / f"build/ttnn-{version}/bin/python"
    if not python.exists():
        reason = f"{python.parents[1]} is missing; tools/setup_ttnn.sh makes it where Python 3.10 or 3.12 is installed"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return python


def replay(version: str, graph: Path) -> subprocess.CompletedProcess[str]:
    command = [python_with_ttnn(version), ROOT / "tests/peers/replay_graph.py", graph]
    # ROS in this environment is for another Python.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Records the graph of the published checkpoint's geometry for cameras, prompt tokens, a grid of cores, and guided or not."""
    folder = tmp_path_factory.mktemp("graphs")

    def record(cameras: int, tokens: int = 32, grid: str = "8x8", *, guided: bool = False) -> Path:
        path = folder / f"{cameras}-{tokens}-{grid}-{guided}.json"
        if not path.exists():
            size = ["--geometry", "base", "--cameras", str(cameras), "--tokens", str(tokens), "--grid", grid]
            size += ["--guided"] if guided else []
            subprocess.run([wire.BINARIES / "pi0_tt", "graph", *size, "--out", path], check=True)
        return path

    return record


# Prompts that end at a tile and inside of one; a plan for 8x7 cores runs on a card that has more.
CASES = [(1, 32, "8x8"), (2, 32, "8x8"), (3, 32, "8x8"), (2, 20, "8x8"), (3, 48, "8x8"), (4, 48, "8x8"), (2, 32, "8x7")]


def check_as_recorded(version: str, graph: Path) -> list[str]:
    """Replays a recording, which has to succeed; the names of its ops."""
    done = replay(version, graph)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr
    ops = [event["call"]["op"] for event in json.loads(graph.read_text())["events"] if event["event"] == "run"]
    views = ops.count("reshape")
    assert done.stdout.startswith(f"TTNN {version}: {len(ops) - views} ops and {views} views as recorded")
    return ops


@pytest.mark.parametrize(("cameras", "tokens", "grid"), CASES)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_op_runs_on_ttnn_as_recorded(version: str, cameras: int, tokens: int, grid: str, graphs: Callable[..., Path]) -> None:
    check_as_recorded(version, graphs(cameras, tokens, grid))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_op_of_a_guided_chunk_runs_on_ttnn_as_recorded(version: str, graphs: Callable[..., Path]) -> None:
    assert check_as_recorded(version, graphs(2, guided=True)).count("addcmul") == 20


# Faults of a recording, and what the replay has to say about each. TTNN's own words after the name of its exception.


class Recording:
    def __init__(self, path: Path):
        self.data = json.loads(path.read_text())
        self.events, self.tensors = self.data["events"], self.data["tensors"]

    def first(self, op: str) -> int:
        """Number of the first event that runs an op."""
        return next(number for number, event in enumerate(self.events) if event["event"] == "run" and event["call"]["op"] == op)

    def upload_before(self, number: int, shape: list[int], memory: str) -> None:
        self.tensors.append({"shape": shape, "dtype": "bfloat16", "memory": memory})
        self.events.insert(number, {"event": "upload", "tensor": len(self.tensors) - 1})


def weight_of_other_rows(recording: Recording) -> None:
    weight = recording.events[recording.first("linear")]["inputs"][1]
    recording.tensors[weight]["shape"][2] += 32


def output_of_other_columns(recording: Recording) -> None:
    output = recording.events[recording.first("linear")]["outputs"][0]
    recording.tensors[output]["shape"][3] += 32


def output_of_other_format(recording: Recording) -> None:
    output = recording.events[recording.first("rms_norm")]["outputs"][0]
    recording.tensors[output]["dtype"] = "float32" if recording.tensors[output]["dtype"] == "bfloat16" else "bfloat16"


def output_in_other_memory(recording: Recording) -> None:
    output = recording.events[recording.first("rms_norm")]["outputs"][0]
    memory = recording.tensors[output]["memory"]
    recording.tensors[output]["memory"] = "dram_interleaved" if memory == "l1_interleaved" else "l1_interleaved"


def tensor_larger_than_l1(recording: Recording) -> None:
    recording.upload_before(recording.first("linear"), [1, 1, 65536, 1024], "l1_interleaved")


def more_tensors_than_dram(recording: Recording) -> None:
    for _ in range(12):
        recording.upload_before(recording.first("linear"), [1, 1, 16384, 32768], "dram_interleaved")


def circular_buffers_larger_than_l1(recording: Recording) -> None:
    attention = recording.events[recording.first("scaled_dot_product_attention")]["call"]
    attention["program"] |= {"q_chunk_size": 4096, "k_chunk_size": 4096}


def circular_buffers_under_a_tensor(recording: Recording) -> None:
    # Leaves 208 kB of each core's 1,396 kB.
    recording.upload_before(recording.first("linear"), [1, 1, 37120, 1024], "l1_interleaved")


def attention_with_an_odd_chunk(recording: Recording) -> None:
    recording.events[recording.first("scaled_dot_product_attention")]["call"]["program"]["k_chunk_size"] = 40


def freed_too_early(recording: Recording) -> None:
    number = recording.first("linear")
    recording.events.insert(number, {"event": "deallocate", "tensor": recording.events[number]["inputs"][1]})


def more_cores_than_the_card_has(recording: Recording) -> None:
    recording.data["device"]["grid"]["x"] = 13


FAULTS = {
    weight_of_other_rows: "The width of the first tensor must be equal to the height of the second tensor",
    output_of_other_columns: "TTNN's shape of tensor",
    output_of_other_format: "TTNN's number format of tensor",
    output_in_other_memory: "TTNN's memory of tensor",
    tensor_larger_than_l1: "Out of Memory: Not enough space to allocate 134217728 B L1 buffer across 64 banks",
    more_tensors_than_dram: "Out of Memory: Not enough space to allocate 1073741824 B DRAM buffer across 12 banks",
    circular_buffers_larger_than_l1: "beyond max L1 size of 1499136 B",
    circular_buffers_under_a_tensor: "clash with L1 buffers on core range",
    attention_with_an_odd_chunk: "k_chunk_size must be divisible by TILE_SIZE",
    freed_too_early: "is not on the device",
    more_cores_than_the_card_has: "The recording is planned for 13x8 cores, and the device has 8x8",
}


@pytest.mark.parametrize(("fault", "words"), FAULTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_fault_in_the_recording_is_named(fault: Callable[[Recording], None], words: str, graphs: Callable[..., Path], tmp_path: Path) -> None:
    recording = Recording(graphs(1))
    fault(recording)
    path = tmp_path / "faulty.json"
    path.write_text(json.dumps(recording.data))
    done = replay(OLDEST, path)
    assert done.returncode == 1 and words in done.stderr, (done.stdout, done.stderr)


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"format": 0}')
    done = replay(OLDEST, path)
    assert done.returncode == 2 and "is no recording of `pi0_tt graph`" in done.stderr


# The references that values are compared with where a device computes, against what is known of the ops.


@pytest.fixture
def values() -> Callable[..., np.ndarray]:
    generator = np.random.default_rng(5)
    return lambda *shape: generator.standard_normal(shape, dtype=np.float32)


def test_references_of_norms_give_rows_of_unit_size(values: Callable[..., np.ndarray]) -> None:
    x = 3 + values(1, 1, 4, 64)
    for op in ("rms_norm", "layer_norm"):
        (normed,) = Reference()({"op": op, "epsilon": 1e-6}, [x])
        np.testing.assert_allclose((normed**2).mean(axis=-1), 1, rtol=1e-5)
        assert (np.abs(normed.mean(axis=-1)) < 1e-6).all() == (op == "layer_norm")


def test_reference_of_heads_splits_and_joins(values: Callable[..., np.ndarray]) -> None:
    x = values(1, 1, 4, 4 * 64)
    q, k, v = Reference()({"op": "nlp_create_qkv_heads", "num_heads": 2, "num_kv_heads": 1}, [x])
    joined = [Reference()({"op": "nlp_concat_heads"}, [heads])[0] for heads in (q, k, v)]
    np.testing.assert_array_equal(np.concatenate(joined, axis=-1), x)
    longer = [values(*q.shape), values(1, 1, 6, 64), values(1, 1, 6, 64)]
    _, written, _ = Reference()({"op": "nlp_create_qkv_heads", "num_heads": 2, "num_kv_heads": 1}, [x, *longer])
    np.testing.assert_array_equal(written[:, :, :4], k)
    np.testing.assert_array_equal(written[:, :, 4:], longer[1][:, :, 4:])


def test_reference_of_attention_reads_the_key_that_is_not_hidden(values: Callable[..., np.ndarray]) -> None:
    q, k, v, mask = values(1, 8, 3, 64), values(1, 1, 5, 64), values(1, 1, 5, 64), np.full((1, 1, 3, 5), -1e9, np.float32)
    mask[..., 2] = 0
    (read,) = Reference()({"op": "scaled_dot_product_attention", "scale": 0.1}, [q, k, v, mask])
    np.testing.assert_allclose(read, np.broadcast_to(v[:, :, 2:3], read.shape), rtol=1e-6)


def test_reference_of_rotary_embedding_turns_halves_by_an_angle(values: Callable[..., np.ndarray]) -> None:
    x, angle = values(1, 2, 3, 64), 0.7
    (turned,) = Reference()({"op": "rotary_embedding"}, [x, np.full((1, 1, 3, 64), np.cos(angle)), np.full((1, 1, 3, 64), np.sin(angle))])
    pairs, wanted = turned[..., :32] + 1j * turned[..., 32:], (x[..., :32] + 1j * x[..., 32:]) * np.exp(1j * angle)
    np.testing.assert_allclose(pairs, wanted, rtol=1e-5)


def test_reference_of_addcmul_is_a_guided_step(values: Callable[..., np.ndarray]) -> None:
    # x + dt (v - g w (previous - x + t v)) from its factors, as the card gets them.
    x, v, previous, w = values(1, 1, 4, 32), values(1, 1, 4, 32), values(1, 1, 4, 32), abs(values(1, 1, 4, 1))
    dt, t, g = -0.1, 0.7, 2.7619
    addcmul = lambda a, b, c: Reference()({"op": "addcmul"}, [a, b, c])[0]
    stepped = addcmul(addcmul(-dt * g * w * previous, 1 + dt * g * w, x), 1 - g * t * w, dt * v)
    np.testing.assert_allclose(stepped, x + dt * (v - g * w * (previous - (x - t * v))), rtol=1e-4, atol=1e-6)


def test_references_of_activations_are_those_of_the_definition() -> None:
    from math import erf, exp

    x = np.linspace(-6, 6, 97, dtype=np.float64)
    product = {"op": "multiply", "lhs_activation": "gelu"}
    np.testing.assert_allclose(Reference()(product, [x, 2.0])[0], [y * (1 + erf(y / 2**0.5)) for y in x], atol=1e-3)
    product["lhs_activation"] = "silu"
    np.testing.assert_allclose(Reference()(product, [x, 2.0])[0], [2 * y / (1 + exp(-y)) for y in x], rtol=1e-6)


def test_a_device_that_reads_zeros_does_not_pass_for_one_that_computes(values: Callable[..., np.ndarray]) -> None:
    assert difference(np.zeros(4), values(4)) == pytest.approx(1)
    assert np.isnan(difference(np.zeros(4), np.zeros(4)))
