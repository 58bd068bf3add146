"""Transforms: frozen dataclasses with __call__, the way out mirrors the way in (model.md section 8)."""

from internvla_a1.policy.transforms.chain import Chain, Sample, SelectKeys
from internvla_a1.policy.transforms.images import RemapViews, ResizeWithPad, resize_with_pad, to_float
from internvla_a1.policy.transforms.numbers import (
    ConcatKeys,
    DeltaActions,
    Normalise,
    PadDims,
    SplitKeys,
    Unnormalise,
    absolute_actions,
    normalise,
    unnormalise,
)

__all__ = [
    "Chain",
    "ConcatKeys",
    "DeltaActions",
    "Normalise",
    "PadDims",
    "RemapViews",
    "ResizeWithPad",
    "Sample",
    "SelectKeys",
    "SplitKeys",
    "Unnormalise",
    "absolute_actions",
    "normalise",
    "resize_with_pad",
    "to_float",
    "unnormalise",
]
