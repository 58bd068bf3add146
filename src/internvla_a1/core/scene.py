"""Ground truth of the sorting cell, for experts, orders and scoring only. The network policy never sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.types import FloatArray

COLORS = ("red", "green", "blue")
SHAPES = ("box", "cylinder")
BINS = ("left", "right")


@dataclass(frozen=True)
class SceneObject:
    """One parcel. position (3,), velocity (3,): m, m/s in the world frame; size (3,): full extents in m; yaw in rad."""

    name: str
    color: str
    shape: str
    size: FloatArray
    position: FloatArray
    velocity: FloatArray
    yaw: float = 0.0


@dataclass(frozen=True)
class Scene:
    """All parcels at one instant. bins: name -> centre of the floor (3,), m."""

    stamp_ns: int
    objects: tuple[SceneObject, ...]
    bins: dict[str, FloatArray]
    belt_speed: float

    def advanced(self, s: float) -> Scene:
        """The scene `s` seconds later if every parcel keeps its velocity."""
        moved = tuple(
            SceneObject(o.name, o.color, o.shape, o.size, o.position + s * o.velocity, o.velocity, o.yaw) for o in self.objects
        )
        return Scene(self.stamp_ns + round(s * 1e9), moved, self.bins, self.belt_speed)


@dataclass(frozen=True)
class Order:
    """What the instruction asks for: one parcel, one bin."""

    color: str
    shape: str  # "parcel" means any shape
    bin: str

    @property
    def text(self) -> str:
        """The instruction as the policy reads it."""
        return f"put the {self.color} {self.shape} in the {self.bin} bin"

    def matches(self, parcel: SceneObject) -> bool:
        return parcel.color == self.color and self.shape in (parcel.shape, "parcel")


_ORDER = re.compile(r"put the (\w+) (\w+) in the (\w+) bin")


def parse_order(text: str) -> Order:
    """Read an instruction of the sorting task. Raises ConfigError with the form that is understood."""
    match = _ORDER.fullmatch(text.strip().lower())
    if match is None:
        raise ConfigError(f"instruction {text!r} is not understood; the form is 'put the red box in the left bin'")
    color, shape, bin_name = match.groups()
    for what, asked, known in (("colour", color, COLORS), ("shape", shape, (*SHAPES, "parcel")), ("bin", bin_name, BINS)):
        if asked not in known:
            raise ConfigError.asked(f"{what} in the instruction", asked, known)
    return Order(color, shape, bin_name)


def yaw_quaternion(yaw: float) -> FloatArray:
    """(w, x, y, z) of a turn about the vertical."""
    return np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
