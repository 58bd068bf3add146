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
    channels = images.movedim(2, 0)
    rows = torch.arange(len(images), device=images.device)
    own, left, right = (channels[(color.clamp(min=0) + k) % 3, rows] for k in range(3))
    return (own > BRIGHTEST) & (torch.maximum(left, right) < DOMINANCE * own) & (color >= 0).view(-1, 1, 1, 1)


def any_color(images: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> (N, H, W) bool: a pixel of some parcel colour."""
    red, green, blue = images.unbind(1)
    low, high = torch.minimum(red, green), torch.maximum(red, green)
    brightest, second = torch.maximum(high, blue), torch.maximum(low, torch.minimum(high, blue))
    return (brightest > BRIGHTEST) & (second < DOMINANCE * brightest)


def color_of(task: str) -> int:
    """Index of the colour that an instruction names, -1 for none."""
    words = task.lower().split()
    return next((i for i, c in enumerate(COLORS) if c in words), -1)
