"""The belt: a slab on a slide joint driven at the wanted speed, put back by one seam period whenever it has gone that far.

A step back by a whole period changes nothing that a parcel or a camera can notice: the top is flat, the seams repeat with the
period and the slab's ends are under the hoods. So the belt runs for ever on a slab that is barely longer than the conveyor.
"""

from __future__ import annotations

import mujoco
import numpy as np

from internvla_a1.core.errors import ConfigError
from internvla_a1.sim.config import Belt


class ConveyorBelt:
    """Speed set-point with a ramp; owns the joint and the actuator named `belt`."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, settings: Belt) -> None:
        self._data, self._settings = data, settings
        joint = model.joint("belt")
        self._position, self._velocity = int(joint.qposadr[0]), int(joint.dofadr[0])
        self._actuator = model.actuator("belt").id
        self.wanted = settings.speed

    @property
    def speed(self) -> float:
        """Measured, m/s."""
        return float(self._data.qvel[self._velocity])

    def set_speed(self, speed: float) -> None:
        """Raises ConfigError outside 0 to max_speed."""
        if not np.isfinite(speed) or not 0.0 <= speed <= self._settings.max_speed:
            raise ConfigError(f"belt speed {speed} m/s is outside 0 to {self._settings.max_speed} m/s")
        self.wanted = float(speed)

    def restart(self, speed: float) -> None:
        """At a reset: already running at `speed`."""
        self.wanted = speed
        self._data.qvel[self._velocity] = speed
        self._data.ctrl[self._actuator] = speed

    def update(self, dt_s: float) -> None:
        """One control period: ramp the set-point, wrap the slab."""
        step = self._settings.acceleration * dt_s
        now = self._data.ctrl[self._actuator]
        self._data.ctrl[self._actuator] = now + np.clip(self.wanted - now, -step, step)
        if self._data.qpos[self._position] > self._settings.seam_period_m / 2:
            self._data.qpos[self._position] -= self._settings.seam_period_m
