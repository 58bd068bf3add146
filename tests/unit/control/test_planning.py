"""Planned motions: free of collisions, within the limits, executed to their end."""

from __future__ import annotations

import numpy as np
import pytest

from internvla_a1.control.collision_protocol import PathCheck
from internvla_a1.control.interface import PlannedMotion
from internvla_a1.control.planning import JointPlanner
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.types import FloatArray
from internvla_a1.eval.safety_rig import Rig, middle


class Block:
    """A block in the plane of joints 1 and 2: |q1| < 0.3 while q2 is under 0.5 above the middle."""

    name = "block"

    def __init__(self, centre: FloatArray) -> None:
        self.centre = centre

    def hit(self, q: FloatArray) -> bool:
        off = q - self.centre
        return bool(abs(off[0]) < 0.3 and off[1] < 0.5)

    def check(self, start: FloatArray, path: FloatArray, leaving: bool = False) -> PathCheck:
        before = start
        for k, waypoint in enumerate(path):
            if any(self.hit(before + s * (waypoint - before)) for s in np.linspace(0, 1, 9)):
                return PathCheck(k, "block")
            before = waypoint
        return PathCheck(len(path))


def ends(rig: Rig) -> tuple[FloatArray, FloatArray]:
    start, goal = middle(rig.robot), middle(rig.robot)
    start[0] -= 0.6
    goal[0] += 0.6
    return start, goal


def test_a_free_way_is_straight_within_three_tenths_of_the_limits_and_arrives() -> None:
    rig = Rig()
    start, goal = ends(rig)
    limits = rig.executor.limits
    motion = JointPlanner(limits).plan("go home", start, goal)
    assert isinstance(motion, PlannedMotion)
    assert np.array_equal(motion.positions[0], start) and np.allclose(motion.positions[-1], goal)
    assert (np.diff(motion.times_s) > 0).all()
    speed = np.diff(motion.positions, axis=0) / np.diff(motion.times_s)[:, None]
    assert (np.abs(speed) <= 0.3 * limits.velocity * 1.02).all()
    rig = Rig(start=start)
    rig.step(3)
    assert rig.executor.on_planned_motion(motion, rig.now) is None
    rig.step(round(motion.times_s[-1] / 0.01) + 40)
    assert np.abs(rig.measured() - goal).max() < 1e-3


def test_a_blocked_way_is_gone_around() -> None:
    rig = Rig()
    start, goal = ends(rig)
    block = Block(middle(rig.robot))
    motion = JointPlanner(rig.executor.limits, block).plan("go home", start, goal)
    assert isinstance(motion, PlannedMotion)
    assert not any(block.hit(q) for q in motion.positions)
    assert np.allclose(motion.positions[[0, -1]], [start, goal])


@pytest.mark.parametrize(("change", "reason"), [(99.0, Reason.NOT_ALLOWED), (np.nan, Reason.NON_FINITE), (-0.6, Reason.COLLISION)])
def test_a_goal_that_cannot_be_is_refused(change: float, reason: Reason) -> None:
    rig = Rig()
    start, goal = ends(rig)
    goal[0] += change
    answer = JointPlanner(rig.executor.limits, Block(middle(rig.robot)), tries=50).plan("go home", start, goal)
    assert isinstance(answer, Refusal) and answer.reason is reason
