"""Per-feature statistics in one pass over data that does not fit in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from internvla_a1.core.errors import DataError
from internvla_a1.core.types import FloatArray


class RunningStatistics:
    """min, max, mean, std (population) and count per element of a feature, by Chan's parallel update of the moments."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = self._m2 = self._min = self._max = np.zeros(0)

    def add(self, batch: np.ndarray) -> None:
        """batch: (n, ...); each position of the trailing shape has its own statistics. Raises DataError on non-finite values."""
        x = np.asarray(batch, dtype=np.float64)
        if len(x) == 0:
            return
        if not np.isfinite(x).all():
            raise DataError("statistics: the data contain NaN or infinite values")
        mean = x.mean(0)
        self._merge(len(x), mean, ((x - mean) ** 2).sum(0), x.min(0), x.max(0))

    def merge(self, other: RunningStatistics) -> None:
        """Add what another pass (another process, another episode) has seen."""
        if other.count:
            self._merge(other.count, other._mean, other._m2, other._min, other._max)

    def _merge(self, n: int, mean: FloatArray, m2: FloatArray, low: FloatArray, high: FloatArray) -> None:
        if self.count == 0:
            self._mean, self._m2, self._min, self._max, self.count = mean.copy(), m2.copy(), low.copy(), high.copy(), n
            return
        total = self.count + n
        shift = mean - self._mean
        self._mean = self._mean + shift * (n / total)
        self._m2 = self._m2 + m2 + shift**2 * (self.count * n / total)
        self._min, self._max = np.minimum(self._min, low), np.maximum(self._max, high)
        self.count = total

    def to_json(self) -> dict[str, Any]:
        """min, max, mean, std as nested lists of the feature's shape and count as [n], the form of LeRobot's stats.json."""
        if self.count == 0:
            raise DataError("statistics of nothing: no frame was added")
        std = np.sqrt(self._m2 / self.count)
        values = {"min": self._min, "max": self._max, "mean": self._mean, "std": std}
        return {**{k: np.asarray(v).tolist() for k, v in values.items()}, "count": [self.count]}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> RunningStatistics:
        """The state that `to_json` describes, to merge episodes' statistics."""
        stats = cls()
        stats.count = int(np.ravel(raw["count"])[0])
        stats._mean, stats._min, stats._max = (np.asarray(raw[k], dtype=np.float64) for k in ("mean", "min", "max"))
        stats._m2 = np.asarray(raw["std"], dtype=np.float64) ** 2 * stats.count
        return stats


def image_statistics(frames: np.ndarray, most: int = 32) -> RunningStatistics:
    """Per-channel statistics of up to `most` evenly chosen frames (n, H, W, 3) uint8, in [0, 1], shape (3, 1, 1) as LeRobot has it."""
    picked = frames[np.unique(np.linspace(0, len(frames) - 1, min(len(frames), most)).round().astype(int))]
    stats = RunningStatistics()
    for frame in picked:
        pixels = frame.reshape(-1, 3).astype(np.float64) / 255.0
        stats.add(pixels[:, :, None, None])
    return stats


def relative_actions(actions: np.ndarray, state: np.ndarray, delta_mask: np.ndarray) -> np.ndarray:
    """Actions (..., steps, dims) minus the state (..., dims) where the mask (dims,) is true (model.md section 8); a new array."""
    return actions - np.where(delta_mask, state, 0.0)[..., None, :].astype(actions.dtype)


def chunk_statistics(
    episodes: Iterable[tuple[np.ndarray, np.ndarray]], horizon: int, delta_mask: np.ndarray | None, per_step: bool = False
) -> RunningStatistics:
    """Statistics of action chunks as a model trains on them.

    episodes: (state (n, dims), actions (n, dims)) each; chunks run past the end of an episode by repeating its last
    action and those steps do not count. delta_mask None: absolute actions. per_step: one set per step, shape
    (horizon, dims), else (dims,).
    """
    per_step_stats = [RunningStatistics() for _ in range(horizon)]
    for state, actions in episodes:
        n = len(actions)
        for k in range(min(horizon, n)):
            ahead = actions[k:, None, :]
            if delta_mask is not None:
                ahead = relative_actions(ahead, state[: n - k], delta_mask)
            per_step_stats[k].add(ahead[:, 0])
    if per_step:
        return _stack(per_step_stats)
    total = RunningStatistics()
    for stats in per_step_stats:
        total.merge(stats)
    return total


def _stack(parts: list[RunningStatistics]) -> RunningStatistics:
    """One set of (steps, dims) from one set a step; steps that no episode reaches repeat the last one seen."""
    stacked = RunningStatistics()
    seen = [p for p in parts if p.count]
    if not seen:
        return stacked
    filled = [p if p.count else seen[-1] for p in parts]
    stacked.count = seen[0].count
    for name in ("_mean", "_min", "_max"):
        setattr(stacked, name, np.stack([getattr(p, name) for p in filled]))
    stacked._m2 = np.stack([p._m2 / p.count for p in filled]) * stacked.count
    return stacked
