"""Which tokens of a batch are computed, where they sit and how they are numbered; built once per pattern of masks.

Columns that are padding or a missing view in every sample are dropped before the first layer. If what is left is valid everywhere, which
is always so for one sample, no attention mask is needed at all.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from internvla_a1.core.errors import DataError
from internvla_a1.model.config import ModelConfig
from internvla_a1.model.masks import joint_mask, sequence_blocks
from internvla_a1.model.positions import appended_positions, grid_positions, rotary_table, running_positions

KEPT_LAYOUTS = 16


@dataclass(frozen=True)
class TokenPattern:
    """Host-side description of a batch. prefix_valid, is_image: (B, P) bool; view_valid: (B, V) bool; grid: merged patches, 3B only."""

    prefix_valid: Tensor
    is_image: Tensor
    view_valid: Tensor
    grid: tuple[int, int] | None = None

    def key(self) -> tuple:
        return (
            tuple(self.prefix_valid.shape),
            *(t.numpy().tobytes() for t in (self.prefix_valid, self.is_image, self.view_valid)),
            self.grid,
        )


@dataclass(frozen=True)
class Layout:
    """Kept columns and everything derived from them, on the device."""

    batch: int
    prefix: Tensor  # (P,) kept prefix columns
    middle: Tensor  # (M,) kept middle columns
    chunk: int
    views: Tensor  # (N,) rows of the flattened (B * V) views that exist
    image_rows: Tensor  # (N * tokens,) rows of the flattened (B * P) prefix that their features fill
    gen_rows: Tensor  # (N,) as `views` but among the kept views: rows of the flattened (B * kept V)
    kept_views: Tensor  # (kept V,)
    valid: Tensor  # (B, P + M + 1 + chunk) bool
    prefix_valid: Tensor  # (B, all prefix columns) bool
    positions: Tensor  # (rows, B, P + M + 1 + chunk)
    cos: Tensor  # (B, 1, length, head_dim)
    sin: Tensor
    padded: bool  # some kept key is invalid for some sample

    @property
    def past(self) -> int:
        """Tokens before the state token."""
        return len(self.prefix) + len(self.middle)

    @property
    def length(self) -> int:
        return self.past + 1 + self.chunk

    def rope(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        return self.cos.narrow(2, start, count), self.sin.narrow(2, start, count)

    def key_mask(self, end: int) -> Tensor | None:
        """(B, 1, 1, end) for cached phases, None where every key is valid."""
        return self.valid[:, None, None, :end] if self.padded else None

    def block_mask(self) -> Tensor:
        """(B, 1, length, length) of the joint pass."""
        return joint_mask(self.valid, sequence_blocks(len(self.prefix), len(self.middle), self.chunk, self.valid.device))


def full_positions(config: ModelConfig, pattern: TokenPattern, valid: Tensor, published: bool) -> Tensor:
    """(rows, B, P + M + S) before columns are dropped. `published` numbers middle and suffix as 3B inference does (Q1)."""
    if config.rope_sections is None or pattern.grid is None:
        return running_positions(valid)
    prefix = pattern.prefix_valid.shape[1]
    if published:
        numbers = grid_positions(pattern.prefix_valid, pattern.is_image, pattern.grid)
        numbers = torch.cat([numbers, appended_positions(numbers, config.middle_tokens)], -1)
        return torch.cat([numbers, appended_positions(numbers[..., prefix:], config.suffix_tokens)], -1)
    is_image = torch.cat([pattern.is_image, torch.zeros_like(valid[:, prefix:])], 1)
    return grid_positions(valid, is_image, pattern.grid)


def image_columns(is_image: Tensor, tokens: int, views: int) -> Tensor:
    """(B, V, tokens) prefix columns of each view's image tokens. DataError if a sample does not hold views * tokens of them."""
    counts = is_image.sum(1)
    if bool((counts != views * tokens).any()):
        raise DataError(f"expected {views} views x {tokens} image tokens in every prompt, found {counts.tolist()}")
    return is_image.nonzero()[:, 1].view(is_image.shape[0], views, tokens)


def build_layout(
    config: ModelConfig, pattern: TokenPattern, device: torch.device, dtype: torch.dtype, published: bool = False, drop: bool = True
) -> Layout:
    """drop=False keeps every token, as the published code does; results on valid tokens are the same."""
    batch, views = pattern.view_valid.shape
    per_view = 2 * config.gen_tokens_per_frame
    middle_valid = pattern.view_valid.repeat_interleave(per_view, dim=1)
    valid = torch.cat([pattern.prefix_valid, middle_valid, torch.ones(batch, config.suffix_tokens, dtype=torch.bool)], 1)
    prefix_length = pattern.prefix_valid.shape[1]
    keep = valid.any(0) if drop else torch.ones(valid.shape[1], dtype=torch.bool)
    computed = pattern.view_valid if drop else torch.ones_like(pattern.view_valid)
    kept_views = computed.any(0).nonzero()[:, 0]

    prefix = keep[:prefix_length].nonzero()[:, 0]
    middle = keep[prefix_length : prefix_length + middle_valid.shape[1]].nonzero()[:, 0]
    columns = keep.nonzero()[:, 0]
    positions = full_positions(config, pattern, valid, published)[..., columns]
    cos, sin = rotary_table(positions, config.head_dim, config.rope_theta, config.rope_sections)

    tokens = int(pattern.is_image[0].sum()) // views
    slots = image_columns(pattern.is_image, tokens, views)[computed]  # (N, tokens) original columns
    new_column = torch.cumsum(keep, 0) - 1
    sample = computed.nonzero()[:, 0]
    image_rows = (sample[:, None] * len(prefix) + new_column[slots]).flatten()
    return Layout(
        batch=batch, prefix=prefix.to(device), middle=middle.to(device), chunk=config.chunk,
        views=computed.flatten().nonzero()[:, 0].to(device), image_rows=image_rows.to(device),
        gen_rows=computed[:, kept_views].flatten().nonzero()[:, 0].to(device), kept_views=kept_views.to(device),
        valid=valid[:, columns].to(device), prefix_valid=pattern.prefix_valid.to(device),
        positions=positions.to(device), cos=cos.to(device, dtype), sin=sin.to(device, dtype),
        padded=not bool(valid[:, columns].all()),
    )  # fmt: skip


class Layouts:
    """The last few layouts by token pattern; a robot that keeps its task and cameras builds one."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple, Layout] = OrderedDict()

    def get(
        self, config: ModelConfig, pattern: TokenPattern, device: torch.device, dtype: torch.dtype, published: bool, drop: bool = True
    ) -> Layout:
        key = (*pattern.key(), str(device), dtype, published, drop)
        if key not in self._kept:
            self._kept[key] = build_layout(config, pattern, device, dtype, published, drop)
            if len(self._kept) > KEPT_LAYOUTS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
