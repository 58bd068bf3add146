"""The blocks of a vision tower on a CUDA device: four matrix products, attention and three or four small kernels each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from internvla_a1.model.cuda.joined import joined
from internvla_a1.model.cuda.kernels import add_layer_norm, rotated_heads
from internvla_a1.model.vision_internvl import InternVision
from internvla_a1.model.vision_qwen import QwenVision

if TYPE_CHECKING:
    from internvla_a1.model.layers import Linear

Affine = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Block:
    """qkv: one matrix; gains: scale per channel of both branches, or None; norms: weight and bias before attention and MLP."""

    qkv: Affine
    out: Affine
    wide: Affine
    narrow: Affine
    norms: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    gains: tuple[Tensor | None, Tensor | None]


def _affine(layer: Linear) -> Affine:
    return layer.weight.detach(), None if layer.bias is None else layer.bias.detach().to(layer.weight.dtype)


def _norm(layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return layer.weight.detach(), layer.bias.detach()


def _blocks(tower: QwenVision | InternVision) -> list[Block]:
    if isinstance(tower, QwenVision):
        return [
            Block(
                _affine(b.attn.qkv), _affine(b.attn.proj), _affine(b.mlp.linear_fc1), _affine(b.mlp.linear_fc2),
                (_norm(b.norm1), _norm(b.norm2)), (None, None),
            )
            for b in tower.stack
        ]  # fmt: skip
    return [
        Block(
            joined([b.attention.q_proj, b.attention.k_proj, b.attention.v_proj]), _affine(b.attention.projection_layer),
            _affine(b.mlp.fc1), _affine(b.mlp.fc2), (_norm(b.layernorm_before), _norm(b.layernorm_after)),
            (b.lambda_1.detach(), b.lambda_2.detach()),
        )
        for b in tower.stack
    ]  # fmt: skip


class CudaVisionKernels:
    """Runs all blocks of a tower, without gradients."""

    def __init__(self, heads: int, gelu: str, eps: float) -> None:
        self.heads, self.gelu, self.eps = heads, gelu, eps
        self._blocks: list[Block] = []

    def forget(self) -> None:
        """Weights have changed or moved."""
        self._blocks = []

    def takes(self, x: Tensor) -> bool:
        return x.is_cuda and not torch.is_grad_enabled()

    def run(self, tower: QwenVision | InternVision, x: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """x: (N, rows, hidden) -> the same after the last block; rope: (1, 1, rows, D) each."""
        blocks = self._blocks = self._blocks or _blocks(tower)
        x, h = add_layer_norm(x.contiguous(), None, None, *blocks[0].norms[0], self.eps)
        for i, block in enumerate(blocks):
            attended = tower.attend(*self._heads(F.linear(h, *block.qkv), rope), None)
            mixed = F.linear(attended.transpose(1, 2).flatten(2), *block.out)
            x, h = add_layer_norm(x, mixed, block.gains[0], *block.norms[1], self.eps)
            grown = F.linear(F.gelu(F.linear(h, *block.wide), approximate=self.gelu), *block.narrow)
            following = blocks[min(i + 1, len(blocks) - 1)].norms[0]
            x, h = add_layer_norm(x, grown, block.gains[1], *following, self.eps)
        return x

    def _heads(self, qkv: Tensor, rope: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """(N, rows, 3 * hidden) -> q, k, v (N, heads, rows, D)."""
        if rope is None:
            q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            return q, k, v
        n, rows, width = qkv.shape
        k, v = qkv.new_empty(2, n, self.heads, rows, width // 3 // self.heads)
        q = rotated_heads(qkv, None, self.eps, tuple(t.expand(n, -1, -1, -1) for t in rope), k, v, self.heads)  # type: ignore[arg-type]
        assert q is not None
        return q, k, v
