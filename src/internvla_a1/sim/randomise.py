"""Light, colours and camera poses varied around their nominal values, for training data. Strength 0 restores them exactly."""

from __future__ import annotations

import mujoco
import numpy as np


class Randomiser:
    """Remembers the nominal model; each call starts from it."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._geom_rgba, self._mat_rgba = model.geom_rgba.copy(), model.mat_rgba.copy()
        self._light_diffuse, self._light_dir = model.light_diffuse.copy(), model.light_dir.copy()
        self._head = (model.vis.headlight.ambient.copy(), model.vis.headlight.diffuse.copy())
        self._cam_pos, self._cam_quat, self._cam_fovy = model.cam_pos.copy(), model.cam_quat.copy(), model.cam_fovy.copy()

    def apply(self, rng: np.random.Generator, strength: float) -> None:
        """strength 0..1. At 1: light ± 35 %, one tint a link ± 0.12, cameras ± 12 mm, ± 1.5 degrees, field of view ± 3 %."""
        m, s = self._model, float(np.clip(strength, 0.0, 1.0))
        m.light_diffuse[:] = self._light_diffuse * rng.uniform(1 - 0.35 * s, 1 + 0.35 * s, (m.nlight, 1))
        m.light_dir[:] = self._light_dir + s * rng.uniform(-0.25, 0.25, self._light_dir.shape)
        m.light_dir[:] /= np.linalg.norm(m.light_dir, axis=1, keepdims=True)
        ambient, diffuse = self._head
        m.vis.headlight.ambient[:] = ambient * rng.uniform(1 - 0.35 * s, 1 + 0.35 * s)
        m.vis.headlight.diffuse[:] = diffuse * rng.uniform(1 - 0.35 * s, 1 + 0.35 * s)
        tints = s * rng.uniform(-0.12, 0.12, (m.nbody, 3))
        m.geom_rgba[:, :3] = np.clip(self._geom_rgba[:, :3] + tints[m.geom_bodyid], 0, 1)
        m.mat_rgba[:, :3] = np.clip(self._mat_rgba[:, :3] * (1 + s * rng.uniform(-0.2, 0.0, (m.nmat, 3))), 0, 1)
        m.cam_pos[:] = self._cam_pos + s * rng.uniform(-0.012, 0.012, (m.ncam, 3))
        m.cam_fovy[:] = self._cam_fovy * (1 + s * rng.uniform(-0.03, 0.03, m.ncam))
        turns = s * np.radians(1.5) * rng.uniform(-1, 1, (m.ncam, 3))
        for i in range(m.ncam):
            angle = float(np.linalg.norm(turns[i]))
            turn = np.array([1.0, 0.0, 0.0, 0.0])
            if angle > 1e-9:
                mujoco.mju_axisAngle2Quat(turn, turns[i] / angle, angle)
            mujoco.mju_mulQuat(m.cam_quat[i], self._cam_quat[i], turn)
