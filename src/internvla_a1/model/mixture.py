"""Mixture of transformers: three named experts, one attention (paper section 3; model.md section 1).

`joint` runs all tokens at once (training); `phase` runs one expert against the cache (inference). Both use the same layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from internvla_a1.model.attention import Attend, reference, sdpa
from internvla_a1.model.cache import KVCache
from internvla_a1.model.config import ExpertConfig, ModelConfig
from internvla_a1.model.layers import GatedMLP, Linear, RMSNorm
from internvla_a1.model.positions import rotate

if TYPE_CHECKING:
    from internvla_a1.model.cpu.kernels import ExpertKernels
    from internvla_a1.model.cpu.small import SmallExpertKernels
    from internvla_a1.model.cuda.experts import CudaExpertKernels

Rope = tuple[Tensor, Tensor]


@dataclass
class Buffers:
    """Results of one expert layer, reused by every layer and step. All None: allocate as needed."""

    x: Tensor | None = None  # (B, S, hidden)
    normed: Tensor | None = None  # (B, S, hidden)
    rms: Tensor | None = None  # (B, S, 1)
    q: Tensor | None = None  # (B, S, H * D)
    k: Tensor | None = None  # (B, S, KV * D)
    v: Tensor | None = None
    q_rms: Tensor | None = None  # (B, S, H, 1)
    k_rms: Tensor | None = None
    q_rotated: Tensor | None = None  # (B, H, S, D)
    scores: Tensor | None = None  # (B * KV, H / KV * S, length)
    attended: Tensor | None = None  # (B * KV, H / KV * S, D)
    merged: Tensor | None = None  # (B, S, H * D)
    gate: Tensor | None = None  # (B, S, mlp)
    up: Tensor | None = None

    @classmethod
    def allocate(cls, config: ModelConfig, expert: ExpertConfig, batch: int, count: int, length: int, like: Tensor) -> Buffers:
        heads, kv, size = config.heads, config.kv_heads, config.head_dim
        group = heads // kv * count
        shapes = {
            "x": (batch, count, expert.hidden), "normed": (batch, count, expert.hidden), "rms": (batch, count, 1),
            "q": (batch, count, heads * size), "k": (batch, count, kv * size), "v": (batch, count, kv * size),
            "q_rms": (batch, count, heads, 1), "k_rms": (batch, count, kv, 1),
            "q_rotated": (batch, heads, count, size),
            "scores": (batch * kv, group, length), "attended": (batch * kv, group, size), "merged": (batch, count, heads * size),
            "gate": (batch, count, expert.mlp), "up": (batch, count, expert.mlp),
        }  # fmt: skip
        return cls(**{name: like.new_empty(shape) for name, shape in shapes.items()})


FRESH = Buffers()


class SelfAttention(nn.Module):
    """Projections of one expert's layer. q may be wider than the hidden size (3B: 2048 from 1024)."""

    def __init__(self, config: ModelConfig, hidden: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = Linear(hidden, width, bias=config.qkv_bias)
        self.k_proj = Linear(hidden, kv_width, bias=config.qkv_bias)
        self.v_proj = Linear(hidden, kv_width, bias=config.qkv_bias)
        self.o_proj = Linear(width, hidden, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def queries(self, h: Tensor, rope: Rope, b: Buffers = FRESH) -> Tensor:
        """h: (B, S, hidden) -> (B, H, S, D), normalised per head, then rotated."""
        q = self.q_proj(h, b.q).unflatten(-1, (-1, self.head_dim))
        if self.q_norm is not None:
            q = self.q_norm(q, q if b.q is not None else None, b.q_rms)
        return rotate(q.transpose(1, 2), *rope, b.q_rotated)

    def keys_values(self, h: Tensor, rope: Rope, b: Buffers = FRESH, k_out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """h: (B, S, hidden) -> k rotated (into `k_out` where given) and v, (B, KV, S, D) each."""
        k = self.k_proj(h, b.k).unflatten(-1, (-1, self.head_dim))
        if self.k_norm is not None:
            k = self.k_norm(k, k if b.k is not None else None, b.k_rms)
        v = self.v_proj(h, b.v).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return rotate(k.transpose(1, 2), *rope, k_out), v


class ExpertLayer(nn.Module):
    """x + attention, then x + MLP, each behind an RMSNorm."""

    def __init__(self, config: ModelConfig, expert: ExpertConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(expert.hidden, config.norm_eps)
        self.self_attn = SelfAttention(config, expert.hidden)
        self.post_attention_layernorm = RMSNorm(expert.hidden, config.norm_eps)
        self.mlp = GatedMLP(expert.hidden, expert.mlp)

    def finish(self, x: Tensor, attended: Tensor, b: Buffers = FRESH) -> Tensor:
        """x: (B, S, hidden), attended: (B, H, S, D) -> (B, S, hidden)."""
        if b.merged is None:
            merged = attended.transpose(1, 2).flatten(2)
        else:
            b.merged.view(attended.transpose(1, 2).shape).copy_(attended.transpose(1, 2))
            merged = b.merged
        x = torch.add(x, self.self_attn.o_proj(merged, b.normed), out=b.x)
        h = self.post_attention_layernorm(x, b.normed, b.rms)
        return torch.add(x, self.mlp(h, b.gate, b.up, b.normed), out=b.x)


class Expert(nn.Module):
    def __init__(self, config: ModelConfig, expert: ExpertConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ExpertLayer(config, expert) for _ in range(config.layers))
        self.norm = RMSNorm(expert.hidden, config.norm_eps)

    @property
    def stack(self) -> list[ExpertLayer]:
        """The layers, first to last."""
        return cast("list[ExpertLayer]", list(self.layers))


class Mixture(nn.Module):
    """und sees images and text, gen past and present latents, act the state and the noisy chunk."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.und = Expert(config, config.und)
        self.gen = Expert(config, config.gen)
        self.act = Expert(config, config.act)
        self.attend: Attend = sdpa
        self.kernels: ExpertKernels | SmallExpertKernels | CudaExpertKernels | None = None  # set by precision.place

    def phase(
        self,
        expert: Expert,
        x: Tensor,
        rope: Rope,
        cache: KVCache,
        start: int,
        mask: Tensor | None = None,
        tail: bool = True,
        b: Buffers = FRESH,
    ) -> Tensor | None:
        """Run x (B, S, hidden) through one expert, keys and values going to the cache at `start`; every key before is visible.

        tail=False stops where the last keys and values are known: query, output, MLP and final norm of the last layer feed nothing.
        """
        if self.kernels is not None and self.kernels.takes(x, mask, expert):
            return self.kernels.phase(expert, x, rope, cache, start, tail, b.x)
        count = x.shape[1]
        for i, layer in enumerate(expert.stack):
            h = layer.input_layernorm(x, b.normed, b.rms)
            k_out = cache.slot(i, start, count)[0] if b.k is not None else None
            k, v = layer.self_attn.keys_values(h, rope, b, k_out)
            keys, values = cache.append(i, start, k, v, k_stored=k_out is not None)
            if i == len(expert.layers) - 1 and not tail:
                return None
            q = layer.self_attn.queries(h, rope, b)
            attended = (
                reference(q, keys, values, mask, b.scores, b.attended) if b.scores is not None else self.attend(q, keys, values, mask)
            )
            x = layer.finish(x, attended, b)
        return expert.norm(x, b.normed, b.rms)

    def joint(
        self, und: Tensor, gen: Tensor, act: Tensor, rope: Rope, mask: Tensor, want_und: bool = False
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """All three at once under the block mask. The last und layer only gives keys and values unless `want_und`."""
        experts = (self.und, self.gen, self.act)
        xs = [und, gen, act]
        counts = [x.shape[1] for x in xs]
        ropes = list(zip(*(table.split(counts, dim=2) for table in rope), strict=True))
        last = len(self.und.layers) - 1
        for i in range(last + 1):
            layers = [expert.stack[i] for expert in experts]
            hidden = [layer.input_layernorm(x) for layer, x in zip(layers, xs, strict=True)]
            pairs = [layer.self_attn.keys_values(h, r) for layer, h, r in zip(layers, hidden, ropes, strict=True)]
            keys, values = (torch.cat(part, dim=2) for part in zip(*pairs, strict=True))
            first = 1 if i == last and not want_und else 0  # experts before `first` have given all they can
            q = torch.cat([layers[e].self_attn.queries(hidden[e], ropes[e]) for e in range(first, 3)], dim=2)
            attended = self.attend(q, keys, values, mask[:, :, sum(counts[:first]) :])
            for e, part in zip(range(first, 3), attended.split(counts[first:], dim=2), strict=True):
                xs[e] = layers[e].finish(xs[e], part)
        gen_out, act_out = self.gen.norm(xs[1]), self.act.norm(xs[2])
        return (self.und.norm(xs[0]) if want_und else None), gen_out, act_out
