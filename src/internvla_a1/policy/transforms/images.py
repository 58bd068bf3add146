"""Pictures on their way in: resize with padding, and cameras to the model's view slots (model.md section 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from internvla_a1.core.errors import DataError
from internvla_a1.core.types import ImageArray
from internvla_a1.policy.transforms.chain import Sample

VIEW = "observation.images.image"


def to_float(images: ImageArray | np.ndarray) -> Tensor:
    """(..., H, W, 3) uint8 RGB -> (..., 3, H, W) float32 in [0, 1]."""
    if images.dtype != np.uint8 or images.ndim < 3 or images.shape[-1] != 3:
        raise DataError(f"a picture must be (H, W, 3) uint8, got {images.shape} {images.dtype}")
    # contiguous: a picture left in NHWC strides makes group norm several times slower all the way through the tokenizer
    return torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, -3).contiguous().to(torch.float32) / 255


def resize_with_pad(images: Tensor, height: int, width: int) -> Tensor:
    """(..., 3, H, W) -> (..., 3, height, width): bilinear without antialias, zeros around, the smaller half top and left.

    A picture that already fits comes back untouched; any other is clamped to [0, 1].
    """
    h, w = images.shape[-2:]
    if (h, w) == (height, width):
        return images
    scale = min(height / h, width / w)
    new_h, new_w = round(h * scale), round(w * scale)
    flat = images.reshape(-1, *images.shape[-3:])
    flat = F.interpolate(flat, size=(new_h, new_w), mode="bilinear", align_corners=False, antialias=False).clamp(0.0, 1.0)
    top, left = (height - new_h) // 2, (width - new_w) // 2
    padded = F.pad(flat, (left, width - new_w - left, top, height - new_h - top), value=0.0)
    return padded.reshape(*images.shape[:-2], height, width)


def is_picture(key: str, value: object) -> bool:
    """Keys that the published pipeline treats as pictures; view masks are not."""
    return "image" in key and "is_pad" not in key and isinstance(value, Tensor) and value.ndim >= 3


@dataclass(frozen=True)
class ResizeWithPad:
    """Every picture of the sample to one size."""

    height: int
    width: int

    def __call__(self, sample: Sample) -> Sample:
        return {k: resize_with_pad(v, self.height, self.width) if is_picture(k, v) else v for k, v in sample.items()}


@dataclass(frozen=True)
class RemapViews:
    """Camera keys to view slots. `mapping`: camera key -> observation.images.image<n>.

    A slot without a picture is filled with ones of the shape of the others, its mask false. DataError if slot 0 is empty.
    """

    mapping: Mapping[str, str]
    views: int = 3

    def __call__(self, sample: Sample) -> Sample:
        known = {slot: sample[key] for key, slot in self.mapping.items() if key in sample}
        if f"{VIEW}0" not in known:
            raise DataError(f"view 0 has no picture; it comes from {self._source(0)}, the sample has {', '.join(sorted(sample))}")
        result = {k: v for k, v in sample.items() if k not in self.mapping}
        for view in range(self.views):
            slot = f"{VIEW}{view}"
            result[slot] = known[slot] if slot in known else torch.ones_like(known[f"{VIEW}0"])
            result[f"{slot}_mask"] = torch.tensor(slot in known)
        return result

    def _source(self, view: int) -> str:
        return next((key for key, slot in self.mapping.items() if slot == f"{VIEW}{view}"), "no camera")
