"""int8 linear layers: one scale an output channel for weights, one a row for activations, taken as the rows come.

A fidelity gate runs one seeded chunk before and after; a model whose actions move more than the bound is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from internvla_a1.core.errors import CheckpointError
from internvla_a1.model.cpu.kernels import INTEGER, ExpertKernels, Kernels, VisionKernels
from internvla_a1.model.example import example_batch
from internvla_a1.model.layers import TILE_VALUES, Linear, _tile
from internvla_a1.model.network import InternVLAA1
from internvla_a1.model.precision import use_kernels
from internvla_a1.model.vision_stem import StemVision

ACTION_BOUND = 0.05  # largest mean action error against bfloat16, in units of the actions' own standard deviation
MIN_VALUES = 64 * 64  # smaller matrices gain nothing


def has_vnni() -> bool:
    """int8 dot products in hardware on this CPU; without them int8 saves memory, not time."""
    return bool(torch.cpu._is_vnni_supported())


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., n) -> int8 values and the scale of each row, (..., 1): symmetric, 127 steps a side."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp(min=1e-12) / 127.0
    return torch.round(x.float() / scale).to(torch.int8), scale


class Int8Linear(nn.Module):
    """y = (x_q W_q^T) * scale_x * scale_w + b with integer products."""

    weight: Tensor
    scale: Tensor
    row_scaled = True
    kernels: Kernels | None = None  # set by precision.use_kernels

    def __init__(self, source: Linear) -> None:
        super().__init__()
        weight, scale = quantize_rows(source.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale[:, 0])
        self.bias = source.bias
        self.native = weight.device.type == "cuda" or has_vnni()

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x: (..., in) -> (..., out) in x's dtype."""
        if self.kernels is not None and self.kernels.takes(x):
            result = self.kernels.linear(self, x).to(x.dtype)
            return result if out is None else out.copy_(result)
        rows, row_scale = quantize_rows(x.reshape(-1, x.shape[-1]))
        result = self._products(rows).mul_(row_scale).mul_(self.scale)
        if self.bias is not None:
            result = result.add_(self.bias)
        result = result.to(x.dtype).view(*x.shape[:-1], -1)
        return result if out is None else out.copy_(result)

    def _products(self, rows: Tensor) -> Tensor:
        """Integer products as float32; without int8 instructions the same numbers through float32 tiles."""
        if self.native and len(rows) > 16:  # torch._int_mm takes no fewer
            return torch._int_mm(rows, self.weight.t()).float()
        wide = rows.float()
        result = wide.new_empty(len(rows), len(self.weight))
        step = max(16, TILE_VALUES // self.weight.shape[1])
        tile = _tile(min(step, len(self.weight)) * self.weight.shape[1], wide)
        for start in range(0, len(self.weight), step):
            part = self.weight[start : start + step]
            view = tile[: part.numel()].view(part.shape)
            view.copy_(part)
            torch.mm(wide, view.t(), out=result[:, start : start + len(part)])
        return result


def quantize(model: InternVLAA1) -> InternVLAA1:
    """Replace the large linear layers of the experts and of the vision tower, in place."""
    for root in (model.mixture, model.vision):
        for module in [m for m in root.modules() if not isinstance(m, Linear)]:  # a list of the layers would keep their weights alive
            for name, child in module.named_children():
                if isinstance(child, Linear) and child.weight.numel() >= MIN_VALUES:
                    setattr(module, name, Int8Linear(child))
    if not isinstance(model.mixture.kernels, ExpertKernels):
        model.mixture.kernels = None  # they have weights of their own
    if not isinstance(model.vision, StemVision) and not isinstance(model.vision.kernels, VisionKernels):
        model.vision.kernels = None
    return model


def quantize_checked(model: InternVLAA1, bound: float = ACTION_BOUND) -> InternVLAA1:
    """`quantize`, refused with CheckpointError if the mean action error on a seeded chunk exceeds `bound` standard deviations."""
    batch = example_batch(model.config, device=model.device)
    noise = torch.randn(1, model.config.chunk, model.config.action_dim, generator=torch.Generator().manual_seed(0))
    before = model.predict(batch, noise).actions
    quantize(model)
    model.forget_weights()
    if isinstance(model.mixture.kernels, ExpertKernels):
        use_kernels(model, INTEGER)
    after = model.predict(batch, noise).actions
    error = float((after - before).abs().mean() / before.std().clamp(min=1e-6))
    if not error <= bound:
        raise CheckpointError(f"int8 moves the actions by {error:.3f} standard deviations on average, the bound is {bound}; use bfloat16")
    return model
