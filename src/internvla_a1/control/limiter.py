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
from internvla_a1.control.splice import BRAKING_SHARE, Approach, tracker_gains
from internvla_a1.core.types import FloatArray

CELL_S = CELL * KNOT_S
_GAINS = tracker_gains(CELL_S)
_SLOPE = float(_GAINS[0] / _GAINS[1])
_RANGE_SLOPE = 8.0  # 1/s, how speed shrinks with the distance to a position limit
_RANGE_SHARE = 0.8  # of the ordinary stop's deceleration, used for that
_SPEED_SHARE = 0.98  # of max_velocity, so that rounding a stop up to whole knots and the rise inside a cell find room
_LEAST_CELLS = 4  # followed whatever the deadline
_SAID = 1e-6  # rad/s^2: a difference between asked and granted that counts as a limit applied
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


class Tracker:
    """Follows a reference with bounded velocity, acceleration and jerk, slowing towards the ends of the range.

    Positions are bounded for certain by `follow`, not here. Constants are taken once: the loop is the work of a tick.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._top = _SPEED_SHARE * limits.velocity
        towards_end = _RANGE_SHARE * limits.stop
        self._approach = Approach(
            np.stack([BRAKING_SHARE * limits.acceleration, towards_end, towards_end]), np.array([[_SLOPE], [_RANGE_SLOPE], [_RANGE_SLOPE]])
        )
        self._rise = limits.jerk * CELL_S / 2
        self._speeds = np.stack([self._top, -self._top])

    def track(self, state: tuple[FloatArray, FloatArray, FloatArray], ref: Reference) -> tuple[FloatArray, FloatArray, FloatArray, bool]:
        """From `state`: q, v, a (cells + 1, joints) at the decisions, and whether a limit had a say."""
        h, limits = CELL_S, self._limits
        q, v, a = (np.empty_like(ref.q) for _ in range(3))
        q[0], v[0], a[0] = state
        distance, asked = np.empty((3, q.shape[1])), np.empty_like(ref.q[1:])
        for i in range(ref.cells):
            qi, vi, ai = q[i], v[i], a[i]
            np.subtract(qi, ref.q[i], out=distance[0])
            np.subtract(limits.upper, qi, out=distance[1])
            np.subtract(limits.lower, qi, out=distance[2])
            law = self._approach.speed(distance)
            wish = ref.v[i] - law[0]
            speed = np.minimum(np.maximum(wish, np.maximum(law[2], self._speeds[1])), np.minimum(law[1], self._speeds[0]))
            ahead = ref.a[i] * (speed == wish)
            np.add(ahead * (1 + _GAINS[2]), _GAINS[1] * (speed - vi) - _GAINS[2] * ai, out=asked[i])
            given = self._grant(asked[i], vi + h / 2 * ai, ai)
            a[i + 1] = given
            total = ai + given
            v[i + 1] = vi + h / 2 * total
            q[i + 1] = qi + h * vi + h * h / 6 * (total + ai)
        return q, v, a, bool(np.abs(a[1:] - asked).max() > _SAID)

    def _grant(self, asked: FloatArray, coasting: FloatArray, a: FloatArray) -> FloatArray:
        """The acceleration at the end of a cell, nearest to what is asked, from which the velocity limit can still be met."""
        jerk, rise, most = self._limits.jerk, self._rise, self._limits.acceleration
        room = np.stack([self._top - coasting, self._top + coasting])
        np.maximum(room, 0.0, out=room)
        room *= 2 * jerk
        room += rise * rise
        np.sqrt(room, out=room)
        room -= rise
        np.minimum(room, most, out=room)
        change = 2 * rise
        given = np.minimum(np.maximum(asked, -room[1]), room[0])
        return np.minimum(np.maximum(given, a - change), a + change)


@dataclass(frozen=True)
class Deadline:
    """A plan is at rest in_s plus its braking time v / a_stop after its start, as far as the joints in `arm` (joints,) bool go."""

    in_s: float
    arm: np.ndarray


def follow(
    before: Plan, knot: int, ref: Reference, limits: Limits, tracker: Tracker | None = None, deadline: Deadline | None = None
) -> tuple[Plan, bool]:
    """The plan from the state that `before` has at `knot`: follow the reference for ref.cells cells, or fewer to meet the deadline; stop.

    tracker: one made for these limits, to save making it. Returns the plan, and whether a limit had a say: an
    acceleration, a speed or a position that was asked for and not given.
    """
    state = before.state(knot)
    q, v, a, limited = (tracker or Tracker(limits)).track(state, ref)
    ends = stop(v, a, limits.tail, limits.jerk)
    cells = _safe_cells(q, v, a, ends, limits)
    limited |= bool(np.any(cells < ref.cells))
    if deadline is not None:
        cells = np.minimum(cells, _timely_cells(q, v, ends, limits, deadline))
    return _assemble(before, knot, q, v, a, ends, cells), limited


def _safe_cells(q: FloatArray, v: FloatArray, a: FloatArray, ends: Stop, limits: Limits) -> np.ndarray:
    """(joints,): how many cells each joint may follow before it must brake; -1 where even stopping now is not safe."""
    low, high, fastest = ends.extremes(q, v)
    safe = (low >= limits.lower - _TINY) & (high <= limits.upper + _TINY) & (fastest <= limits.velocity + _TINY)
    safe &= np.abs(a) <= limits.acceleration + _TINY
    safe[1:] &= _fastest_between(v, a) <= limits.velocity + _TINY
    first_bad = np.argmin(safe, axis=0)
    all_safe = safe.all(axis=0)
    return np.where(all_safe, len(q) - 1, first_bad - 1)


def _fastest_between(v: FloatArray, a: FloatArray) -> FloatArray:
    """(cells, joints): the speed at which the acceleration changes its sign inside a cell; 0 where it does not.

    A joint that gets to its top speed within a few cells, as a gripper does, is faster there than at both ends.
    """
    change = a[:-1] - a[1:]
    turns = a[:-1] * a[1:] < 0
    peak = v[:-1] + CELL_S / 2 * a[:-1] ** 2 / np.where(turns, change, 1.0)
    return np.where(turns, np.abs(peak), 0.0)


def _timely_cells(q: FloatArray, v: FloatArray, ends: Stop, limits: Limits, deadline: Deadline) -> int:
    """How many cells may be followed before all joints brake. An arm that speeds up must first cease to, which takes time."""
    speed = np.maximum(np.maximum.accumulate(np.abs(v)), ends.extremes(q, v)[2]) / limits.stop
    allowed = deadline.in_s + speed[:, deadline.arm].max(axis=1)
    timely = np.arange(len(v)) * CELL_S + ends.duration[:, deadline.arm].max(axis=1) <= allowed
    return max(int(np.flatnonzero(timely)[-1]) if timely.any() else 0, _LEAST_CELLS)


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
    tracked = np.zeros((max(knots, (len(a) - 1) * CELL + 1), a.shape[1]))
    tracked[: (len(a) - 1) * CELL + 1 : CELL] = a
    for i in range(1, CELL):
        tracked[i : (len(a) - 1) * CELL : CELL] = a[:-1] + (a[1:] - a[:-1]) * (i / CELL)
    tracked = tracked[:knots]
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
