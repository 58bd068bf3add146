"""Seams between chunks with injected delay: this executor beside blocking execution and plain replacement, same chunks.

The policy wants a smooth path and is a little wrong, differently, in each chunk. Progress is measured for every method in the same
way: how much of the wanted path the commanded positions have covered, per second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from internvla_a1.control.config import CHUNK_MODES, ExecutorConfig
from internvla_a1.core.clock import NS
from internvla_a1.core.types import ActionChunk, FloatArray
from internvla_a1.eval.safety_rig import TICK_S, Rig, middle

DELAYS_S = (0.05, 0.1, 0.2, 0.4)
_STEPS = 16
_EXECUTED = 6  # steps that blocking execution runs before it looks again: 0.4 s at 15 Hz
_SKIPPED = 200  # ticks: the start, from rest
_STANDS_RAD_S = 0.02  # blocking execution looks again at this speed; slower would be to its disadvantage
_WRONG_RAD = 0.02  # standard deviation of a chunk's error, as two draws of a flow policy differ
_NEAR_S = 0.5  # how far along the path the commanded position may have come since the last look


@dataclass(frozen=True)
class Seam:
    """acceleration, jerk: peak over the run as a share of the limit. error: rms distance from the wanted path, rad.
    progress: seconds of the wanted path that are covered per second; 1 is the speed at which the policy wants to move."""

    delay_s: float
    method: str
    acceleration: float
    jerk: float
    error: float
    progress: float


def seam_table(seconds: float = 8.0) -> list[Seam]:
    """Every method at every delay."""
    table = []
    for delay in DELAYS_S:
        table += [_ours(delay, mode, seconds) for mode in CHUNK_MODES]
        table.append(_replacement(delay, seconds))
        table.append(_blocking(delay, seconds))
        table.append(_blocking_within_limits(delay, seconds))
    return table


class _Policy:
    """Chunks of the wanted path. The same seed gives the same errors, whoever executes them."""

    def __init__(self, rig: Rig) -> None:
        self._rig, self._rng, self._moving = rig, np.random.default_rng(1), ~rig.robot.gripper_mask
        self._before: ActionChunk | None = None

    def path(self, t_s: FloatArray) -> FloatArray:
        """Wanted positions (n, joints) at times (n,) s of the path."""
        amplitude = np.where(self._moving, 0.4, 0.0)
        return middle(self._rig.robot) + amplitude * np.sin(1.2 * t_s[:, None] + np.linspace(0.0, 1.0, len(amplitude)))

    def chunk(self, at_s: float, frozen: int = 0) -> ActionChunk:
        """Observed now, at path time at_s. frozen: so many first steps repeat what the chunk before has for these instants."""
        robot, self._rig.chunk_id = self._rig.robot, self._rig.chunk_id + 1
        times = np.asarray(at_s + robot.control_dt_s * np.arange(1, _STEPS + 1), np.float64)
        positions = self.path(times) + np.where(self._moving, self._rng.normal(size=len(robot.joints)) * _WRONG_RAD, 0.0)
        stamp = self._rig.now.stamp_ns
        if frozen and self._before is not None:
            off = (stamp - self._before.stamp_ns) / NS
            at = off + robot.control_dt_s * np.arange(1, frozen + 1)
            known = robot.control_dt_s * np.arange(1, _STEPS + 1)
            positions[:frozen] = np.column_stack([np.interp(at, known, column) for column in self._before.positions.T])
        self._before = ActionChunk(
            stamp, self._rig.chunk_id, robot.joint_names, robot.control_dt_s, positions, frozen_steps=frozen
        )
        return self._before

    def covered(self, q: FloatArray, wanted_s: FloatArray) -> float:
        """Seconds of path per second over q (ticks, joints), sampled every TICK_S; wanted_s (ticks,): where on the path it should be."""
        along, at = np.empty(len(q)), float(wanted_s[0])
        for i, position in enumerate(q):
            near = max(at, float(wanted_s[i]) - _NEAR_S) + np.arange(0.0, _NEAR_S, 0.002)
            at = float(near[np.argmin(np.sum((self.path(near) - position)[:, self._moving] ** 2, axis=1))])
            along[i] = at
        return float((along[-1] - along[0]) / ((len(q) - 1) * TICK_S))


def _measure(
    delay: float, method: str, rig: Rig, policy: _Policy, q: FloatArray, a: FloatArray, wanted_s: FloatArray, skip: int = _SKIPPED
) -> Seam:
    """q, a (ticks, joints): commanded; wanted_s (ticks,): path time that the method is at; skip: ticks at the start."""
    limits = rig.executor.limits
    q, a, wanted_s = q[skip:], a[skip:], wanted_s[skip:]
    jerk = np.abs(np.diff(a, axis=0)) / TICK_S / limits.jerk
    off = (q - policy.path(wanted_s))[:, ~rig.robot.gripper_mask]
    peak = float((np.abs(a) / limits.acceleration).max())
    return Seam(delay, method, peak, float(jerk.max()), float(np.sqrt(np.mean(off**2))), policy.covered(q, wanted_s))


def _begin(config: ExecutorConfig | None = None) -> tuple[Rig, _Policy]:
    """At rest at the start of the path."""
    rig = Rig(config=config)
    rig = Rig(config=config, start=_Policy(rig).path(np.zeros(1))[0])
    return rig, _Policy(rig)


def _ours(delay: float, mode: str, seconds: float) -> Seam:
    """Steps by time, one request at a time; in rtc mode the policy keeps the steps that pass while it computes."""
    rig, policy = _begin(ExecutorConfig(chunk_mode=mode))
    frozen = int(np.ceil(delay / rig.robot.control_dt_s)) if mode == "rtc" else 0
    rig.give_policy()
    rig.log.q.clear()
    rig.log.a.clear()
    waiting = (0, policy.chunk(0.0))
    for i in range(round(seconds / TICK_S)):
        if i == waiting[0] + round(delay / TICK_S):
            rig.executor.on_chunk(waiting[1], rig.now)
            waiting = (i, policy.chunk(i * TICK_S, frozen))
        rig.step()
    wanted = np.asarray((np.arange(len(rig.log.q)) + 1) * TICK_S, np.float64)
    return _measure(delay, f"ours, {mode}", rig, policy, np.array(rig.log.q), np.array(rig.log.a), wanted)


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
    rig, policy = _begin()
    q, waiting, running = [rig.arm.q.copy()], (0, policy.chunk(0.0)), None
    for i in range(round(seconds / TICK_S)):
        if i == waiting[0] + round(delay / TICK_S):
            running = (i, _linear(waiting[1], waiting[1].positions[0]))
            waiting = (i, policy.chunk(i * TICK_S))
        rig.clock.advance(TICK_S)
        q.append(q[-1] if running is None else running[1]((i - running[0]) * TICK_S))
    path = np.array(q[1:])
    times = np.asarray(np.arange(len(path)) * TICK_S, np.float64)
    return _measure(delay, "plain replacement", rig, policy, path, _second_difference(path), times)


def _blocking(delay: float, seconds: float) -> Seam:
    """Run some steps, stop dead, wait for the next chunk: the path's time waits with the arm. No limits."""
    rig, policy = _begin()
    q, at = [rig.arm.q.copy()], 0.0
    wanted: list[float] = []
    rounds: list[int] = []
    wait, run = round(delay / TICK_S), round(_EXECUTED * rig.robot.control_dt_s / TICK_S)
    while len(wanted) < round(seconds / TICK_S):
        rounds.append(len(wanted))
        chunk = _linear(policy.chunk(at), q[-1])
        for k in range(wait + run):
            s = max(k + 1 - wait, 0) * TICK_S
            q.append(chunk(s))
            wanted.append(at + s)
        at += run * TICK_S
    path = np.array(q[1:])
    return _measure(delay, "blocking, no limits", rig, policy, path, _second_difference(path), np.array(wanted), _whole(rounds))


def _blocking_within_limits(delay: float, seconds: float) -> Seam:
    """The same steps through this executor: it looks again where the arm has come to rest."""
    rig, policy = _begin(ExecutorConfig(max_open_loop_s=5.0))
    run, at = _EXECUTED * rig.robot.control_dt_s, 0.0
    wanted: list[float] = []
    rounds: list[int] = []
    rig.give_policy()
    rig.log.q.clear()
    rig.log.a.clear()
    while len(rig.log.q) < round(seconds / TICK_S):
        rounds.append(len(wanted))
        chunk = policy.chunk(at)
        for _ in range(round(delay / TICK_S)):
            rig.step()
            wanted.append(at)
        begun = rig.now.stamp_ns
        rig.executor.on_chunk(replace(chunk, stamp_ns=begun, positions=chunk.positions[:_EXECUTED]), rig.now)
        while (s := (rig.now.stamp_ns - begun) / NS) < run or rig.speed() > _STANDS_RAD_S:
            rig.step()
            wanted.append(at + min(s + TICK_S, run))
        at += run
    q, a = np.array(rig.log.q), np.array(rig.log.a)
    return _measure(delay, "blocking, limited", rig, policy, q, a, np.array(wanted), _whole(rounds))


def _whole(rounds: list[int]) -> int:
    """Ticks to skip so that whole rounds of looking, waiting and running are measured."""
    return next(begun for begun in rounds if begun >= _SKIPPED)
