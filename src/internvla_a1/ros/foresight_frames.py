"""Tool positions and the root of the ghost from the frames of a URDF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.types import FloatArray
from internvla_a1.ros.urdf import FrameTree, Transform


class ToolFrames:
    """Where frames are for given joint positions, seen from the robot's base frame."""

    def __init__(self, urdf_text: str, base_frame: str, joints: Sequence[str], passive: Mapping[str, float]) -> None:
        """joints: names of the positions that will be given; passive: joints that stand still, and where (rad or m)."""
        self._tree = FrameTree(urdf_text)
        self._joints, self._passive = tuple(joints), dict(passive)
        self._fixed = {t.child: t for t in self._tree.fixed}
        everywhere = {**dict.fromkeys(self._tree.joints, 0.0), **self._passive}
        self._parents = {**self._fixed, **{t.child: t for t in self._tree.moving(everywhere)}}
        missing = [name for name in self._tree.joints if name not in self._joints and name not in self._passive]
        if missing:
            raise ConfigError(f"the URDF moves {', '.join(missing)}; the robot file neither commands nor names them under 'passive'")
        if base_frame not in self._parents and base_frame != self.root:
            raise ConfigError.asked("base frame", base_frame, sorted(self._parents))
        self._base = base_frame

    @property
    def root(self) -> str:
        """The link that hangs on nothing."""
        return next(iter({t.parent for t in self._parents.values()} - set(self._parents)))

    def positions(self, values: FloatArray) -> dict[str, float]:
        """Joint name -> position, passive joints included. values: (joints,) rad or m."""
        return {**self._passive, **dict(zip(self._joints, values.tolist(), strict=True))}

    def tool_position(self, frame: str, values: FloatArray) -> FloatArray:
        """(3,) m in the base frame. Raises ConfigError for a frame that the URDF does not have."""
        if frame not in self._parents:
            raise ConfigError.asked("tool frame", frame, sorted(self._parents))
        moving = {t.child: t for t in self._tree.moving(self.positions(values))}
        tool, base = self._pose(frame, moving), self._pose(self._base, moving)
        return base[:3, :3].T @ (tool[:3, 3] - base[:3, 3])

    def _pose(self, frame: str, moving: Mapping[str, Transform]) -> FloatArray:
        """(4, 4) of a frame in the root."""
        pose = np.eye(4)
        while frame != self.root:
            step = moving.get(frame) or self._fixed[frame]
            pose = _matrix(step) @ pose
            frame = step.parent
        return pose


def _matrix(transform: Transform) -> FloatArray:
    x, y, z, w = transform.quat
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = transform.xyz
    return pose
