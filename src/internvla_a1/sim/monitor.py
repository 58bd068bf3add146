"""The arm's own view of what it was asked to do: counts commanded references outside the limits. Nothing here limits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import FloatArray

PERIOD_S = 0.01  # least time between two samples: differences at the rate of the commands, not of the physics


@dataclass
class LimitMonitor:
    """Counts per kind, and the largest velocity and acceleration seen, as a share of the limit."""

    robot: RobotSpec
    slack: float = 1.05
    violations: dict[str, int] = field(default_factory=lambda: {"position": 0, "velocity": 0, "acceleration": 0})
    peak_velocity: float = 0.0
    peak_acceleration: float = 0.0
    worst_joint: str = ""
    news: list[tuple[float, str]] = field(default_factory=list)  # when (cell time, s) and what; cleared by whoever reports it

    def __post_init__(self) -> None:
        self._lower, self._upper = self.robot.array("lower"), self.robot.array("upper")
        self._velocity, self._acceleration = self.robot.array("max_velocity"), self.robot.array("max_acceleration")
        self._last: list[tuple[float, FloatArray]] = []
        self._next_s = 0.0

    def watch(self, now_s: float, commanded: FloatArray) -> None:
        """commanded: (joints,) in the robot's order."""
        if now_s < self._next_s - 1e-9:
            return
        self._next_s = now_s + PERIOD_S
        self._last = [*self._last[-2:], (now_s, commanded.copy())]
        if (commanded < self._lower - 1e-6).any() or (commanded > self._upper + 1e-6).any():
            self.violations["position"] += 1
        if len(self._last) < 3:
            return
        (t0, a), (t1, b), (t2, c) = self._last  # the control period need not divide PERIOD_S
        speed = np.abs(c - b) / (t2 - t1) / self._velocity
        turn = np.abs((c - b) / (t2 - t1) - (b - a) / (t1 - t0)) * 2 / (t2 - t0) / self._acceleration
        self.peak_velocity = max(self.peak_velocity, float(speed.max()))
        if turn.max() > self.peak_acceleration:
            self.peak_acceleration, self.worst_joint = float(turn.max()), self.robot.joint_names[int(turn.argmax())]
        for kind, share in (("velocity", speed), ("acceleration", turn)):
            if share.max() > self.slack:
                self.violations[kind] += 1
                self.news.append((now_s, f"{kind} of {self.robot.joint_names[int(share.argmax())]} {share.max():.2f} of its limit"))
                del self.news[:-50]  # nobody may be reading

    def restart(self) -> None:
        """After a reset of the cell: a new log."""
        self.violations = dict.fromkeys(self.violations, 0)
        self.peak_velocity = self.peak_acceleration = 0.0
        self.worst_joint = ""
        self._last, self._next_s = [], 0.0
        self.news.clear()
