"""Which parcel the expert goes for and how the fingers meet it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from internvla_a1.core.scene import Order, Scene, SceneObject
from internvla_a1.core.types import FloatArray

WIDEST = 0.070  # parcels wider than this do not fit between the open fingers, m


@dataclass(frozen=True)
class Workspace:
    """Where the expert works, m, world. The catch window is along the belt; bins and belt heights come from the scene and the URDF."""

    belt_x: float
    belt_top: float
    catch_from: float = -0.34
    catch_to: float = 0.40


@dataclass(frozen=True)
class Grasp:
    """position (3,) m: where tool0 should be now; velocity (3,) m/s; yaw rad of the finger axis; width m between the fingers."""

    name: str
    position: FloatArray
    velocity: FloatArray
    yaw: float
    width: float

    def at(self, t: float) -> FloatArray:
        return self.position + t * self.velocity


def grasp_of(parcel: SceneObject, scene: Scene) -> Grasp:
    """Fingers across the side that needs the smaller turn of the hand; height of the parcel's centre."""
    along, across = float(parcel.size[0]), float(parcel.size[1])
    options = [(_wrap(parcel.yaw), along), (_wrap(parcel.yaw + np.pi / 2), across)]
    fitting = [o for o in options if o[1] <= WIDEST] or options
    yaw, width = min(fitting, key=lambda o: abs(o[0]))
    # on the belt the belt's speed is the better estimate: a parcel rocks a little on its contacts
    rides = abs(parcel.velocity[1] - scene.belt_speed) < 0.03 and abs(parcel.velocity[0]) < 0.02
    velocity = np.array([0.0, scene.belt_speed, 0.0]) if rides else np.array([*parcel.velocity[:2], 0.0])
    return Grasp(parcel.name, parcel.position + np.array([0.0, 0.0, 0.002]), velocity, yaw, width)


def between_fingers(parcel: SceneObject, tool: FloatArray, yaw: float) -> bool:
    """Whether the parcel's centre is where the pads close."""
    offset = parcel.position - tool
    along = offset[0] * np.cos(yaw) + offset[1] * np.sin(yaw)
    across = -offset[0] * np.sin(yaw) + offset[1] * np.cos(yaw)
    return bool(abs(along) < 0.022 and abs(across) < 0.018 and abs(offset[2]) < 0.024)


def in_bin(parcel: SceneObject, floor: FloatArray) -> bool:
    """Whether it lies in the bin with its floor's centre at `floor` (3,)."""
    return bool(np.abs(parcel.position[:2] - floor[:2]).max() < 0.11 and parcel.position[2] - floor[2] < 0.09)


def choose(scene: Scene, order: Order, space: Workspace, tool: FloatArray, speed: float, kept: str) -> SceneObject | None:
    """The matching parcel that is furthest along and can still be met; `kept` (the one gone for so far) wins while it can."""
    options = []
    for parcel in scene.objects:
        on_belt = abs(parcel.position[0] - space.belt_x) < 0.15 and space.belt_top - 0.01 < parcel.position[2] < space.belt_top + 0.08
        if not order.matches(parcel) or not on_belt:
            continue
        distance = float(np.linalg.norm(parcel.position[:2] - tool[:2]))
        meets = distance / speed + 0.8 if distance > 0.03 else 0.0  # descent and grip take 0.8 s more
        if parcel.position[1] + max(scene.belt_speed, 0.0) * meets < space.catch_to:
            options.append(parcel)
    for parcel in options:
        if parcel.name == kept:
            return parcel
    return max(options, key=lambda p: p.position[1], default=None)


def _wrap(angle: float) -> float:
    """Into [-pi/2, pi/2): the fingers are alike."""
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)
