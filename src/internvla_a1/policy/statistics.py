"""stats.json as a checkpoint keeps it: robot type -> feature key -> min, max, mean, std (model.md section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from internvla_a1.core.errors import ConfigError

MODES = {"mean_std": ("mean", "std"), "min_max": ("min", "max")}


@dataclass(frozen=True)
class FeatureStats:
    """float64 tensors, (dims,) or one row per chunk step (steps, dims); None where the file has none."""

    mean: Tensor | None = None
    std: Tensor | None = None
    min: Tensor | None = None
    max: Tensor | None = None

    def affine(self, mode: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """(offset, scale) in the type of `like`: mean and std, or min and max - min."""
        if mode not in MODES:
            raise ConfigError.asked("normalisation", mode, MODES)
        low, high = (getattr(self, name) for name in MODES[mode])
        if low is None or high is None:
            raise ConfigError(f"{mode} normalisation needs {' and '.join(MODES[mode])} in the statistics")
        low, high = low.to(like), high.to(like)
        return (low, high) if mode == "mean_std" else (low, high - low)

    def width(self, mode: str) -> int:
        """Number of values per step."""
        value = getattr(self, MODES[mode][0])
        return 0 if value is None else int(value.shape[-1])


def read_statistics(
    where: object, stats: Mapping[str, Any] | None, embodiment: str, keys: tuple[str, ...], mode: str
) -> dict[str, FeatureStats]:
    """Statistics of these features for one robot type. ConfigError says what is missing and what is there."""
    hint = "train or fine-tune on this robot, or copy its statistics into stats.json and run `internvla-a1 weights convert`"
    if stats is None:
        raise ConfigError(f"{where}: no stats.json, so states and actions cannot be normalised; {hint}")
    if embodiment not in stats:
        available = ", ".join(sorted(stats)) or "nothing"
        raise ConfigError(f"{where}: statistics: asked for robot type {embodiment!r}, available: {available}; {hint}")
    features = stats[embodiment]
    if not isinstance(features, Mapping):
        raise ConfigError(f"{where}: statistics of {embodiment!r} must map feature keys to numbers")
    result = {}
    for key in keys:
        if key not in features:
            raise ConfigError.asked(f"{where}: statistics of {embodiment!r}", key, sorted(features))
        result[key] = _feature(f"{where}: statistics of {embodiment!r}, {key}", features[key], mode)
    return result


def _feature(where: str, raw: Any, mode: str) -> FeatureStats:
    if mode not in MODES:
        raise ConfigError.asked("normalisation", mode, MODES)
    values: dict[str, Tensor] = {}
    for name in ("mean", "std", "min", "max"):
        if not isinstance(raw, Mapping) or name not in raw:
            continue
        try:
            values[name] = torch.as_tensor(raw[name], dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {name} is not a list of numbers: {error}") from error
    for name in MODES[mode]:
        if name not in values:
            raise ConfigError(f"{where}: {name} is missing; {mode} normalisation needs it")
        if values[name].ndim not in (1, 2) or not bool(torch.isfinite(values[name]).all()):
            raise ConfigError(f"{where}: {name} must be a list of finite numbers, or one list per step")
    first, second = (values[name] for name in MODES[mode])
    spread = second if mode == "mean_std" else second - first if first.shape == second.shape else None
    if spread is None or first.shape != second.shape or bool((spread < 0).any()):
        raise ConfigError(f"{where}: {' and '.join(MODES[mode])} do not fit together")
    return FeatureStats(**values)
