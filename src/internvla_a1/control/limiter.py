"""From a reference to a plan that no joint's limits are broken by: position, velocity, acceleration, jerk.

Each joint follows the reference as closely as its limits allow, slows on its way to the end of its range, and keeps, at
every knot, a stop that stays inside the limits; where the tracker's wish has none, the joint brakes instead. The plan of
the tick before is the last resort: it was checked, and it ends at rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from internvla_a1.control.braking import Stop, stop
from internvla_a1.control.limits import Limits
from internvla_a1.control.plan import CELL, KNOT_S, Plan, integrate
from internvla_a1.control.splice import BRAKING_SHARE, approach_speed, tracker_gains
from internvla_a1.core.types import FloatArray

CELL_S = CELL * KNOT_S
_GAINS = tracker_gains(CELL_S)
_SLOPE = float(_GAINS[0] / _GAINS[1])
_RANGE_SLOPE = 8.0  # 1/s, how speed shrinks with the distance to a position limit
_TINY = 1e-9


@dataclass(frozen=True)
class Reference:
    """Where to be at the decisions of a plan: q, v, a (cells + 1, joints); the first row is the plan's first knot."""

    q: FloatArray
    v: FloatArray
    a: FloatArray

    @property
    def cells(self) -> int:
        return len(self.q) - 1


def reference_from(q: FloatArray) -> Reference:
    """Velocity and acceleration by central differences from q (cells + 3, joints), one cell before and one after."""
    return Reference(q[1:-1], (q[2:] - q[:-2]) / (2 * CELL_S), (q[2:] - 2 * q[1:-1] + q[:-2]) / CELL_S**2)


def track(state: tuple[FloatArray, FloatArray, FloatArray], ref: Reference, limits: Limits) -> tuple[FloatArray, FloatArray, FloatArray, bool]:
    """The tracker from `state`: q, v, a (cells + 1, joints) at the decisions, and whether a limit had a say.

    Acceleration, jerk and velocity are bounded here; positions by the shrinking speed and, for certain, by `follow`.
    """
    k_error, k_rate, k_acc = _GAINS
    h, j = CELL_S, limits.jerk
    braking, range_braking = BRAKING_SHARE * limits.acceleration, 0.7 * limits.stop
    top = 0.99 * limits.velocity
    q, v, a = (np.empty_like(ref.q) for _ in range(3))
    q[0], v[0], a[0] = state
    limited = False
    for i in range(ref.cells):
        qi, vi, ai = q[i], v[i], a[i]
        wish = ref.v[i] - approach_speed(qi - ref.q[i], _SLOPE, braking)
        high = np.minimum(top, approach_speed(limits.upper - qi, _RANGE_SLOPE, range_braking))
        low = np.maximum(-top, approach_speed(limits.lower - qi, _RANGE_SLOPE, range_braking))
        speed = np.minimum(np.maximum(wish, low), high)
        ahead = np.where(speed == wish, ref.a[i], 0.0)
        asked = ahead + k_rate * (speed - vi) - k_acc * (ai - ahead)
        rise = j * h / 2
        room = np.sqrt(rise**2 + 2 * j * np.maximum(top - vi - h / 2 * ai, 0.0)) - rise
        fall = np.sqrt(rise**2 + 2 * j * np.maximum(top + vi + h / 2 * ai, 0.0)) - rise
        most = np.minimum(limits.acceleration, room)
        least = np.maximum(-limits.acceleration, -fall)
        given = np.minimum(np.maximum(asked, least), most)
        given = np.minimum(np.maximum(given, ai - j * h), ai + j * h)
        limited = limited or bool(np.any(np.abs(given - asked) > 1e-6) or np.any(speed != wish))
        a[i + 1] = given
        v[i + 1] = vi + h / 2 * (ai + given)
        q[i + 1] = qi + h * vi + h * h / 6 * (2 * ai + given)
    return q, v, a, limited


def follow(before: Plan, knot: int, ref: Reference, limits: Limits) -> tuple[Plan, bool]:
    """The plan from the state that `before` has at `knot`: follow the reference for ref.cells cells, then stop.

    Returns it and whether a limit had a say (an acceleration, a speed or a position that was asked for and not given).
    """
    state = before.state(knot)
    clipped = Reference(np.clip(ref.q, limits.lower, limits.upper), ref.v, ref.a)
    q, v, a, limited = track(state, clipped, limits)
    ends = stop(v, a, limits.stop, limits.jerk)
    cells = _safe_cells(q, v, a, ends, limits)
    plan = _assemble(before, knot, q, v, a, ends, cells)
    return plan, limited or bool(np.any(cells < ref.cells)) or not np.array_equal(clipped.q, ref.q)


def _safe_cells(q: FloatArray, v: FloatArray, a: FloatArray, ends: Stop, limits: Limits) -> np.ndarray:
    """(joints,): how many cells each joint may follow before it must brake; -1 where even stopping now is not safe."""
    low, high, fastest = ends.extremes(q, v)
    safe = (low >= limits.lower - _TINY) & (high <= limits.upper + _TINY) & (fastest <= limits.velocity + _TINY)
    safe &= np.abs(a) <= limits.acceleration + _TINY
    first_bad = np.argmin(safe, axis=0)
    all_safe = safe.all(axis=0)
    return np.where(all_safe, len(q) - 1, first_bad - 1)


def _assemble(before: Plan, knot: int, q: FloatArray, v: FloatArray, a: FloatArray, ends: Stop, cells: np.ndarray) -> Plan:
    """One plan from the followed part of each joint and its stop; joints with cells = -1 keep what `before` had for them."""
    joints = np.arange(q.shape[1])
    at = np.maximum(cells, 0)
    chosen = Stop(*(getattr(ends, name)[at, joints] for name in ("a0", "deceleration", "t1", "t2", "t3")))
    keep = cells < 0
    start = at * CELL  # knots until the stop begins
    marks = np.stack([start, start + chosen.t1 / KNOT_S, start + (chosen.t1 + chosen.t2) / KNOT_S, start + chosen.duration / KNOT_S])
    marks = np.rint(marks).astype(int)
    knots = int(marks[3].max()) + 1
    if keep.any():
        knots = max(knots, before.last - knot + 1)
    k = np.arange(knots)[:, None]
    followed = np.interp(np.arange(knots), np.arange(len(a)) * CELL, np.arange(len(a)))
    floor = np.minimum(followed.astype(int), len(a) - 2)
    share = (followed - floor)[:, None]
    tracked = a[floor] * (1 - share) + a[floor + 1] * share
    acceleration = np.where(k <= start, tracked, chosen.acceleration(np.maximum(k - start, 0) * KNOT_S))
    if keep.any():
        acceleration[:, keep] = before.remaining(knot, knots)[:, keep]
    q0, v0, _ = before.state(knot)
    sent = np.unique(np.concatenate([np.arange(0, min(len(a) * CELL, knots), CELL), marks.ravel(), [knots - 1]]))
    if keep.any():
        sent = np.arange(knots)
    return _rested(integrate(knot, q0, v0, acceleration, sent))


def brake(before: Plan, knot: int, deceleration: FloatArray, limits: Limits) -> Plan:
    """Stop from the state that `before` has at `knot` with the given deceleration (joints,); a joint whose stop would leave
    its limits keeps what `before` had for it."""
    q, v, a = (x[None] for x in before.state(knot))
    ends = stop(v, a, deceleration, limits.jerk)
    plan = _assemble(before, knot, q.repeat(2, 0), v.repeat(2, 0), a.repeat(2, 0), _twice(ends), _safe_cells(q, v, a, ends, limits))
    return plan


def _twice(s: Stop) -> Stop:
    return Stop(*(getattr(s, name).repeat(2, 0) for name in ("a0", "deceleration", "t1", "t2", "t3")))


def _rested(plan: Plan) -> Plan:
    """The last knot at rest exactly: rounding leaves some 1e-17."""
    plan.v[-1] = 0.0
    plan.a[-1] = 0.0
    return plan
