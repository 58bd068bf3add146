"""Triton kernels of what lies between the matrix products of an expert's layer. Results are rounded where the plain layers round them.

Needs the triton package, which every CUDA build of torch brings along; imported only where there is a CUDA device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 8  # tokens that one program rotates


@triton.jit
def _add_norm(x_at, r_at, w_at, sum_at, out_at, eps, width, HAS_R: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_at + row + column, mask=inside, other=0.0)
    if HAS_R:
        added = x.to(tl.float32) + tl.load(r_at + row + column, mask=inside, other=0.0).to(tl.float32)
        x = added.to(x.dtype)
        tl.store(sum_at + row + column, x, mask=inside)
    x = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + eps)
    weight = tl.load(w_at + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_at + row + column, (x * scale * weight).to(out_at.dtype.element_ty), mask=inside)


@triton.jit
def _add_layer_norm(  # type: ignore[no-untyped-def]
    x_at, r_at, gain_at, w_at, b_at, sum_at, out_at, eps, width, HAS_R: tl.constexpr, HAS_GAIN: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_at + row + column, mask=inside, other=0.0)
    if HAS_R:
        r = tl.load(r_at + row + column, mask=inside, other=0.0)
        if HAS_GAIN:
            gain = tl.load(gain_at + column, mask=inside, other=0.0).to(r.dtype)
            r = (gain.to(tl.float32) * r.to(tl.float32)).to(r.dtype)
        x = (x.to(tl.float32) + r.to(tl.float32)).to(x.dtype)
        tl.store(sum_at + row + column, x, mask=inside)
    wide = x.to(tl.float32)
    centred = tl.where(inside, wide - tl.sum(wide, 0) / width, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    weight = tl.load(w_at + column, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(b_at + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_at + row + column, (centred * scale * weight + bias).to(x.dtype), mask=inside)


@triton.jit
def _heads(  # type: ignore[no-untyped-def]
    qkv_at, q_weight_at, k_weight_at, cos_at, sin_at, q_at, k_at, v_at, eps,
    count, heads, kv, first, cos_batch, cos_row, kv_batch, kv_head,
    HALF: tl.constexpr, NORM: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at, head, batch = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None], tl.program_id(1) + first, tl.program_id(2)
    column = tl.arange(0, BLOCK)[None, :]
    inside = (at < count) & (column < HALF)
    width = heads + 2 * kv - first  # heads of a row: q, then k, then v; `first` leaves out q
    source = qkv_at + ((batch * count + at).to(tl.int64) * width + head - first) * 2 * HALF + column
    one = tl.load(source, mask=inside, other=0.0)
    two = tl.load(source + HALF, mask=inside, other=0.0)
    if head >= heads + kv:
        target = v_at + batch * kv_batch + (head - heads - kv) * kv_head + at * 2 * HALF + column
        tl.store(target, one, mask=inside)
        tl.store(target + HALF, two, mask=inside)
        return
    if NORM:
        a, b = one.to(tl.float32), two.to(tl.float32)
        scale = 1.0 / tl.sqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)[:, None]
        weight_at = q_weight_at if head < heads else k_weight_at
        one = (a * scale * tl.load(weight_at + column, mask=column < HALF, other=0.0).to(tl.float32)).to(one.dtype)
        two = (b * scale * tl.load(weight_at + HALF + column, mask=column < HALF, other=0.0).to(tl.float32)).to(two.dtype)
    a, b = one.to(tl.float32), two.to(tl.float32)
    angle = batch * cos_batch + at * cos_row + column
    cos = tl.load(cos_at + angle, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(sin_at + angle, mask=inside, other=0.0).to(tl.float32)
    if head < heads:
        target = q_at + ((batch * count + at).to(tl.int64) * heads + head) * 2 * HALF + column
    else:
        target = k_at + batch * kv_batch + (head - heads) * kv_head + at * 2 * HALF + column
    tl.store(target, (a * cos - b * sin).to(one.dtype), mask=inside)
    tl.store(target + HALF, (b * cos + a * sin).to(one.dtype), mask=inside)


@triton.jit
def _gated(both_at, out_at, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = part * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(both_at + row * 2 * width + column, mask=inside, other=0.0)
    up = tl.load(both_at + row * 2 * width + width + column, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype)
    tl.store(out_at + row * width + column, (silu.to(tl.float32) * up.to(tl.float32)).to(gate.dtype), mask=inside)


def add_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + added, and its RMSNorm; x, added: (..., width), contiguous."""
    width = x.shape[-1]
    out = torch.empty_like(x)
    total = x if added is None else torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _add_norm[(x.numel() // width,)](
        x, x if added is None else added, weight, total, out, eps, width, added is not None, block, num_warps=4 if block <= 2048 else 8
    )
    return total, out


def add_layer_norm(
    x: Tensor, added: Tensor | None, gain: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x + gain * added, and its LayerNorm; x, added: (..., width), contiguous; gain, weight, bias: (width,)."""
    width = x.shape[-1]
    out = torch.empty_like(x)
    total = x if added is None else torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _add_layer_norm[(x.numel() // width,)](
        x, x if added is None else added, weight if gain is None else gain, weight, bias, total, out, eps, width,
        added is not None, gain is not None, block, num_warps=4 if block <= 2048 else 8,
    )  # fmt: skip
    return total, out


def rotated_heads(
    qkv: Tensor, norms: tuple[Tensor, Tensor] | None, eps: float, rope: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, heads: int
) -> Tensor | None:
    """Head norms and rotary embedding; keys and values go to their slots.

    qkv: (B, S, (heads + 2 KV) * D), or without the queries' columns where nobody asks for them; rope: (B, 1, S, D) each; keys, values:
    (B, KV, S, D) views of the cache with rows next to each other. -> (B, heads, S, D), a view of (B, S, heads, D), or None.
    """
    batch, kv, count, size = keys.shape
    wanted = qkv.shape[-1] == (heads + 2 * kv) * size
    cos, sin = rope
    q = qkv.new_empty(batch, count, heads, size) if wanted else None  # attention's result gets the order of its queries
    first = 0 if wanted else heads
    _heads[(triton.cdiv(count, _ROWS), heads + 2 * kv - first, batch)](
        qkv, *(norms or (qkv, qkv)), cos, sin, qkv if q is None else q, keys, values, eps,
        count, heads, kv, first, cos.stride(0), cos.stride(2), keys.stride(0), keys.stride(1),
        size // 2, norms is not None, _ROWS, triton.next_power_of_2(size // 2), num_warps=2,
    )  # fmt: skip
    return None if q is None else q.transpose(1, 2)


def gated(both: Tensor) -> Tensor:
    """silu(gate) * up of (..., [gate | up]), contiguous."""
    width = both.shape[-1] // 2
    out = both.new_empty(*both.shape[:-1], width)
    block = min(1024, triton.next_power_of_2(width))
    _gated[(out.numel() // width, triton.cdiv(width, block))](both, out, width, block)
    return out
