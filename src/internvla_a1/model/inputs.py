"""The policy's batch, checked once and typed (model.md section 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from internvla_a1.core.errors import DataError
from internvla_a1.model.config import ModelConfig, QwenVisionConfig
from internvla_a1.model.layout import TokenPattern

IMAGE = "observation.images.image"


@dataclass(frozen=True)
class Inputs:
    """images: (B, V, T, 3, H, W) in [0, 1], T frames past, now (, future); ids: (B, P) with a placeholder where an image token goes."""

    images: Tensor
    state: Tensor  # (B, state_dim), normalised and padded
    ids: Tensor
    pattern: TokenPattern
    patches: Tensor | None  # (B * V, rows, values), 3B only
    patch_grid: tuple[int, int] | None  # (rows, columns) of patches before merging, 3B only

    @property
    def now(self) -> int:
        """Index of the present frame."""
        return min(1, self.images.shape[2] - 1)


def _field(batch: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in batch:
        raise DataError(f"the batch has no {key!r}; it has {', '.join(sorted(batch))}")
    return batch[key]


def read_batch(config: ModelConfig, batch: Mapping[str, Tensor], device: torch.device) -> Inputs:
    """Take the policy keys apart. DataError names a key that is missing or mis-shaped."""
    images = torch.stack([_field(batch, f"{IMAGE}{v}").to(device) for v in range(config.views)], dim=1)
    if images.ndim != 6 or images.shape[3] != 3:
        raise DataError(f"{IMAGE}0 must be (batch, time, 3, height, width), got {tuple(images[:, 0].shape)}")
    view_valid = torch.stack([_field(batch, f"{IMAGE}{v}_mask").bool().cpu().reshape(-1) for v in range(config.views)], dim=1)
    state = _field(batch, "observation.state").to(device, torch.float32)
    if state.shape != (images.shape[0], config.state_dim):
        raise DataError(f"observation.state must be {(images.shape[0], config.state_dim)}, got {tuple(state.shape)}")
    if isinstance(config.vision, QwenVisionConfig):
        return _qwen_inputs(config, config.vision, batch, device, images, view_valid, state)
    tokens = _field(batch, "observation.language.tokens").to(device)
    text_valid = _field(batch, "observation.language.attention_mask").bool().cpu()
    image_tokens = config.views * config.vision.tokens
    placeholders = tokens.new_zeros(len(tokens), image_tokens)
    prefix_valid = torch.cat([view_valid.repeat_interleave(config.vision.tokens, dim=1), text_valid], dim=1)
    is_image = (torch.arange(prefix_valid.shape[1]) < image_tokens).expand_as(prefix_valid).contiguous()
    pattern = TokenPattern(prefix_valid, is_image, view_valid)
    return Inputs(images, state, torch.cat([placeholders, tokens], dim=1), pattern, None, None)


def _qwen_inputs(
    config: ModelConfig,
    vision: QwenVisionConfig,
    batch: Mapping[str, Tensor],
    device: torch.device,
    images: Tensor,
    view_valid: Tensor,
    state: Tensor,
) -> Inputs:
    grids = _field(batch, "observation.image_grid_thw").reshape(-1, 3).cpu()
    if bool((grids != grids[0]).any()):
        raise DataError(f"every view must have the same patch grid (Q9), got {grids.tolist()}")
    frames, rows, columns = grids[0].tolist()
    if frames != 1:
        raise DataError(f"one frame a view is expected, the grid says {frames}")
    ids = _field(batch, "observation.input_ids")
    patches = _field(batch, "observation.pixel_values").to(device)
    patches = patches.reshape(images.shape[0] * config.views, rows * columns, -1)
    merged = rows // vision.merge, columns // vision.merge
    prefix_valid = _field(batch, "observation.attention_mask").bool().cpu()
    pattern = TokenPattern(prefix_valid, (ids == config.image_token).cpu(), view_valid, merged)
    return Inputs(images, state, ids.to(device), pattern, patches, (rows, columns))
