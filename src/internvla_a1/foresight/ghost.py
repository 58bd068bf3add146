"""A second arm that plays the newest chunk in a loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from internvla_a1.core.clock import seconds
from internvla_a1.core.types import ActionChunk, FloatArray


@dataclass
class GhostPlayer:
    """Sweeps a playback phase through the newest chunk, again and again.

    Chunks arrive faster than one can be played, so the phase is not restarted by a new chunk: it goes on in the new
    plan, which is why the ghost moves smoothly and always shows the newest intention.
    """

    speed: float = 1.0  # playback seconds per second
    pause_s: float = 0.4  # rest at the end of the chunk before it starts again
    _chunk: ActionChunk | None = None
    _start: FloatArray | None = None
    _began_ns: int | None = field(default=None)

    def show(self, chunk: ActionChunk, start: FloatArray | None = None) -> None:
        """Play this chunk from now on. start: (joints,) measured positions at the chunk's observation, if known."""
        self._chunk, self._start = chunk, start

    def clear(self) -> None:
        """Nothing to show: after a clock jump or when the chunk is old."""
        self._chunk = self._start = self._began_ns = None

    @property
    def chunk(self) -> ActionChunk | None:
        return self._chunk

    def positions(self, steady_ns: int) -> FloatArray | None:
        """(joints,) where the ghost stands at this instant of steady time, None if there is nothing to show."""
        chunk = self._chunk
        if chunk is None or chunk.steps == 0:
            return None
        if self._began_ns is None:
            self._began_ns = steady_ns
        length = chunk.steps * chunk.dt_s
        phase = (seconds(steady_ns - self._began_ns) * self.speed) % (length + self.pause_s * self.speed)
        return _at(chunk, self._start, min(phase, length))


def _at(chunk: ActionChunk, start: FloatArray | None, t_s: float) -> FloatArray:
    """Linear between steps; before the first step, from `start` where it is known."""
    before = chunk.positions[0] if start is None else start
    knots = np.vstack([before, chunk.positions])
    place = t_s / chunk.dt_s
    k = min(int(place), chunk.steps - 1)
    return knots[k] + (place - k) * (knots[k + 1] - knots[k])
