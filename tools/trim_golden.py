#!/usr/bin/env python3
"""Cuts a golden set of LeRobot's pi0 down to what fits in tests/data.

Keeps every kind of tensor, of the first camera and of the first and last denoise steps; images become uint8. Weights are not kept:
they follow from their names (src/checkpoint/synthetic.rs). Needs numpy and safetensors.

    tools/trim_golden.py GOLDEN_DIR OUT_DIR
"""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

DROP = re.compile(r"vision\.[12]\.(?!projected)|prefix\.image\.[12]$|step\.[1-8]\.(suffix_|time_emb)")


def load(path):
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def main(source, target):
    target.mkdir(parents=True, exist_ok=True)
    inputs, metadata = load(source / "inputs.safetensors")
    for name, values in inputs.items():
        if ".images." in name:
            inputs[name] = np.round(values * 255).astype(np.uint8)
    save_file(inputs, target / "inputs.safetensors", metadata)
    tensors, metadata = load(source / "intermediates.safetensors")
    save_file({n: t for n, t in tensors.items() if not DROP.match(n)}, target / "intermediates.safetensors", metadata)
    shutil.copy(source / "meta.json", target / "meta.json")
    for file in sorted(target.iterdir()):
        print(f"{file.stat().st_size:8d} {file}")


main(Path(sys.argv[1]), Path(sys.argv[2]))
