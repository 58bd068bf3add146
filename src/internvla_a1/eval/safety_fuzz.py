"""Random ticks: every input at once, sensible and mad, for as long as wanted; every segment is measured against the limits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from internvla_a1.control.config import CHUNK_MODES, ExecutorConfig
from internvla_a1.control.interface import Mode
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import ActionChunk
from internvla_a1.eval.safety_rig import Excess, Rig, demo_robot, worst_of

_EPISODE = 2000  # ticks with one configuration


@dataclass(frozen=True)
class FuzzResult:
    """worst: over every segment that was sent. steps: largest jump of the commanded position over v_max dt, as a share of it."""

    ticks: int
    worst: Excess
    step_share: float
    modes_seen: frozenset[Mode]
    segments: int
    exceptions: int


def fuzz(ticks: int, seed: int, robot: RobotSpec | None = None) -> FuzzResult:
    """Random messages, requests, stops, pauses and clock jitter for `ticks` ticks."""
    rng = np.random.default_rng(seed)
    result = FuzzResult(0, Excess(), 0.0, frozenset(), 0, 0)
    while result.ticks < ticks:
        result = _episode(result, min(_EPISODE, ticks - result.ticks), rng, robot or demo_robot())
    return result


def _episode(so_far: FuzzResult, ticks: int, rng: np.random.Generator, robot: RobotSpec) -> FuzzResult:
    config = ExecutorConfig(
        chunk_mode=str(rng.choice(CHUNK_MODES)),
        teleop_mode=str(rng.choice(["relative", "absolute"])),
        publish_every=int(rng.choice([1, 2, 5])),
        use_sim_time=bool(rng.random() < 0.3),
    )
    lower, upper = robot.array("lower") + 0.06, robot.array("upper") - 0.06
    middle = (lower + upper) / 2
    start = np.where(robot.gripper_mask, middle, middle + rng.uniform(-0.9, 0.9) * (upper - middle))
    rig = Rig(robot, config, start=start, record=False)
    worst, exceptions, segments = so_far.worst, so_far.exceptions, so_far.segments
    modes, step_share = set(so_far.modes_seen), so_far.step_share
    before = None
    for _ in range(ticks):
        try:
            _disturb(rig, rng)
            pause = 1 if rng.random() < 0.995 else int(rng.integers(2, 40))
            rig.clock.advance(0.01 * pause + rng.uniform(-0.003, 0.003), stamps=bool(rng.random() < 0.999))
            if rng.random() < 0.98:
                rig.send_state()
            output = rig.tick()
        except Exception:
            exceptions += 1
            continue
        modes.add(rig.mode)
        if output.segment is not None:
            segments += 1
            worst = _worse(worst, worst_of([output.segment], rig.executor))
        commanded = output.status.commanded
        if before is not None and commanded.size and pause == 1:
            allowed = rig.executor.limits.velocity * 0.02 + 0.001  # one tick, plus the knot that rounding may add
            step_share = max(step_share, float((np.abs(commanded - before) / allowed).max()))
        before = commanded if commanded.size else None
    return FuzzResult(so_far.ticks + ticks, worst, step_share, frozenset(modes), segments, exceptions)


def _worse(a: Excess, b: Excess) -> Excess:
    return Excess(
        max(a.position, b.position),
        max(a.velocity, b.velocity),
        max(a.acceleration, b.acceleration),
        max(a.jerk, b.jerk),
        a.non_finite + b.non_finite,
        a.not_at_rest + b.not_at_rest,
    )


def _disturb(rig: Rig, rng: np.random.Generator) -> None:
    """Zero or more messages before a tick."""
    if rng.random() < 0.12:
        rig.executor.on_chunk(_random_chunk(rig, rng), rig.now)
    if rng.random() < 0.03 or (rig.mode is Mode.HOLD and rng.random() < 0.3):
        rig.executor.on_request(str(rng.choice(["policy", "policy", "policy", "teleop", "hold", "nonsense"])), rig.now)
    if rng.random() < 0.004 or (rig.mode is Mode.TELEOP and rng.random() < 0.7):
        scale = rng.choice([0.0, 0.02, 0.5, 50.0])
        velocities = rng.normal(size=len(rig.robot.joints)) * 5 if rng.random() < 0.3 else None
        rig.teleop(rig.measured() + rng.normal(size=len(rig.robot.joints)) * scale, bool(rng.random() < 0.99), velocities)
    if rng.random() < 0.002:
        rig.executor.on_estop(True, rig.now)
    if rng.random() < 0.03:
        rig.executor.on_estop(False, rig.now)
    if rig.mode in (Mode.FAULT, Mode.ESTOP) and rng.random() < 0.1:
        rig.executor.on_clear_fault(rig.now)
    if rng.random() < 0.001:
        rig.executor.on_controller_result(bool(rng.random() < 0.5), "code -1", rig.now)
    if rng.random() < 0.02:
        rig.executor.on_publishers(2 if rng.random() < 0.1 else 1, rig.now)
    if rng.random() < 0.001:
        rig.jump(float(rng.choice([-5.0, -0.05, 0.05, 3.0])))


def _random_chunk(rig: Rig, rng: np.random.Generator) -> ActionChunk:
    joints = len(rig.robot.joints)
    chunk = rig.make_chunk(delay_s=float(rng.choice([0.02, 0.1, 0.4, 1.5, -0.2])), steps=int(rng.choice([2, 10, 30, 50, 300])))
    kind = rng.random()
    positions = chunk.positions
    if kind < 0.3:
        positions = rig.measured() + np.cumsum(rng.normal(size=(chunk.steps, joints)) * rng.choice([0.005, 0.05, 0.5]), axis=0)
    elif kind < 0.5:
        positions = positions + rng.normal(size=joints) * rng.choice([0.05, 1.0])
    elif kind < 0.6:
        positions = rng.normal(size=positions.shape) * rng.choice([1.0, 100.0, 1e12, 1e300])
    elif kind < 0.65:
        positions = positions.copy()
        positions[rng.integers(chunk.steps), rng.integers(joints)] = rng.choice([np.nan, np.inf, -np.inf])
    elif kind < 0.68:
        return replace(chunk, joint_names=chunk.joint_names[::-1])
    elif kind < 0.7:
        return replace(chunk, joint_names=("who",) * joints)
    elif kind < 0.72:
        return replace(chunk, dt_s=float(rng.choice([0.0, -1.0, np.nan, 1.0])))
    return replace(chunk, positions=positions, frozen_steps=int(rng.integers(0, 10)))
