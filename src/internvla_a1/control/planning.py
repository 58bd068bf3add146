"""Planned motions, e.g. go home: a way free of collisions, then a time along it that every joint can keep.

A planner answers with a PlannedMotion for `Executor.on_planned_motion`, or with a refusal. Here: straight where that is free, else
RRT-connect in joint space on the executor's own collision gate. roboplan_planner.py stands behind the same protocol.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

import numpy as np

from internvla_a1.control.collision_protocol import CollisionGate
from internvla_a1.control.interface import PlannedMotion
from internvla_a1.control.limits import Limits
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.types import FloatArray

SPEED_SHARE = 0.3  # of the limits, for a motion that a person waits for
SAMPLE_S = 0.02
_STEP_RAD = 0.2  # growth of a tree


class Planner(Protocol):
    """`name` is shown in diagnostics."""

    name: str

    def plan(self, name: str, start: FloatArray, goal: FloatArray) -> PlannedMotion | Refusal:
        """From start to goal, (joints,) each, in the robot's own order."""
        ...


class JointPlanner:
    """Straight, or around what is in the way. Deterministic for a seed; `tries` bounds the work."""

    def __init__(self, limits: Limits, gate: CollisionGate | None = None, seed: int = 0, tries: int = 1500) -> None:
        self._limits, self._gate, self._seed, self._tries = limits, gate, seed, tries
        self.name = "straight" if gate is None else f"straight, or RRT-connect on {gate.name}"

    def plan(self, name: str, start: FloatArray, goal: FloatArray) -> PlannedMotion | Refusal:
        """Refused where the goal is outside the soft limits or in collision, or where no way is found."""
        refusal = refused_ends(name, start, goal, self._limits)
        if refusal is not None:
            return refusal
        way = self._way(start, goal)
        if way is None:
            return Refusal(Reason.COLLISION, f"{name}: no free way found in {self._tries} tries")
        return time_scaled(name, way, self._limits)

    def _free(self, a: FloatArray, b: FloatArray) -> bool:
        if self._gate is None:
            return True
        steps = max(1, int(np.ceil(np.abs(b - a).max() / _STEP_RAD)))
        return self._gate.check(a, a + np.arange(1, steps + 1)[:, None] / steps * (b - a), leaving=True).safe == steps

    def _way(self, start: FloatArray, goal: FloatArray) -> FloatArray | None:
        """Corners (n, joints) of a free way, ends included."""
        if self._free(start, goal):
            return np.stack([start, goal])
        if self._gate is not None and not self._gate.check(goal, goal[None]).safe:
            return None
        rng = np.random.default_rng(self._seed)
        trees = [_Tree(start), _Tree(goal)]
        for i in range(self._tries):
            grown, other = trees[i % 2], trees[1 - i % 2]
            sample = other.points[0] if i % 10 == 0 else rng.uniform(self._limits.lower, self._limits.upper)
            new = grown.extend(sample, self._free)
            if new is None:
                continue
            near = other.nearest(grown.points[new])
            if self._free(grown.points[new], other.points[near]):
                first, second = grown.back(new), other.back(near)
                way = first[::-1] + second
                return self._shortened(np.array(way if i % 2 == 0 else way[::-1]), rng)
        return None

    def _shortened(self, way: FloatArray, rng: np.random.Generator) -> FloatArray:
        for _ in range(60):
            if len(way) <= 2:
                break
            i, j = sorted(rng.choice(len(way), 2, replace=False))
            if j > i + 1 and self._free(way[i], way[j]):
                way = np.vstack([way[: i + 1], way[j:]])
        return way


def refused_ends(name: str, start: FloatArray, goal: FloatArray, limits: Limits) -> Refusal | None:
    """Why a motion is refused before any planning: not finite, or a goal outside the soft limits."""
    if not (np.isfinite(goal).all() and np.isfinite(start).all()):
        return Refusal(Reason.NON_FINITE, f"{name}: start or goal")
    outside = (goal < limits.lower - 1e-9) | (goal > limits.upper + 1e-9)
    if not outside.any():
        return None
    return Refusal(Reason.NOT_ALLOWED, f"{name}: the goal of {limits.names[int(np.argmax(outside))]} is outside its soft limits")


class _Tree:
    """Configurations that are reached from the first, each from its parent by a free straight way."""

    def __init__(self, root: FloatArray) -> None:
        self.points, self._parents = [root], [-1]

    def nearest(self, q: FloatArray) -> int:
        return int(np.argmin(np.sum((np.array(self.points) - q) ** 2, axis=1)))

    def extend(self, towards: FloatArray, free: Callable[[FloatArray, FloatArray], bool]) -> int | None:
        """One step towards a configuration; the index of the new point, None where the way is blocked."""
        at = self.nearest(towards)
        way = towards - self.points[at]
        step = self.points[at] + way * min(1.0, _STEP_RAD / max(float(np.abs(way).max()), 1e-9))
        if not free(self.points[at], step):
            return None
        self.points.append(step)
        self._parents.append(at)
        return len(self.points) - 1

    def back(self, index: int) -> list[FloatArray]:
        """Points from one back to the root."""
        way = []
        while index >= 0:
            way.append(self.points[index])
            index = self._parents[index]
        return way


def time_scaled(name: str, corners: FloatArray, limits: Limits) -> PlannedMotion:
    """Minimum-jerk timing, at rest in every corner: peaks of velocity, acceleration and jerk at SPEED_SHARE of the limits."""
    times, positions = [np.zeros(1)], [corners[:1]]
    for a, b in itertools.pairwise(corners):
        far = np.abs(b - a) / SPEED_SHARE
        length = max(
            float(np.max(1.875 * far / limits.velocity)),
            float(np.max(np.sqrt(5.7735 * far / limits.acceleration))),
            float(np.max(np.cbrt(60.0 * far / limits.jerk))),
            2 * SAMPLE_S,
        )
        s = np.arange(1, int(np.ceil(length / SAMPLE_S)) + 1)
        s = s / s[-1]
        times.append(times[-1][-1] + s * length)
        positions.append(a + (s**3 * (10 - 15 * s + 6 * s**2))[:, None] * (b - a))
    return PlannedMotion(name, np.concatenate(times), np.vstack(positions))
