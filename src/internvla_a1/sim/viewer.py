"""A window on the cell, where there is a display."""

from __future__ import annotations

import os
import sys

from internvla_a1.core.errors import ConfigError
from internvla_a1.sim.cell import Cell
from internvla_a1.sim.model_builder import COLLISION_GROUP, FILM_GROUP, PLAIN_GROUP, VISUAL_GROUP


class Viewer:
    """MuJoCo's passive viewer. Raises ConfigError where no window can be opened."""

    def __init__(self, cell: Cell) -> None:
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ConfigError("the viewer needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set; run without viewer:=true")
        try:
            from mujoco import viewer

            self._window = viewer.launch_passive(cell.model, cell.data, show_left_ui=False, show_right_ui=False)
        except Exception as error:  # whatever the window system raises
            raise ConfigError(f"the viewer could not open a window: {error}") from error
        groups = self._window.opt.geomgroup
        groups[[VISUAL_GROUP, FILM_GROUP]] = 1
        groups[[COLLISION_GROUP, PLAIN_GROUP]] = 0

    @property
    def open(self) -> bool:
        return bool(self._window.is_running())

    def sync(self) -> None:
        """Show the present state."""
        self._window.sync()

    def close(self) -> None:
        self._window.close()
