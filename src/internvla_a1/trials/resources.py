"""Memory, descriptors and threads of processes over time, and how fast they grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import psutil

WARM_UP_S = 90.0  # of each life of a process: imports, first messages, pools that fill
_LEAST = 24  # samples of a life after that, for a slope of its own


class Row(NamedTuple):
    """One look at one process. private_mb: memory of its own; resident_mb: with shared segments, which fill up to their fixed size.

    heap_mb: what its malloc has given out, as it says itself (spare heap would hide a leak for hours); None where it does not say.
    """

    at_s: float
    node: str
    pid: int
    private_mb: float
    resident_mb: float
    descriptors: int
    threads: int
    heap_mb: float | None = None


@dataclass(frozen=True)
class Growth:
    """Of one node: lives long enough to count, hours watched, slopes per hour, largest change of descriptors and threads within a life.

    heap_mb_h: median from minute to minute, so that a queue that fills once does not count; NaN where it did not say.
    """

    node: str
    lives: int
    hours: float
    private_mb_h: float
    error_mb_h: float  # standard error of that slope
    resident_mb_h: float
    descriptors: int
    threads: int
    heap_mb_h: float = float("nan")


class Resources:
    """Samples processes by name; a new pid is a new life."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def sample(self, at_s: float, pids: dict[str, int], heaps_mb: dict[str, float]) -> None:
        """Look at each process once; one that is gone is left out. heaps_mb: what they say of their heaps."""
        for node, pid in pids.items():
            try:
                process = psutil.Process(pid)
                with process.oneshot():
                    memory = process.memory_info()
                    private = memory.rss - memory.shared
                    held = process.num_fds(), process.num_threads(), heaps_mb.get(node)
                    self._rows.append(Row(round(at_s, 1), node, pid, private / 1e6, memory.rss / 1e6, *held))
            except psutil.Error:
                continue

    def rows(self) -> list[Row]:
        return list(self._rows)

    def nodes(self) -> list[str]:
        return sorted({row.node for row in self._rows})

    def of(self, node: str) -> np.ndarray:
        """(samples, 7): s, pid, private MB, resident MB, descriptors, threads, heap MB (NaN where not told)."""
        rows = [[r.at_s, r.pid, r.private_mb, r.resident_mb, r.descriptors, r.threads, r.heap_mb] for r in self._rows if r.node == node]
        return np.array(rows, dtype=np.float64)

    def growth(self, node: str) -> Growth:
        """One slope for all lives of a node, each with a level of its own: what a leak would add per hour."""
        rows = self.of(node)
        lives = [rows[rows[:, 1] == pid] for pid in dict.fromkeys(rows[:, 1])]
        warm = [life[life[:, 0] >= life[0, 0] + WARM_UP_S] for life in lives]
        warm = [life for life in warm if len(life) >= _LEAST]
        if not warm:
            return Growth(node, 0, 0.0, 0.0, 0.0, 0.0, 0, 0)
        centred = np.vstack([life - life.mean(axis=0) for life in warm])
        t = centred[:, 0] / 3600
        slope, slope_resident = (float(t @ centred[:, k] / (t @ t)) for k in (2, 3))
        left = centred[:, 2] - slope * t
        error = float(np.sqrt(left @ left / max(len(t) - len(warm) - 1, 1) / (t @ t)))
        changes = [np.abs(_end(life) - _start(life)) for life in warm]
        descriptors, threads = (int(max(c[k] for c in changes)) for k in (4, 5))
        hours = sum(float(np.ptp(life[:, 0])) for life in warm) / 3600
        return Growth(node, len(warm), round(hours, 3), slope, error, slope_resident, descriptors, threads, _heap_slope(warm))


def _heap_slope(lives: list[np.ndarray]) -> float:
    """MB/h from each minute's largest value to that of the next, the median of them: what a node holds comes and goes, a leak goes on."""
    rises = [np.zeros(0)]
    for life in lives:
        minute = ((life[:, 0] - life[0, 0]) // 60).astype(int)
        rises.append(np.diff([life[minute == m, 6].max() for m in np.unique(minute)]))
    each = np.concatenate(rises)
    return 60.0 * float(np.median(each)) if len(each) else float("nan")


def _start(life: np.ndarray) -> np.ndarray:
    return np.asarray(np.median(life[: _LEAST // 2], axis=0))


def _end(life: np.ndarray) -> np.ndarray:
    return np.asarray(np.median(life[-_LEAST // 2 :], axis=0))
