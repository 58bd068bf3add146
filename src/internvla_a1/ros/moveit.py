"""MoveIt through moveit_py: a collision-free, timed path between two joint positions. The only file that imports moveit."""

from __future__ import annotations

from typing import Any

import numpy as np

from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import FloatArray
from internvla_a1.ros.joints import order
from internvla_a1.ros.time import duration_s


class MoveItPlanner:
    """Plans for one MoveIt group whose joints are all in the robot file; joints outside the group keep their place.

    moveit_py reads robot_description, kinematics and pipelines from the node's parameters (moveit_configs_utils, or
    config/moveit here). Raises MissingDependencyError without it, ConfigError where the group is unknown.
    """

    name = "moveit"

    def __init__(self, robot: RobotSpec, group: str, node_name: str = "executor_moveit") -> None:
        try:
            from moveit.core.robot_state import RobotState
            from moveit.planning import MoveItPy
        except ImportError as error:
            raise MissingDependencyError("moveit_py", "planning with MoveIt", "sudo apt install ros-$ROS_DISTRO-moveit-py") from error
        self._robot, self._group, self._state_type = robot, group, RobotState
        self._moveit = MoveItPy(node_name=node_name)
        self._model = self._moveit.get_robot_model()
        known = [g.name for g in self._model.joint_model_groups]
        if group not in known:
            raise ConfigError.asked("MoveIt group", group, known)
        self._component = self._moveit.get_planning_component(group)

    def plan(self, start: FloatArray, goal: FloatArray) -> tuple[FloatArray, FloatArray] | Refusal:
        """times_s (points,), positions (points, joints) in the robot's order; start, goal: (joints,) rad or m."""
        self._component.set_start_state(robot_state=self._state(start))
        self._component.set_goal_state(robot_state=self._state(goal))
        result = self._component.plan()
        if not result:
            return Refusal(Reason.NOT_ALLOWED, f"MoveIt found no path for group {self._group}: {result.error_code}")
        return self._arrays(result.trajectory.get_robot_trajectory_msg().joint_trajectory, start)

    def _state(self, positions: FloatArray) -> Any:
        state = self._state_type(self._model)
        state.set_to_default_values()
        state.joint_positions = dict(zip(self._robot.joint_names, positions.tolist(), strict=True))
        state.update()
        return state

    def _arrays(self, trajectory: Any, start: FloatArray) -> tuple[FloatArray, FloatArray] | Refusal:
        names = list(trajectory.joint_names)
        index = order(self._robot.joint_names, names)
        if isinstance(index, Refusal):
            return index
        positions = np.tile(start, (len(trajectory.points), 1))
        positions[:, index] = np.array([p.positions for p in trajectory.points])
        return np.array([duration_s(p.time_from_start) for p in trajectory.points]), positions
