"""How far the world went from what was predicted. docs/foresight.md explains the score to its readers.

For one view, let P be the picture predicted `horizon_s` ago for now, N the picture now, O the picture that the prediction
was made from. Every picture is first shrunk to a grid of block means, which removes the blur of the image decoder and the
noise of the camera. The difference d(A, B) of two pictures is the mean over the 2 % of blocks that differ most (what moves in
a cell is small), after B's colours are scaled to A's medians (exposure and white balance are no surprise).

    error = d(P, N)        how wrong the prediction was
    copy  = d(O, N)        how wrong "nothing changes" was
    floor = min(0.05, 2 % quantile of `error` over the last 300)    what the decoder gets wrong at its best
    scale = median of `copy` over the last 300           how much usually changes in one horizon
    surprise = max(0, error - floor) / (max(scale, 0.02) + 0.02)

and the score of an instant is the largest over the views. 0: as predicted. About 1: no better than guessing that nothing
changes, or something big came or went that the plan does not know. The scale is a median over time and not the copy
error of the same instant, because an intruder spoils both errors alike and would cancel out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from internvla_a1.core.clock import nanoseconds
from internvla_a1.core.types import Foresight, ImageArray, Observation

GRID = 28
WORST_PART = 0.02
LARGEST_GAIN = 2.0
LEAST = 0.02  # of full scale: a change smaller than this is not a change
FLOOR_QUANTILE = 0.02
LARGEST_FLOOR = 0.05

Blocks = NDArray[np.float32]


def blocks(image: ImageArray) -> Blocks:
    """(GRID, GRID, 3) float32 in 0..1: block means of a (H, W, 3) uint8 picture."""
    small = cv2.resize(image, (GRID, GRID), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(small.astype(np.float32) / 255.0, (3, 3), 0), dtype=np.float32)


def difference(a: Blocks, b: Blocks) -> float:
    """d(A, B) of the module's text, 0..1."""
    gain = (np.median(a, axis=(0, 1)) + LEAST) / (np.median(b, axis=(0, 1)) + LEAST)
    per_block = np.sort(np.abs(a - b * np.clip(gain, 1 / LARGEST_GAIN, LARGEST_GAIN)).mean(axis=2).ravel())
    worst = max(1, round(WORST_PART * per_block.size))
    return float(per_block[-worst:].mean())


@dataclass(frozen=True)
class _Pending:
    """A prediction that waits for its instant."""

    due_ns: int
    predicted: dict[str, Blocks]
    origin: dict[str, Blocks]


@dataclass(frozen=True)
class Surprise:
    """The score of one instant. views: camera -> its own score."""

    stamp_ns: int
    score: float
    views: dict[str, float]


class SurpriseMeter:
    """Holds predictions until their instant and compares. Time is that of the stamps; everything is bounded."""

    def __init__(self, tolerance_s: float = 0.1, window: int = 300, keep_s: float = 8.0) -> None:
        """tolerance_s: how far the compared observation may lie from the predicted instant; keep_s: longest horizon served."""
        self._tolerance_ns, self._keep_ns, self._window = nanoseconds(tolerance_s), nanoseconds(keep_s), window
        self.clear()

    def clear(self) -> None:
        """Forget everything: the clock jumped."""
        self._seen: deque[tuple[int, dict[str, Blocks]]] = deque()
        self._pending: deque[_Pending] = deque(maxlen=256)
        self._errors: dict[str, deque[float]] = {}
        self._copies: dict[str, deque[float]] = {}

    def predict(self, foresight: Foresight) -> bool:
        """Keep a prediction with decoded images. False if it has none, or if its observation is no longer (or never was) known."""
        origin = self._nearest(foresight.stamp_ns)
        if not foresight.images or origin is None or foresight.horizon_s <= 0:
            return False
        predicted = {camera: blocks(image) for camera, image in foresight.images.items()}
        due = foresight.stamp_ns + nanoseconds(foresight.horizon_s)
        if self._pending and due < self._pending[-1].due_ns:
            return False
        self._pending.append(_Pending(due, predicted, origin))
        return True

    def observe(self, observation: Observation) -> Surprise | None:
        """Take one observation in; a score if predictions have come due. Stamps must rise, older ones are left out."""
        if self._seen and observation.stamp_ns <= self._seen[-1][0]:
            return None
        self._seen.append((observation.stamp_ns, {c: blocks(i) for c, i in observation.images.items() if i is not None}))
        while self._seen[0][0] < observation.stamp_ns - self._keep_ns:
            self._seen.popleft()
        newest: Surprise | None = None
        while self._pending and self._pending[0].due_ns <= observation.stamp_ns:
            newest = self._score(self._pending.popleft()) or newest
        return newest

    def _nearest(self, stamp_ns: int) -> dict[str, Blocks] | None:
        """The observation closest to an instant, None if it is further away than the tolerance."""
        if not self._seen:
            return None
        stamp, views = min(self._seen, key=lambda item: abs(item[0] - stamp_ns))
        return views if abs(stamp - stamp_ns) <= self._tolerance_ns else None

    def _score(self, pending: _Pending) -> Surprise | None:
        now = self._nearest(pending.due_ns)
        if now is None:
            return None
        views = {}
        for camera, predicted in pending.predicted.items():
            if camera in now and camera in pending.origin:
                views[camera] = self._view(camera, difference(predicted, now[camera]), difference(pending.origin[camera], now[camera]))
        return Surprise(pending.due_ns, max(views.values()), views) if views else None

    def _view(self, camera: str, error: float, copy: float) -> float:
        errors = self._errors.setdefault(camera, deque(maxlen=self._window))
        copies = self._copies.setdefault(camera, deque(maxlen=self._window))
        errors.append(error)
        copies.append(copy)
        floor = min(LARGEST_FLOOR, float(np.quantile(errors, FLOOR_QUANTILE)))
        return max(0.0, error - floor) / (max(float(np.median(copies)), LEAST) + LEAST)
