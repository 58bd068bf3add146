"""Latents of frames that were the present once, found again by image stamp when they are the past: a frame is encoded once."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from internvla_a1.core.clock import nanoseconds
from internvla_a1.core.types import Observation

STAMP_STEP_NS = 10_000  # image ages travel as float32: the same frame's stamp may differ by some nanoseconds
CAPACITY = 512  # frames; a 256 px frame is 64 KB


class LatentMemory:
    """Bounded; the oldest frames go first. tolerance_s: how far a remembered frame may lie from the one asked for."""

    def __init__(self, views: int, tolerance_s: float = 0.0) -> None:
        self._views = views
        self._tolerance_ns = nanoseconds(tolerance_s)
        self._frames: OrderedDict[tuple[str, int], Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._frames)

    def clear(self) -> None:
        self._frames.clear()

    def store(self, observation: Observation, present: dict[int, str], latents: Tensor) -> None:
        """latents: (1, V, channels, h, w) of the present frames; present: view index -> camera."""
        for view, camera in present.items():
            self._frames[camera, _stamp(observation, camera)] = latents[0, view].detach().clone()
        while len(self._frames) > CAPACITY:
            self._frames.popitem(last=False)

    def recall(self, past: Observation, present: dict[int, str]) -> Tensor | None:
        """(1, V, channels, h, w) of the past frames of the views present now; None if one of them is unknown.

        Views that are missing now are zeros: the model drops them.
        """
        found: dict[int, Tensor] = {}
        for view, camera in present.items():
            latent = self._find(camera, _stamp(past, camera)) if past.images.get(camera) is not None else None
            if latent is None:
                return None
            found[view] = latent
        if not found:
            return None
        like = next(iter(found.values()))
        return torch.stack([found.get(view, torch.zeros_like(like)) for view in range(self._views)])[None]

    def _find(self, camera: str, stamp: int) -> Tensor | None:
        exact = self._frames.get((camera, stamp))
        if exact is not None or not self._tolerance_ns:
            return exact
        near = [(abs(s - stamp), s) for c, s in self._frames if c == camera]
        gap, best = min(near, default=(self._tolerance_ns // STAMP_STEP_NS + 1, 0))
        return self._frames[camera, best] if gap * STAMP_STEP_NS <= self._tolerance_ns else None


def _stamp(observation: Observation, camera: str) -> int:
    """Image stamp in steps of STAMP_STEP_NS."""
    return round((observation.stamp_ns - nanoseconds(observation.image_age_s.get(camera, 0.0))) / STAMP_STEP_NS)
