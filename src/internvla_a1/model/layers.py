"""The small parts: linear maps over any weight storage, RMSNorm, the gated MLP.

Every forward that runs inside the denoising loop takes `out`: a buffer of its result, or None to allocate one. With buffers the loop
allocates nothing; without them (training, compilation, guidance) the same code is differentiable.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from internvla_a1.model.cpu.kernels import Kernels

TILE_VALUES = 512 * 1024  # weights widened at a time: 2 MiB of float32, stays in the last-level cache


class Linear(nn.Linear):
    """y = x W^T + b, where W may be stored narrower than x (bfloat16 weights and float32 activations on a CPU)."""

    kernels: Kernels | None = None  # set by precision.place where they are to be used

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x: (..., in) -> (..., out)."""
        if self.weight.dtype != x.dtype:
            if self.kernels is not None:
                result = self.kernels.linear(self, x)
                return result if out is None else out.copy_(result)
            return widened_linear(x, self.weight, self.bias, out)
        return linear(x, self.weight, self.bias, out)


def normal(*shape: int, std: float = 1.0) -> Tensor:
    """Random values. On the meta device there are none: to draw them there, torch would load its compiler, 140 MB and a second or two."""
    values = torch.empty(shape)
    return values if values.is_meta else nn.init.normal_(values, std=std)


def embedding(rows: int, width: int) -> nn.Embedding:
    """As nn.Embedding(rows, width), see `normal`."""
    return nn.Embedding.from_pretrained(normal(rows, width), freeze=False)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """F.linear with an optional result buffer."""
    if bias is not None and bias.dtype != x.dtype:
        bias = bias.to(x.dtype)
    if out is None:
        return F.linear(x, weight, bias)
    rows, result = x.reshape(-1, x.shape[-1]), out.view(-1, out.shape[-1])
    if bias is None:
        torch.mm(rows, weight.t(), out=result)
    else:
        torch.addmm(bias, rows, weight.t(), out=result)
    return out


def widened_linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """x W^T with W converted to x's dtype a tile at a time, in one small buffer: memory traffic and footprint stay those of W."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    rows = x.reshape(-1, x.shape[-1])
    if out is None:
        out = x.new_empty(*x.shape[:-1], weight.shape[0])
    result = out.view(-1, weight.shape[0])
    step = max(16, TILE_VALUES // weight.shape[1])
    tile = _tile(min(step, weight.shape[0]) * weight.shape[1], x)
    for start in range(0, weight.shape[0], step):
        part = weight[start : start + step]
        wide = tile[: part.numel()].view_as(part)
        wide.copy_(part)
        torch.mm(rows, wide.t(), out=result[:, start : start + part.shape[0]])
    if bias is not None:
        result.add_(bias)
    return out


_TILES: dict[tuple[torch.device, torch.dtype], Tensor] = {}


def _tile(values: int, like: Tensor) -> Tensor:
    """One scratch buffer a device and dtype, grown to the largest tile asked for and kept."""
    key = (like.device, like.dtype)
    if key not in _TILES or _TILES[key].numel() < values:
        _TILES[key] = torch.empty(values, device=like.device, dtype=like.dtype)
    return _TILES[key]


class RMSNorm(nn.Module):
    """x / rms(x) * weight with the product in float32 and one cast at the end (model.md section 5, change 1)."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self._eps: Tensor | None = None  # a tensor: a Python number would be turned into one at every call

    def forward(self, x: Tensor, out: Tensor | None = None, scratch: Tensor | None = None) -> Tensor:
        """x: (..., size); out and scratch (..., 1): buffers, both or neither."""
        if out is None or scratch is None:
            return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(_wanted(x))
        if self._eps is None:
            self._eps = x.new_full((1,), self.eps)
        torch.linalg.vector_norm(x, dim=-1, keepdim=True, out=scratch)
        torch.addcmul(self._eps, scratch, scratch, value=1.0 / x.shape[-1], out=scratch).rsqrt_()
        torch.mul(x, scratch, out=out)
        return out.mul_(self.weight)


def _wanted(x: Tensor) -> torch.dtype:
    """x's own, or under autocast what the products that follow take: they would each make a copy of their own."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):  # tensors without data, on which operations are counted
        return x.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), no biases."""

    def __init__(self, hidden: int, mlp: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden, mlp, bias=False)
        self.up_proj = Linear(hidden, mlp, bias=False)
        self.down_proj = Linear(mlp, hidden, bias=False)

    def forward(self, x: Tensor, gate: Tensor | None = None, up: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """x: (B, S, hidden); gate, up: (B, S, mlp) buffers."""
        gated = self.gate_proj(x, gate)
        gated = F.silu(gated, inplace=gate is not None)
        return self.down_proj(torch.mul(gated, self.up_proj(x, up), out=gate), out)


def run_through(blocks: Iterable[nn.Module], x: Tensor, *rest: Any, recompute: bool) -> Tensor:
    """x through one block after the other, `rest` beside it. recompute: activations are found again in the backward pass."""
    for block in blocks:
        x = checkpoint(block, x, *rest, use_reentrant=False) if recompute else block(x, *rest)
    return x
