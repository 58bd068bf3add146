"""What flows through the stack, in numpy. Raw messages become these in one function per boundary; past it nothing is re-checked."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from internvla_a1.core.clock import nanoseconds

FloatArray = NDArray[np.float64]
ImageArray = NDArray[np.uint8]


@dataclass(frozen=True)
class JointState:
    """Measured joints in the robot's own order.

    positions, velocities: (joints,) in rad or m, rad/s or m/s; velocities None where the driver gives none.
    """

    stamp_ns: int
    positions: FloatArray
    velocities: FloatArray | None = None


@dataclass(frozen=True)
class CameraFrame:
    """One picture: (height, width, 3) uint8, RGB."""

    camera: str
    stamp_ns: int
    image: ImageArray


@dataclass(frozen=True)
class Observation:
    """One synchronised view of the robot.

    stamp_ns: the instant it is for. images: camera name -> (H, W, 3) uint8 RGB, None where the view is missing.
    image_age_s: stamp minus image stamp. positions: (joints,) rad or m, the robot's own order.
    """

    stamp_ns: int
    images: dict[str, ImageArray | None]
    image_age_s: dict[str, float]
    joint_names: tuple[str, ...]
    positions: FloatArray
    state_age_s: float = 0.0


@dataclass(frozen=True)
class ActionChunk:
    """A horizon of absolute joint targets.

    positions: (steps, joints) rad or m. Step k is for the instant stamp_ns + (k + 1) * dt: the first target lies one
    period after the observation, as in the demonstrations that the policy learns from.
    """

    stamp_ns: int
    chunk_id: int
    joint_names: tuple[str, ...]
    dt_s: float
    positions: FloatArray
    source: str = "policy"
    frozen_steps: int = 0
    inference_time_s: float = 0.0
    instruction: str = ""

    @property
    def steps(self) -> int:
        return len(self.positions)

    def step_stamp_ns(self, k: int) -> int:
        """The instant that step k is for."""
        return self.stamp_ns + nanoseconds((k + 1) * self.dt_s)

    @property
    def end_stamp_ns(self) -> int:
        """The instant of the last step."""
        return self.step_stamp_ns(self.steps - 1)


@dataclass(frozen=True)
class Foresight:
    """The future that the policy expects to see, `horizon_s` after the observation.

    latents: (views, channels, height, width) float32. images: camera name -> (H, W, 3) uint8 RGB; empty when nobody looks.
    """

    stamp_ns: int
    chunk_id: int
    horizon_s: float
    cameras: tuple[str, ...]
    latents: NDArray[np.float32]
    images: dict[str, ImageArray] = field(default_factory=dict)
