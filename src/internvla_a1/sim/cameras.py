"""Pictures and intrinsics of the cell's cameras. Rendering is off-screen through EGL unless MUJOCO_GL says otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import mujoco
import numpy as np

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.types import FloatArray, ImageArray
from internvla_a1.sim.atlas import Atlas
from internvla_a1.sim.config import CellConfig
from internvla_a1.sim.model_builder import FILM_GROUP, PLAIN_GROUP, VISUAL_GROUP

OVERVIEW = "overview"
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class CameraInfo:
    """Pinhole intrinsics in pixels, no distortion: what sensor_msgs/CameraInfo needs. frame_id: the optical frame."""

    name: str
    frame_id: str
    width: int
    height: int
    focal: float

    @property
    def matrix(self) -> FloatArray:
        """K (3, 3)."""
        return np.array([[self.focal, 0, self.width / 2], [0, self.focal, self.height / 2], [0, 0, 1.0]])


class Cameras:
    """Fast plain renders for the policy's views; the overview has shadows and smooth edges, at twenty times the cost."""

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, config: CellConfig,
        overview_size: tuple[int, int] | None = None, overview_shadows: bool = True,
    ) -> None:  # fmt: skip
        self._model, self._data, self._config = model, data, config
        self._overview_size, self._overview_shadows = overview_size or config.look.overview_size, overview_shadows
        self._plain: mujoco.Renderer | None = None
        self._atlas: Atlas | None = None
        self._fine: mujoco.Renderer | None = None
        self._plain_options = _seen(PLAIN_GROUP)
        self._fine_options = _seen(FILM_GROUP)
        self.names = tuple(model.camera(i).name for i in range(model.ncam))

    def info(self, name: str) -> CameraInfo:
        """Raises ConfigError with the cameras there are."""
        if name not in self.names:
            raise ConfigError.asked("camera of the cell", name, self.names)
        size = self._config.image_size
        focal = size / 2 / np.tan(np.radians(self._model.cam_fovy[self._model.camera(name).id]) / 2)
        return CameraInfo(name, f"{name}_optical_frame", size, size, float(focal))

    def project(self, name: str, position: FloatArray) -> FloatArray:
        """(x, y) in picture widths from the top left of a place (3,) m in the frame of the cell, as the camera hangs now."""
        info, camera = self.info(name), self._model.camera(name).id
        right, up, back = self._data.cam_xmat[camera].reshape(3, 3).T @ (position - self._data.cam_xpos[camera])
        return np.array([0.5, 0.5]) - np.array([right, -up]) / back * info.focal / info.width

    def render(self, name: str) -> ImageArray:
        """(height, width, 3) uint8 RGB. Raises ConfigError for an unknown camera or where OpenGL is missing."""
        if name == OVERVIEW:
            return self._render_overview()
        if name not in self.names:
            raise ConfigError.asked("camera of the cell", name, (*self.names, OVERVIEW))
        if self._plain is None:
            self._plain = self._renderer(self._config.image_size, self._config.image_size, fine=False)
        self._plain.update_scene(self._data, name, self._plain_options)
        return self._plain.render()

    def render_together(self, names: tuple[str, ...]) -> dict[str, ImageArray]:
        """The pictures that render(name) gives of each, sooner than one by one. Raises ConfigError as render does."""
        if self._atlas is None or self._atlas.cameras != names:
            if unknown := [name for name in names if name not in self.names]:
                raise ConfigError.asked("camera of the cell", unknown[0], self.names)
            if self._atlas is not None:
                self._atlas.close()
            self._choose_quality(fine=False)
            self._atlas = _with_opengl(lambda: Atlas(self._model, names, self._config.image_size))
        return self._atlas.render(self._data, self._plain_options)

    def close(self) -> None:
        """Free the GL contexts."""
        for renderer in (self._plain, self._atlas, self._fine):
            if renderer is not None:
                renderer.close()
        self._plain = self._atlas = self._fine = None

    def _render_overview(self) -> ImageArray:
        if self._fine is None:
            self._fine = self._renderer(*self._overview_size, fine=self._overview_shadows)
        look = self._config.look
        self._model.vis.global_.fovy = look.overview_fovy_deg
        camera = mujoco.MjvCamera()
        offset = np.array(look.overview_target) - np.array(look.overview_eye)
        camera.lookat, camera.distance = look.overview_target, float(np.linalg.norm(offset))
        camera.azimuth = float(np.degrees(np.arctan2(offset[1], offset[0])))
        camera.elevation = float(np.degrees(np.arctan2(offset[2], np.hypot(offset[0], offset[1]))))
        self._fine.update_scene(self._data, camera, self._fine_options)
        return self._fine.render()

    def _renderer(self, width: int, height: int, fine: bool) -> mujoco.Renderer:
        self._choose_quality(fine)
        renderer = _with_opengl(lambda: mujoco.Renderer(self._model, height, width))
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = int(fine)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = int(fine)
        return renderer

    def _choose_quality(self, fine: bool) -> None:
        """Of the GL contexts that are made next."""
        quality = self._model.vis.quality
        quality.offsamples, quality.shadowsize = (4, 4096) if fine else (0, 0)
        quality.numslices, quality.numstacks, quality.numquads = (28, 16, 4) if fine else (12, 6, 2)  # software GL pays per triangle


def _with_opengl(make: Callable[[], _Made]) -> _Made:
    try:
        return make()
    except Exception as error:  # mujoco raises whatever its GL backend does: AttributeError, ImportError, EGLError, FatalError
        raise ConfigError(
            f"OpenGL is not there for off-screen pictures (MUJOCO_GL={os.environ['MUJOCO_GL']}): {error}; "
            "install it with: apt install libegl1 libgl1-mesa-dri (or import internvla_a1.sim before mujoco)"
        ) from error


def _seen(group: int) -> mujoco.MjvOption:
    """Solids of the URDF, parcels, and one kind of floor."""
    options = mujoco.MjvOption()
    options.geomgroup[:] = 0
    options.geomgroup[[VISUAL_GROUP, group]] = 1
    return options
