"""Which samples make batch number n: a function of (seed, n), so that a resumed or distributed run draws the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from internvla_a1.core.errors import ConfigError


@dataclass(frozen=True)
class Mixture:
    """lengths: samples of each data set; weights: share of each in a batch (any positive scale; None: by length)."""

    lengths: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise ConfigError(f"a mixture needs data sets with samples, lengths are {self.lengths}")
        if self.weights is not None and (len(self.weights) != len(self.lengths) or min(self.weights) < 0 or sum(self.weights) <= 0):
            raise ConfigError(f"{len(self.lengths)} data sets need as many weights, none negative, one positive: {self.weights}")

    @property
    def shares(self) -> np.ndarray:
        """(data sets,), sums to 1."""
        raw = np.asarray(self.lengths if self.weights is None else self.weights, dtype=np.float64)
        return raw / raw.sum()

    def batch(self, number: int, size: int) -> list[tuple[int, int]]:
        """(data set, sample) pairs of batch `number`, drawn with replacement."""
        rng = np.random.default_rng((self.seed, number))
        sets = rng.choice(len(self.lengths), size=size, p=self.shares)
        return [(int(s), int(rng.integers(self.lengths[s]))) for s in sets]


def share_of(rank: int, world: int, batch: Sequence) -> Sequence:
    """The part of a global batch that process `rank` of `world` works on; sizes must divide."""
    if len(batch) % world:
        raise ConfigError(f"a global batch of {len(batch)} does not divide among {world} processes")
    each = len(batch) // world
    return batch[rank * each : (rank + 1) * each]
