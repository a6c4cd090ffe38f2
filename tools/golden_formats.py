#!/usr/bin/env python3
"""Writes tests/data/ttnn_formats.safetensors: what TTNN makes of float32 values in bfloat8_b and in bfloat16, on the CPU.

Needs Python 3.12 or 3.10 and: pip install ttnn==0.66.0 numpy safetensors
"""
import os
import tempfile
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "tests/data"
# TTNN asks the hardware's properties even for a tensor on the host: a mock card answers.
os.environ.setdefault("TT_METAL_MOCK_CLUSTER_DESC_PATH", str(DATA / "wormhole_n150.yaml"))
# It also writes logs below the working directory.
os.chdir(tempfile.mkdtemp())

import numpy as np
import ttnn
from safetensors.numpy import save_file

BLOCK = 16
rng = np.random.default_rng(8)


def blocks():
    """Blocks of 16 values, each kind with something that can go wrong in a shared exponent."""
    normal = lambda: rng.standard_normal(BLOCK)
    signs = lambda: rng.choice([-1.0, 1.0], BLOCK)
    # Exact halves of the last bit of the 7-bit magnitude below an exponent of 2^0, even and odd.
    ties = lambda: np.where(np.arange(BLOCK) == 5, 1.0, (rng.integers(0, 64, BLOCK) + 0.5) / 64) * signs()
    return [
        normal,
        lambda: normal() * np.exp2(rng.integers(-30, 30)),
        lambda: normal() * np.exp2(rng.integers(-12, 1, BLOCK)),
        lambda: normal() * np.exp2(rng.integers(-40, 20, BLOCK)),
        ties,
        # Just beside a tie: bits that a shift to the shared exponent drops before TTNN rounds.
        lambda: np.nextafter(ties().astype(np.float32), np.float32(rng.choice([-9.0, 9.0]))),
        lambda: np.zeros(BLOCK),
        lambda: np.where(rng.random(BLOCK) < 0.7, 0.0, normal()),
        lambda: -np.abs(normal()),
        lambda: np.full(BLOCK, -0.0),
        # Rounds up to 128/64 and has to stay at 127/64.
        lambda: (2.0 - np.exp2(-rng.integers(5, 24, BLOCK).astype(float))) * signs(),
        # Subnormal, alone and beside normal values.
        lambda: normal() * 1e-40,
        lambda: normal() * np.where(rng.random(BLOCK) < 0.5, 1e-40, 1e-37),
        # Values whose own exponent falls below the smallest one after unpacking.
        lambda: signs() * np.exp2(rng.uniform(-126, -118, BLOCK)),
        lambda: signs() * np.exp2(rng.uniform(100, 127.9, BLOCK)),
        lambda: np.full(BLOCK, rng.standard_normal()),
    ]


def packed(values, dtype):
    """TTNN's bytes of `values` [rows, columns] in 32x32 tiles."""
    tensor = ttnn.Tensor(values.reshape(-1).tolist(), list(values.shape), dtype, ttnn.TILE_LAYOUT)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tensor.tensorbin"
        ttnn.dump_tensor(file, tensor)
        data = file.read_bytes()
    # A u64 with the length of the header, the header, the bytes.
    data = data[8 + int.from_bytes(data[:8], "little") :]
    return np.frombuffer(data, np.uint8), np.array(tensor.to_list(), np.float32)


kinds = blocks()
rows, columns = 64, 96
aligned = np.concatenate([kinds[i % len(kinds)]() for i in range(rows * columns // BLOCK)]).astype(np.float32).reshape(rows, columns)
# Each kind in each column of blocks, not always the same.
for row in range(rows):
    aligned[row] = np.roll(aligned[row].reshape(-1, BLOCK), row // 3, axis=0).reshape(-1)
# Neither side is a whole number of tiles, faces or blocks.
ragged = rng.standard_normal((40, 45)).astype(np.float32)

tensors = {}
for name, values in {"aligned": aligned, "ragged": ragged}.items():
    tensors[f"{name}.values"] = values
    tensors[f"{name}.bfloat8_b"], tensors[f"{name}.bfloat8_b.values"] = packed(values, ttnn.bfloat8_b)
    tensors[f"{name}.bfloat16"], tensors[f"{name}.bfloat16.values"] = packed(values, ttnn.bfloat16)
for name, tensor in tensors.items():
    print(name, tensor.dtype, tensor.shape)
save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, DATA / "ttnn_formats.safetensors")
