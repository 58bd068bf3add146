"""Python's side of small.cpp: the layers of a small expert in one call, with the gradient that guided sampling takes of them."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from internvla_a1.model.cache import KVCache
from internvla_a1.model.config import ModelConfig
from internvla_a1.model.cpu.library import small_library

GRAIN = 32  # widths are a multiple of this
MOST_WIDTH = 512  # beyond, torch's products are as fast
Rope = tuple[Tensor, Tensor]


class Sizes(ctypes.Structure):
    """small.cpp: Sizes."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("layers", "hidden", "heads", "kv_heads", "d", "mlp", "length")),
        ("eps", ctypes.c_float),
    ]


class Call(ctypes.Structure):
    """small.cpp: Call."""

    _fields_ = [
        ("sizes", Sizes), ("rows", ctypes.c_long), ("start", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("cos", "sin", "keys", "values")),
    ]  # fmt: skip


class Layer(ctypes.Structure):
    """small.cpp: Layer."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in ("qkv", "qkv_back", "o", "o_back", "gate_up", "gate_up_back", "down", "down_back", "input_norm", "post_norm")
    ]


def suits(config: ModelConfig) -> bool:
    """Is this a model that small.cpp can run, and so small that it should?"""
    widths = [config.head_dim, *(w for e in (config.und, config.gen, config.act) for w in (e.hidden, e.mlp))]
    return max(widths) <= MOST_WIDTH and not any(w % GRAIN for w in widths) and not config.qkv_bias and not config.qk_norm


def packed(matrix: Tensor, block: int) -> Tensor:
    """(k, n) -> (n / block, k, block), float32."""
    return matrix.detach().float().unflatten(1, (-1, block)).transpose(0, 1).contiguous()


class Table:
    """Packed weights of one expert, kept alive with their addresses."""

    def __init__(self, expert: Any, block: int) -> None:
        self.expert, self.parameters = expert, list(expert.parameters())
        self._tensors: list[Tensor] = []
        rows = []
        for layer in expert.layers:
            a, mlp = layer.self_attn, layer.mlp
            matrices = (
                torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]), a.o_proj.weight,
                torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]), mlp.down_proj.weight,
            )  # fmt: skip
            both_ways = [packed(m, block) for matrix in matrices for m in (matrix.t(), matrix)]
            norms = (layer.input_layernorm.weight, layer.post_attention_layernorm.weight)
            rows.append(Layer(*(self._keep(t) for t in (*both_ways, *norms))))
        self.layers = (Layer * len(rows))(*rows)
        self.final_norm = self._keep(expert.norm.weight)
        self.hidden, self.mlp = expert.layers[0].mlp.down_proj.weight.shape

    def _keep(self, values: Tensor) -> int:
        self._tensors.append(values.detach().float().contiguous())
        return self._tensors[-1].data_ptr()


class SmallExpertKernels:
    """Runs `Mixture.phase` of one float32 sample without a mask, on the KVCache itself; differentiable in x, not in the weights."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self._tables: dict[int, Table] = {}
        self._memory = torch.empty(0)

    def __reduce__(self) -> tuple[Any, ...]:
        return SmallExpertKernels, (self.config,)  # addresses mean nothing to a copy

    def forget(self) -> None:
        """Weights have changed."""
        self._tables.clear()

    def takes(self, x: Tensor, mask: Tensor | None, expert: nn.Module) -> bool:
        if mask is not None or len(x) != 1 or x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
            return False
        return not torch.is_grad_enabled() or not any(p.requires_grad for p in self._table(expert).parameters)

    def phase(
        self, expert: nn.Module, x: Tensor, rope: Rope, cache: KVCache, start: int, tail: bool, out: Tensor | None = None
    ) -> Tensor | None:
        """See Mixture.phase; x: (1, S, hidden), the result in `out` where given."""
        if torch.is_grad_enabled() and x.requires_grad and tail:
            return _Differentiable.apply(x, self, expert, rope, cache, start)
        y = x.clone(memory_format=torch.contiguous_format) if out is None else out.copy_(x)
        self._memory = self.run(expert, y, rope, cache, start, tail, self._memory)
        return y if tail else None

    def run(
        self, expert: nn.Module, y: Tensor, rope: Rope, cache: KVCache, start: int, tail: bool, memory: Tensor | None = None
    ) -> Tensor:
        """All layers over y in place -> the memory used: the one given if it is large enough; without one, a gradient's needs are kept."""
        table, library, keep = self._table(expert), _library(), memory is None
        cos, sin = (t.contiguous() for t in rope)
        call = self._call(table, y.shape[1], (cos, sin), cache, start)
        needed = library.small_floats(ctypes.byref(call), ctypes.c_long(keep))
        if memory is None or len(memory) < needed:
            memory = torch.empty(needed)
        library.small_phase(
            ctypes.byref(call), table.layers, ctypes.c_void_p(table.final_norm), ctypes.c_void_p(y.data_ptr()),
            ctypes.c_void_p(memory.data_ptr()), ctypes.c_long(tail), ctypes.c_long(keep),
        )  # fmt: skip
        return memory

    def gradient(self, expert: nn.Module, dy: Tensor, rope: Rope, cache: KVCache, start: int, memory: Tensor) -> Tensor:
        """Of a `run` that kept its needs in `memory`: dy (1, S, hidden) -> dx."""
        table, dy = self._table(expert), dy.contiguous()
        cos, sin = (t.contiguous() for t in rope)
        call = self._call(table, dy.shape[1], (cos, sin), cache, start)
        dx = torch.empty_like(dy)
        _library().small_gradient(
            ctypes.byref(call), table.layers, ctypes.c_void_p(table.final_norm), ctypes.c_void_p(dy.data_ptr()),
            ctypes.c_void_p(dx.data_ptr()), ctypes.c_void_p(memory.data_ptr()),
        )  # fmt: skip
        return dx

    def _call(self, table: Table, rows: int, rope: Rope, cache: KVCache, start: int) -> Call:
        c = self.config
        sizes = Sizes(c.layers, table.hidden, c.heads, c.kv_heads, c.head_dim, table.mlp, cache.keys.shape[3], c.norm_eps)
        return Call(sizes, rows, start, *(t.data_ptr() for t in (*rope, cache.keys, cache.values)))

    def _table(self, expert: nn.Module) -> Table:
        if id(expert) not in self._tables:
            self._tables[id(expert)] = Table(expert, _library().small_block())
        return self._tables[id(expert)]


def _library() -> ctypes.CDLL:
    loaded = small_library()
    assert loaded is not None, "ask small_library() first"
    return loaded


class _Differentiable(torch.autograd.Function):
    """A phase whose gradient in x is asked for before the cache is filled anew."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: SmallExpertKernels, expert: nn.Module, rope: Rope, cache: KVCache, start: int) -> Tensor:
        y = x.clone(memory_format=torch.contiguous_format)
        ctx.memory = kernels.run(expert, y, rope, cache, start, tail=True)
        ctx.of = (kernels, expert, rope, cache, start)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        kernels, expert, rope, cache, start = ctx.of
        return kernels.gradient(expert, dy, rope, cache, start, ctx.memory), None, None, None, None, None
