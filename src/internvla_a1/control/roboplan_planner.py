"""Planned motions by roboplan, where it is installed: RRT-connect for the way, TOPP-RA for the time along it.

roboplan checks the exact meshes without a margin; the executor's gate, which takes hulls and keeps a distance, has the last word.
Where it refuses every way that roboplan finds, the planner that works on the gate itself has a go.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from internvla_a1.control.collision_protocol import CollisionGate
from internvla_a1.control.interface import PlannedMotion
from internvla_a1.control.limits import Limits
from internvla_a1.control.planning import SAMPLE_S, SPEED_SHARE, JointPlanner, refused_ends, time_scaled
from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.robot import BoxSpec, RobotSpec
from internvla_a1.core.types import FloatArray

_GROUP = "commanded_joints"
_TRIES = 2  # ways that the gate may refuse, each from another seed
_OWN_TRIES = 400
_TIME_S = 1.0  # for one way: the executor answers nothing else meanwhile, and its arm is at rest
_STEP_RAD = 0.05  # between two collision checks
_CONNECT_RAD = 0.5  # longest edge of a tree
_CLEARANCE_M = 0.01  # by which the scene's boxes are larger for roboplan than for the gate
_ROUNDING = 1e-6  # rad or m: a goal at the end of the range is in it
_NEAR = 1e-4  # rad or m: the arm is there already
_AT_ONCE = 100  # points that the gate is asked about in one call: its work a call is bounded


class RoboplanPlanner:
    """Plans for all commanded joints at once. Deterministic for a seed, unless the time runs out."""

    name = "roboplan RRT-connect, TOPP-RA"

    def __init__(
        self,
        robot: RobotSpec,
        limits: Limits,
        urdf: str,
        srdf: str = "",
        package_dirs: Sequence[str] = (),
        gate: CollisionGate | None = None,
        seed: int = 0,
    ) -> None:
        """urdf, srdf: text, xacro already expanded. Raises MissingDependencyError, or ConfigError where roboplan refuses the robot."""
        try:
            import roboplan.core
            import roboplan.rrt
            import roboplan.toppra
        except ImportError as error:
            hint = "pip install roboplan-rrt roboplan-toppra"
            raise MissingDependencyError("roboplan", "planning around obstacles with it", hint) from error
        self._core, self._rrt, self._toppra = roboplan.core, roboplan.rrt, roboplan.toppra
        self._limits, self._gate, self._seed, self._names = limits, gate, seed, list(robot.joint_names)
        try:
            self._scene = self._make_scene(robot, urdf, srdf, package_dirs)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"roboplan and robot {robot.name}: {error}") from error

    def _make_scene(self, robot: RobotSpec, urdf: str, srdf: str, package_dirs: Sequence[str]) -> Any:
        scene = self._core.Scene(robot.name, self._core.loadUrdfSceneDescriptionFromXml(urdf, list(package_dirs)))
        known = scene.getJointNames()
        missing = [n for n in self._names if n not in known]
        if missing:
            raise ConfigError.asked("joint of the URDF", missing[0], known)
        if srdf:
            scene.importSrdf(srdf)
        memory = os.memfd_create("limits")  # the library reads limits from a path only; nothing here needs the disk
        try:
            os.write(memory, _limits_text(self._limits).encode())
            scene.importJointLimitsFromConfig(self._core.loadJointLimitsConfig(f"/proc/self/fd/{memory}"))
        finally:
            os.close(memory)
        scene.addGroup(_GROUP, self._names)
        for box in robot.scene:
            self._add_box(scene, box)
        passive = {n: v for n, v in robot.passive.items() if n in known and n not in self._names}
        if passive:
            q = scene.getCurrentJointPositions()
            q[scene.getJointPositionIndices(list(passive))] = list(passive.values())
            scene.setJointPositions(q)
        return scene

    def _add_box(self, scene: Any, box: BoxSpec) -> None:
        place = np.eye(4, order="F")
        place[:3, 3] = box.center
        size = np.array(box.size) + 2 * _CLEARANCE_M
        scene.addBoxGeometry(f"scene/{box.name}", "universe", self._core.Box(*size), place, np.ones(4))

    def plan(self, name: str, start: FloatArray, goal: FloatArray) -> PlannedMotion | Refusal:
        """Refused where the goal is outside the soft limits or in collision, or where no way is found that the gate lets pass."""
        refusal = refused_ends(name, start, goal, self._limits)
        if refusal is not None:
            return refusal
        if float(np.abs(goal - start).max()) < _NEAR:
            return time_scaled(name, np.stack([start, goal]), self._limits)
        why = ""
        for seed in range(self._seed, self._seed + _TRIES):
            try:
                way = self._way(start, goal, seed)
                for path in (self._shortened(way, seed), way):
                    motion = self._timed(name, path)
                    why = self._hit(start, motion.positions)
                    if not why:
                        return motion
            except RuntimeError as error:
                why = str(error)
        return self._around(name, start, goal, why)

    def _around(self, name: str, start: FloatArray, goal: FloatArray, why: str) -> PlannedMotion | Refusal:
        """Close to things, or between them, only the gate's own distances help; without a gate nothing else knows what is in the way."""
        if self._gate is not None:
            answer = JointPlanner(self._limits, self._gate, self._seed, _OWN_TRIES).plan(name, start, goal)
            if isinstance(answer, PlannedMotion):
                return answer
        return Refusal(Reason.COLLISION, f"{name}: no free way found: {why}")

    def _way(self, start: FloatArray, goal: FloatArray, seed: int) -> Any:
        """A roboplan path; it raises RuntimeError where there is none."""
        inside = np.clip(start, self._limits.lower, self._limits.upper)  # pushed out by hand: roboplan would refuse to begin there
        options = self._rrt.RRTOptions(
            _GROUP,
            max_nodes=5000,
            max_connection_distance=_CONNECT_RAD,
            collision_check_step_size=_STEP_RAD,
            max_planning_time=_TIME_S,
            rrt_connect=True,
        )
        planner = self._rrt.RRT(self._scene, options)
        planner.setRngSeed(seed)
        configuration = self._core.JointConfiguration
        path = planner.plan(configuration(self._names, inside), configuration(self._names, goal))
        if not np.array_equal(inside, start):
            path.positions = [start, *path.positions]
        return path

    def _shortened(self, path: Any, seed: int) -> Any:
        options = self._core.PathShortcuttingOptions(_GROUP, max_step_size=_STEP_RAD, seed=seed)
        return self._core.PathShortcutter(self._scene, options).shortcut(path)

    def _timed(self, name: str, path: Any) -> PlannedMotion:
        """At rest in every corner, so that the way stays what was checked; the share of the limits leaves room for the jerk limit."""
        options = self._toppra.TOPPRAOptions(
            dt=SAMPLE_S, mode=self._toppra.SplineFittingMode.Hermite, velocity_scale=SPEED_SHARE, acceleration_scale=SPEED_SHARE
        )
        found = self._toppra.PathParameterizerTOPPRA(self._scene, _GROUP).generate(path, options)
        return PlannedMotion(name, np.array(found.times), np.array(found.positions))

    def _hit(self, start: FloatArray, positions: FloatArray) -> str:
        """What the gate sees on the way; empty if nothing."""
        if self._gate is None:
            return ""
        before = start
        for k in range(0, len(positions), _AT_ONCE):
            part = positions[k : k + _AT_ONCE]
            result = self._gate.check(before, part, leaving=True)
            if result.safe < len(part):
                return result.hit
            before = part[-1]
        return ""


def _limits_text(limits: Limits) -> str:
    lines = ["joint_limits:"]
    for i, name in enumerate(limits.names):
        lines += [
            f"  {name}:",
            f"    min_position: [{limits.lower[i] - _ROUNDING:.9f}]",
            f"    max_position: [{limits.upper[i] + _ROUNDING:.9f}]",
            f"    max_velocity: [{limits.velocity[i]:.9f}]",
            f"    max_acceleration: [{limits.acceleration[i]:.9f}]",
            f"    max_jerk: [{limits.jerk[i]:.9f}]",
        ]
    return "\n".join(lines) + "\n"
