"""Position numbers of every token and the rotary tables made from them (model.md section 4)."""

from __future__ import annotations

import torch
from torch import Tensor


def running_positions(valid: Tensor) -> Tensor:
    """(1, B, L): how many valid tokens came before, padding repeating the previous number (2B and tiny)."""
    return (torch.cumsum(valid.long(), dim=-1) - 1)[None]


def grid_positions(valid: Tensor, is_image: Tensor, grid: tuple[int, int]) -> Tensor:
    """(3, B, L) rows t, h, w (3B). Counted over valid tokens; padding gets 1.

    Text advances all rows by one. An image of (rows, columns) merged patches has t = base, h = base + row, w = base + column, and the
    token after it continues at the largest number so far plus one, which is base + max(rows, columns).
    """
    rows, columns = grid
    image = is_image & valid
    inside = (torch.cumsum(image.long(), -1) - 1) % (rows * columns)  # number of an image token inside its own image
    ends_image = image & (inside == rows * columns - 1)
    advance = torch.where(ends_image, max(rows, columns), (valid & ~image).long())
    base = torch.cumsum(advance, -1) - advance
    zero = torch.zeros_like(base)
    row = torch.where(image, inside // columns, zero)
    column = torch.where(image, inside % columns, zero)
    return torch.where(valid, torch.stack([base, base + row, base + column]), 1)


def appended_positions(prefix: Tensor, count: int) -> Tensor:
    """(rows, B, count) numbers that go on from the largest of `prefix` whether or not the tokens are valid.

    This is how published 3B inference numbers middle and suffix; with a view missing it disagrees with training (Q1).
    """
    last = prefix.amax(dim=-1, keepdim=True)
    return last + torch.arange(1, count + 1, device=prefix.device)


def rotary_table(positions: Tensor, head_dim: int, theta: float, sections: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
    """positions: (1 or 3, B, L) -> cos, sin: (B, 1, L, head_dim), float32.

    With sections, frequency slot k takes row h if k mod 3 = 1 and k < 3 * sections[1], row w if k mod 3 = 2 and k < 3 * sections[2],
    and row t otherwise (interleaved M-RoPE).
    """
    slots = torch.arange(0, head_dim, 2, dtype=torch.int64).float().to(positions.device)
    frequencies = 1.0 / theta ** (slots / head_dim)
    angles = positions.float()[..., None] * frequencies
    if sections is None:
        chosen = angles[0]
    else:
        slot = torch.arange(head_dim // 2, device=positions.device)
        chosen = angles[0]
        for row in (1, 2):
            takes = (slot % 3 == row) & (slot < 3 * sections[row])
            chosen = torch.where(takes, angles[row], chosen)
    full = torch.cat([chosen, chosen], dim=-1)[:, None]
    return full.cos(), full.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None = None) -> Tensor:
    """x cos + rotate_half(x) sin over the last axis, rotate_half(x1, x2) = (-x2, x1); x, out: (B, heads, L, D)."""
    x1, x2 = x.chunk(2, dim=-1)
    if out is None:
        return x * cos + torch.cat([-x2, x1], dim=-1) * sin
    torch.mul(x, cos, out=out)
    (out1, out2), (sin1, sin2) = out.chunk(2, dim=-1), sin.chunk(2, dim=-1)
    out1.addcmul_(x2, sin1, value=-1)
    out2.addcmul_(x1, sin2)
    return out
