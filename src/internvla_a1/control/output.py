"""The last gate, and what passes it: a plan is checked as a whole before any of it is sent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from internvla_a1.control.interface import Segment
from internvla_a1.control.limits import Limits
from internvla_a1.control.plan import KNOT_NS, Plan
from internvla_a1.core.clock import NS
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.types import FloatArray

_STEP = 0.04  # rad or m; a knot is at most 0.01 more
_TURN = 1e-3  # rad or m: a joint that swings less beyond both of its ends has not turned round
_SLACK = 1e-6  # rounding, in the unit of each check


def plan_refusal(plan: Plan, before: Plan, knot: int, limits: Limits) -> Refusal | None:
    """Why a plan must not be sent: not finite, not continuous with what the arm was told, outside a limit, or not ending at rest."""
    if not (np.isfinite(plan.q).all() and np.isfinite(plan.v).all() and np.isfinite(plan.a).all()):
        return Refusal(Reason.PLAN_REFUSED, "not finite")
    if np.any(plan.v[-1]):
        return Refusal(Reason.PLAN_REFUSED, "does not end at rest")
    q, v, a = before.state(knot)
    for what, gap in (("position", plan.q[0] - q), ("velocity", plan.v[0] - v), ("acceleration", plan.a[0] - a)):
        if np.abs(gap).max() > _SLACK:
            return Refusal(Reason.PLAN_REFUSED, f"{what} steps by {np.abs(gap).max():.6f} at its start")
    over = np.maximum(plan.q - limits.upper, limits.lower - plan.q)
    checks = (
        ("position", over),
        ("velocity", np.abs(plan.v) - limits.velocity),
        ("acceleration", np.abs(plan.a) - limits.acceleration),
    )
    for what, excess in checks:
        if excess.max() > _SLACK:
            joint = int(np.argmax(excess.max(axis=0)))
            return Refusal(Reason.PLAN_REFUSED, f"{what} of {limits.names[joint]} over its limit by {excess.max():.6f}")
    return None


def waypoints(plan: Plan) -> FloatArray:
    """(n, joints): few positions that stand for the whole plan: no joint further than _STEP between two, where each joint turns round
    beyond both of its ends, and where it comes to rest."""
    travel = np.cumsum(np.abs(np.diff(plan.q, axis=0)).max(axis=1, initial=0.0))
    last = len(plan.q) - 1
    steps = np.arange(_STEP, travel[-1] if last else 0.0, _STEP)
    q, ends = plan.q, plan.q[[0, last]]
    high, low = q.max(axis=0) > ends.max(axis=0) + _TURN, q.min(axis=0) < ends.min(axis=0) - _TURN
    turns = [*q[:, high].argmax(axis=0), *q[:, low].argmin(axis=0)]
    return q[np.unique(np.concatenate([np.searchsorted(travel, steps, side="right"), turns, [last]]).astype(int))]


def start_offset(plan: Plan, measured: FloatArray, gripper: np.ndarray, names: Sequence[str]) -> tuple[str, float]:
    """The joint that is furthest from where a motion starts, and how far (rad or m). A gripper may be held off by its object."""
    off = np.where(gripper, 0.0, np.abs(plan.q[0] - measured))
    worst = int(np.argmax(off))
    return names[worst], float(off[worst])


def segment_of(plan: Plan, knot: int, motion_ns: int, stamp_ns: int, names: tuple[str, ...]) -> Segment:
    """The rest of a plan from a knot on, as few points as reproduce it."""
    start = min(knot - plan.first, len(plan.q) - 1)
    rows = np.concatenate([[start], plan.sent[plan.sent > start]])
    knots = rows + plan.first if start == knot - plan.first else np.array([knot])  # long at rest: one point, now
    times = (knots * KNOT_NS - motion_ns) / NS  # whole numbers first: motion time is large
    return Segment(stamp_ns, names, times, plan.q[rows], plan.v[rows])
