"""The values of TTNN's ops against NumPy's, in float32, for devices that compute."""

from __future__ import annotations

from typing import Any

import numpy as np

# Root mean square of the difference over that of the reference. Two passes over bfloat16 operands and bfloat8_b outputs stay below
# 1 %; attention with its approximations was seen at 3 %.
LIMIT = 0.05


def gelu(x: np.ndarray) -> np.ndarray:
    """By tanh, which is within 0.0005 of the exact one: NumPy has no error function."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


ACTIVATIONS = {None: lambda x: x, "gelu": gelu, "silu": silu}


class Reference:
    """One method per op of a recording: what it gives, or what is written into operands, for NumPy operands."""

    def __call__(self, call: dict, operands: list[np.ndarray]) -> list[np.ndarray]:
        outputs = getattr(self, call["op"])(call, *operands)
        return outputs if isinstance(outputs, list) else [outputs]

    def linear(self, call, x, weight, bias=0.0):
        return ACTIVATIONS[call["program"]["fused_activation"]](x @ weight + bias)

    def minimal_matmul_split(self, call, x, weight):
        return np.split(x @ weight, call["chunks"], axis=-1)

    def layer_norm(self, call, x):
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + call["epsilon"])

    def rms_norm(self, call, x):
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + call["epsilon"])

    def scaled_dot_product_attention(self, call, q, k, v, mask=0.0):
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat(group, axis=1), v.repeat(group, axis=1)
        scores = call["scale"] * (q @ k.swapaxes(-1, -2)) + mask
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True) @ v

    def nlp_create_qkv_heads(self, call, x, *into):
        batch, _, rows, columns = x.shape
        q, kv = call["num_heads"], call["num_kv_heads"]
        heads = x.reshape(batch, rows, q + 2 * kv, columns // (q + 2 * kv)).swapaxes(1, 2)
        outputs = [heads[:, :q], heads[:, q : q + kv], heads[:, q + kv :]]
        # What is written into keeps its other rows.
        return [np.concatenate([output, old[:, :, rows:]], axis=2) for output, old in zip(outputs, into)] if into else outputs

    def nlp_concat_heads(self, call, x):
        batch, heads, rows, head_dim = x.shape
        return x.swapaxes(1, 2).reshape(batch, 1, rows, heads * head_dim)

    def rotary_embedding(self, call, x, cos, sin):
        low, high = np.split(x, 2, axis=-1)
        return x * cos + np.concatenate([-high, low], axis=-1) * sin

    def concat(self, call, *parts):
        return np.concatenate(parts, axis=2)

    def add(self, call, a, b):
        return a + b

    def addcmul(self, call, a, b, c):
        return a + b * c

    def multiply(self, call, a, b):
        return ACTIVATIONS[call["lhs_activation"]](a) * b

    def where(self, call, condition, a, b):
        return np.where(condition != 0, a, b)

    def reshape(self, call, x):
        shape = call["shape"]
        # A view with fewer rows leaves the last ones out.
        return x.reshape(shape) if np.prod(shape) == x.size else x[:, :, : shape[2]]


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference, over that of what is expected; not a number when nothing is expected but zeros."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


class Numbers:
    """Checks ops one by one: each against what NumPy makes of the operands that TTNN holds."""

    def __init__(self, ttnn: Any, device: Any):
        self.ttnn, self.device = ttnn, device
        self.reference = Reference()
        self.compared, self.largest = 0, 0.0
        self.seed = 0

    def random(self, shape: list[int], dtype: Any, memory: Any) -> Any:
        """Even in an interval whose products with a matrix of this many rows keep their size."""
        limit = (3 / shape[2]) ** 0.5
        self.seed += 1
        uniform = {"low": -limit, "high": limit, "seed": self.seed, "layout": self.ttnn.TILE_LAYOUT, "device": self.device}
        if dtype != self.ttnn.bfloat8_b:
            return self.ttnn.rand(shape, dtype=dtype, memory_config=memory, **uniform)
        return self.ttnn.typecast(self.ttnn.rand(shape, dtype=self.ttnn.bfloat16, memory_config=memory, **uniform), dtype)

    def values(self, tensor: Any) -> np.ndarray:
        # Of TTNN's formats NumPy knows float32 alone.
        return self.ttnn.typecast(tensor, self.ttnn.float32, memory_config=self.ttnn.DRAM_MEMORY_CONFIG).cpu().to_numpy()

    def expected(self, call: dict, operands: list[Any]) -> list[np.ndarray]:
        return self.reference(call, [self.values(operand) for operand in operands])

    def compare(self, expected: list[np.ndarray], found: list[Any]) -> None:
        for index, (wanted, tensor) in enumerate(zip(expected, found)):
            error = difference(self.values(tensor), wanted)
            if not error <= LIMIT:
                raise ValueError(f"output {index} differs from NumPy's by {error:.3%} of its size, more than {LIMIT:.0%}")
            self.largest = max(self.largest, error)
            self.compared += 1

    def summary(self) -> str:
        return f"Values: {self.compared} outputs compared with NumPy's, at most {self.largest:.3%} apart"
