"""Seams between chunks with injected delay: this executor beside blocking execution and plain replacement, same chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from internvla_a1.control.config import ExecutorConfig
from internvla_a1.core.clock import NS
from internvla_a1.core.types import ActionChunk, FloatArray
from internvla_a1.eval.safety_rig import TICK_S, Rig, middle

DELAYS_S = (0.05, 0.1, 0.2, 0.4)
_STEPS = 16
_EXECUTED = 6  # steps that blocking execution runs before it looks again: 0.4 s at 15 Hz


@dataclass(frozen=True)
class Seam:
    """acceleration, jerk: peak over the run as a share of the limit. error: rms distance from the wanted path, rad.
    progress: wanted path covered per second, 1 is real time."""

    delay_s: float
    method: str
    acceleration: float
    jerk: float
    error: float
    progress: float


def seam_table(seconds: float = 8.0) -> list[Seam]:
    """Every method at every delay. The policy wants a smooth path and is a little wrong, differently, in each chunk."""
    table = []
    for delay in DELAYS_S:
        table.append(_ours(delay, "blend", seconds))
        table.append(_ours(delay, "rtc", seconds))
        table.append(_replacement(delay, seconds))
        table.append(_blocking(delay, seconds))
    return table


def _path(rig: Rig, t_s: FloatArray) -> FloatArray:
    moving = np.where(rig.robot.gripper_mask, 0.0, 0.4)
    return middle(rig.robot) + moving * np.sin(1.2 * t_s[:, None] + np.linspace(0.0, 1.0, len(moving)))


def _chunk(rig: Rig, rng: np.random.Generator, begun_ns: int) -> ActionChunk:
    """From now on: the wanted path with a constant error of some mrad, as two draws of a flow policy differ."""
    times = np.asarray((rig.now.stamp_ns - begun_ns) / NS + rig.robot.control_dt_s * np.arange(1, _STEPS + 1), np.float64)
    wrong = np.where(rig.robot.gripper_mask, 0.0, rng.normal(size=len(rig.robot.joints)) * 0.02)
    rig.chunk_id += 1
    return ActionChunk(rig.now.stamp_ns, rig.chunk_id, rig.robot.joint_names, rig.robot.control_dt_s, _path(rig, times) + wrong)


def _measure(delay: float, method: str, rig: Rig, q: FloatArray, a: FloatArray, progress: float, skip: int) -> Seam:
    limits = rig.executor.limits
    q, a = q[skip:], a[skip:]
    wanted = _path(rig, np.asarray((np.arange(len(q)) + skip) * TICK_S, np.float64))
    jerk = np.abs(np.diff(a, axis=0)) / TICK_S / limits.jerk
    error = float(np.sqrt(np.mean((q - wanted)[:, ~rig.robot.gripper_mask] ** 2)))
    return Seam(delay, method, float((np.abs(a) / limits.acceleration).max()), float(jerk.max()), error, progress)


def _ours(delay: float, mode: str, seconds: float) -> Seam:
    rig, rng = Rig(config=ExecutorConfig(chunk_mode=mode), start=_path(Rig(), np.zeros(1))[0]), np.random.default_rng(1)
    rig.give_policy()
    begun, waiting = rig.now.stamp_ns, (0, _chunk(rig, rng, rig.now.stamp_ns))
    rig.log.q.clear()
    rig.log.a.clear()
    for i in range(round(seconds / TICK_S)):
        if i == waiting[0] + round(delay / TICK_S):
            rig.executor.on_chunk(waiting[1], rig.now)
            waiting = (i, _chunk(rig, rng, begun))
        rig.step()
    return _measure(delay, f"ours, {mode}", rig, np.array(rig.log.q), np.array(rig.log.a), 1.0, 200)


def _second_difference(q: FloatArray) -> FloatArray:
    a = np.zeros_like(q)
    a[1:-1] = (q[2:] - 2 * q[1:-1] + q[:-2]) / TICK_S**2
    return a


def _linear(chunk: ActionChunk, start: FloatArray) -> Callable[[float], FloatArray]:
    """Position at s seconds after the chunk's observation, from `start`, straight between steps."""
    knots = np.vstack([start, chunk.positions])
    at = np.arange(len(knots)) * chunk.dt_s
    return lambda s: np.array([np.interp(s, at, column) for column in knots.T])


def _replacement(delay: float, seconds: float) -> Seam:
    """The newest chunk, from its first step on, the moment it comes: no compensation, no splice, no limits."""
    rig, rng = Rig(start=_path(Rig(), np.zeros(1))[0]), np.random.default_rng(1)
    begun, q = rig.now.stamp_ns, [rig.arm.q.copy()]
    waiting, running = (0, _chunk(rig, rng, begun)), None
    for i in range(round(seconds / TICK_S)):
        if i == waiting[0] + round(delay / TICK_S):
            running = (i, _linear(waiting[1], waiting[1].positions[0]))
            waiting = (i, _chunk(rig, rng, begun))
        rig.clock.advance(TICK_S)
        q.append(q[-1] if running is None else running[1]((i - running[0]) * TICK_S))
    path = np.array(q[1:])
    return _measure(delay, "plain replacement", rig, path, _second_difference(path), 1.0, 200)


def _blocking(delay: float, seconds: float) -> Seam:
    """Run some steps, stop, wait for the next chunk: real time passes while the path stands still."""
    rig, rng = Rig(start=_path(Rig(), np.zeros(1))[0]), np.random.default_rng(1)
    begun, q, i = rig.now.stamp_ns, [rig.arm.q.copy()], 0
    wait, run = round(delay / TICK_S), round(_EXECUTED * rig.robot.control_dt_s / TICK_S)
    wanted = []
    while i < round(seconds / TICK_S):
        chunk = _linear(_chunk(rig, rng, begun), q[-1])
        for k in range(wait + run):
            i += 1
            if k >= wait:
                rig.clock.advance(TICK_S)  # the path's own time: it waits with the arm
            q.append(chunk(max(k - wait, 0) * TICK_S))
            wanted.append((rig.now.stamp_ns - begun) / NS)
    path = np.array(q[1:])
    seam = _measure(delay, "blocking", rig, path, _second_difference(path), run / (run + wait), 200)
    off = (path - _path(rig, np.array(wanted)))[200:, ~rig.robot.gripper_mask]
    return Seam(delay, "blocking", seam.acceleration, seam.jerk, float(np.sqrt(np.mean(off**2))), seam.progress)
