"""The stream of parcels: a fixed pool of bodies that are given shape, size and colour when they enter and are recycled when they go."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from internvla_a1.core.scene import COLORS, SHAPES, SceneObject
from internvla_a1.core.types import FloatArray
from internvla_a1.sim.config import Look, Parcels
from internvla_a1.sim.model_builder import ARM, FIXED, PARCEL


@dataclass
class Parcel:
    """One parcel in play. serial counts from 1 since the reset; size (3,) m full extents in its own axes."""

    slot: int
    serial: int
    color: str
    shape: str
    size: FloatArray
    bin: str = ""  # where it lies, once it has settled
    bin_since_s: float | None = None

    @property
    def name(self) -> str:
        return f"parcel_{self.serial}"


class ParcelPool:
    """Owns the bodies parcel_0 .. parcel_<n-1> of the model."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, settings: Parcels, look: Look, belt: tuple[float, float]) -> None:
        self._model, self._data, self._settings = model, data, settings
        self._colors = {"red": look.red, "green": look.green, "blue": look.blue}
        self._belt_x, self._belt_top = belt
        self._body = [model.body(f"parcel_{i}").id for i in range(settings.pool)]
        self._geom = [model.geom(f"parcel_{i}").id for i in range(settings.pool)]
        joints = [model.joint(f"parcel_{i}") for i in range(settings.pool)]
        self._position = [int(j.qposadr[0]) for j in joints]
        self._velocity = [int(j.dofadr[0]) for j in joints]
        self.active: list[Parcel] = []
        self.spawned = 0

    def clear(self) -> None:
        """Everything back into the pool."""
        self.active, self.spawned = [], 0
        for slot in range(self._settings.pool):
            self._park(slot)

    def spawn(self, rng: np.random.Generator, y: float, speed: float) -> Parcel | None:
        """A new parcel on the belt at `y`, moving with it; None when the pool is empty."""
        taken = {p.slot for p in self.active}
        slot = next((i for i in range(self._settings.pool) if i not in taken), None)
        s = self._settings
        color, shape = COLORS[int(rng.integers(len(COLORS)))], SHAPES[int(rng.integers(len(SHAPES)))]
        half = np.array([*rng.uniform(*s.half_width, 2), rng.uniform(*s.half_height)])
        if shape == "cylinder":
            half[1] = half[0]
        tint = rng.uniform(-0.04, 0.04, 3)
        x, yaw = self._belt_x + rng.uniform(*s.lateral), rng.uniform(*s.yaw)
        if slot is None:
            return None
        self.spawned += 1
        parcel = Parcel(slot, self.spawned, color, shape, 2 * half)
        self._shape(slot, shape, half, np.clip(np.array(self._colors[color]) + tint, 0, 1))
        q, v = self._position[slot], self._velocity[slot]
        self._data.qpos[q : q + 7] = [x, y, self._belt_top + half[2] + 0.0005, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        self._data.qvel[v : v + 6] = [0, speed, 0, 0, 0, 0]
        self.active.append(parcel)
        return parcel

    def recycle(self, parcel: Parcel) -> None:
        self.active.remove(parcel)
        self._park(parcel.slot)

    def position(self, parcel: Parcel) -> FloatArray:
        """Centre (3,) m, world."""
        q = self._position[parcel.slot]
        return self._data.qpos[q : q + 3].copy()

    def velocity(self, parcel: Parcel) -> FloatArray:
        """(3,) m/s, world."""
        v = self._velocity[parcel.slot]
        return self._data.qvel[v : v + 3].copy()

    def observe(self, parcel: Parcel) -> SceneObject:
        """The parcel as the scene shows it. One that lies on its side is described by the axis that is upright now."""
        turn = np.zeros(9)
        q = self._position[parcel.slot]
        mujoco.mju_quat2Mat(turn, self._data.qpos[q + 3 : q + 7])
        matrix = turn.reshape(3, 3)
        up = int(np.argmax(np.abs(matrix[2])))
        first, second = (up + 1) % 3, (up + 2) % 3
        axis = matrix[:, first]
        size = np.array([parcel.size[first], parcel.size[second], parcel.size[up]])
        yaw = float(np.arctan2(axis[1], axis[0]))
        yaw = (yaw + np.pi / 2) % np.pi - np.pi / 2
        if parcel.shape == "cylinder" and up == 2:
            yaw = 0.0
        return SceneObject(parcel.name, parcel.color, parcel.shape, size, self.position(parcel), self.velocity(parcel), yaw)

    def _shape(self, slot: int, shape: str, half: FloatArray, color: FloatArray) -> None:
        m, geom, mass = self._model, self._geom[slot], self._settings.mass_kg
        x, y, z = half
        if shape == "box":
            m.geom_type[geom], m.geom_size[geom] = mujoco.mjtGeom.mjGEOM_BOX, half
            m.geom_rbound[geom] = np.linalg.norm(half)
            inertia = mass / 3 * np.array([y * y + z * z, x * x + z * z, x * x + y * y])
        else:
            m.geom_type[geom], m.geom_size[geom] = mujoco.mjtGeom.mjGEOM_CYLINDER, [x, z, 0.0]
            m.geom_rbound[geom] = np.hypot(x, z)
            across = mass / 12 * (3 * x * x + 4 * z * z)
            inertia = np.array([across, across, mass / 2 * x * x])
        m.geom_aabb[geom] = [0, 0, 0, *half]
        m.geom_rgba[geom] = [*color, 1.0]
        m.body_inertia[self._body[slot]] = inertia
        m.body_gravcomp[self._body[slot]] = 0.0
        self._touches(slot, PARCEL, FIXED | PARCEL | ARM)

    def _park(self, slot: int) -> None:
        """Below the floor, weightless, touching nothing."""
        m = self._model
        q, v = self._position[slot], self._velocity[slot]
        self._data.qpos[q : q + 7] = [0.0, 0.12 * slot, -2.0, 1, 0, 0, 0]
        self._data.qvel[v : v + 6] = 0.0
        self._touches(slot, 0, 0)
        m.body_gravcomp[self._body[slot]] = 1.0

    def _touches(self, slot: int, contype: int, conaffinity: int) -> None:
        m, body, geom = self._model, self._body[slot], self._geom[slot]
        m.geom_contype[geom], m.geom_conaffinity[geom] = contype, conaffinity
        m.body_contype[body], m.body_conaffinity[body] = contype, conaffinity  # the broad phase reads the body's copy
