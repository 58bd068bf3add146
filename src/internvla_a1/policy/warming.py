"""A policy's first chunks, on made-up pictures, before a robot waits for any.

The first call chooses algorithms, compiles, captures a CUDA graph and allocates; it may take many times as long as those after it, and the
longest of the last delays is what real-time chunking counts on.
"""

from __future__ import annotations

import numpy as np

from internvla_a1.core.clock import nanoseconds
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import ImageArray, Observation
from internvla_a1.policy.protocol import Committed, Policy, PolicyRequest

TASK = "put the red box in the left bin"


class MadeUpCameras:
    """Observations of a robot whose cameras see noise of size x size pixels."""

    def __init__(self, robot: RobotSpec, size: int = 224, seed: int = 0) -> None:
        self.robot, self.size = robot, size
        self.random = np.random.default_rng(seed)
        self.joints = np.array([0.5 * (joint.lower + joint.upper) for joint in robot.joints])

    def at(self, stamp_s: float) -> Observation:
        """Noise over the whole image, the arm near the middle of its range."""
        shape = (self.size, self.size, 3)
        pictures: dict[str, ImageArray | None] = {c.name: self.random.integers(0, 255, shape, dtype=np.uint8) for c in self.robot.cameras}
        positions = self.joints + 0.01 * self.random.standard_normal(len(self.joints))
        return Observation(nanoseconds(stamp_s), pictures, dict.fromkeys(pictures, 0.0), self.robot.joint_names, positions)


def warm_up(policy: Policy, guided: bool, instruction: str = "") -> None:
    """Two chunks as at a robot's start, and the pictures of the first: the past to be encoded, then at hand and, if `guided`, continuing.

    instruction: one of the length to be expected, since shapes depend on it. The policy has forgotten all afterwards. Raises what `infer`
    and `decode` raise.
    """
    cameras = MadeUpCameras(policy.robot)
    task, step_s = instruction or TASK, max(policy.history_s, policy.robot.control_dt_s)
    past, seen, later = (cameras.at(i * step_s) for i in range(3))
    first = policy.infer(PolicyRequest(seen, past, task, 1, want_images=True, seed=0))
    if first.foresight is not None:
        policy.decode(first.foresight)
    committed = Committed(first.chunk.positions[1:], 1) if guided else None
    policy.infer(PolicyRequest(later, seen, task, 2, committed, want_images=True, seed=1))
    policy.reset()
