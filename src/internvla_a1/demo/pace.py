"""How fast the cell's clock may run on this machine: in real time where the processors keep up with it, else slower."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import psutil

SLOWEST = 0.4
_STEP = 0.8
_WATCH_S = 2.5
_LATEST_MS = 60.0  # simulated: nine of ten pictures are with the policy by then; 25 ms is usual
_BUSY = 0.85  # of all processors: beyond it they queue, and what is in time on average is late too often


class Paced(Protocol):
    """What is watched, and slowed down."""

    def forget_latency(self) -> None: ...

    def picture_ms(self) -> list[float]:
        """Wall time from each picture since then to its observation."""
        ...

    def set_pace(self, factor: float) -> str:
        """Simulated seconds per second; '' when it was taken, else why not."""
        ...


def find_pace(cell: Paced, say: Callable[[str], None], watch: Callable[[float], float] | None = None) -> float:
    """The fastest pace, from 1 down to SLOWEST, at which pictures are in time; the stack works as it will, but for the belt.

    watch(s): waits, and returns the busy share of the processors meanwhile.
    """
    pace, watch = 1.0, watch or _busy_share
    while True:
        say("watching whether this machine keeps up" if pace == 1.0 else f"this machine is slower: trying {pace:g} of real time")
        cell.forget_latency()
        busy = watch(_WATCH_S)
        late_ms = cell.picture_ms()
        in_time = bool(late_ms) and pace * float(np.percentile(late_ms, 90)) <= _LATEST_MS
        if (in_time and busy <= _BUSY) or pace <= SLOWEST:
            return pace
        slower = max(round(_STEP * pace, 2), SLOWEST)
        if cell.set_pace(slower):
            return pace
        pace = slower


def _busy_share(seconds: float) -> float:
    psutil.cpu_percent()
    time.sleep(seconds)
    return psutil.cpu_percent() / 100
