"""What a policy sees of the cell without ROS: observations of one instant, and the one closest to a moment ago."""

from __future__ import annotations

from collections import deque

from internvla_a1.core.clock import nanoseconds
from internvla_a1.core.types import Observation
from internvla_a1.sim.cell import Cell


def observe(cell: Cell, cameras: tuple[str, ...], dark: frozenset[str] = frozenset()) -> Observation:
    """The joints and these cameras now; a dark camera is missing, not black."""
    names, positions, _, _ = cell.joint_state()
    images = {c: None if c in dark else cell.render(c).copy() for c in cameras}
    return Observation(cell.stamp_ns, images, dict.fromkeys(cameras, 0.0), names, positions)


class History:
    """The last observations; `past` finds the one closest to `history_s` before the newest."""

    def __init__(self, history_s: float, keep: int = 64) -> None:
        self._back_ns = nanoseconds(history_s)
        self._kept: deque[Observation] = deque(maxlen=keep)

    def add(self, observation: Observation) -> None:
        self._kept.append(observation)

    def past(self) -> Observation:
        """The oldest there is if none is that old."""
        return self._nearest(self._back_ns)

    def previous(self, period_s: float) -> Observation | None:
        """The one closest to a period ago; None if only the newest is there."""
        return self._nearest(nanoseconds(period_s)) if len(self._kept) > 1 else None

    def _nearest(self, back_ns: int) -> Observation:
        wanted = self._kept[-1].stamp_ns - back_ns
        return min(self._kept, key=lambda o: abs(o.stamp_ns - wanted))


class Glances:
    """At which ticks a picture can ever be looked at, so that no other is drawn: drawing can take half the time.

    With a fixed delay and one order, chunks are thought of at every `period`-th tick from the first one on, and each looks at its own
    tick and at the one `back` before. Where that is not certain, every tick counts.
    """

    def __init__(self, history_s: float, dt_s: float) -> None:
        self._back = round(history_s / dt_s)
        self._even = abs(self._back * dt_s - history_s) < dt_s / 4
        self._first, self._period = 0, 1

    def know(self, tick: int, period: int) -> None:
        """A chunk is thought of at this tick, and at each `period`-th after it."""
        self._first, self._period = tick, period if self._even else 1

    def at(self, tick: int) -> bool:
        return (tick - self._first) % self._period in (0, -self._back % self._period)
