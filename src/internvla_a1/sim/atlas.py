"""Several views of one instant in one off-screen buffer, read once.

A software OpenGL works on a picture when it is read: reading each by itself waits for each by itself, and hands the
processor back and forth as often.
"""

from __future__ import annotations

import mujoco
import numpy as np

from internvla_a1.core.types import ImageArray


class Atlas:
    """Square pictures of `size` pixels, one above the other. Use it in one thread: the GL context belongs to it.

    Raises what MuJoCo's OpenGL backend raises where OpenGL is missing.
    """

    def __init__(self, model: mujoco.MjModel, cameras: tuple[str, ...], size: int) -> None:
        self._model, self._size = model, size
        self.cameras = cameras
        buffer = model.vis.global_
        buffer.offwidth, buffer.offheight = max(buffer.offwidth, size), max(buffer.offheight, size * len(cameras))
        self._views = [_fixed(model, name) for name in cameras]
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._gl = mujoco.GLContext(size, size * len(cameras))
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def render(self, data: mujoco.MjData, options: mujoco.MjvOption) -> dict[str, ImageArray]:
        """Each camera's (size, size, 3) uint8 RGB, in the order of `cameras`; the pictures are new arrays."""
        size, count = self._size, len(self._views)
        pixels = np.empty((count, size, size, 3), np.uint8)
        self._gl.make_current()
        for k, view in enumerate(self._views):
            mujoco.mjv_updateScene(self._model, data, options, None, view, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
            mujoco.mjr_render(mujoco.MjrRect(0, k * size, size, size), self._scene, self._context)
        whole = mujoco.MjrRect(0, 0, size, count * size)
        mujoco.mjr_readPixels(pixels.reshape(count * size, size, 3), None, whole, self._context)
        return {name: picture[::-1] for name, picture in zip(self.cameras, pixels, strict=True)}  # OpenGL's rows run upwards

    def close(self) -> None:
        """Free the GL context."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()


def _fixed(model: mujoco.MjModel, name: str) -> mujoco.MjvCamera:
    view = mujoco.MjvCamera()
    view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera(name).id
    return view
