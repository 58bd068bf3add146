"""MuJoCo's window on the cell, where there is a display."""

from __future__ import annotations

import os
import sys
import time
import warnings

from internvla_a1.core.errors import ConfigError
from internvla_a1.sim.cell import Cell
from internvla_a1.sim.model_builder import COLLISION_GROUP, FILM_GROUP, PLAIN_GROUP, VISUAL_GROUP

_PERIOD_S = 1 / 30


class Viewer:
    """MuJoCo's passive viewer. Raises ConfigError where no window can be opened."""

    def __init__(self, cell: Cell) -> None:
        require_display()
        try:
            from mujoco import viewer

            self._window = viewer.launch_passive(cell.model, cell.data, show_left_ui=False, show_right_ui=False)
        except Exception as error:  # whatever the window system raises
            raise ConfigError(f"the viewer could not open a window: {error}") from error
        groups = self._window.opt.geomgroup
        groups[[VISUAL_GROUP, FILM_GROUP]] = 1
        groups[[COLLISION_GROUP, PLAIN_GROUP]] = 0
        self._next_s = 0.0

    def sync(self) -> None:
        """Show the present state, 30 times a second at most; nothing once the window was closed. Call it with the cell at rest."""
        now = time.monotonic()
        if now >= self._next_s and self._window.is_running():
            self._next_s = now + _PERIOD_S
            self._window.sync()

    def close(self) -> None:
        self._window.close()


def require_display() -> None:
    """Raises ConfigError where no window can be opened: MuJoCo would end the whole process there."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ConfigError("a window needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set")
    try:
        import glfw
    except ImportError as error:
        raise ConfigError(f"a window needs GLFW: {error}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reason is told below
        answers = glfw.init()
    if not answers:
        raise ConfigError(f"no window system answers at DISPLAY={os.environ.get('DISPLAY', '')}")
    glfw.terminate()
