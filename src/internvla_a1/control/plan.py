"""The commanded motion: states on a fixed grid of knots, constant jerk between them, always ending at rest.

The acceleration is linear between knots, so position is cubic there: a controller that interpolates position and
velocity with cubics reproduces the plan exactly, and `state` at a knot is what the arm was told, not an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from internvla_a1.core.clock import NS
from internvla_a1.core.types import FloatArray

KNOT_S = 0.01
KNOT_NS = int(KNOT_S * NS)
REST_SPEED = 1e-3  # rad/s or m/s: a tracker comes to rest in the limit only
CELL = 2  # knots between two decisions of the tracker: jerk is constant over a cell


@dataclass(frozen=True)
class Plan:
    """q, v, a (knots, joints): rad or m and derivatives. first: absolute index of the first knot (motion time / KNOT_NS).

    sent: indices, relative to first, of the knots that a segment must carry: every change of jerk, and the last.
    """

    first: int
    q: FloatArray
    v: FloatArray
    a: FloatArray
    sent: np.ndarray

    @property
    def last(self) -> int:
        """Absolute index of the knot at which the arm comes to rest."""
        return self.first + len(self.q) - 1

    def state(self, knot: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Commanded q, v, a (joints,) at an absolute knot; held at rest after the last."""
        i = min(max(knot - self.first, 0), len(self.q) - 1)
        return self.q[i], self.v[i], self.a[i]

    def rest_after(self, knot: int) -> bool:
        """Whether nothing moves from this knot on, to a speed that nobody sees."""
        i = knot - self.first
        return i >= len(self.q) - 1 or float(np.abs(self.v[max(i, 0) :]).max()) < REST_SPEED

    def remaining(self, knot: int, knots: int) -> FloatArray:
        """Accelerations (knots, joints) from an absolute knot on, 0 after the end."""
        i = min(knot - self.first, len(self.a))
        part = self.a[i : i + knots]
        return np.vstack([part, np.zeros((knots - len(part), self.a.shape[1]))])


def resting(first: int, q: FloatArray) -> Plan:
    """A plan that stays where it is."""
    zero = np.zeros((1, len(q)))
    return Plan(first, q[None].copy(), zero, zero.copy(), np.array([0]))


def integrate(first: int, q0: FloatArray, v0: FloatArray, a: FloatArray, sent: np.ndarray) -> Plan:
    """The plan with accelerations a (knots, joints), linear between knots, from position q0 and velocity v0 (joints,)."""
    mean = (a[:-1] + a[1:]) * (KNOT_S / 2)
    v = np.empty_like(a)
    v[0] = v0
    np.cumsum(mean, axis=0, out=v[1:])
    v[1:] += v0
    q = np.empty_like(a)
    q[0] = q0
    np.cumsum(v[:-1] * KNOT_S + (2 * a[:-1] + a[1:]) * (KNOT_S**2 / 6), axis=0, out=q[1:])
    q[1:] += q0
    return Plan(first, q, v, a, sent)
