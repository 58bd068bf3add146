"""A joint trajectory in numpy and its interpolation, as joint_trajectory_controller does it (splines from what the points give)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from internvla_a1.core.types import FloatArray


@dataclass(frozen=True)
class Trajectory:
    """trajectory_msgs/JointTrajectory as arrays, in the sender's joint order.

    times_s (points,): time_from_start. positions (points, joints); velocities and accelerations the same or None where no
    point gives them. stamp_ns 0: the trajectory starts when it is accepted.
    """

    joint_names: tuple[str, ...]
    times_s: FloatArray
    positions: FloatArray
    velocities: FloatArray | None = None
    accelerations: FloatArray | None = None
    stamp_ns: int = 0


@dataclass(frozen=True)
class Reference:
    """What the servo follows at one instant: (joints,) each."""

    positions: FloatArray
    velocities: FloatArray
    accelerations: FloatArray

    @classmethod
    def rest(cls, positions: FloatArray) -> Reference:
        return cls(positions.copy(), np.zeros_like(positions), np.zeros_like(positions))


@dataclass(frozen=True)
class Knot:
    """One end of a segment; velocities or accelerations are None where the point gives none."""

    time_s: float
    positions: FloatArray
    velocities: FloatArray | None
    accelerations: FloatArray | None


def interpolate(a: Knot, b: Knot, t: float) -> Reference:
    """The reference at time t between two knots: quintic, cubic or linear, by what both ends give."""
    span = b.time_s - a.time_s
    s = min(max(t - a.time_s, 0.0), span)
    delta = b.positions - a.positions
    if a.velocities is None or b.velocities is None:
        velocity = delta / span
        return Reference(a.positions + velocity * s, velocity, np.zeros_like(delta))
    if a.accelerations is None or b.accelerations is None:
        return _cubic(a.positions, delta, a.velocities, b.velocities, span, s)
    start = (a.velocities, a.accelerations)
    return _quintic(a.positions, delta, start, (b.velocities, b.accelerations), span, s)


def _cubic(p0: FloatArray, delta: FloatArray, v0: FloatArray, v1: FloatArray, span: float, s: float) -> Reference:
    c2 = (3 * delta / span - 2 * v0 - v1) / span
    c3 = (v0 + v1 - 2 * delta / span) / span**2
    return Reference(p0 + s * (v0 + s * (c2 + s * c3)), v0 + s * (2 * c2 + 3 * s * c3), 2 * c2 + 6 * s * c3)


def _quintic(
    p0: FloatArray, delta: FloatArray, start: tuple[FloatArray, FloatArray], end: tuple[FloatArray, FloatArray], span: float, s: float
) -> Reference:
    (v0, a0), (v1, a1) = start, end
    c2 = a0 / 2
    c3 = (20 * delta - (8 * v1 + 12 * v0) * span - (3 * a0 - a1) * span**2) / (2 * span**3)
    c4 = (-30 * delta + (14 * v1 + 16 * v0) * span + (3 * a0 - 2 * a1) * span**2) / (2 * span**4)
    c5 = (12 * delta - 6 * (v1 + v0) * span + (a1 - a0) * span**2) / (2 * span**5)
    position = p0 + s * (v0 + s * (c2 + s * (c3 + s * (c4 + s * c5))))
    velocity = v0 + s * (2 * c2 + s * (3 * c3 + s * (4 * c4 + s * 5 * c5)))
    acceleration = 2 * c2 + s * (6 * c3 + s * (12 * c4 + s * 20 * c5))
    return Reference(position, velocity, acceleration)
