"""What ros2_control's joint_trajectory_controller does, as a pure class: time is an argument, answers are values.

Semantics from the controller's documentation (control.ros.org, joint_trajectory_controller): a new trajectory replaces the
running one from its own start time, the first segment starts at the present reference, header stamp 0 means now, points
already past are dropped, after the last point the position is held. Error codes are those of control_msgs/FollowJointTrajectory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise

import numpy as np

from internvla_a1.core.clock import seconds
from internvla_a1.core.types import FloatArray
from internvla_a1.sim.trajectory import Knot, Reference, Trajectory, interpolate


class Code(IntEnum):
    """control_msgs/action/FollowJointTrajectory result codes."""

    SUCCESSFUL = 0
    INVALID_GOAL = -1
    INVALID_JOINTS = -2
    OLD_HEADER_TIMESTAMP = -3
    PATH_TOLERANCE_VIOLATED = -4
    GOAL_TOLERANCE_VIOLATED = -5


@dataclass(frozen=True)
class Tolerances:
    """Position error in rad or m per joint name, 0 or absent: not checked. goal_time_s: how late the goal may be reached, 0: any."""

    path: dict[str, float] = field(default_factory=dict)
    goal: dict[str, float] = field(default_factory=dict)
    goal_time_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    """accepted, with the id of the goal, or refused with a code and why."""

    accepted: bool
    code: Code
    text: str
    goal_id: int = 0


@dataclass(frozen=True)
class GoalEnd:
    """How a trajectory ended. cancelled covers replacement and cancel requests; the code is then SUCCESSFUL (none applies)."""

    goal_id: int
    code: Code
    text: str
    cancelled: bool = False


@dataclass(frozen=True)
class _Running:
    goal_id: int
    knots: tuple[Knot, ...]
    tolerances: Tolerances


class TrajectoryController:
    """One joint_trajectory_controller over `joint_names`. Times are seconds of the cell's clock."""

    def __init__(
        self, joint_names: tuple[str, ...], positions: FloatArray, tolerances: Tolerances | None = None, moving_end_allowed: bool = False
    ) -> None:
        self.joint_names = joint_names
        self.ended: list[GoalEnd] = []  # read and cleared by whoever reports goals
        self.refused = 0
        self._tolerances = tolerances or Tolerances()
        self._moving_end_allowed = moving_end_allowed
        self._hold = positions.copy()
        self._running: _Running | None = None
        self._count = 0

    @property
    def active_goal(self) -> int:
        """Id of the trajectory in execution, 0 when holding."""
        return self._running.goal_id if self._running else 0

    def accept(self, trajectory: Trajectory, now_s: float, tolerances: Tolerances | None = None) -> Answer:
        """Check a trajectory and let it replace the running one. A refused one changes nothing."""
        answer = self._check(trajectory, now_s)
        if answer is not None:
            self.refused += 1
            return answer
        start = seconds(trajectory.stamp_ns) if trajectory.stamp_ns else now_s
        order = [trajectory.joint_names.index(name) for name in self.joint_names]
        present = self.sample(now_s)
        knots = [Knot(now_s, present.positions, present.velocities, present.accelerations)]
        for k, after in enumerate(trajectory.times_s):
            if start + after > now_s:
                position, velocity, acceleration = trajectory.positions, trajectory.velocities, trajectory.accelerations
                knots.append(Knot(start + float(after), position[k][order], _row(velocity, k, order), _row(acceleration, k, order)))
        if len(knots) == 1:  # all at time 0: a jump to the last point, as the real controller makes it
            self._hold = trajectory.positions[-1][order].copy()
            knots = [Knot(now_s, self._hold, None, None)]
        self._end(Code.SUCCESSFUL, "replaced by a newer trajectory", cancelled=True)
        self._count += 1
        self._running = _Running(self._count, tuple(knots), tolerances or self._tolerances)
        return Answer(True, Code.SUCCESSFUL, "", self._count)

    def cancel(self, now_s: float) -> None:
        """Hold the present reference position."""
        self._hold = self.sample(now_s).positions.copy()
        self._end(Code.SUCCESSFUL, "cancelled", cancelled=True)

    def sample(self, now_s: float) -> Reference:
        """The reference at `now_s`, without effect."""
        if self._running is None:
            return Reference.rest(self._hold)
        knots = self._running.knots
        if now_s >= knots[-1].time_s:
            return Reference.rest(knots[-1].positions)
        for a, b in pairwise(knots):
            if now_s < b.time_s:
                return interpolate(a, b, now_s)
        return Reference.rest(knots[-1].positions)

    def update(self, now_s: float, measured: FloatArray) -> Reference:
        """One cycle: the reference for now; ends goals that are reached, late or out of tolerance. measured: (joints,)."""
        reference = self.sample(now_s)
        running = self._running
        if running is None:
            return reference
        error = np.abs(reference.positions - measured)
        end_s = running.knots[-1].time_s
        if now_s < end_s:
            worst = self._outside(error, running.tolerances.path)
            if worst:
                self._hold = measured.copy()
                self._end(Code.PATH_TOLERANCE_VIOLATED, worst)
                return Reference.rest(self._hold)
            return reference
        self._hold = running.knots[-1].positions.copy()
        worst = self._outside(error, running.tolerances.goal)
        if not worst:
            self._end(Code.SUCCESSFUL, "goal reached")
        elif running.tolerances.goal_time_s > 0 and now_s > end_s + running.tolerances.goal_time_s:
            self._end(Code.GOAL_TOLERANCE_VIOLATED, worst)
        return reference

    def reset(self, positions: FloatArray) -> None:
        """Forget the running trajectory and hold `positions`."""
        self._hold, self._running, self.refused = positions.copy(), None, 0
        self.ended.clear()

    def _outside(self, error: FloatArray, tolerances: dict[str, float]) -> str:
        for name, e in zip(self.joint_names, error, strict=True):
            bound = tolerances.get(name, 0.0)
            if bound > 0 and e > bound:
                return f"{name}: error {e:.4f} above {bound:.4f}"
        return ""

    def _end(self, code: Code, text: str, cancelled: bool = False) -> None:
        if self._running is not None:
            self.ended.append(GoalEnd(self._running.goal_id, code, text, cancelled))
            del self.ended[:-50]  # nobody may be reading
        self._running = None

    def _check(self, t: Trajectory, now_s: float) -> Answer | None:
        def refuse(code: Code, text: str) -> Answer:
            return Answer(False, code, text)

        if len(set(t.joint_names)) != len(t.joint_names):
            return refuse(Code.INVALID_JOINTS, f"joint names repeat: {', '.join(t.joint_names)}")
        if set(t.joint_names) != set(self.joint_names):
            odd = sorted(set(t.joint_names) ^ set(self.joint_names))
            return refuse(Code.INVALID_JOINTS, f"joints {', '.join(odd)} are not both given and known")
        shape = (len(t.times_s), len(t.joint_names))
        if not shape[0]:
            return refuse(Code.INVALID_GOAL, "the trajectory has no points")
        for name, values in zip(("positions", "velocities", "accelerations"), _values(t), strict=True):
            if values is None and name != "positions":
                continue
            if values is None or values.shape != shape:
                return refuse(Code.INVALID_GOAL, f"{name} are not {shape[0]} x {shape[1]}")
            if not np.isfinite(values).all():
                return refuse(Code.INVALID_GOAL, f"{name} are not finite")
        if not np.isfinite(t.times_s).all() or t.times_s[0] < 0 or (np.diff(t.times_s) <= 0).any():
            return refuse(Code.INVALID_GOAL, "the times of the points do not rise")
        if t.velocities is not None and not self._moving_end_allowed and (np.abs(t.velocities[-1]) > 1e-6).any():
            return refuse(Code.INVALID_GOAL, "the velocity of the last point is not zero")
        if t.stamp_ns and seconds(t.stamp_ns) + t.times_s[-1] < now_s:
            return refuse(Code.OLD_HEADER_TIMESTAMP, f"the trajectory ended {now_s - seconds(t.stamp_ns) - t.times_s[-1]:.3f} s ago")
        return None


def _values(t: Trajectory) -> tuple[FloatArray | None, FloatArray | None, FloatArray | None]:
    return t.positions, t.velocities, t.accelerations


def _row(values: FloatArray | None, k: int, order: list[int]) -> FloatArray | None:
    return None if values is None else values[k][order]
