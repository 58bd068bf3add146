"""A joystick moves the arm: axes in, a joint target out that the teleop topic carries; nothing moves without the deadman."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from internvla_a1.control.kinematics import ArmKinematics
from internvla_a1.core.errors import ConfigError
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import FloatArray


@dataclass(frozen=True)
class JogConfig:
    """joint_speed: share of max_velocity at full stick. linear_m_s, angular_rad_s: of the tool at full stick. lead_s: how far
    the target may run ahead of the arm, in time at full speed: letting go then stops it at once."""

    joint_speed: float = 0.25
    linear_m_s: float = 0.1
    angular_rad_s: float = 0.5
    deadband: float = 0.08
    lead_s: float = 0.1


class Jogger:
    """Integrates axes to a joint target while the deadman is pressed."""

    def __init__(self, robot: RobotSpec, kinematics: ArmKinematics | None = None, config: JogConfig | None = None) -> None:
        self._robot, self._kinematics = robot, kinematics
        self._config = config or JogConfig()
        self._lower, self._upper = robot.array("lower"), robot.array("upper")
        self._fastest = robot.array("max_velocity") * self._config.joint_speed
        self._target: FloatArray | None = None

    def release(self) -> None:
        """The deadman is up: the next press starts from where the arm is."""
        self._target = None

    def joint(self, axes: FloatArray, measured: FloatArray, dt_s: float) -> tuple[FloatArray, FloatArray]:
        """Target and its velocity (joints,) for one axis in -1..1 per joint."""
        if np.shape(axes) != (len(self._robot.joints),):
            raise ConfigError(f"joint jogging needs {len(self._robot.joints)} axes, not {np.shape(axes)}")
        return self._advance(self._stick(axes) * self._fastest, measured, dt_s)

    def cartesian(self, axes: FloatArray, measured: FloatArray, dt_s: float, gripper: float = 0.0) -> tuple[FloatArray, FloatArray]:
        """Target and its velocity (joints,) for six axes in -1..1: x, y, z, and turns about them, of the tool in the base frame.

        gripper: -1..1, closes and opens. Slowed as a whole where a joint would be too fast, so that the tool keeps its direction.
        """
        if self._kinematics is None:
            raise ConfigError("Cartesian jogging needs the robot's URDF")
        stick = self._stick(np.asarray(axes, dtype=np.float64))
        twist = np.concatenate([stick[:3] * self._config.linear_m_s, stick[3:] * self._config.angular_rad_s])
        base = measured if self._target is None else self._target
        velocity = np.where(self._robot.gripper_mask, 0.0, self._kinematics.velocity(base, twist))
        velocity = velocity / max(1.0, float(np.max(np.abs(velocity) / self._fastest)))
        velocity = np.where(self._robot.gripper_mask, float(self._stick(np.array([gripper]))[0]) * self._fastest, velocity)
        return self._advance(velocity, measured, dt_s)

    def _advance(self, velocity: FloatArray, measured: FloatArray, dt_s: float) -> tuple[FloatArray, FloatArray]:
        if self._target is None:
            self._target = measured.copy()
        lead = np.where(self._robot.gripper_mask, np.inf, np.maximum(self._fastest * self._config.lead_s, 0.01))
        target = np.clip(self._target + velocity * dt_s, measured - lead, measured + lead)
        self._target = np.clip(target, self._lower, self._upper)
        return self._target.copy(), np.where(self._target == target, velocity, 0.0)

    def _stick(self, axes: FloatArray) -> FloatArray:
        """Outside the deadband, from 0 on; nonsense counts as centred."""
        axes = np.where(np.isfinite(axes), np.clip(axes, -1.0, 1.0), 0.0)
        size = np.maximum(np.abs(axes) - self._config.deadband, 0.0) / (1.0 - self._config.deadband)
        return np.copysign(size, axes)
