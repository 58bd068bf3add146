"""One expert's layers on a CUDA device: four matrix products, attention and four small kernels each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from internvla_a1.model.cache import KVCache
from internvla_a1.model.cuda.joined import joined
from internvla_a1.model.cuda.kernels import add_norm, gated, rotated_heads

if TYPE_CHECKING:
    from internvla_a1.model.mixture import Expert, Mixture


@dataclass(frozen=True)
class Layer:
    """What one layer reads; qkv and gate_up are one matrix each, whose rows the layer's own parameters are views of."""

    qkv: Tensor
    qkv_bias: Tensor | None
    norms: tuple[Tensor, Tensor] | None  # of the heads of q and k
    out: Tensor
    gate_up: Tensor
    down: Tensor
    entry: Tensor  # weights of the norms before attention and MLP
    middle: Tensor


class CudaExpertKernels:
    """Runs `Mixture.phase` without a mask and without gradients."""

    def __init__(self, mixture: Mixture, heads: int) -> None:
        self.heads = heads
        self._mixture = mixture
        self._layers: dict[int, list[Layer]] = {}

    def forget(self) -> None:
        """Weights have changed or moved."""
        self._layers.clear()

    def takes(self, x: Tensor, mask: Tensor | None, expert: nn.Module | None = None) -> bool:
        return mask is None and x.is_cuda and not torch.is_grad_enabled()

    def phase(
        self, expert: Expert, x: Tensor, rope: tuple[Tensor, Tensor], cache: KVCache, start: int, tail: bool, out: Tensor | None = None
    ) -> Tensor | None:
        """See Mixture.phase."""
        layers, attend = self._table(expert), self._mixture.attend
        count, eps, final = x.shape[1], expert.norm.eps, expert.norm.weight
        x = x.contiguous()
        x, h = add_norm(x, None, layers[0].entry, eps)
        for i, layer in enumerate(layers):
            slot_k, slot_v = cache.slot(i, start, count)
            if i == len(layers) - 1 and not tail:
                first = layer.out.shape[1]
                bias = None if layer.qkv_bias is None else layer.qkv_bias[first:]
                rotated_heads(F.linear(h, layer.qkv[first:], bias), layer.norms, eps, rope, slot_k, slot_v, self.heads)
                return None
            q = rotated_heads(F.linear(h, layer.qkv, layer.qkv_bias), layer.norms, eps, rope, slot_k, slot_v, self.heads)
            assert q is not None
            attended = attend(q, *cache.slot(i, 0, start + count), None)
            x, h = add_norm(x, F.linear(attended.transpose(1, 2).flatten(2), layer.out), layer.middle, eps)
            grown = F.linear(gated(F.linear(h, layer.gate_up)), layer.down)
            x, h = add_norm(x, grown, layers[i + 1].entry if i + 1 < len(layers) else final, eps)
        return h

    def _table(self, expert: Expert) -> list[Layer]:
        if id(expert) not in self._layers:
            rows = []
            for layer in expert.stack:
                a, mlp = layer.self_attn, layer.mlp
                qkv, bias = joined([a.q_proj, a.k_proj, a.v_proj])
                norms = None if a.q_norm is None or a.k_norm is None else (a.q_norm.weight.detach(), a.k_norm.weight.detach())
                rows.append(Layer(
                    qkv, bias, norms, a.o_proj.weight.detach(), joined([mlp.gate_proj, mlp.up_proj])[0], mlp.down_proj.weight.detach(),
                    layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach(),
                ))  # fmt: skip
            self._layers[id(expert)] = rows
        return self._layers[id(expert)]

