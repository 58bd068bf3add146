"""A transform takes a sample and returns a new one; a chain is a transform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Sample = dict[str, Any]  # feature key -> Tensor; "task" -> str. Never changed in place (the published delta does: Q13)
Transform = Callable[[Sample], Sample]


@dataclass(frozen=True)
class Chain:
    """Transforms in order."""

    steps: tuple[Transform, ...]

    def __call__(self, sample: Sample) -> Sample:
        for step in self.steps:
            sample = step(sample)
        return sample


@dataclass(frozen=True)
class SelectKeys:
    """Only these keys, in this order; those that the sample lacks are left out (a live sample has no action)."""

    keys: tuple[str, ...]

    def __call__(self, sample: Sample) -> Sample:
        return {key: sample[key] for key in self.keys if key in sample}
