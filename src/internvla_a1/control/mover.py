"""Keeps the plan that the arm executes: follow a reference, or stop; start from where the arm is, end at rest."""

from __future__ import annotations

from collections import deque

import numpy as np

from internvla_a1.control.collision_protocol import CollisionGate
from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.handover import Authority
from internvla_a1.control.intake import Place
from internvla_a1.control.interface import Segment
from internvla_a1.control.limiter import CELL_S, Deadline, Reference, Tracker, brake, follow
from internvla_a1.control.limits import Limits, limits_of
from internvla_a1.control.output import plan_refusal, segment_of, start_offset, waypoints
from internvla_a1.control.plan import CELL, KNOT_NS, Plan, resting
from internvla_a1.control.watchdogs import moved_by_hand
from internvla_a1.core.clock import nanoseconds
from internvla_a1.core.faults import Fault, Reason, Refusal
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import FloatArray

_SHORTER = (5, 2, 1)  # cells of cover, tried in turn where the whole cover would end in a collision
_JOIN_KNOTS = 15  # 0.15 s for a controller to come from its own reference to the first command: 16 mm for a gripper that holds something
_REMEMBERED = 128  # ticks of commanded positions


def knot_of(motion_ns: int) -> int:
    """The first knot at or after an instant of motion time."""
    return -(-motion_ns // KNOT_NS)


class Mover:
    """The plan in execution. Its state at now is what the arm was told, however late this process is."""

    def __init__(self, robot: RobotSpec, config: ExecutorConfig, collision: CollisionGate | None = None) -> None:
        self.collision = collision
        self.limits = limits_of(robot, config)
        self.plan: Plan | None = None
        self.authority: Authority | None = None
        self.urgent = False  # something changed: send at once
        self.limited = False  # whether a limit had a say in the newest plan
        self._config, self._names, self._gripper = config, robot.joint_names, robot.gripper_mask
        self._cells = round(config.cover_s / CELL_S)
        self._deadline = Deadline(config.cover_s - config.servo_lag_s, ~robot.gripper_mask)
        self._joined = 0  # the knot at which the controller's reference is where the plan begins
        self._stopping = ""  # "", "stop" or "estop": which stop the plan is
        self._told: deque[tuple[int, FloatArray]] = deque(maxlen=_REMEMBERED)
        self._sent: tuple[Plan | None, str] = (None, "")  # plan and stop as of the segment before the last
        self._newest: tuple[Plan | None, str] = (None, "")
        self._unsure_until = 0  # the knot at which the arm stands, whether the controller took the last segment or not; 0: it did
        self._set_bounds(self.limits)

    def _set_bounds(self, bounds: Limits) -> None:
        self.bounds, self._tracker = bounds, Tracker(bounds)

    def at_rest(self, knot: int) -> bool:
        return self.plan is None or (not self._unsure_until and self.plan.rest_after(knot))

    def state(self, knot: int, measured: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Commanded q, v, a (joints,) at a knot; where the arm is measured to be if it was told nothing yet."""
        if self.plan is not None:
            return self.plan.state(knot)
        return measured, np.zeros_like(measured), np.zeros_like(measured)

    def place(self, knot: int, measured: FloatArray) -> Place:
        """Where the arm is told to be at a knot, and where the plan ends."""
        now = self.state(knot, measured)[0]
        return Place(now, now if self.plan is None else self.plan.q[-1])

    def told(self, motion_ns: int, measured: FloatArray) -> FloatArray:
        """What the arm was told to be at, at a past instant of motion time; the oldest remembered if that is longer ago."""
        for at, q in reversed(self._told):
            if at <= motion_ns:
                return q
        return self._told[0][1] if self._told else measured

    def remember(self, motion_ns: int) -> None:
        """Once a tick: note what the arm is told now."""
        if self.plan is not None:
            self._told.append((motion_ns, self.plan.state(knot_of(motion_ns))[0]))

    def times(self, knot: int) -> np.ndarray:
        """Motion times (cells + 3,) ns from which references are made: one cell before the knot to one after the cover."""
        return knot * KNOT_NS + (np.arange(self._cells + 3) - 1) * nanoseconds(CELL_S)

    def take_back(self) -> None:
        """The last segment was not sent: the plan is again that of the one before, and the next tick sends at once."""
        self._newest = self._sent
        self.plan, self._stopping = self._sent
        self.urgent = True

    def unsure(self) -> None:
        """Nobody knows whether the controller took the last segment. It and the one before both end at rest: nothing is sent until then."""
        self._unsure_until = max(plan.last for plan, _ in (self._sent, self._newest) if plan is not None)

    def settle(self, knot: int, measured: FloatArray) -> None:
        """Once a tick: where it was not known what the arm does and it stands now, begin anew where it is. A gripper keeps its command."""
        if self.plan is None or not 0 < self._unsure_until <= knot:
            return
        self._unsure_until, self.authority, self.urgent, self._stopping = 0, None, True, ""
        self._anchor(knot, np.where(self._gripper, self.plan.q[-1], measured))
        self._newest = (self.plan, "")

    def release(self, knot: int, measured: FloatArray | None) -> None:
        """A new source begins: an arm at rest that was moved starts from where it is measured to be.

        Within the tolerance of a first command it starts from its command instead: an arm that sags, or leans on something, would
        otherwise be told to jump there, and sag further with every new source. A gripper keeps its command in any case: closed on an
        object, its measured position is not where it was told to be.
        """
        self.authority = None
        if self.plan is None or not self.plan.rest_after(knot) or measured is None:
            return
        commanded = self.plan.state(knot)[0]
        place = np.where(self._gripper, commanded, measured)
        if np.abs(place - commanded).max() > self._config.start_tolerance:
            self._anchor(knot, place)

    def advance(
        self,
        wanted: Reference,
        knot: int,
        measured: FloatArray,
        ramp_s: float,
        due: bool,
        until_ns: int | None = None,
        by_hand: bool = False,
    ) -> Fault | Refusal | None:
        """Follow `wanted`, at the inner instants of `times`. Returns what kept it from doing so.

        ramp_s: time over which a source that just began gets its authority. due: whether a segment is to be sent. until_ns: motion
        time at which the plan has to brake, whatever its cover. by_hand: a person moves the arm, out of a place too near to something on
        whichever way.
        """
        if self.plan is None:
            self._anchor(knot, measured)
        if knot < max(self._joined, self._unsure_until):
            return None
        if self.authority is None:
            self.authority = Authority(self.state(knot, measured)[0], knot * KNOT_NS, ramp_s)
        elif not (due or self._stopping or self.urgent):
            return None
        before, cells = self.plan, self._cells
        if until_ns is not None:
            cells = min(cells, (until_ns // KNOT_NS - knot) // CELL)
        if before is None or cells < 1:  # the plan before goes on, and it ends at rest
            return None
        asked = self.authority.apply(wanted, self.times(knot)[1:-1])
        inside = np.clip(asked.q, self.bounds.lower, self.bounds.upper)
        free = inside == asked.q
        planned = self._planned(before, knot, Reference(inside, asked.v * free, asked.a * free), cells, by_hand)
        if isinstance(planned, Refusal):  # the plan before goes on, and it ends at rest
            return planned
        plan, limited = planned
        if before.rest_after(knot) and not plan.rest_after(knot):
            joint, distance = start_offset(plan, measured, self._gripper, self._names)
            if distance > self._config.start_tolerance:
                return moved_by_hand(joint, distance, self._config)
        self.urgent |= bool(self._stopping)
        self.plan, self._stopping = plan, ""
        self.limited = limited or not free.all()
        return None

    def _planned(self, before: Plan, knot: int, ref: Reference, most: int, by_hand: bool) -> tuple[Plan, bool] | Refusal:
        """A plan that may be sent, and whether a limit had a say. Near something it follows for a shorter time before it brakes.

        A chunk's waypoints are free, and so is a person's target; the braking tail off the way to them need not be.
        """
        touched = ""
        for cells in sorted({most, *(c for c in _SHORTER if c < most)}, reverse=True):
            part = Reference(ref.q[: cells + 1], ref.v[: cells + 1], ref.a[: cells + 1])
            plan, limited = follow(before, knot, part, self.bounds, self._tracker, self._deadline)
            refusal = plan_refusal(plan, before, knot, self.bounds)
            if refusal is not None:
                return refusal
            touched = self._touched(plan, by_hand)
            if not touched:
                return plan, limited
        return Refusal(Reason.COLLISION, f"the plan to its rest: {touched}")

    def _touched(self, plan: Plan, by_hand: bool) -> str:
        """What the arm would touch until the plan's rest; empty if nothing. An arm that is too near already may be moved away."""
        if self.collision is None:
            return ""
        start, leaving = plan.q[0], not by_hand
        result = self.collision.check(start, waypoints(plan), leaving)
        return result.hit if result.hit and self.collision.check(start, plan.q[:1], leaving).safe else ""

    def stop(self, steepest: bool, knot: int) -> None:
        """Brake, once; the emergency stop also sharpens a stop that is under way."""
        self.authority = None
        kind = "estop" if steepest else "stop"
        if self.plan is None or self._unsure_until or self._stopping in (kind, "estop"):
            return
        if not self.plan.rest_after(knot) and (steepest or not self._stopping):
            self.plan = brake(self.plan, knot, self.limits.acceleration, self.bounds) if steepest else self._braked(self.plan, knot)
        self.urgent |= steepest or not self._stopping
        self._stopping = kind

    def _braked(self, plan: Plan, knot: int) -> Plan:
        """An ordinary stop; where it would touch something, one as hard as the tail of a segment; else the plan, which was checked."""
        for deceleration in (self.limits.stop, self.limits.tail):
            braked = brake(plan, knot, deceleration, self.bounds)
            if not self._touched(braked, by_hand=True):
                return braked
        return plan

    def segment(self, knot: int, motion_ns: int, stamp_ns: int, due: bool) -> Segment | None:
        """What to send this tick: the rest of the plan, or None when it is not due or the arm was brought to rest."""
        urgent, self.urgent = self.urgent, False
        if self.plan is None or self._unsure_until or not (urgent or due) or (self._stopping and not urgent and self.plan.rest_after(knot)):
            return None
        self._sent, self._newest = self._newest, (self.plan, self._stopping)
        return segment_of(self.plan, max(knot, self._joined), motion_ns, stamp_ns, self._names)

    def _anchor(self, knot: int, q: FloatArray) -> None:
        """Begin at rest at q (joints,). Nobody knows the controller's own reference, so the first segment leaves it time to come here."""
        self.plan, self._joined = resting(knot, q), knot + _JOIN_KNOTS
        self._set_bounds(self.limits.containing(q))
