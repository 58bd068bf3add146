"""Closed-form kinematics of the demo arm with the tool pointing down, lengths read from the URDF."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.types import FloatArray
from internvla_a1.sim.urdf import Urdf


@dataclass(frozen=True)
class ArmGeometry:
    """shoulder: height of axis 2 over the base; upper, fore: link lengths; hand: wrist centre to tool0. m."""

    shoulder: float
    upper: float
    fore: float
    hand: float

    @classmethod
    def of(cls, urdf: Urdf) -> ArmGeometry:
        heights = {name: urdf.joint(name).pose.xyz for name in ("joint_1", "joint_2", "joint_3", "joint_4", "tool0_mount")}
        for name, xyz in heights.items():
            if abs(xyz[0]) > 1e-9 or abs(xyz[1]) > 1e-9:
                raise ConfigError(f"the closed-form kinematics needs {name} straight above its parent, not at {xyz.tolist()}")
        z = {name: float(xyz[2]) for name, xyz in heights.items()}
        return cls(z["joint_1"] + z["joint_2"], z["joint_3"], z["joint_4"], z["tool0_mount"])


def tool_down_joints(arm: ArmGeometry, tool: FloatArray, yaw: float) -> FloatArray:
    """Joints 1 to 6 (6,) rad for tool0 at `tool` (3,) m pointing down; the fingers open along world x turned by yaw.

    A point out of reach gives the stretched arm in its direction.
    """
    x, y, z = tool
    q1 = np.arctan2(y, x)
    r, h = np.hypot(x, y), z + arm.hand - arm.shoulder
    cosine = (r * r + h * h - arm.upper**2 - arm.fore**2) / (2 * arm.upper * arm.fore)
    q3 = np.arccos(np.clip(cosine, -1.0, 1.0))
    q2 = np.arctan2(r, h) - np.arctan2(arm.fore * np.sin(q3), arm.upper + arm.fore * np.cos(q3))
    return np.array([q1, q2, q3, np.pi - q2 - q3, 0.0, q1 - yaw])


def tool_position(arm: ArmGeometry, joints: FloatArray) -> FloatArray:
    """tool0 (3,) m from joints 1 to 6, any tilt of the hand."""
    q1, q2, q3, q4, q5 = joints[:5]
    pitch = q2 + q3 + q4
    reach = arm.upper * np.sin(q2) + arm.fore * np.sin(q2 + q3) + arm.hand * np.sin(pitch) * np.cos(q5)
    height = arm.shoulder + arm.upper * np.cos(q2) + arm.fore * np.cos(q2 + q3) + arm.hand * np.cos(pitch) * np.cos(q5)
    across = -arm.hand * np.sin(q5)
    return np.array([reach * np.cos(q1) - across * np.sin(q1), reach * np.sin(q1) + across * np.cos(q1), height])


def tool_yaw(joints: FloatArray) -> float:
    """Turn of the finger axis about the vertical, rad, for a hand that points down."""
    return float(joints[0] - joints[5])
