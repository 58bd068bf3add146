"""MoveIt through moveit_py: collision checks on its planning scene, and collision-free, timed paths. The only file that imports moveit."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import FloatArray
from internvla_a1.ros.joints import order
from internvla_a1.ros.time import duration_s


@functools.lru_cache(maxsize=1)
def connect(node_name: str = "executor_moveit") -> Any:
    """The one MoveItPy of this process. It reads robot_description, kinematics and pipelines from the node's parameters
    (moveit_configs_utils, or config/moveit here). Raises MissingDependencyError without moveit_py, ConfigError without those."""
    try:
        from moveit.planning import MoveItPy
    except ImportError as error:
        raise MissingDependencyError("moveit_py", "planning with MoveIt", "sudo apt install ros-$ROS_DISTRO-moveit-py") from error
    try:
        return MoveItPy(node_name=node_name)
    except RuntimeError as error:
        raise ConfigError(f"MoveIt does not start: {error}") from error


class _Robot:
    """One robot file in MoveIt's model. Raises MissingDependencyError, or ConfigError where the group is unknown."""

    def __init__(self, robot: RobotSpec, group: str) -> None:
        self._robot, self._group, self._moveit = robot, group, connect()
        from moveit.core.robot_state import RobotState

        self._state_type = RobotState
        self._model = self._moveit.get_robot_model()
        known = [g.name for g in self._model.joint_model_groups]
        if group and group not in known:
            raise ConfigError.asked("MoveIt group", group, known)

    def _state(self, positions: FloatArray) -> Any:
        state = self._state_type(self._model)
        state.set_to_default_values()
        state.joint_positions = dict(zip(self._robot.joint_names, positions.tolist(), strict=True))
        state.update()
        return state


class MoveItScene(_Robot):
    """MoveIt's planning scene as a checker of configurations: the robot itself, and what the scene monitor was told of the world."""

    name = "moveit"

    def __init__(self, robot: RobotSpec) -> None:
        super().__init__(robot, "")
        self._monitor = self._moveit.get_planning_scene_monitor()  # MoveItPy has started it

    def hit(self, positions: FloatArray) -> str:
        """What is wrong at (joints,) rad or m; empty if nothing. The whole robot is checked, not one group."""
        with self._monitor.read_only() as scene:
            colliding = scene.is_state_colliding(robot_state=self._state(positions), joint_model_group_name="", verbose=False)
        return "a collision in MoveIt's planning scene" if colliding else ""


class MoveItPlanner(_Robot):
    """Plans for one MoveIt group whose joints are all in the robot file; joints outside the group keep their place."""

    name = "moveit"

    def __init__(self, robot: RobotSpec, group: str) -> None:
        super().__init__(robot, group)
        self._component = self._moveit.get_planning_component(group)

    def plan(self, start: FloatArray, goal: FloatArray) -> tuple[FloatArray, FloatArray] | Refusal:
        """times_s (points,), positions (points, joints) in the robot's order; start, goal: (joints,) rad or m."""
        self._component.set_start_state(robot_state=self._state(start))
        self._component.set_goal_state(robot_state=self._state(goal))
        result = self._component.plan()
        if not result:
            return Refusal(Reason.NOT_ALLOWED, f"MoveIt found no path for group {self._group}: {result.error_code}")
        return self._arrays(result.trajectory.get_robot_trajectory_msg().joint_trajectory, start)

    def _arrays(self, trajectory: Any, start: FloatArray) -> tuple[FloatArray, FloatArray] | Refusal:
        names = list(trajectory.joint_names)
        index = order(self._robot.joint_names, names)
        if isinstance(index, Refusal):
            return index
        positions = np.tile(start, (len(trajectory.points), 1))
        positions[:, index] = np.array([p.positions for p in trajectory.points])
        return np.array([duration_s(p.time_from_start) for p in trajectory.points]), positions
