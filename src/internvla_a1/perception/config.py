"""Parameters of perception: each declared once with unit, range and description."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from internvla_a1.core.errors import ConfigError


def _number(default: float, unit: str, low: float, high: float, description: str) -> Any:
    return field(default=default, metadata={"unit": unit, "min": low, "max": high, "description": description})


@dataclass(frozen=True)
class PerceptionConfig:
    """Defaults of faults.md. `metadata` of each field holds unit, min, max and description, for the node's parameters."""

    stale_s: float = _number(0.2, "s", 0.02, 5.0, "silence of a camera after which it is stale; no observation is older either")
    frozen_s: float = _number(0.5, "s", 0.0, 10.0, "identical pictures for so long mean a frozen camera; 0: off, for noise-free simulation")
    good_frames: int = _number(3, "frames", 1, 100, "good frames in a row after which a stale or frozen camera is used again")
    spread_s: float = _number(0.02, "s", 0.001, 0.5, "largest difference between the stamps of the pictures of one observation")
    future_tolerance_s: float = _number(0.05, "s", 0.0, 0.5, "stamps further in the future are refused")
    state_age_s: float = _number(0.1, "s", 0.005, 1.0, "largest distance between an observation and the joint states around it")
    ring: int = _number(8, "frames", 2, 256, "frames kept of each camera for matching")
    height: int = _number(224, "px", 16, 1024, "height of the model's pictures")
    width: int = _number(224, "px", 16, 1024, "width of the model's pictures")

    use_sim_time: bool = field(default=False, metadata={"description": "stamps are of a simulated clock, which may run slower"})

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.type == "bool":
                if not isinstance(getattr(self, f.name), bool):
                    raise ConfigError(f"{f.name}: expected true or false, not {getattr(self, f.name)!r}")
                continue
            value, meta, whole = getattr(self, f.name), f.metadata, isinstance(f.default, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not math.isfinite(value):
                raise ConfigError(f"{f.name}: expected a finite {'whole ' if whole else ''}number, not {value!r}")
            if not meta["min"] <= value <= meta["max"]:
                raise ConfigError(f"{f.name}: {value} is outside [{meta['min']}, {meta['max']}] {meta['unit']}")
