"""The ops of a recording of `pi0_tt graph` as calls of TTNN. Imports no TTNN itself: it is given one."""

from __future__ import annotations

from typing import Any

TILE = 32
# Ops without outputs: the operands that they write into.
WRITTEN = {"multiply": slice(0, 1), "nlp_create_qkv_heads": slice(1, 4)}


def padded(shape: list[int]) -> list[int]:
    """Rows and columns rounded up to tiles."""
    return [*shape[:-2], *(-(-extent // TILE) * TILE for extent in shape[-2:])]


class Terms:
    """Turns the recording's plain data into TTNN's objects."""

    def __init__(self, ttnn: Any):
        self.ttnn = ttnn
        self.dtypes = {"float32": ttnn.float32, "bfloat16": ttnn.bfloat16, "bfloat8_b": ttnn.bfloat8_b}
        self.memories = {"dram_interleaved": ttnn.DRAM_MEMORY_CONFIG, "l1_interleaved": ttnn.L1_MEMORY_CONFIG}
        fidelity = ttnn.MathFidelity
        self.fidelities = {"lofi": fidelity.LoFi, "hifi2": fidelity.HiFi2, "hifi3": fidelity.HiFi3}
        self.activations = {"gelu": ttnn.UnaryOpType.GELU, "silu": ttnn.UnaryOpType.SILU}

    def grid(self, grid: dict) -> Any:
        return self.ttnn.CoreCoord(grid["x"], grid["y"])

    def activation(self, name: str | None) -> Any:
        return None if name is None else self.ttnn.UnaryWithParam(self.activations[name])

    def output(self, call: dict) -> dict:
        """The arguments that say what an op gives: its memory, and its number format when that is a choice."""
        chosen = {"memory_config": self.memories[call["memory"]]}
        return chosen | ({"dtype": self.dtypes[call["dtype"]]} if "dtype" in call else {})

    def compute(self, call: dict) -> dict:
        compute = dict(call["compute"])
        compute["math_fidelity"] = self.fidelities[compute["math_fidelity"]]
        return {"compute_kernel_config": self.ttnn.WormholeComputeKernelConfig(**compute)}

    def matmul_program(self, program: dict) -> Any:
        tiles = ("in0_block_w", "out_subblock_h", "out_subblock_w", "out_block_h", "out_block_w")
        common = {name: program[name] for name in tiles} | {
            "compute_with_storage_grid_size": self.grid(program["grid"]),
            "per_core_M": program["per_core_m"],
            "per_core_N": program["per_core_n"],
            "fuse_batch": True,
            "fused_activation": self.activation(program["fused_activation"]),
        }
        if program["multicast"] == "1d":
            return self.ttnn.MatmulMultiCoreReuseMultiCast1DProgramConfig(**common, mcast_in0=True)
        transposed = {"2d": False, "2d_transposed": True}[program["multicast"]]
        return self.ttnn.MatmulMultiCoreReuseMultiCastProgramConfig(**common, transpose_mcast=transposed)

    def minimal_matmul(self, config: dict) -> Any:
        return self.ttnn.MinimalMatmulConfig(
            M_block_size=config["m_block_size"],
            K_block_size=config["k_block_size"],
            N_block_size=config["n_block_size"],
            subblock_h=config["subblock_h"],
            subblock_w=config["subblock_w"],
            compute_with_storage_grid_size=self.grid(config["grid"]),
        )

    def sdpa_program(self, program: dict) -> Any:
        chunks = {name: program[name] for name in ("q_chunk_size", "k_chunk_size", "exp_approx_mode")}
        return self.ttnn.SDPAProgramConfig(compute_with_storage_grid_size=self.grid(program["grid"]), **chunks)


class Ops:
    """One method per op of a recording, of its name there: takes the recorded call and its operands, gives TTNN's outputs."""

    def __init__(self, ttnn: Any):
        self.ttnn = ttnn
        self.terms = Terms(ttnn)

    def __call__(self, call: dict, operands: list) -> list:
        outputs = getattr(self, call["op"])(call, *operands)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    def linear(self, call, x, weight, bias=None):
        plain = {"bias": bias, "transpose_a": False, "transpose_b": False, "program_config": self.terms.matmul_program(call["program"])}
        return self.ttnn.linear(x, weight, **plain, **self.terms.output(call), **self.terms.compute(call))

    def minimal_matmul_split(self, call, x, weight):
        split = {"chunks": call["chunks"], "dim": -1, "bias_tensor": None, "fused_activation": None}
        split["config"] = self.terms.minimal_matmul(call["config"])
        return self.ttnn.experimental.minimal_matmul_split(x, weight, **split, **self.terms.output(call), **self.terms.compute(call))

    def layer_norm(self, call, x):
        return self.ttnn.layer_norm(x, epsilon=call["epsilon"], **self.terms.output(call), **self.terms.compute(call))

    def rms_norm(self, call, x):
        return self.ttnn.rms_norm(x, epsilon=call["epsilon"], **self.terms.output(call), **self.terms.compute(call))

    def scaled_dot_product_attention(self, call, q, k, v, mask=None):
        given = {"attn_mask": mask, "is_causal": False, "scale": call["scale"], "program_config": self.terms.sdpa_program(call["program"])}
        attention = self.ttnn.transformer.scaled_dot_product_attention
        return attention(q, k, v, **given, **self.terms.output(call), **self.terms.compute(call))

    def nlp_create_qkv_heads(self, call, x, *into):
        heads = {"num_heads": call["num_heads"], "num_kv_heads": call["num_kv_heads"], "transpose_k_heads": False}
        split = self.ttnn.experimental.nlp_create_qkv_heads
        if not into:
            return split(x, **heads, **self.terms.output(call))
        split(x, **heads, **self.terms.output(call), output_tensors=into)
        return []

    def nlp_concat_heads(self, call, x):
        return self.ttnn.experimental.nlp_concat_heads(x, **self.terms.output(call))

    def rotary_embedding(self, call, x, cos, sin):
        return self.ttnn.experimental.rotary_embedding(x, cos, sin, None, **self.terms.output(call), **self.terms.compute(call))

    def concat(self, call, *parts):
        return self.ttnn.concat(list(parts), 2, **self.terms.output(call))

    def add(self, call, a, b):
        return self.ttnn.add(a, b, **self.terms.output(call))

    def addcmul(self, call, a, b, c):
        return self.ttnn.addcmul(a, b, c, **self.terms.output(call))

    def multiply(self, call, a, b):
        activation = self.terms.activation(call["lhs_activation"])
        self.ttnn.multiply(a, b, output_tensor=a, input_tensor_a_activations=[] if activation is None else [activation])
        return []

    def where(self, call, condition, a, b):
        return self.ttnn.where(condition, a, b, **self.terms.output(call))

    def reshape(self, call, x):
        return self.ttnn.reshape(x, self.ttnn.Shape(call["shape"]), self.ttnn.Shape(padded(call["shape"])))
