"""Python's side of the kernels: addresses of weights, the memory of keys and values, and which models they take."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from internvla_a1.model.cache import KVCache
from internvla_a1.model.cpu.library import LOCK, library

SINGLE, BFLOAT16, INTEGER = 0, 1, 2  # linear.h: Precision
GELU_TANH, GELU_ERF = 1, 2  # linear.h: Shape
GRAIN = 64  # inputs of every matrix are a multiple of this, so that a tile row is always full
Float = ctypes.c_float


class Matrix(ctypes.Structure):
    """kernels.cpp: Matrix."""

    _fields_ = [("w", ctypes.c_void_p), ("scale", ctypes.c_void_p)]


class Layer(ctypes.Structure):
    """kernels.cpp: ExpertLayer."""

    _fields_ = [
        *((name, Matrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("q_bias", "k_bias", "v_bias", "q_norm", "k_norm", "input_norm", "post_norm")),
    ]


class Block(ctypes.Structure):
    """kernels.cpp: VisionLayer."""

    _fields_ = [
        *((name, Matrix) for name in ("q", "k", "v", "o", "fc1", "fc2")),
        *((name, ctypes.c_void_p) for name in (
            "q_bias", "k_bias", "v_bias", "o_bias", "bias1", "bias2", "norm1", "norm1_bias", "norm2", "norm2_bias", "gain1", "gain2",
        )),
    ]  # fmt: skip


def address(values: Tensor | None) -> int | None:
    """Where contiguous float32 values (or weights) lie; None for None."""
    if values is None:
        return None
    if not values.is_contiguous():
        raise ValueError(f"a kernel needs contiguous values, got strides {values.stride()}")
    return values.data_ptr()


def matrix(module: nn.Module) -> Matrix:
    """Of a Linear or an Int8Linear."""
    scale = getattr(module, "scale", None)
    assert isinstance(module.weight, Tensor) and (scale is None or isinstance(scale, Tensor))
    return Matrix(address(module.weight), address(scale))


def fits(module: nn.Module) -> bool:
    """Can the kernels work with this linear layer as it is stored?"""
    weight = module.weight
    assert isinstance(weight, Tensor)
    stored = weight.dtype == (torch.int8 if hasattr(module, "scale") else torch.bfloat16)
    return stored and weight.is_contiguous() and weight.shape[1] % GRAIN == 0 and weight.shape[0] % 16 == 0


class Kernels:
    """One loaded library and the precision that activations are rounded to before a product."""

    def __init__(self, precision: int) -> None:
        loaded = library()
        assert loaded is not None, "ask library() first"
        self.library, self.precision = loaded, precision
        self.terms = 3 if precision == SINGLE else 1

    def takes(self, x: Tensor) -> bool:
        """They read addresses on this machine and give no gradients."""
        return x.device.type == "cpu" and not torch.is_grad_enabled()

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        """x (..., k) float32 -> (..., n)."""
        weight = module.weight
        assert isinstance(weight, Tensor)
        bias: Any = getattr(module, "bias", None)
        if not self.takes(x):
            return self._by_torch(weight, bias, x)
        rows = x.reshape(-1, x.shape[-1]).float().contiguous()
        y = rows.new_empty(len(rows), len(weight))
        stored = matrix(module)
        precision = self.precision if (stored.scale is not None) == (self.precision == INTEGER) else BFLOAT16
        with LOCK:
            self.library.single_linear(
                ctypes.c_void_p(stored.w), ctypes.c_void_p(stored.scale), ctypes.c_void_p(address(bias)), ctypes.c_void_p(rows.data_ptr()),
                ctypes.c_void_p(y.data_ptr()), ctypes.c_long(len(rows)), ctypes.c_long(rows.shape[1]), len(weight), precision,
                torch.get_num_threads(),
            )  # fmt: skip
        return y.view(*x.shape[:-1], -1)

    def _by_torch(self, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """torch's products, in bfloat16 unless this is float32."""
        if self.precision == SINGLE:
            return nn.functional.linear(x, weight.to(x.dtype), bias)
        y = nn.functional.linear(x.to(weight.dtype), weight).to(x.dtype)
        return y if bias is None else y + bias


class ExpertKernels:
    """Runs `Mixture.phase` of one sample without a mask; keys and values live in a memory of their own, beside the KVCache."""

    def __init__(self, kernels: Kernels, heads: int, kv_heads: int, head_dim: int) -> None:
        self.kernels, self.heads, self.kv_heads, self.head_dim = kernels, heads, kv_heads, head_dim
        self._tables: dict[int, tuple[Any, nn.Module]] = {}

    def forget(self) -> None:
        """Weights have moved."""
        self._tables.clear()

    def takes(self, x: Tensor, mask: Tensor | None, expert: nn.Module | None = None) -> bool:
        return mask is None and len(x) == 1 and self.kernels.takes(x)

    def memory(self, cache: KVCache) -> Tensor:
        """(2, layers, terms, KV, ...) bfloat16: keys as (capacity, D), values as (D, capacity), of this cache."""
        if cache.packed is None:
            layers, _, kv, length, size = cache.keys.shape
            capacity = (length + 31) // 32 * 32
            cache.packed = torch.zeros(2, layers, self.kernels.terms, kv, capacity * size, dtype=torch.bfloat16)
        return cache.packed

    def phase(
        self, expert: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor], cache: KVCache, start: int, tail: bool, out: Tensor | None = None,
        alone: int = 0,
    ) -> Tensor | None:  # fmt: skip
        """See Mixture.phase; x: (1, S, hidden), the result in `out` where given. alone: so many first rows (0, 1) see nothing behind."""
        table, mlp, norm = self._table(expert)
        x = x[0].float().clone() if out is None else out[0].copy_(x[0])
        memory = self.memory(cache)
        cos, sin = (t.reshape(-1, self.head_dim).float().contiguous() for t in rope)
        with LOCK:
            self.kernels.library.expert_phase(
                table, len(table), ctypes.c_void_p(address(norm.weight)), Float(norm.eps), ctypes.c_void_p(x.data_ptr()),
                ctypes.c_long(len(x)), x.shape[1], self.heads, self.kv_heads, self.head_dim, mlp,
                ctypes.c_void_p(cos.data_ptr()), ctypes.c_void_p(sin.data_ptr()), ctypes.c_void_p(memory.data_ptr()),
                ctypes.c_long(memory.shape[-1] // self.head_dim), ctypes.c_long(start), int(tail), alone, self.kernels.precision,
                torch.get_num_threads(),
            )  # fmt: skip
        return x[None] if tail else None

    def _table(self, expert: Any) -> tuple[Any, int, Any]:
        """Addresses of every layer of an expert, the width of its MLP and its last norm."""
        if id(expert) not in self._tables:
            rows = []
            for layer in expert.layers:
                a, mlp = layer.self_attn, layer.mlp
                norms = [None if norm is None else norm.weight for norm in (a.q_norm, a.k_norm)]
                rows.append(Layer(
                    *(matrix(m) for m in (a.q_proj, a.k_proj, a.v_proj, a.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)),
                    *(address(t) for t in (a.q_proj.bias, a.k_proj.bias, a.v_proj.bias, *norms)),
                    address(layer.input_layernorm.weight), address(layer.post_attention_layernorm.weight),
                ))  # fmt: skip
            self._tables[id(expert)] = (Layer * len(rows))(*rows), expert
        table = self._tables[id(expert)][0]
        return table, expert.layers[0].mlp.gate_proj.weight.shape[0], expert.norm


class VisionKernels:
    """Runs all blocks of a vision tower. `blocks`: one Block a layer; kept alive by the tower that owns this."""

    def __init__(self, kernels: Kernels, heads: int, hidden: int, mlp: int, gelu: int, eps: float) -> None:
        self.kernels, self.heads, self.hidden, self.mlp, self.gelu, self.eps = kernels, heads, hidden, mlp, gelu, eps
        self._table: Any = None

    def forget(self) -> None:
        """Weights have moved."""
        self._table = None

    def takes(self, x: Tensor) -> bool:
        return self.kernels.takes(x)

    def run(self, tower: Any, x: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x: (N, rows, hidden) -> the same after every block. tower.kernel_blocks() gives the addresses."""
        if self._table is None:
            blocks = tower.kernel_blocks()
            self._table = (Block * len(blocks))(*blocks)
        x = x.float().clone(memory_format=torch.contiguous_format)
        cos, sin = (None, None) if rope is None else (t.reshape(-1, t.shape[-1]).float().contiguous() for t in rope)
        with LOCK:
            self.kernels.library.vision_blocks(
                self._table, len(self._table), Float(self.eps), ctypes.c_void_p(x.data_ptr()), ctypes.c_long(x.shape[0]),
                ctypes.c_long(x.shape[1]), self.hidden, self.heads, self.mlp, ctypes.c_void_p(address(cos)), ctypes.c_void_p(address(sin)),
                self.gelu, self.kernels.precision, torch.get_num_threads(),
            )  # fmt: skip
        return x

