"""Small observations and chunks of the demo arm for the nodes' tests: a red parcel crosses the picture."""

from __future__ import annotations

import numpy as np

from internvla_a1.core.clock import nanoseconds, seconds
from internvla_a1.core.resources import share_dir
from internvla_a1.core.robot import load_robot
from internvla_a1.core.types import ActionChunk, Observation

ROBOT = load_robot(share_dir() / "config/robots/demo_arm.yaml")
CAMERAS = ROBOT.camera_names
PARCEL_PX_S = 40.0
_BACKDROP = np.random.default_rng(0).integers(60, 90, (96, 96, 3)).astype(np.uint8)


def picture(stamp_ns: int) -> np.ndarray:
    """(96, 96, 3) at an instant."""
    image = _BACKDROP.copy()
    x = int(PARCEL_PX_S * seconds(stamp_ns % nanoseconds(1000))) % 80
    image[40:56, x : x + 16] = (220, 30, 30)
    return image


def observation(stamp_ns: int) -> Observation:
    image = picture(stamp_ns)
    return Observation(
        stamp_ns, dict.fromkeys(CAMERAS, image), dict.fromkeys(CAMERAS, 0.0), ROBOT.joint_names, ROBOT.array("home"), 0.0
    )


def chunk(stamp_ns: int, chunk_id: int = 1, steps: int = 20) -> ActionChunk:
    """A swing of the first joint; the gripper closes half way."""
    positions = np.tile(ROBOT.array("home"), (steps, 1))
    positions[:, 0] = np.linspace(0.05, 1.0, steps)
    positions[steps // 2 :, -1] = 0.0
    return ActionChunk(stamp_ns, chunk_id, ROBOT.joint_names, ROBOT.control_dt_s, positions, instruction="put the red box in the left bin")
