"""MuJoCo's window on the cell, where there is a display."""

from __future__ import annotations

import time
from typing import Any

from internvla_a1.sim.cell import Cell

_PERIOD_S = 1 / 30


class Viewer:
    """A passive window; `error` says why there is none. Call sync() with the cell locked."""

    def __init__(self, cell: Cell) -> None:
        self.error = ""
        self._window: Any = None
        self._next_s = 0.0
        try:
            import mujoco.viewer

            self._window = mujoco.viewer.launch_passive(cell.model, cell.data, show_left_ui=False, show_right_ui=False)
        except Exception as error:  # no display, no GLFW, or macOS without mjpython
            self.error = str(error) or type(error).__name__

    def sync(self) -> None:
        """Show the present state, 30 times a second at most."""
        now = time.monotonic()
        if self._window is None or now < self._next_s:
            return
        self._next_s = now + _PERIOD_S
        if self._window.is_running():
            self._window.sync()

    def close(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None
