"""attend(): one function, five backends, chosen once for a device.

Blocks are cumulative (prefix, middle, state, actions), so in cached inference each phase attends to every key there is and needs no
mask; only the joint training pass and a batch with unequal padding carry one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from internvla_a1.core.errors import ConfigError, MissingDependencyError

# (q (B, H, S, D), k and v (B, KV, L, D), mask bool broadcastable to (B, 1, S, L) or None) -> (B, H, S, D); scale D^-0.5
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def reference(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scores: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Softmax in float32 and two matrix products; query heads that share a key head are stacked instead of copying the keys.

    scores: (B * KV, H / KV * S, L) and out: (B * KV, H / KV * S, D), buffers for a loop that allocates nothing.
    """
    batch, heads, length, size = q.shape
    kv = k.shape[1]
    rows = q.reshape(batch * kv, heads // kv * length, size)
    keys = k.reshape(batch * kv, -1, size) if scores is None else k.flatten(0, 1)
    values = v.reshape(batch * kv, -1, size) if scores is None else v.flatten(0, 1)
    if scores is None:
        logits = torch.bmm(rows, keys.transpose(1, 2)) * size**-0.5
    else:
        logits = torch.baddbmm(scores, rows, keys.transpose(1, 2), beta=0, alpha=size**-0.5, out=scores)
    if mask is not None:
        grouped = logits.view(batch, kv, heads // kv, length, -1)
        logits = grouped.masked_fill(~mask.unsqueeze(1), torch.finfo(logits.dtype).min).view_as(logits)
    weights = torch.softmax(logits, -1, dtype=torch.float32, out=scores)
    return torch.bmm(weights.to(v.dtype), values, out=out).view(batch, heads, length, size)


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """torch's fused attention."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


def products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """As `reference`, with the softmax in the precision of v: for training small models in bfloat16 on a CPU.

    torch's fused attention takes four times as long there, forward and backward, for the short rows of the tiny policy.
    """
    batch, heads, length, size = q.shape
    kv = k.shape[1]
    with torch.autocast(q.device.type, enabled=False):  # it would widen the softmax
        rows = (q * size**-0.5).to(v.dtype).reshape(batch * kv, heads // kv * length, size)
        logits = torch.bmm(rows, k.to(v.dtype).reshape(batch * kv, -1, size).transpose(1, 2))
        if mask is not None:
            bias = torch.zeros(mask.shape, dtype=v.dtype, device=v.device).masked_fill_(~mask, -3e4)
            logits = (logits.view(batch, kv, heads // kv, length, -1) + bias.unsqueeze(1)).view_as(logits)
        weights = torch.softmax(logits, -1)
        return torch.bmm(weights, v.reshape(batch * kv, -1, size)).view(batch, heads, length, size)


def flex(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """FlexAttention; the mask becomes a score modification, so that a compiled kernel reads one bit a pair."""
    from torch.nn.attention.flex_attention import flex_attention

    if mask is None:
        return flex_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])
    allowed = mask.expand(q.shape[0], 1, q.shape[2], k.shape[2])

    def masked(score: Tensor, b: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return torch.where(allowed[b, 0, row, column], score, torch.finfo(score.dtype).min)

    return flex_attention(q, k, v, score_mod=masked, enable_gqa=q.shape[1] != k.shape[1])


def load_flash_attn() -> Attend:
    """The flash_attn package (bfloat16 or float16 on CUDA). It takes no mask, so a masked call goes to sdpa.

    Its documented layout is (B, S, heads, D), with fewer key heads allowed. This call has been exercised against a stand-in with
    those semantics and has not been run on a GPU by this project's tests.
    """
    try:
        flash_attn_func = importlib.import_module("flash_attn").flash_attn_func
    except ImportError as error:
        raise MissingDependencyError("flash_attn", "the flash_attn attention backend", "pip install flash-attn") from error

    def flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            return sdpa(q, k, v, mask)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=q.shape[-1] ** -0.5, causal=False).transpose(1, 2)

    return flash


BACKENDS: dict[str, Callable[[], Attend]] = {
    "reference": lambda: reference,
    "products": lambda: products,
    "sdpa": lambda: sdpa,
    "flex": lambda: flex,
    "flash_attn": load_flash_attn,
}


def choose(name: str, device: torch.device, dtype: torch.dtype) -> Attend:
    """The backend called `name`; `auto` takes flash_attn where it can run and torch's own otherwise."""
    if name == "auto":
        if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
            try:
                return load_flash_attn()
            except MissingDependencyError:
                return sdpa
        return sdpa
    if name not in BACKENDS:
        raise ConfigError.asked("attention backend", name, ["auto", *BACKENDS])
    if name == "flex" and device.type == "cuda":
        return torch.compile(flex)  # uncompiled it would write out all scores
    return BACKENDS[name]()
