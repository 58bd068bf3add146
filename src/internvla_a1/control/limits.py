"""What one arm may do: limits per joint as arrays, taken once from the robot file and the executor's parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from internvla_a1.control.config import ExecutorConfig
from internvla_a1.core.errors import ConfigError
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import FloatArray

_TAIL_SHARE = 2.0  # of an ordinary stop's deceleration: makes up for the lag of the arm's servos, which the promised time to rest includes


@dataclass(frozen=True)
class Limits:
    """All arrays (joints,): rad or m and their derivatives."""

    lower: FloatArray  # soft
    upper: FloatArray
    velocity: FloatArray
    acceleration: FloatArray
    jerk: FloatArray
    stop: FloatArray  # deceleration of an ordinary stop, at most `acceleration`
    tail: FloatArray  # the same in the tail of a segment, played where nobody is left to say anything; from `stop` to `acceleration`
    names: tuple[str, ...]

    def containing(self, q: FloatArray) -> Limits:
        """Position limits widened to hold q: an arm that starts outside may come back in, and go no further out."""
        return replace(self, lower=np.minimum(self.lower, q), upper=np.maximum(self.upper, q))


def limits_of(robot: RobotSpec, config: ExecutorConfig) -> Limits:
    """Raises ConfigError where the soft margin leaves a joint no range."""
    prismatic = np.array([j.kind == "prismatic" for j in robot.joints])
    margin = np.where(prismatic | robot.gripper_mask, config.soft_margin_m, config.soft_margin_rad)  # a gripper closes all the way
    lower, upper = robot.array("lower") + margin, robot.array("upper") - margin
    for joint, low, high in zip(robot.joints, lower, upper, strict=True):
        if not low < high:
            raise ConfigError(f"joint {joint.name}: the soft margin leaves no range in [{joint.lower}, {joint.upper}]")
    acceleration = robot.array("max_acceleration")
    stop = np.minimum(np.where(prismatic, config.stop_acceleration_m_s2, config.stop_acceleration_rad_s2), acceleration)
    tail = np.minimum(_TAIL_SHARE * stop, acceleration)
    return Limits(lower, upper, robot.array("max_velocity"), acceleration, robot.array("max_jerk"), stop, tail, robot.joint_names)
