"""Every guard is taken out in turn: some figure of the fault table must then be missed. n of n."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from internvla_a1.control import config, executor, gate, intake, limiter, measured, mover, output, supervisor, watchdogs
from internvla_a1.control import handover as handover_module
from internvla_a1.control.chunk_buffer import ChunkBuffer
from internvla_a1.control.collision_protocol import PathCheck
from internvla_a1.control.interface import Mode
from internvla_a1.control.limits import limits_of
from internvla_a1.control.plan import KNOT_S, Plan, resting
from internvla_a1.core import joints
from internvla_a1.core.clock import NS
from internvla_a1.eval import safety_rows_input as inputs
from internvla_a1.eval import safety_rows_people as people
from internvla_a1.eval import safety_rows_policy as policy
from internvla_a1.eval import safety_rows_system as system
from internvla_a1.eval.safety_rig import TICK_S, Rig, demo_robot, middle, worst_of
from internvla_a1.perception import camera_buffer, synchroniser
from internvla_a1.perception import config as perception_config
from internvla_a1.ros import bringup
from internvla_a1.ros.heartbeat import Beat
from internvla_a1.sim.controller import TrajectoryController
from internvla_a1.sim.monitor import LimitMonitor
from internvla_a1.sim.trajectory import Trajectory


def nothing(*_: Any, **__: Any) -> None:
    """A guard that lets everything pass."""


def never(*_: Any, **__: Any) -> bool:
    return False


def kept(row: Callable[[float], list[Any]], scale: float = 0.02) -> Callable[[], bool]:
    """Whether every figure of a row is within its promise."""
    return lambda: all(figure.ok for figure in row(scale))


class Wall:
    """Everything but the place where the arm is."""

    name = "wall"

    def check(self, start: np.ndarray, path: np.ndarray, leaving: bool = False) -> PathCheck:
        free = len(path) == 1 and np.allclose(path[0], start)
        return PathCheck(1) if free else PathCheck(0, "wall")


def a_colliding_chunk_is_refused() -> bool:
    rig = Rig(collision=Wall())
    rig.give_policy()
    return rig.send_chunk(delay_s=0.0) is not None


def a_mad_plan_is_not_sent() -> bool:
    """The limiter itself is broken: the last gate keeps what was sent before."""
    rig = Rig().moving(0.5)
    honest = mover.follow

    def mad(*args: Any) -> tuple[Plan, bool]:
        plan, limited = honest(*args)
        return replace(plan, q=plan.q * 3.0), limited

    mover.follow = mad
    try:
        rig.log.segments.clear()
        rig.run_policy(0.5)
    finally:
        mover.follow = honest
    return worst_of(rig.log.segments, rig.executor).violations == 0


def any_reference_keeps_the_limits() -> bool:
    """Position, velocity, acceleration and jerk of the limiter's own plans, for references that jump and reverse."""
    robot, rng = demo_robot(), np.random.default_rng(0)
    limits = limits_of(robot, config.ExecutorConfig())
    plan, knot, worst = resting(0, middle(robot)), 0, 0.0
    for _ in range(150):
        drift = np.cumsum(rng.normal(size=(13, 7)), axis=0) * rng.choice([0.05, 0.5, 5.0])
        plan, _ = limiter.follow(plan, knot, limiter.reference_from(middle(robot) + drift), limits)
        beyond = float(np.maximum(plan.q - limits.upper, limits.lower - plan.q).max())
        jerk = np.abs(np.diff(plan.a, axis=0)) / KNOT_S / limits.jerk
        shares = (np.abs(plan.v) / limits.velocity, np.abs(plan.a) / limits.acceleration, jerk)
        worst = max(worst, 1.0 + beyond, *(float(x.max()) for x in shares))
        knot += int(rng.integers(1, 4))
    return worst <= 1.0 + 1e-6


def a_flood_is_dropped() -> bool:
    rig = Rig().moving(0.3)
    for _ in range(60):
        rig.send_chunk(delay_s=0.0)
    return rig.executor.refusals["flooded"] > 0


def a_late_segment_leaves_no_step() -> bool:
    """A segment that did not go out: the next one begins with what the arm does, which follows the one before."""
    rig = Rig().moving(0.5)
    rig.clock.advance(TICK_S)
    rig.send_state()
    rig.send_chunk(offset=0.3)
    rig.executor.tick(rig.now)
    rig.executor.unsent()
    rig.clock.advance(TICK_S)
    rig.send_state()
    segment, followed = rig.executor.tick(rig.now).segment, rig.arm.segment
    if segment is None or followed is None:
        return False
    start = segment.stamp_ns / NS + segment.times_s[:1]
    return float(np.abs(segment.positions[0] - followed.sample(start - followed.stamp_ns / NS)[0]).max()) < 1e-6


def a_gripper_brakes_before_it_passes_its_top_speed_inside_a_cell() -> bool:
    """States of 10^6 random ticks: 0.2496 m/s where its acceleration has changed its sign, 0.2503 before, 0.25 allowed."""
    limits, q, v, a = limits_of(demo_robot(), config.ExecutorConfig()), *np.zeros((3, 3, 7))
    q[:] = middle(demo_robot())
    v[:, 6], a[:, 6] = [0.16455028, 0.22947231, 0.24957459], [4.0, 2.49220317, -0.48197497]
    ends = limiter.stop(v, a, limits.tail, limits.jerk)
    return bool(limits.velocity[6] == 0.25 and limiter._safe_cells(q, v, a, ends, limits)[6] == 1)


class Beam:
    """Across joint 1, a little further than the arm stands; whoever is beyond it touches it."""

    name = "beam"

    def __init__(self, at: float) -> None:
        self.at = at

    def check(self, start: np.ndarray, path: np.ndarray, leaving: bool = False) -> PathCheck:
        beyond = np.flatnonzero(path[:, 0] > self.at)
        return PathCheck(int(beyond[0]), "link_1 with the beam") if len(beyond) else PathCheck(len(path))


def no_braking_tail_reaches_what_the_chunk_was_cut_before() -> bool:
    """A chunk hurries towards the beam; whenever the executor dies, the arm comes to rest before it."""
    rig = Rig(collision=Beam(middle(demo_robot())[0] + 0.6))
    rig.give_policy()
    hurry = {"path": lambda t: middle(rig.robot) + np.outer(np.clip(1.6 * (t - t[0]) - 0.3, 0.0, 3.0), np.arange(7) == 0)}
    rig.send_chunk(delay_s=0.0, **hurry)
    rig.step(150)
    reached = max(float(s.positions[:, 0].max()) for s in rig.log.segments) - middle(rig.robot)[0]
    return 0.4 < reached <= 0.6 + 1e-6


def a_plan_that_swings_past_its_end_is_not_sent_into_the_beam() -> bool:
    """Overshoot on a quick way to just before the beam: between two checked places of the plan, yet nowhere beyond the beam."""
    rig, start = Rig(collision=Beam(middle(demo_robot())[0] + 0.6)), middle(demo_robot())
    rig.give_policy()
    began = rig.now.stamp_ns % (1000 * NS) / NS + 0.25
    rig.run_policy(1.65, path=lambda t: start + np.outer(np.clip(0.8 * (t - began), 0.0, 0.595), np.arange(7) == 0))
    return 0.55 < float(np.array(rig.log.q)[:, 0].max()) - start[0] <= 0.6 + 1e-3


def an_arm_whose_cover_would_touch_goes_on_with_a_shorter_one() -> bool:
    """A quick way to just before the beam: the stop from its fast part would reach the beam, the stop from an earlier cell does not."""
    rig, start = Rig(collision=Beam(middle(demo_robot())[0] + 0.6)), middle(demo_robot())
    rig.give_policy()
    began = rig.now.stamp_ns % (1000 * NS) / NS + 0.1
    rig.run_policy(1.5, path=lambda t: start + np.outer(np.clip(1.6 * (t - began), 0.0, 0.595), np.arange(7) == 0))
    arrived = 0.59 < float(np.array(rig.log.q)[:, 0].max()) - start[0] <= 0.6
    return arrived and rig.executor.refusals["collision"] == 0


def a_stop_on_the_way_to_the_beam_does_not_reach_it() -> bool:
    """HOLD at any moment of a hurried way to just before the beam: an ordinary stop is longer than the tail that was checked."""
    start, furthest = middle(demo_robot()), []
    for instant in np.arange(0.3, 0.8, 0.02):
        rig = Rig(collision=Beam(start[0] + 0.6))
        rig.give_policy()
        began = rig.now.stamp_ns % (1000 * NS) / NS + 0.1
        rig.run_policy(instant, path=lambda t, began=began: start + np.outer(np.clip(1.6 * (t - began), 0.0, 0.595), np.arange(7) == 0))
        rig.executor.on_request("hold", rig.now)
        rig.step(60)
        furthest.append(float(np.array(rig.log.q)[:, 0].max()) - start[0])
    return 0.5 < max(furthest) <= 0.6 + 1e-6


def a_new_executor_leaves_a_controller_time_to_come_to_where_the_gripper_is() -> bool:
    """Closed on an object it was told to be further than it is measured to be; only the controller knows."""
    rig = Rig()
    rig.give_policy()
    rig.run_policy(0.6)
    reference = rig.log.segments[0].positions[0].copy()
    reference[rig.robot.gripper_mask] -= 0.016
    controller, monitor = TrajectoryController(rig.robot.joint_names, reference), LimitMonitor(rig.robot)
    waiting = list(rig.log.segments)
    for now in np.arange(waiting[0].stamp_ns / NS, waiting[-1].stamp_ns / NS, 0.004):
        while waiting and waiting[0].stamp_ns / NS <= now:
            s = waiting.pop(0)
            controller.accept(Trajectory(s.joint_names, s.times_s, s.positions, s.velocities, stamp_ns=s.stamp_ns), float(now))
        monitor.watch(float(now), controller.sample(float(now)).positions)
    moved = float(np.abs(rig.log.q[-1] - rig.log.q[0]).max()) > 0.01
    return moved and not any(monitor.violations.values())


def a_segment_that_may_have_come_leaves_no_step() -> bool:
    """A pause of 0.15 s in the sending of a segment: the controller took it in time, or drops it. It is led on smoothly either way."""
    return all(_paused_in_sending(nth, taken) for nth in (4, 5, 6) for taken in (True, False))


def _paused_in_sending(nth: int, taken: bool) -> bool:
    rig = Rig()
    controller, monitor = TrajectoryController(rig.robot.joint_names, middle(rig.robot)), LimitMonitor(rig.robot)
    seen, sent, asleep = [], 0, False

    def wait() -> None:
        rig.clock.advance(TICK_S)
        now = rig.now.stamp_ns / NS
        seen.append(controller.sample(now).positions)
        monitor.watch(now, seen[-1])
        rig.executor.on_joint_state(rig.robot.joint_names, seen[-1], rig.now.stamp_ns, rig.now)

    wait()
    rig.executor.tick(rig.now)
    rig.executor.on_request("policy", rig.now)
    for i in range(250):
        wait()
        if i % 20 == 0:
            rig.send_chunk()
        s = rig.executor.tick(rig.now).segment
        if s is None:
            continue
        sent += float(np.abs(s.velocities).max()) > 0.1
        caught = sent == nth and not asleep
        if taken or not caught:
            t = Trajectory(s.joint_names, s.times_s, s.positions, s.velocities, stamp_ns=s.stamp_ns)
            controller.accept(t, rig.now.stamp_ns / NS)
        if caught:
            for _ in range(15):
                wait()
            rig.executor.unsure()
            asleep = True
    went_on = float(np.abs(seen[-1] - seen[-40]).max()) > 0.02
    return asleep and went_on and rig.mode is Mode.POLICY and not any(monitor.violations.values())


def a_process_that_hears_nothing_is_ended() -> bool:
    manager = bringup.Bringup(bringup.BringupConfig(("/a",), deaf_s=8.0))
    steps = []
    for i in range(200):
        manager.on_beat(Beat("/a", bringup.UNCONFIGURED, 7), 0.1 * i)
        steps += [action.step for action in manager.tick(0.1 * i)]
    return bringup.Step.KILL in steps and steps.count(bringup.Step.KILL) == 1


def a_person_does_not_drive_into_the_wall() -> bool:
    rig = Rig(collision=Wall())
    rig.step(2)
    rig.executor.on_request("teleop", rig.now)
    return rig.teleop(middle(rig.robot) + 0.1) is not None


admit = gate.ChunkGate.admit
GUARDS: dict[str, tuple[object, str, Any, Callable[[], bool]]] = {
    "joint state watchdog": (watchdogs, "joint_state_silent", nothing, kept(inputs.row_06)),
    "teleop watchdog": (watchdogs, "teleop_silent", nothing, kept(people.row_23)),
    "chunk watchdog": (watchdogs, "chunk_silent", nothing, kept(policy.row_13)),
    "early brake of a silent policy": (executor.Executor, "_until", nothing, kept(policy.row_13)),
    "emergency-stop heartbeat": (watchdogs, "estop_silent", nothing, kept(people.row_21)),
    "emergency stop": (watchdogs, "estop_pressed", nothing, kept(people.row_20)),
    "clock stopped": (watchdogs, "clock_stopped", nothing, kept(system.row_28)),
    "clock jump fault": (watchdogs, "clock_jumped", nothing, kept(system.row_27)),
    "forgetting after a jump": (executor.Executor, "_forget", nothing, kept(system.row_27)),
    "executor pause": (watchdogs, "paused", nothing, kept(policy.row_17, 0.2)),
    "what was slept through": (measured.MeasuredJoints, "excuse", nothing, kept(policy.row_17, 0.2)),
    "second commander": (watchdogs, "second_commander", nothing, kept(system.row_31)),
    "three in a row": (watchdogs, "too_many_in_a_row", nothing, kept(inputs.row_07)),
    "controller retry": (watchdogs, "controller_failed", nothing, kept(people.row_18)),
    "start of a motion": (mover, "start_offset", lambda *_: ("", 0.0), kept(people.row_19)),
    "anchor at measured": (mover.Mover, "release", nothing, kept(people.row_19)),
    "encoder plausibility": (measured, "implausible", never, kept(inputs.row_07)),
    "joint state stamps": (measured, "stamp_refusal", nothing, kept(system.row_29)),
    "teleop stamps": (handover_module, "stamp_refusal", nothing, kept(system.row_29)),
    "joints by name": (joints.JointMatcher, "_match", lambda self, *_: np.arange(len(self.joint_names)), kept(inputs.row_06)),
    "finite chunks": (gate, "finite", nothing, kept(inputs.row_08, 0.002)),
    "chunk source": (gate.ChunkGate, "_source", nothing, kept(policy.row_14)),
    "chunk shape": (gate.ChunkGate, "_shape", nothing, kept(policy.row_14)),
    "chunk stamp": (gate.ChunkGate, "_stamp", nothing, kept(policy.row_14)),
    "order and lateness of chunks": (ChunkBuffer, "refuse", nothing, kept(policy.row_12)),
    "give-back": (gate.ChunkGate, "admit", lambda self, chunk, now, _: admit(self, chunk, now, -(2**62)), kept(people.row_24)),
    "collision gate": (executor, "admit_chunk", lambda chunk, *_: chunk, a_colliding_chunk_is_refused),
    "collision gate of plans": (mover.Mover, "_touched", lambda *_: "", no_braking_tail_reaches_what_the_chunk_was_cut_before),
    "late segment": (mover.Mover, "take_back", nothing, a_late_segment_leaves_no_step),
    "segment that may have come": (mover.Mover, "unsure", nothing, a_segment_that_may_have_come_leaves_no_step),
    "beginning anew after it": (mover.Mover, "settle", nothing, a_segment_that_may_have_come_leaves_no_step),
    "collision gate of teleop": (handover_module.TeleopInput, "restrain", lambda *_: "", a_person_does_not_drive_into_the_wall),
    "plan of a joint within range": (limiter, "_safe_cells", lambda q, *_: np.full(q.shape[1], len(q) - 1), any_reference_keeps_the_limits),
    "acceleration, velocity, jerk": (limiter.Tracker, "_grant", lambda self, asked, *_: asked, any_reference_keeps_the_limits),
    "top speed inside a cell": (
        limiter, "_fastest_between", lambda v, _: np.zeros_like(v[1:]), a_gripper_brakes_before_it_passes_its_top_speed_inside_a_cell,
    ),
    "shorter cover near something": (mover, "_SHORTER", (), an_arm_whose_cover_would_touch_goes_on_with_a_shorter_one),
    "collision gate of stops": (
        mover.Mover, "_braked", lambda self, plan, knot: limiter.brake(plan, knot, self.limits.stop, self.bounds),
        a_stop_on_the_way_to_the_beam_does_not_reach_it,
    ),
    "time to join": (mover, "_JOIN_KNOTS", 0, a_new_executor_leaves_a_controller_time_to_come_to_where_the_gripper_is),
    "turning points of a plan": (output, "_TURN", np.inf, a_plan_that_swings_past_its_end_is_not_sent_into_the_beam),
    "deaf nodes": (bringup.Bringup, "_watch", lambda *_: [], a_process_that_hears_nothing_is_ended),
    "last gate": (mover, "plan_refusal", nothing, a_mad_plan_is_not_sent),
    "flood": (executor.Executor, "_flooded", never, a_flood_is_dropped),
    "faults stand against a request": (supervisor.Supervisor, "blocking", nothing, kept(people.row_18)),
    "parameters of the executor": (config.ExecutorConfig, "__post_init__", nothing, kept(system.row_33)),
    "parameters of perception": (perception_config.PerceptionConfig, "__post_init__", nothing, kept(system.row_33)),
    "frozen camera": (camera_buffer.CameraBuffer, "_same_too_long", never, kept(inputs.row_01)),
    "silent camera": (camera_buffer.CameraBuffer, "_silent", never, kept(inputs.row_02)),
    "camera stamps": (camera_buffer.CameraBuffer, "_order", nothing, kept(inputs.row_03)),
    "cameras in step": (synchroniser, "too_wide", never, kept(inputs.row_04)),
    "planned motions start where the arm is": (intake, "far_from", lambda *_: ("", 0.0), lambda: _far_motion_is_refused()),
}


def _far_motion_is_refused() -> bool:
    from internvla_a1.control.interface import PlannedMotion

    rig = Rig()
    rig.step(3)
    q = rig.measured()
    return rig.executor.on_planned_motion(PlannedMotion("home", np.array([0.0, 1.0]), np.stack([q + 0.1, q])), rig.now) is not None


def holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:
        return False


@pytest.mark.parametrize("name", GUARDS)
def test_without_this_guard_a_figure_is_missed_and_with_it_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, without, check = GUARDS[name]
    assert hasattr(where, attribute)
    monkeypatch.setattr(where, attribute, without)
    assert not holds(check), f"{name} can be removed and nothing notices"


EXTRA = [
    a_colliding_chunk_is_refused, a_mad_plan_is_not_sent, any_reference_keeps_the_limits, a_flood_is_dropped, _far_motion_is_refused,
    a_plan_that_swings_past_its_end_is_not_sent_into_the_beam, a_stop_on_the_way_to_the_beam_does_not_reach_it,
    an_arm_whose_cover_would_touch_goes_on_with_a_shorter_one, a_process_that_hears_nothing_is_ended,
    a_new_executor_leaves_a_controller_time_to_come_to_where_the_gripper_is,
    a_gripper_brakes_before_it_passes_its_top_speed_inside_a_cell,
    a_late_segment_leaves_no_step, a_person_does_not_drive_into_the_wall, no_braking_tail_reaches_what_the_chunk_was_cut_before,
]  # fmt: skip


@pytest.mark.parametrize("check", EXTRA)
def test_with_every_guard_in_place_the_extra_checks_hold(check: Callable[[], bool]) -> None:
    assert check()
