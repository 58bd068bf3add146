"""Motions planned by roboplan: around what is in the way, within the limits, as the executor's gate wants them, to their end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("roboplan.toppra", reason="the tests need the dev requirements")

from internvla_a1.control.collision import PinocchioGate
from internvla_a1.control.collision_protocol import PathCheck
from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.interface import PlannedMotion
from internvla_a1.control.limits import Limits, limits_of
from internvla_a1.control.roboplan_planner import RoboplanPlanner
from internvla_a1.core.errors import ConfigError
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.robot import BoxSpec, RobotSpec
from internvla_a1.core.types import FloatArray
from internvla_a1.eval.bench_collision import READY, DualArm
from internvla_a1.eval.safety_rig import Rig

POST = BoxSpec("post", (0.32, 0.3, 0.6), (0.02, 0.02, 1.0))  # in the straight way of the left arm


class Scene:
    """Two FR3 with a post between where the left one is and where it is to go."""

    def __init__(self) -> None:
        self.arm = DualArm.load()
        self.robot: RobotSpec = replace(self.arm.robot, scene=(POST,))
        self.limits: Limits = limits_of(self.robot, ExecutorConfig())
        self.gate = PinocchioGate(self.robot, self.arm.urdf, self.arm.srdf, [self.arm.packages])
        self.start, self.goal = np.array(READY * 2), np.array(READY * 2)
        self.start[0], self.goal[0] = 0.9, -0.6

    def planner(self, gate: object = None, robot: RobotSpec | None = None) -> RoboplanPlanner:
        chosen = gate or self.gate
        return RoboplanPlanner(robot or self.robot, self.limits, self.arm.urdf, self.arm.srdf, [self.arm.packages], chosen)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    yield Scene()


def planned(answer: PlannedMotion | Refusal) -> PlannedMotion:
    assert isinstance(answer, PlannedMotion), answer
    return answer


def test_the_post_is_gone_around_and_the_arm_arrives_without_touching_it(scene: Scene) -> None:
    assert scene.gate.check(scene.start, scene.goal[None]).safe == 0, "straight it would be hit"
    motion = planned(scene.planner().plan("home", scene.start, scene.goal))
    rig = Rig(scene.robot, collision=scene.gate, start=scene.start)
    rig.step(3)
    assert rig.executor.on_planned_motion(motion, rig.now) is None
    for _ in range(round(motion.times_s[-1] / 0.01) + 50):
        rig.step()
        assert scene.gate.hit(rig.measured()) == ""
    assert np.abs(rig.measured() - scene.goal).max() < 1e-3


def test_speed_and_acceleration_stay_at_their_share_of_the_limits(scene: Scene) -> None:
    motion, limits = planned(scene.planner().plan("home", scene.start, scene.goal)), scene.limits
    assert np.allclose(motion.positions[[0, -1]], [scene.start, scene.goal]) and (np.diff(motion.times_s) > 0).all()
    steps = np.diff(motion.times_s)[:, None]
    speed = np.diff(motion.positions, axis=0) / steps
    assert (np.abs(speed) <= 0.31 * limits.velocity).all()
    turn = np.diff(speed, axis=0)[:-1] / steps[1:-1]  # the last step is as short as it happens to be
    share = (np.abs(turn) / limits.acceleration).max(axis=1)
    assert np.percentile(share, 95) <= 0.31 and share.max() <= 0.61, "twice as much where a sample holds the end of one leg and the next"
    assert (motion.positions >= limits.lower - 1e-6).all() and (motion.positions <= limits.upper + 1e-6).all()


def test_the_same_question_has_the_same_answer(scene: Scene) -> None:
    first, second = (planned(scene.planner().plan("home", scene.start, scene.goal)) for _ in range(2))
    assert np.array_equal(first.positions, second.positions)


def test_an_arm_that_is_there_already_gets_a_motion_that_stays(scene: Scene) -> None:
    motion = planned(scene.planner().plan("home", scene.goal, scene.goal))
    assert np.allclose(motion.positions, scene.goal)


def test_an_arm_outside_its_soft_limits_comes_back_in(scene: Scene) -> None:
    start = scene.goal.copy()
    start[2] = scene.limits.upper[2] + 0.03
    motion = planned(scene.planner().plan("home", start, scene.goal))
    assert np.array_equal(motion.positions[0], start) and np.allclose(motion.positions[-1], scene.goal)


@pytest.mark.parametrize(("joint", "value", "reason"), [(1, 99.0, Reason.NOT_ALLOWED), (1, np.nan, Reason.NON_FINITE)])
def test_a_goal_that_cannot_be_is_refused(scene: Scene, joint: int, value: float, reason: Reason) -> None:
    goal = scene.goal.copy()
    goal[joint] = value
    answer = scene.planner().plan("home", scene.start, goal)
    assert isinstance(answer, Refusal) and answer.reason is reason


def test_a_goal_in_collision_is_refused_with_the_reason(scene: Scene) -> None:
    goal = scene.goal.copy()
    goal[0] = 0.0
    answer = scene.planner().plan("home", scene.start, goal)
    assert isinstance(answer, Refusal) and answer.reason is Reason.COLLISION and "collision" in answer.detail.lower()


def test_an_arm_closer_to_a_box_than_roboplan_begins_still_gets_home(scene: Scene) -> None:
    start = scene.start.copy()
    while scene.gate.hit(start) == "":
        start[0] -= 0.002
    start[0] += 0.002
    motion = planned(scene.planner().plan("home", start, scene.start))
    assert np.allclose(motion.positions[[0, -1]], [start, scene.start])


def test_without_a_gate_a_way_that_roboplan_refuses_is_not_tried_straight(scene: Scene) -> None:
    goal = scene.goal.copy()
    goal[0] = 0.0
    planner = RoboplanPlanner(scene.robot, scene.limits, scene.arm.urdf, scene.arm.srdf, [scene.arm.packages])
    assert isinstance(planner.plan("home", scene.start, goal), Refusal)


def test_the_gate_has_the_last_word(scene: Scene) -> None:
    class Timid:
        name = "timid"

        def check(self, start: FloatArray, path: FloatArray, leaving: bool = False) -> PathCheck:
            return PathCheck(0, "its own shadow")

    answer = scene.planner(Timid()).plan("home", scene.start, scene.goal)
    assert isinstance(answer, Refusal) and "its own shadow" in answer.detail


def test_a_robot_with_a_joint_that_the_urdf_lacks_is_refused(scene: Scene) -> None:
    other = replace(scene.robot, joints=(*scene.robot.joints[:-1], replace(scene.robot.joints[-1], name="sixth_finger")))
    with pytest.raises(ConfigError, match="sixth_finger"):
        scene.planner(robot=other)
