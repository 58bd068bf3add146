"""Stops as profiles: ramp the acceleration to a steady deceleration, hold it, ramp it out; at rest exactly on a knot.

Three phases of constant jerk, each a whole number of knots, so that a stop from any state is closed-form, costs the
same every tick and is reproduced exactly by cubic interpolation. Every segment ends in one (faults.md, laws 1 and 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from internvla_a1.control.plan import KNOT_S
from internvla_a1.core.types import FloatArray

_ROUND = 1e-9  # a phase that fits a knot to within this share is not lengthened by one


@dataclass(frozen=True)
class Stop:
    """A stop per joint, or per state and joint: all arrays of one shape, seconds and rad/s^2 or m/s^2.

    The acceleration goes from a0 to -deceleration in t1, stays for t2, and goes to 0 in t3. deceleration is signed: against
    the velocity.
    """

    a0: FloatArray
    deceleration: FloatArray
    t1: FloatArray
    t2: FloatArray
    t3: FloatArray

    @property
    def duration(self) -> FloatArray:
        """Seconds to rest."""
        return self.t1 + self.t2 + self.t3

    def acceleration(self, t: FloatArray) -> FloatArray:
        """At t seconds after the start (broadcasts); valid for t >= 0, 0 after the end."""
        ramp_in = self.a0 - (self.a0 + self.deceleration) * np.minimum(t / self.t1, 1.0)
        left = np.clip((self.duration - t) / self.t3, 0.0, 1.0)
        return np.where(t <= self.t1 + self.t2, ramp_in, -self.deceleration * left)

    def extremes(self, q: FloatArray, v: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Lowest and highest position on the way to rest, and largest speed, from position q and velocity v."""
        a, d, t1, t2, t3 = self.a0, self.deceleration, self.t1, self.t2, self.t3
        slope = (a + d) / t1  # minus the jerk of phase 1
        v1 = v + (a - d) * t1 / 2
        q1 = q + v * t1 + (2 * a - d) * t1**2 / 6
        q2 = q1 + v1 * t2 - d * t2**2 / 2
        end = q2 + (v1 - d * t2) * t3 - d * t3**2 / 3
        low, high = np.minimum(q, end), np.maximum(q, end)
        low, high = np.minimum(low, np.minimum(q1, q2)), np.maximum(high, np.maximum(q1, q2))
        for root in _turning_times(v, a, slope):
            inside = (root > 0) & (root < t1)
            root = np.where(inside, root, 0.0)
            at = q + v * root + a * root**2 / 2 - slope * root**3 / 6
            low, high = np.where(inside, np.minimum(low, at), low), np.where(inside, np.maximum(high, at), high)
        peak_time = np.divide(a, slope, out=np.zeros_like(a), where=np.abs(slope) > 1e-9)
        peak = np.where((peak_time > 0) & (peak_time < t1), v + a * peak_time / 2, v)
        return low, high, np.maximum(np.maximum(np.abs(v), np.abs(peak)), np.abs(v1))


def _turning_times(v: FloatArray, a: FloatArray, slope: FloatArray) -> tuple[FloatArray, FloatArray]:
    """When v + a t - slope t^2 / 2 is zero: both roots, -1 where there is none."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        root = np.sqrt(a * a + 2 * slope * v)
        first, second = (a + root) / slope, (a - root) / slope
        flat = np.abs(slope) < 1e-9
        first = np.where(flat, -v / a, first)
    return np.nan_to_num(first, nan=-1.0, posinf=-1.0, neginf=-1.0), np.nan_to_num(second, nan=-1.0, posinf=-1.0, neginf=-1.0)


def stop(v: FloatArray, a: FloatArray, deceleration: FloatArray, jerk: FloatArray) -> Stop:
    """The stop from velocity v and acceleration a within `deceleration` and `jerk` (all broadcastable to v's shape)."""
    t3 = _knots(deceleration / jerk + np.zeros_like(v))
    direction = np.where(v + a * np.abs(a) / (2 * jerk) >= 0, 1.0, -1.0)
    quick = _solve(v, a, _knots(np.maximum(np.abs(a), np.abs(a + direction * deceleration)) / jerk), t3, deceleration)
    slow = _solve(v, a, _knots((np.abs(a) + deceleration) / jerk), t3, deceleration)
    legal = np.abs(a + quick.deceleration) <= jerk * quick.t1
    return Stop(a, *(np.where(legal, x, y) for x, y in zip(_parts(quick), _parts(slow), strict=True)))


def _parts(s: Stop) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    return s.deceleration, s.t1, s.t2, s.t3


def _solve(v: FloatArray, a: FloatArray, t1: FloatArray, t3: FloatArray, most: FloatArray) -> Stop:
    to_lose = v + a * t1 / 2  # the velocity left if the acceleration only went to 0 in t1
    ramps = (t1 + t3) / 2
    t2 = _whole(np.maximum(np.abs(to_lose) / most - ramps, 0.0))
    return Stop(a, to_lose / (ramps + t2), t1, t2, t3)


def _whole(t: FloatArray) -> FloatArray:
    """Up to a whole number of knots."""
    return np.ceil(t / KNOT_S - _ROUND) * KNOT_S


def _knots(t: FloatArray) -> FloatArray:
    """Up to a whole number of knots, at least one."""
    return np.maximum(_whole(t), KNOT_S)
