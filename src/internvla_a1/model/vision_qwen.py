"""Qwen3-VL vision tower of the 3B (model.md section 1). Deepstack mergers are left out: nothing reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from internvla_a1.model.attention import Attend, sdpa
from internvla_a1.model.config import QwenVisionConfig
from internvla_a1.model.layers import Linear, embedding, linear, run_through
from internvla_a1.model.positions import rotate

if TYPE_CHECKING:
    from internvla_a1.model.cpu.kernels import Block, VisionKernels
    from internvla_a1.model.cuda.vision import CudaVisionKernels


class PatchEmbed(nn.Module):
    """A 3-D convolution whose kernel is its stride: a linear map of flattened patches (3 * temporal * patch * patch values)."""

    def __init__(self, config: QwenVisionConfig) -> None:
        super().__init__()
        size = (config.temporal_patch, config.patch, config.patch)
        self.proj = nn.Conv3d(3, config.hidden, kernel_size=size, stride=size)

    def forward(self, patches: Tensor) -> Tensor:
        return linear(patches, self.proj.weight.flatten(1).to(patches.dtype), self.proj.bias)


class VisionAttention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(hidden, 3 * hidden)
        self.proj = Linear(hidden, hidden)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """x: (N, rows, hidden), one image a batch entry: an image never sees another."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(rotate(q, *rope), rotate(k, *rope), v, None).transpose(1, 2).flatten(2))


class VisionMLP(nn.Module):
    def __init__(self, hidden: int, mlp: int) -> None:
        super().__init__()
        self.linear_fc1 = Linear(hidden, mlp)
        self.linear_fc2 = Linear(mlp, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    def __init__(self, config: QwenVisionConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.hidden, eps=1e-6)
        self.attn = VisionAttention(config.hidden, config.heads)
        self.norm2 = LayerNorm(config.hidden, eps=1e-6)
        self.mlp = VisionMLP(config.hidden, config.mlp)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        x = x + self.attn(self.norm1(x), rope, attend)
        return x + self.mlp(self.norm2(x))


class LayerNorm(nn.LayerNorm):
    """Weights may be kept wider than the activations."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class PatchMerger(nn.Module):
    """merge x merge neighbouring patches become one token of the language model's width."""

    def __init__(self, config: QwenVisionConfig, width: int) -> None:
        super().__init__()
        self.group = config.merge**2
        merged = config.hidden * self.group
        self.norm = LayerNorm(config.hidden, eps=1e-6)
        self.linear_fc1 = Linear(merged, merged)
        self.linear_fc2 = Linear(merged, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, rows, hidden), rows in merge-block order -> (N, rows / merge^2, width)."""
        x = self.norm(x).unflatten(1, (-1, self.group)).flatten(2)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class QwenVision(nn.Module):
    """Flattened patches -> image tokens."""

    def __init__(self, config: QwenVisionConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = embedding(config.positions, config.hidden)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config, width)
        self.attend: Attend = sdpa
        self.recompute = False  # gradient checkpointing
        self.kernels: VisionKernels | CudaVisionKernels | None = None  # set by precision.place where they are to be used
        self._tables: dict[tuple, tuple[Tensor, Tensor]] = {}

    def forward(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """patches: (N, rows * columns, values) in merge-block order; grid: (rows, columns) of patches -> (N, tokens, width)."""
        x = self.patch_embed(patches)
        x = x + self.learned_positions(grid).to(x.dtype)
        rope = self.rotary(grid, x.device, x.dtype)
        if self.kernels is not None and self.kernels.takes(x):
            return self.merger(self.kernels.run(self, x, rope))
        return self.merger(run_through(self.blocks, x, rope, self.attend, recompute=self.recompute))

    @property
    def stack(self) -> list[VisionBlock]:
        """First to last."""
        return cast("list[VisionBlock]", list(self.blocks))

    def kernel_blocks(self) -> list[Block]:
        """The blocks as the CPU kernels want them: one fused matrix in the place of q, k and v."""
        from internvla_a1.model.cpu.kernels import Block, Matrix, address, matrix

        return [
            Block(
                matrix(b.attn.qkv), Matrix(), Matrix(), *(matrix(m) for m in (b.attn.proj, b.mlp.linear_fc1, b.mlp.linear_fc2)),
                *(address(t) for t in (
                    b.attn.qkv.bias, None, None, b.attn.proj.bias, b.mlp.linear_fc1.bias, b.mlp.linear_fc2.bias,
                    b.norm1.weight, b.norm1.bias, b.norm2.weight, b.norm2.bias, None, None,
                )),
            )
            for b in self.stack
        ]  # fmt: skip

    def merge_order(self, values: Tensor) -> Tensor:
        """(rows, columns, ...) -> (rows * columns, ...) with the patches of one token next to each other."""
        m = self.config.merge
        rows, columns = values.shape[:2]
        blocks = values.reshape(rows // m, m, columns // m, m, *values.shape[2:])
        return blocks.transpose(1, 2).flatten(0, 3)

    def learned_positions(self, grid: tuple[int, int]) -> Tensor:
        """(rows * columns, hidden): the learned square grid, interpolated linearly with its corners on the image's corners."""
        side = int(self.config.positions**0.5)
        table = self.pos_embed.weight.float().view(side, side, -1)
        for axis, count in enumerate(grid):
            at = torch.linspace(0, side - 1, count, device=table.device)
            low = at.long()
            high = (low + 1).clamp(max=side - 1)
            weight = (at - low).view(*([1] * axis), -1, *([1] * (2 - axis)))
            table = table.index_select(axis, low) * (1 - weight) + table.index_select(axis, high) * weight
        return self.merge_order(table)

    def rotary(self, grid: tuple[int, int], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos, sin (1, 1, rows * columns, head_dim): a quarter of the slots by row, a quarter by column, repeated once."""
        key = (grid, device, dtype)
        if key not in self._tables:
            size = self.config.hidden // self.config.heads
            frequencies = 1.0 / 10000.0 ** (torch.arange(0, size // 2, 2, dtype=torch.float32, device=device) / (size // 2))
            cells = torch.cartesian_prod(*(torch.arange(n, device=device) for n in grid)).view(*grid, 2)
            angles = (self.merge_order(cells).float()[..., None] * frequencies).flatten(1)
            angles = torch.cat([angles, angles], dim=-1)[None, None]
            self._tables[key] = angles.cos().to(dtype), angles.sin().to(dtype)
        return self._tables[key]
