"""Rows 18 to 25 of the fault table: the controller, hands on the arm, the emergency stop, takeover and give-back."""

from __future__ import annotations

from typing import Any

import numpy as np

from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.interface import Mode
from internvla_a1.control.plan import REST_SPEED
from internvla_a1.core.clock import NS
from internvla_a1.core.faults import Reason
from internvla_a1.eval.safety_figures import Figure, at_most, exactly, trials
from internvla_a1.eval.safety_rig import TICK_S, Rig, worst_of


def row_18(scale: float) -> list[Figure]:
    """The controller refuses or aborts."""
    rig = Rig().moving(1.0)
    rig.executor.on_controller_result(False, "PATH_TOLERANCE_VIOLATED (-4)", rig.now)
    out = rig.step()
    named = out.handover.mode is Mode.HOLD and "-4" in out.handover.reason
    granted, attempts = [], 0
    for _ in range(trials(500, scale, 330)):  # somebody asks at every tick; the controller refuses whatever it gets
        if rig.give_policy() is None and rig.mode is Mode.POLICY:
            granted.append(rig.now.steady_ns)
            attempts += 1
            rig.send_chunk()
            rig.step(5)
            rig.executor.on_controller_result(False, "INVALID_GOAL (-1)", rig.now)
        rig.step()
    gaps = np.diff(granted) / NS
    return [
        exactly(18, "HOLD with the controller's code", True, named),
        at_most(18, "attempts per second", 1.0, round(1.0 / float(gaps.min()), 6)),
        exactly(18, "it may be tried again", True, attempts > 2),
    ]


def row_19(scale: float) -> list[Figure]:
    """The arm is moved by hand."""
    rng, first, unsaid, silent = np.random.default_rng(19), 0.0, 0, 0
    arm = ~Rig().robot.gripper_mask
    for _ in range(trials(100, scale, 5)):
        rig = Rig().moving(0.5)
        rig.executor.on_request("hold", rig.now)
        rig.until_rest()
        rig.step(2)
        rig.push(np.where(arm, rng.uniform(-0.3, 0.3, 7), 0.0))
        rig.step(5)
        rig.log.segments.clear()
        measured = rig.measured()
        rig.give_policy()
        for _ in range(10):
            rig.send_chunk()
            rig.step()
            if rig.log.segments:
                break
        first = max(first, float(np.abs(rig.log.segments[0].positions[0] - measured)[arm].max()))
        rig = Rig().moving(0.5)  # the policy keeps the arm, at rest, and it is pushed
        still: dict[str, Any] = {"path": lambda t, q=rig.out.status.commanded: np.tile(q, (len(t), 1))}
        rig.run_policy(1.0, **still)
        for by in (0.025, 0.025):
            rig.push(np.where(np.arange(7) == 1, by, 0.0), 0.1)
            rig.send_chunk(**still)
        rig.log.segments.clear()
        rig.run_policy(0.2, every_s=0.1)
        moved = [s for s in rig.log.segments if np.abs(s.velocities).max() > REST_SPEED]
        said = [f for f in rig.out.faults if f.reason is Reason.FIRST_COMMAND_JUMP]
        silent += len(moved) + (rig.mode is not Mode.HOLD)
        unsaid += not (said and "0.05" in said[0].detail)
    return [
        at_most(19, "first command after a push of up to 0.3 rad in HOLD, from measured", 0.001, first, "rad"),
        exactly(19, "pushed by 0.05 rad at rest under the policy: motions not refused", 0, silent),
        exactly(19, "refusals that do not say how far", 0, unsaid),
    ]


def row_20(scale: float) -> list[Figure]:
    """The emergency stop."""
    ticks, gentle, early, not_hold = set(), 0, 0, 0
    for n in range(trials(100, scale, 10)):
        rig = _in_mode(list(Mode)[n % 5])
        rig.executor.on_estop(True, rig.now)
        rig.step()
        ticks.add(int(rig.mode is not Mode.ESTOP))
        _, v, _ = rig.arm.at(rig.now.stamp_ns)
        if np.abs(v).max() > 0.3:
            ordinary = np.abs(v).max() / rig.executor.limits.stop.max()
            gentle += rig.until_rest() > ordinary
        early += rig.executor.on_clear_fault(rig.now) is None
        rig.executor.on_estop(False, rig.now)
        rig.step(49)
        early += rig.executor.on_clear_fault(rig.now) is None
        early += rig.give_policy() is None
        rig.step(2)
        not_hold += rig.executor.on_clear_fault(rig.now) is not None or rig.mode is not Mode.HOLD
    rig = Rig().moving(1.0)
    twin = Rig().moving(1.0)
    rig.executor.on_estop(True, rig.now)
    twin.executor.on_request("hold", twin.now)
    return [
        exactly(20, "ticks beyond one until the stop, from every mode", {0}, ticks),
        exactly(20, "stops slower than an ordinary one", 0, gentle + (rig.until_rest() >= twin.until_rest())),
        exactly(20, "resets or arm requests granted while pressed or within 0.5 s", 0, early),
        exactly(20, "resets after that which did not lead to HOLD", 0, not_hold),
    ]


def _in_mode(mode: Mode) -> Rig:
    """A rig in a mode, moving where the mode moves."""
    rig = Rig().moving(0.5)
    if mode is Mode.HOLD:
        rig.executor.on_request("hold", rig.now)
    elif mode is Mode.TELEOP:
        for _ in range(20):
            rig.teleop(rig.measured() + 0.3)
            rig.step()
    elif mode is Mode.FAULT:
        rig.executor.on_publishers(2, rig.now)
        rig.step(2)
        rig.executor.on_publishers(1, rig.now)
    elif mode is Mode.ESTOP:
        rig.executor.on_estop(True, rig.now)
    rig.step()
    return rig


def row_21(scale: float) -> list[Figure]:
    """The emergency-stop source is silent, where one is configured."""
    rig = Rig(config=ExecutorConfig(estop_heartbeat_s=0.5))
    rig.give_policy()
    for i in range(100):
        if i % 20 == 0:
            rig.executor.on_estop(False, rig.now)
        if i % 10 == 0:
            rig.send_chunk()
        rig.step()
    alive = rig.mode is Mode.POLICY
    rig.executor.on_estop(False, rig.now)
    heard = rig.now.steady_ns
    rig.while_in(Mode.POLICY, chunks=True)
    after = round((rig.now.steady_ns - heard) / NS, 6)
    return [
        exactly(21, "goes on with a heartbeat of 5 Hz", True, alive),
        exactly(21, "protective stop after silence of, s", 0.5, after),
        exactly(21, "as", Mode.FAULT.name, rig.mode.name),
    ]


def row_22(scale: float) -> list[Figure]:
    """A person takes over in mid-chunk."""
    rng, late, step, jolt = np.random.default_rng(22), 0, 0.0, 0.0
    n = trials(10_000, scale, 20)
    rig = Rig(record=False).moving(1.0)
    limits = rig.executor.limits
    for _ in range(n):
        rig.run_policy(float(rng.uniform(0.03, 0.15)), every_s=0.1, offset=float(rng.uniform(-0.1, 0.1)))
        leader = rng.uniform(-3.0, 3.0, 7)
        rig.teleop(leader)
        for tick in range(4):
            q0, v0, _ = rig.arm.at(rig.now.stamp_ns)
            rig.step()
            late += tick == 0 and rig.mode is not Mode.TELEOP
            q1, v1, _ = rig.arm.at(rig.now.stamp_ns)
            step = max(step, float((np.abs(q1 - q0) / (limits.velocity * TICK_S)).max()))
            jolt = max(jolt, float((np.abs(v1 - v0) / (limits.acceleration * TICK_S)).max()))
            rig.teleop(leader + 0.005 * tick)
        rig.give_policy()
    return [
        exactly(22, f"of {n} takeovers, not active at the next tick", 0, late),
        at_most(22, "largest |dq| / (v dt)", 1.0, round(step, 6)),
        at_most(22, "largest |dv| / (a dt)", 1.0, round(jolt, 6)),
    ]


def row_23(scale: float) -> list[Figure]:
    """The deadman is released, or the teleop link is lost."""
    silence, back, late = set(), 0, 0
    for released in (True, False) * trials(10, scale, 1):
        rig = _in_mode(Mode.TELEOP)
        rig.teleop(rig.measured() + 0.3)
        heard = rig.now.steady_ns
        if released:
            rig.teleop(rig.measured(), deadman=False)
        rig.while_in(Mode.TELEOP)
        if not released:
            silence.add(round((rig.now.steady_ns - heard) / NS, 6))
        promised = rig.braking_time() + TICK_S
        late += rig.until_rest() > promised
        for _ in range(100):
            rig.send_chunk()
            rig.teleop(rig.measured())
            rig.step()
            back += rig.mode is not Mode.HOLD
    return [
        exactly(23, "link lost: brakes after, s", {0.1}, silence),
        exactly(23, "at rest later than T_b after that", 0, late),
        exactly(23, "left HOLD by itself, chunks and commands arriving", 0, back),
    ]


def row_24(scale: float) -> list[Figure]:
    """The person gives back."""
    rng, early, without = np.random.default_rng(24), 0, 0
    for _ in range(trials(200, scale, 5)):
        rig = _in_mode(Mode.TELEOP)
        before = rig.make_chunk(delay_s=float(rng.uniform(0.0, 0.3)))
        without += rig.mode is not Mode.TELEOP
        rig.give_policy()
        given = rig.now.stamp_ns
        for i in range(40):
            late = rig.make_chunk(delay_s=float(rng.uniform(0.0, 0.5)))
            for chunk in (before, late) if i % 3 == 0 else ():
                if rig.executor.on_chunk(chunk, rig.now) is None:
                    early += chunk.stamp_ns < given
            rig.step()
        without += rig.mode is not Mode.POLICY
    return [
        exactly(24, "chunks run that were observed before the give-back", 0, early),
        exactly(24, "given back without a request, or not with one", 0, without),
    ]


def row_25(scale: float) -> list[Figure]:
    """Both sources push; somebody toggles at 50 Hz."""
    rng = np.random.default_rng(25)
    rig = Rig()
    rig.step(2)
    wrong, n = 0, trials(100_000, scale, 500)
    violations = 0
    for i in range(n):
        event = rng.integers(6)
        before = rig.mode
        if event == 0:
            refusal = rig.send_chunk(offset=float(rng.uniform(-0.3, 0.3)))
            wrong += refusal is None and before is not Mode.POLICY
        elif event == 1:
            refusal = rig.teleop(rig.measured() + rng.uniform(-0.5, 0.5, 7))
            wrong += refusal is None and rig.mode is not Mode.TELEOP
        elif event == 2:
            rig.executor.on_request("policy" if i % 4 < 2 else "teleop", rig.now)
        else:
            rig.step()
        wrong += rig.mode is Mode.TELEOP and rig.out.handover.chunk_id != 0 and rig.step().handover.chunk_id != 0
        if len(rig.log.segments) > 200 or i == n - 1:
            violations += worst_of(rig.log.segments, rig.executor).violations
            rig.log.segments.clear()
            rig.log.outputs.clear()
    return [
        exactly(25, f"of {n} events in random order, a source heard without the arm", 0, wrong),
        exactly(25, "limit violations", 0, violations),
    ]
