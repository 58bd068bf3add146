"""What the executor asks of a collision gate; implementations: collision.py (pinocchio and coal), MoveIt on the ROS side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from internvla_a1.core.types import FloatArray


@dataclass(frozen=True)
class PathCheck:
    """safe: how many leading waypoints can be reached without a hit. hit: what would touch what, empty if nothing."""

    safe: int
    hit: str = ""


class CollisionGate(Protocol):
    """Checks paths of one robot. `name` is shown in diagnostics."""

    name: str

    def check(self, start: FloatArray, path: FloatArray, leaving: bool = False) -> PathCheck:
        """path (waypoints, joints), from start (joints,), straight in between; the robot's own joint order.

        leaving: from a start that is nearer to something than the gate's margin, but does not touch it, a way is free on which nothing
        within the margin comes nearer. A gate that knows no distances finds none, as without it.
        """
        ...
