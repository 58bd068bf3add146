"""Who may see whom (model.md section 3), from two bits a token: is it padding, does it start a block."""

from __future__ import annotations

import torch
from torch import Tensor


def block_index(starts: Tensor) -> Tensor:
    """starts: (..., L) 0/1 block-start bits -> running block number."""
    return torch.cumsum(starts.long(), dim=-1)


def sequence_blocks(prefix: int, middle: int, chunk: int, device: torch.device | None = None) -> Tensor:
    """(prefix + middle + 1 + chunk,) block numbers: 0 prefix, 1 middle, 2 state, 3 actions."""
    counts = torch.tensor([prefix, middle, 1, chunk])
    return torch.repeat_interleave(torch.arange(4), counts).to(device)


def joint_mask(valid: Tensor, blocks: Tensor) -> Tensor:
    """(B, 1, L, L), true where a query may attend; valid: (B, L), blocks: (L,) or (B, L).

                        keys
                   prefix  middle  state  actions
        prefix      see      .       .       .
        middle      see     see      .       .
        state       see     see     see      .
        actions     see     see     see     see      and never a padded key

    Rows of padded queries are left open, as published rows of padding are never read: a row with no key at all would turn into NaN in
    some kernels and poison the values it feeds.
    """
    blocks = blocks.expand_as(valid)
    earlier = blocks[:, None, :] <= blocks[:, :, None]
    return (earlier & valid[:, None, :])[:, None]


def published_mask(valid: Tensor, blocks: Tensor) -> Tensor:
    """`joint_mask` with the rows of padded queries closed, as the published code builds it: what the reference vectors hold."""
    return joint_mask(valid, blocks) & valid[:, None, :, None]


def published_cached_mask(past_valid: Tensor, valid: Tensor, blocks: Tensor) -> Tensor:
    """(B, 1, S, P + S): cached phases mask the past by key validity alone, even for padded queries."""
    past = past_valid[:, None, None, :].expand(-1, 1, valid.shape[1], -1)
    return torch.cat([past, published_mask(valid, blocks)], dim=-1)
