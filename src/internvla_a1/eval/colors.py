"""Parcel colours found in pixels: free labels for grounding, and the measure of a predicted picture."""

from __future__ import annotations

import torch
from torch import Tensor

from internvla_a1.core.scene import COLORS

# On 50 views of the cell with full randomisation: recall 0.97 to 0.99, precision 0.81 (red), 0.98 (green), 0.82 (blue) per pixel.
BRIGHTEST, DOMINANCE = 0.25, 0.42


def color_mask(images: Tensor, color: Tensor) -> Tensor:
    """images: (B, V, 3, H, W) in [0, 1]; color: (B,) index into core.scene.COLORS, -1 for none -> (B, V, H, W) bool.

    A pixel belongs to a colour where that channel is bright and the two others are well below it.
    """
    channel = color.clamp(min=0).view(-1, 1, 1, 1, 1).expand(-1, images.shape[1], 1, *images.shape[3:])
    own = images.gather(2, channel)[:, :, 0]
    others = images.masked_fill(torch.zeros_like(images, dtype=torch.bool).scatter(2, channel, True), 0.0).amax(2)
    return (own > BRIGHTEST) & (others < DOMINANCE * own) & (color >= 0).view(-1, 1, 1, 1)


def any_color(images: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> (N, H, W) bool: a pixel of some parcel colour."""
    views = images[:, None]
    masks = [color_mask(views, torch.full((len(images),), i, device=images.device)) for i in range(len(COLORS))]
    return torch.stack(masks).any(0)[:, 0]


def color_of(task: str) -> int:
    """Index of the colour that an instruction names, -1 for none."""
    words = task.lower().split()
    return next((i for i, c in enumerate(COLORS) if c in words), -1)
