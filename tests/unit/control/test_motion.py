"""Stops, splices, limits and segments, from states and references of all kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvla_a1.control.braking import stop
from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.limiter import CELL_S, Deadline, brake, follow, reference_from
from internvla_a1.control.limits import limits_of
from internvla_a1.control.motion_clock import MotionClock
from internvla_a1.control.output import plan_refusal, segment_of, start_offset
from internvla_a1.control.plan import KNOT_NS, KNOT_S, Plan, integrate, resting
from internvla_a1.control.splice import Approach, tracker_gains
from internvla_a1.core.clock import NS, Now, nanoseconds
from internvla_a1.core.errors import ConfigError
from internvla_a1.core.robot import RobotSpec, load_robot
from internvla_a1.eval.safety_rig import demo_robot, middle

ROBOTS = sorted((Path(__file__).parents[3] / "config" / "robots").glob("*.yaml"))
numbers = st.floats(-1.0, 1.0)


@given(v=numbers, a=numbers, share=st.floats(0.1, 1.0))
def test_a_stop_ends_at_rest_within_deceleration_and_jerk(v: float, a: float, share: float) -> None:
    most, jerk = np.array([4.0]), np.array([400.0])
    s = stop(np.array([2 * v]), np.array([12 * a]), most * share, jerk)
    for phase in (s.t1, s.t2, s.t3):
        assert np.allclose(phase / KNOT_S, np.rint(phase / KNOT_S), atol=1e-6)
    assert abs(s.deceleration[0]) <= most[0] * share + 1e-9
    assert abs(s.a0[0] + s.deceleration[0]) <= jerk[0] * s.t1[0] + 1e-6
    assert abs(s.deceleration[0]) <= jerk[0] * s.t3[0] + 1e-6
    knots = round(float(s.duration[0]) / KNOT_S)
    accelerations = s.acceleration(np.arange(knots + 1) * KNOT_S)[:, None]
    plan = integrate(0, np.zeros(1), np.array([2 * v]), accelerations, np.arange(knots + 1))
    assert abs(plan.v[-1, 0]) < 1e-9
    low, high, fastest = s.extremes(np.zeros(1), np.array([2 * v]))
    assert low[0] <= plan.q.min() + 1e-9 and high[0] >= plan.q.max() - 1e-9
    assert fastest[0] >= np.abs(plan.v).max() - 1e-9


def test_the_tracker_has_the_poles_it_is_designed_for() -> None:
    h, poles = 0.02, (20.0, 30.0, 40.0)
    k = tracker_gains(h, poles)
    step = np.array([[1.0, h, h * h / 3], [0.0, 1.0, h / 2], [0.0, 0.0, 0.0]])
    enter = np.array([[h * h / 6], [h / 2], [1.0]])
    found = np.sort(np.abs(np.linalg.eigvals(step - enter @ k[None])))
    assert np.allclose(found, np.sort(np.exp(-np.array(poles) * h)), atol=1e-9)


@given(distance=st.floats(-3.0, 3.0))
def test_the_approach_law_can_be_stopped_on(distance: float) -> None:
    law = Approach(np.array([5.0]), 10.0)
    speed, nearer = law.speed(np.array([distance]))[0], law.speed(np.array([distance * 0.999]))[0]
    assert abs(speed) <= np.sqrt(2 * 5.0 * abs(distance)) + 1e-9
    assert speed * distance >= 0 and abs(nearer) <= abs(speed)


def run(robot: RobotSpec, targets: np.ndarray, ticks: int) -> list[Plan]:
    """Follow a standing target for so many ticks."""
    limits = limits_of(robot, ExecutorConfig())
    plan, plans = resting(0, middle(robot)), []
    for k in range(0, ticks, 2):
        plan, _ = follow(plan, k, reference_from(np.tile(targets, (13, 1))), limits)
        plans.append(plan)
    return plans


@pytest.mark.parametrize("path", ROBOTS, ids=lambda p: p.stem)
@pytest.mark.parametrize("offset", [0.05, -0.05])
def test_on_every_robot_an_offset_of_50_mrad_is_under_1_mrad_after_300_ms(path: Path, offset: float) -> None:
    robot = load_robot(path)
    target = middle(robot) + np.where(robot.gripper_mask, 0.0, offset)
    plans = run(robot, target, 32)
    q, _, _ = plans[-1].state(30)
    assert np.abs(q - target).max() < 1e-3
    limits = limits_of(robot, ExecutorConfig())
    assert max(float((np.abs(p.a) / limits.acceleration).max()) for p in plans) <= 1.0 + 1e-9
    assert max(float((np.abs(np.diff(p.a, axis=0)) / KNOT_S / limits.jerk).max()) for p in plans) <= 1.0 + 1e-6
    assert all((q - target)[~robot.gripper_mask].max() * np.sign(offset) < 1e-3 for q in (p.q[-1] for p in plans)), "no overshoot"


def test_a_motion_that_can_be_followed_is_followed_without_lag() -> None:
    robot = demo_robot()
    limits = limits_of(robot, ExecutorConfig())
    plan, worst = resting(0, middle(robot)), 0.0
    for k in range(0, 400, 2):
        t = (k + 2 * np.arange(-1, 12)) * KNOT_S
        wanted = middle(robot) + np.where(robot.gripper_mask, 0.0, 0.2) * np.sin(3.0 * t)[:, None]
        plan, limited = follow(plan, k, reference_from(wanted), limits)
        if k > 60:
            worst = max(worst, float(np.abs(plan.state(k)[0] - wanted[1]).max()))
            assert not limited
    assert worst < 1e-3


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_reference_keeps_every_limit_and_every_plan_ends_at_rest(data: st.DataObject) -> None:
    robot = demo_robot()
    limits = limits_of(robot, ExecutorConfig())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    size = data.draw(st.sampled_from([0.01, 0.3, 3.0, 1e6]))
    plan, k = resting(0, middle(robot)), 0
    for _ in range(15):
        if rng.random() < 0.15:
            plan = brake(plan, k, limits.acceleration if rng.random() < 0.5 else limits.stop, limits)
        else:
            drift = np.cumsum(rng.normal(size=(13, 7)), axis=0) * size
            plan, _ = follow(plan, k, reference_from(middle(robot) + drift), limits)
        assert not np.any(plan.v[-1])
        assert plan.q.max(axis=0) == pytest.approx(np.minimum(plan.q.max(axis=0), limits.upper), abs=1e-6)
        assert (plan.q >= limits.lower - 1e-6).all()
        assert (np.abs(plan.v) <= limits.velocity + 1e-6).all()
        assert (np.abs(plan.a) <= limits.acceleration + 1e-6).all()
        k += int(rng.integers(1, 5))


def test_an_arm_that_speeds_up_brakes_early_enough_for_its_deadline() -> None:
    """A plan may follow for 9 cells; whoever starts then from full acceleration would be at rest too late."""
    robot = demo_robot()
    limits, arm = limits_of(robot, ExecutorConfig()), ~robot.gripper_mask
    deadline, late = Deadline(0.14, arm), {True: 0, False: 0}
    times = np.arange(12) * CELL_S
    for timed in (True, False):
        for full in np.linspace(0.2, 2.0, 10):
            plan, k = resting(0, middle(robot)), 0
            for i in range(20):  # to full speed, as hard as it goes
                wanted = np.clip(full * (times + i * 0.02 - 0.1), 0.0, None)
                reference = reference_from(middle(robot) + np.outer(wanted, np.arange(7) == 0))
                plan, _ = follow(plan, k, reference, limits, None, deadline if timed else None)
                rest_s = KNOT_S * (np.flatnonzero(np.abs(plan.v[:, 0]) > 1e-3).max(initial=-1) + 1)
                allowed = 0.14 + np.abs(plan.v[:, 0]).max() / limits.stop[0]
                late[timed] += rest_s > allowed + 1e-9
                k += 2
    assert late[True] == 0 and late[False] > 20


def test_a_segment_reproduces_the_plan_under_cubic_interpolation() -> None:
    robot = demo_robot()
    for plan in run(robot, middle(robot) + 0.4, 60):
        segment = segment_of(plan, plan.first, plan.first * KNOT_NS, 0, robot.joint_names)
        q, v, a = segment.sample(np.arange(len(plan.q)) * KNOT_S + 0.003)
        exact = plan.q + plan.v * 0.003 + plan.a * 0.003**2 / 2
        assert np.abs(q - exact)[:-1].max() < 1e-5
        assert np.abs(segment.sample(np.arange(len(plan.q)) * KNOT_S)[0] - plan.q).max() < 1e-9
        assert segment.times_s[0] == 0.0 and (np.diff(segment.times_s) > 0).all()
        assert not segment.velocities[-1].any()
        assert len(segment.times_s) <= 10 + 3 * 7 + 2
        assert np.isfinite(v).all() and np.isfinite(a).all()


def test_the_plan_ahead_is_followed_for_the_cover_and_then_braked() -> None:
    robot = demo_robot()
    plan = run(robot, middle(robot) + 1.0, 20)[-1]
    moving = np.abs(plan.v).max(axis=1) > 0.2
    assert moving[20], "still under way at the end of the cover of 0.2 s"
    tail = plan.a[20:]
    assert np.abs(tail[2:]).max() <= 12.0 and (np.abs(plan.v[20:]).max(axis=1)[-1] == 0)


def test_a_joint_slows_towards_the_end_of_its_range() -> None:
    robot = demo_robot()
    limits = limits_of(robot, ExecutorConfig())
    speeds: dict[float, float] = {}
    for plan in run(robot, np.full(7, 100.0), 300):
        q, v, _ = plan.state(plan.first)
        speeds[round(float(limits.upper[0] - q[0]), 2)] = float(v[0])
        far = limits.upper[0] - q[0]
        assert v[0] <= np.sqrt(2 * limits.stop[0] * max(far, 0.0)) + 0.05
    assert min(speeds) <= 0.01 and speeds[min(speeds)] < 0.05


def test_an_arm_that_starts_outside_its_soft_limits_comes_in_and_goes_no_further_out() -> None:
    robot = demo_robot()
    limits = limits_of(robot, ExecutorConfig())
    start = middle(robot)
    start[0] = robot.joints[0].upper - 0.01
    wide = limits.containing(start)
    plan = resting(0, start)
    for k in range(0, 100, 2):
        plan, _ = follow(plan, k, reference_from(np.tile(middle(robot), (13, 1))), wide)
        assert plan.q[:, 0].max() <= start[0] + 1e-6
    assert plan.state(100)[0][0] < limits.upper[0]


def refused(**change: np.ndarray) -> str:
    robot = demo_robot()
    limits = limits_of(robot, ExecutorConfig())
    before = resting(0, middle(robot))
    parts = {"q": np.tile(middle(robot), (3, 1)), "v": np.zeros((3, 7)), "a": np.zeros((3, 7)), **change}
    return str(plan_refusal(Plan(0, parts["q"], parts["v"], parts["a"], np.arange(3)), before, 0, limits))


def bumped(row: int, by: float, base: np.ndarray | None = None) -> np.ndarray:
    out = np.zeros((3, 7)) if base is None else np.tile(base, (3, 1))
    out[row, 1] += by
    return out


def test_the_last_gate_refuses_a_plan_by_name() -> None:
    q = middle(demo_robot())
    assert refused() == "None"
    assert "not finite" in refused(q=bumped(1, np.nan, q))
    assert "not finite" in refused(a=bumped(1, np.inf))
    assert "rest" in refused(v=bumped(2, 0.1))
    assert "position steps" in refused(q=bumped(0, 0.001, q))
    assert "velocity steps" in refused(v=bumped(0, 0.01))
    assert "acceleration steps" in refused(a=bumped(0, 0.1))
    assert "position of joint_2" in refused(q=bumped(1, 9.0, q))
    assert "velocity of joint_2" in refused(v=bumped(1, 9.0))
    assert "acceleration of joint_2" in refused(a=bumped(1, 99.0))


def test_the_start_of_a_motion_is_compared_with_the_arm_but_not_the_gripper() -> None:
    robot = demo_robot()
    plan = resting(0, middle(robot))
    off = np.array([0.0, -0.03, 0.0, 0.0, 0.0, 0.0, 0.04])
    assert start_offset(plan, middle(robot) + off, robot.gripper_mask, robot.joint_names) == ("joint_2", pytest.approx(0.03))


def test_a_margin_that_leaves_no_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="no range"):
        limits_of(demo_robot(), ExecutorConfig(soft_margin_m=0.03))


def clock_read(steps: list[tuple[float, float]]) -> tuple[float, float | None]:
    """Motion time gone, and the last jump noticed, over readings (steady s, simulated s) from the first on."""
    clock = MotionClock(True, 0.1, 1.0)
    readings = [clock.read(Now(nanoseconds(1000 + steady), nanoseconds(50 + simulated))) for steady, simulated in steps]
    return (readings[-1] - readings[0]) / NS, clock.take_jump()


def test_a_process_that_slept_may_catch_up_in_leaps() -> None:
    clock, now = MotionClock(True, 0.1, 1.0), Now(NS, NS)
    clock.read(now)
    for steady_s, stamp_s in ((0.15, 0.03), (0.001, 0.12), (0.01, 0.01)):  # woken: a first part of what /clock said, then the rest
        now = Now(now.steady_ns + round(steady_s * NS), now.stamp_ns + round(stamp_s * NS))
        clock.read(now)
        assert clock.take_jump() is None
    for _ in range(50):
        now = Now(now.steady_ns + NS // 100, now.stamp_ns + NS // 100)
        clock.read(now)
    clock.read(Now(now.steady_ns + NS // 100, now.stamp_ns + NS // 8))
    assert clock.take_jump() is not None, "what was slept is made up for, so this is a jump"


def test_simulated_time_that_was_not_heard_of_for_a_while_catches_up_without_a_jump() -> None:
    steady = [(k * 0.01, k * 0.01) for k in range(20)]
    unheard = [(0.34, 0.19), (0.341, 0.19), (0.342, 0.34)]  # kept from running for 0.15 s, then the messages that waited
    assert clock_read(steady + unheard) == (pytest.approx(0.34), None)
    gone, jump = clock_read([*steady, (0.2, 0.5)])
    assert jump == pytest.approx(0.31) and gone == pytest.approx(0.19)
