"""What training seeds and episodes say together: rates of an arm, and how far one arm is behind another.

Training noise is as large as the effects looked for, so intervals resample training seeds first and episodes within them (the
hierarchical bootstrap of Davison and Hinkley 1997, section 3.8). With three seeds such an interval is a rough one, and rather too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from internvla_a1.core.errors import ConfigError
from internvla_a1.eval.intervals import Share

DRAWS = 10_000
Outcomes = NDArray[np.bool_]  # (training seeds, episodes), true where the right parcel was sorted


@dataclass(frozen=True)
class Estimate:
    """value with the 95 % interval over training seeds and episodes; seeds: the value of each training seed alone."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        alone = ", ".join(f"{100 * s:.1f}" for s in self.seeds)
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}] ({alone})"


def rate(outcomes: Outcomes, seed: int = 0) -> Estimate:
    """Share of successes. Near 0 and 1, where resampling finds no spread, Wilson's interval of all episodes is the wider one and counts."""
    drawn = _estimate(outcomes.mean(1), _drawn(outcomes, np.random.default_rng(seed)))
    low, high = Share(int(outcomes.sum()), outcomes.size).interval
    return replace(drawn, low=min(low, drawn.low), high=max(high, drawn.high))


def gap(one: Outcomes, other: Outcomes, seed: int = 0) -> Estimate:
    """one - other. Training seed k of both, and episode n of both, began alike, so both are drawn together."""
    if one.shape != other.shape:
        raise ConfigError(f"arms of {one.shape} and {other.shape} (seeds, episodes) cannot be paired")
    rates = _drawn(one.astype(float) - other.astype(float), np.random.default_rng(seed))
    return _estimate(one.mean(1) - other.mean(1), rates)


def _drawn(values: NDArray, rng: np.random.Generator) -> NDArray:
    """(DRAWS,) means of resampled training seeds and, within each, resampled episodes."""
    seeds, episodes = values.shape
    rows = rng.integers(0, seeds, (DRAWS, seeds, 1))
    columns = rng.integers(0, episodes, (DRAWS, seeds, episodes))
    return values[rows, columns].mean((1, 2))


def _estimate(alone: NDArray, drawn: NDArray) -> Estimate:
    low, high = (float(np.quantile(drawn, q)) for q in (0.025, 0.975))
    return Estimate(float(np.mean(alone)), low, high, tuple(float(a) for a in alone))
