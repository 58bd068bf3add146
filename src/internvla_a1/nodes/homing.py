"""What the executor needs from optional packages: a collision gate and a planner for executor/go_home."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from internvla_a1.control.collision_protocol import CollisionGate
from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.resources import find
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import FloatArray
from internvla_a1.ros.urdf import load_urdf

_POINTS = 50
_SPEED = 0.3  # share of the velocity and acceleration limits that a homing motion uses

Path = tuple[FloatArray, FloatArray]


class Planner(Protocol):
    """A timed path (points,), (points, joints) from where the arm is to a goal, or why there is none."""

    name: str

    def plan(self, start: FloatArray, goal: FloatArray) -> Path | Refusal: ...


class StraightPlanner:
    """A straight line in joint space, at rest at both ends, within 30 % of the limits; refused where the gate sees a collision."""

    name = "straight"

    def __init__(self, robot: RobotSpec, gate: CollisionGate | None) -> None:
        self._velocity, self._acceleration = robot.array("max_velocity"), robot.array("max_acceleration")
        self._gate = gate

    def plan(self, start: FloatArray, goal: FloatArray) -> Path | Refusal:
        """start, goal: (joints,) rad or m. Minimum-jerk timing: peak velocity 1.875 d/T, peak acceleration 5.7735 d/T²."""
        distance = np.abs(goal - start)
        for_velocity = 1.875 * distance / (_SPEED * self._velocity)
        for_acceleration = np.sqrt(5.7735 * distance / (_SPEED * self._acceleration))
        duration = max(0.2, float(np.max(for_velocity)), float(np.max(for_acceleration)))
        s = np.linspace(0.0, 1.0, _POINTS)
        positions = start + np.outer(s**3 * (10 - 15 * s + 6 * s**2), goal - start)
        if self._gate is not None:
            found = self._gate.check(start, positions)
            if found.safe < len(positions):
                return Refusal(Reason.COLLISION, f"on the straight way: {found.hit}")
        return s * duration, positions


def make_gate(kind: str, robot: RobotSpec, warn: Callable[[str], None]) -> CollisionGate | None:
    """kind auto: the gate where its packages are, with a warning where not; pinocchio: required; none: without.

    Raises MissingDependencyError or ConfigError.
    """
    if kind == "none":
        return None
    from internvla_a1.control.collision import PinocchioGate

    try:
        return PinocchioGate(robot, load_urdf(robot.urdf), _srdf(robot))
    except MissingDependencyError as error:
        if kind != "auto":
            raise
        warn(f"no collision check: {error}")
        return None


def make_planner(kind: str, robot: RobotSpec, gate: CollisionGate | None, warn: Callable[[str], None]) -> Planner:
    """kind auto: MoveIt where it is, else straight; moveit: required. Raises MissingDependencyError or ConfigError."""
    if kind in ("auto", "moveit"):
        try:
            from internvla_a1.ros.moveit import MoveItPlanner

            return MoveItPlanner(robot, robot.groups[0].name)
        except (MissingDependencyError, ConfigError) as error:
            if kind == "moveit":
                raise
            if isinstance(error, ConfigError):
                warn(f"MoveIt is not used: {error}")
    return StraightPlanner(robot, gate)


def _srdf(robot: RobotSpec) -> str:
    if not robot.srdf:
        return ""
    path = find(robot.srdf)
    try:
        return path.read_text()
    except OSError as error:
        raise ConfigError(f"SRDF {path}: {error.strerror}") from error
