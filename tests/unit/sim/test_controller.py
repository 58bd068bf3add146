"""The controller behaves like joint_trajectory_controller."""

from __future__ import annotations

import numpy as np
import pytest

from internvla_a1.sim.controller import Code, Tolerances, TrajectoryController
from internvla_a1.sim.trajectory import Trajectory

JOINTS = ("a", "b")


def controller(**options: object) -> TrajectoryController:
    return TrajectoryController(JOINTS, np.zeros(2), **options)  # type: ignore[arg-type]


def line(to: float, seconds: float = 1.0, stamp_ns: int = 0, joints: tuple[str, ...] = JOINTS) -> Trajectory:
    return Trajectory(joints, np.array([seconds]), np.full((1, len(joints)), to), stamp_ns=stamp_ns)


def test_stamp_zero_starts_now_and_runs_straight_from_the_present_reference() -> None:
    c = controller()
    assert c.accept(line(1.0), 5.0).accepted
    assert c.sample(5.0).positions == pytest.approx([0, 0])
    assert c.sample(5.25).positions == pytest.approx([0.25, 0.25])
    assert c.sample(5.25).velocities == pytest.approx([1, 1])


def test_holds_the_last_point_at_rest() -> None:
    c = controller()
    c.accept(line(1.0), 0.0)
    assert c.sample(9.0).positions == pytest.approx([1, 1])
    assert c.sample(9.0).velocities == pytest.approx([0, 0])


def test_joints_are_matched_by_name() -> None:
    c = controller()
    c.accept(Trajectory(("b", "a"), np.array([1.0]), np.array([[2.0, 1.0]])), 0.0)
    assert c.sample(1.0).positions == pytest.approx([1, 2])


def test_a_newer_trajectory_replaces_the_running_one_from_where_the_reference_is() -> None:
    c = controller()
    c.accept(line(1.0), 0.0)
    c.accept(line(0.0), 0.5)
    assert c.sample(0.5).positions == pytest.approx([0.5, 0.5])
    assert c.sample(1.5).positions == pytest.approx([0, 0])
    assert c.ended[-1].cancelled


def test_points_already_past_are_dropped_by_time() -> None:
    c = controller()
    late = Trajectory(JOINTS, np.array([0.1, 0.2, 1.0]), np.array([[9.0, 9.0], [9.0, 9.0], [1.0, 1.0]]), stamp_ns=1_000_000_000)
    assert c.accept(late, 1.5).accepted
    assert c.sample(1.75).positions == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("order", ["linear", "cubic", "quintic"])
def test_interpolation_follows_a_polynomial_of_the_order_that_the_points_allow(order: str) -> None:
    power = {"linear": 1, "cubic": 3, "quintic": 5}[order]
    curve = np.polynomial.Polynomial(np.random.default_rng(3).normal(size=power + 1))
    times = np.array([0.5, 1.2, 2.0])

    def column(derivative: int) -> np.ndarray:
        values = curve.deriv(derivative)(times) if derivative else curve(times)
        return np.stack([values, values], axis=1)

    trajectory = Trajectory(
        JOINTS, times, column(0), column(1) if power > 1 else None, column(2) if power > 3 else None, stamp_ns=1
    )
    c = controller(moving_end_allowed=True)
    c.accept(trajectory, 1e-9)
    for t in (0.6, 0.9, 1.5, 1.9):
        assert c.sample(t).positions == pytest.approx([curve(t - 1e-9)] * 2, abs=1e-6)
        assert c.sample(t).velocities == pytest.approx([curve.deriv()(t - 1e-9)] * 2, abs=1e-6)


@pytest.mark.parametrize(
    ("trajectory", "code"),
    [
        (line(1.0, joints=("a",)), Code.INVALID_JOINTS),
        (line(1.0, joints=("a", "b", "c")), Code.INVALID_JOINTS),
        (line(1.0, joints=("a", "a")), Code.INVALID_JOINTS),
        (line(1.0, joints=("a", "x")), Code.INVALID_JOINTS),
        (Trajectory(JOINTS, np.zeros(0), np.zeros((0, 2))), Code.INVALID_GOAL),
        (Trajectory(JOINTS, np.array([1.0]), np.array([[np.nan, 0.0]])), Code.INVALID_GOAL),
        (Trajectory(JOINTS, np.array([1.0]), np.array([[0.0]])), Code.INVALID_GOAL),
        (Trajectory(JOINTS, np.array([1.0, 0.5]), np.zeros((2, 2))), Code.INVALID_GOAL),
        (Trajectory(JOINTS, np.array([1.0, 1.0]), np.zeros((2, 2))), Code.INVALID_GOAL),
        (Trajectory(JOINTS, np.array([-1.0, 1.0]), np.zeros((2, 2))), Code.INVALID_GOAL),
        (Trajectory(JOINTS, np.array([1.0]), np.zeros((1, 2)), np.full((1, 2), np.inf)), Code.INVALID_GOAL),
        (Trajectory(JOINTS, np.array([1.0]), np.zeros((1, 2)), np.ones((1, 2))), Code.INVALID_GOAL),
        (line(1.0, stamp_ns=1_000_000_000), Code.OLD_HEADER_TIMESTAMP),
    ],
)
def test_a_wrong_trajectory_is_refused_with_its_code_and_changes_nothing(trajectory: Trajectory, code: Code) -> None:
    c = controller()
    c.accept(line(1.0, seconds=4.0), 10.0)
    answer = c.accept(trajectory, 12.0)
    assert (answer.accepted, answer.code) == (False, code)
    assert answer.text
    assert c.sample(12.0).positions == pytest.approx([0.5, 0.5])
    assert c.refused == 1


def test_cancel_holds_the_present_reference() -> None:
    c = controller()
    c.accept(line(1.0), 0.0)
    c.cancel(0.5)
    assert c.sample(3.0).positions == pytest.approx([0.5, 0.5])
    assert c.active_goal == 0


def test_a_goal_ends_successful_when_its_time_is_over() -> None:
    c = controller()
    goal = c.accept(line(1.0), 0.0).goal_id
    c.update(0.5, np.array([0.4, 0.4]))
    assert not c.ended
    c.update(1.0, np.array([0.9, 0.9]))
    assert (c.ended[-1].goal_id, c.ended[-1].code) == (goal, Code.SUCCESSFUL)


def test_leaving_the_path_tolerance_aborts_and_holds_the_measured_position() -> None:
    c = controller()
    c.accept(line(1.0), 0.0, Tolerances(path={"b": 0.1}))
    c.update(0.5, np.array([0.1, 0.45]))
    assert not c.ended
    held = c.update(0.6, np.array([0.1, 0.2]))
    assert c.ended[-1].code == Code.PATH_TOLERANCE_VIOLATED
    assert "b" in c.ended[-1].text
    assert held.positions == pytest.approx([0.1, 0.2])


def test_a_goal_not_reached_within_its_time_tolerance_ends_with_the_code() -> None:
    c = controller(tolerances=Tolerances(goal={"a": 0.05}, goal_time_s=0.5))
    c.accept(line(1.0), 0.0)
    c.update(1.2, np.array([0.8, 1.0]))
    assert not c.ended
    c.update(1.6, np.array([0.8, 1.0]))
    assert c.ended[-1].code == Code.GOAL_TOLERANCE_VIOLATED
