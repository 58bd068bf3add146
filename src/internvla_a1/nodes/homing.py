"""What the executor needs from optional packages: a collision gate and a planner for executor/go_home."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from internvla_a1.control.collision import PinocchioGate, StateGate
from internvla_a1.control.collision_protocol import CollisionGate
from internvla_a1.control.limits import Limits
from internvla_a1.control.planning import JointPlanner
from internvla_a1.control.planning import Planner as EmbeddedPlanner
from internvla_a1.control.roboplan_planner import RoboplanPlanner
from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.core.faults import Refusal
from internvla_a1.core.resources import find
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import FloatArray
from internvla_a1.ros.urdf import load_urdf

_OWN_TRIES = 400  # the node answers nothing else meanwhile
GATES = ("auto", "moveit", "pinocchio", "none")
PLANNERS = ("auto", "moveit", "roboplan", "own")

Path = tuple[FloatArray, FloatArray]


class Planner(Protocol):
    """A timed path (points,), (points, joints) from where the arm is to a goal, or why there is none."""

    name: str

    def plan(self, start: FloatArray, goal: FloatArray) -> Path | Refusal: ...


class _Embedded:
    """A planner of the core, which needs no ROS."""

    def __init__(self, planner: EmbeddedPlanner) -> None:
        self._planner, self.name = planner, planner.name

    def plan(self, start: FloatArray, goal: FloatArray) -> Path | Refusal:
        motion = self._planner.plan("home", start, goal)
        return motion if isinstance(motion, Refusal) else (motion.times_s, motion.positions)


def make_gate(
    kind: str, robot: RobotSpec, warn: Callable[[str], None], read: Callable[[str], str] = load_urdf
) -> CollisionGate | None:
    """kind auto: pinocchio, whose time for a chunk is known, else MoveIt, with a warning where neither is here; moveit, pinocchio:
    required; none: without. read: gives the text of the robot's URDF. Raises MissingDependencyError or ConfigError."""
    makers: dict[str, Callable[[], CollisionGate]] = {
        "pinocchio": lambda: PinocchioGate(robot, read(robot.urdf), _srdf(robot)),
        "moveit": lambda: _moveit_gate(robot),
    }
    if kind == "none":
        return None
    if kind != "auto":
        return makers[kind]()
    why = []
    for make in makers.values():
        try:
            return make()
        except MissingDependencyError as error:
            why.append(str(error))
    warn(f"no collision check: {'; '.join(why)}")
    return None


def _moveit_gate(robot: RobotSpec) -> CollisionGate:
    from internvla_a1.ros.moveit import MoveItScene

    scene = MoveItScene(robot)
    return StateGate(scene.name, scene.hit, robot)


def make_planner(
    kind: str,
    robot: RobotSpec,
    limits: Limits,
    gate: CollisionGate | None,
    warn: Callable[[str], None],
    read: Callable[[str], str] = load_urdf,
) -> Planner:
    """kind auto: the first of MoveIt, roboplan and the core's own that is here; another of PLANNERS: that one, required.

    limits: the executor's. read: gives the text of the robot's URDF. Raises MissingDependencyError or ConfigError.
    """
    makers: dict[str, Callable[[], Planner]] = {
        "moveit": lambda: _moveit(robot),
        "roboplan": lambda: _Embedded(RoboplanPlanner(robot, limits, read(robot.urdf), _srdf(robot), gate=gate)),
        "own": lambda: _Embedded(JointPlanner(limits, gate, tries=_OWN_TRIES)),
    }
    if kind != "auto":
        return makers[kind]()
    for name in ("moveit", "roboplan"):
        try:
            return makers[name]()
        except MissingDependencyError:
            continue
        except ConfigError as error:
            warn(f"{name} is not used: {error}")
    return makers["own"]()


def _moveit(robot: RobotSpec) -> Planner:
    from internvla_a1.ros.moveit import MoveItPlanner

    return MoveItPlanner(robot, robot.groups[0].name)


def _srdf(robot: RobotSpec) -> str:
    if not robot.srdf:
        return ""
    path = find(robot.srdf)
    try:
        return path.read_text()
    except OSError as error:
        raise ConfigError(f"SRDF {path}: {error.strerror}") from error
