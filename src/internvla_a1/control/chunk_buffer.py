"""Chunks by time: step k of a chunk is for the instant observed + (k + 1) dt, whenever the chunk arrives.

So the delay of the policy is measured and compensated, not assumed; steps whose time has passed are never executed.
Modes: replace (the newest chunk at once), blend (cross-fade), ensemble (weighted mean of all that cover the instant, as in
ACT), rtc (the newest from the end of its frozen steps, which repeat what was committed).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.gate import TimedChunk
from internvla_a1.control.limiter import Reference, reference_from
from internvla_a1.core.clock import nanoseconds, seconds
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.smoothing import smooth
from internvla_a1.core.types import FloatArray

_KEPT = 6  # chunks that may share in the reference: bounds the work of a tick


def sample(chunk: TimedChunk, motion_ns: np.ndarray) -> FloatArray:
    """Positions (n, joints) at motion times (n,) int64: cubic through the steps, held at the ends, at rest after the last."""
    points = chunk.positions
    if chunk.before is not None:
        points = np.vstack([chunk.before[None], points])
        x = (motion_ns - chunk.observed_ns) / chunk.dt_ns
    else:
        x = (motion_ns - chunk.observed_ns) / chunk.dt_ns - 1.0
    last = len(points) - 1
    x = np.clip(x, 0.0, last)
    i = np.minimum(x.astype(int), max(last - 1, 0))
    s = (x - i)[:, None]
    p0, p1 = points[i], points[np.minimum(i + 1, last)]
    m0 = (p1 - points[np.maximum(i - 1, 0)]) / 2
    m1 = np.where((i + 1 < last)[:, None], (points[np.minimum(i + 2, last)] - p0) / 2, 0.0)
    if chunk.held_from is not None and chunk.held is not None:  # comes to rest there, and does not swing past it
        rest = chunk.held_from - 1 + (chunk.before is not None)
        m0 = np.where((i >= rest)[:, None] & chunk.held, 0.0, m0)
        m1 = np.where((i + 1 >= rest)[:, None] & chunk.held, 0.0, m1)
    return p0 + s * (m0 + s * (3 * (p1 - p0) - 2 * m0 - m1 + s * (2 * (p0 - p1) + m0 + m1)))


class ChunkBuffer:
    """The accepted chunks that still have a say, oldest first."""

    def __init__(self, config: ExecutorConfig) -> None:
        self._config = config
        self._chunks: list[TimedChunk] = []

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def newest(self) -> TimedChunk | None:
        return self._chunks[-1] if self._chunks else None

    def clear(self) -> None:
        self._chunks.clear()

    def refuse(self, chunk: TimedChunk, motion_ns: int) -> Refusal | None:
        """Why a chunk comes too late: behind a newer observation, or with too little of it still ahead."""
        if self._chunks and chunk.observed_ns <= self._chunks[-1].observed_ns:
            older = seconds(self._chunks[-1].observed_ns - chunk.observed_ns)
            reason = Reason.STAMP_OLD if older > 0 else Reason.STAMP_REPEATED
            return Refusal(reason, f"observed {older:.3f} s before the chunk that is held")
        ahead = seconds(chunk.end_ns - motion_ns)
        if ahead < self._config.min_ahead_s:
            return Refusal(Reason.TOO_LATE, f"{ahead:.3f} s of it still ahead, at least {self._config.min_ahead_s} s")
        return None

    def add(self, chunk: TimedChunk, approached_from: FloatArray) -> None:
        """Hold a chunk that `refuse` let pass. approached_from (joints,): where the arm was told to be at its observation."""
        self._chunks.append(replace(chunk, before=approached_from))
        if self._config.chunk_mode == "replace":
            del self._chunks[:-1]
        del self._chunks[:-_KEPT]

    def reference(self, motion_ns: np.ndarray) -> Reference | None:
        """What to follow at the inner ones of the motion times (n + 2,) int64, rising a cell apart; None without a chunk.

        A cross-fade mixes velocities and accelerations as it mixes positions. The velocity of the fade itself is left out:
        between chunks that disagree it is more than the arm can do, and taking out an offset is the splice's work.
        """
        if not self._chunks:
            return None
        self._drop_superseded(int(motion_ns[0]))
        if self._config.chunk_mode == "ensemble":
            return self._ensemble(motion_ns)
        mixed = _stacked(self._chunks[0], motion_ns)
        for chunk in self._chunks[1:]:
            mixed += self._share(chunk, motion_ns[1:-1]) * (_stacked(chunk, motion_ns) - mixed)
        return Reference(*mixed)

    def _share(self, chunk: TimedChunk, motion_ns: np.ndarray) -> FloatArray:
        """How far the cross-fade to a chunk has gone, (n, 1) in 0..1."""
        start, span = self._fade(chunk)
        return smooth((motion_ns - start) / max(span, 1))[:, None]

    def _fade(self, chunk: TimedChunk) -> tuple[int, int]:
        if self._config.chunk_mode == "rtc":
            committed = chunk.observed_ns + chunk.frozen_steps * chunk.dt_ns
            return max(chunk.accepted_ns, committed), min(chunk.dt_ns, nanoseconds(self._config.blend_s))
        return chunk.accepted_ns, nanoseconds(self._config.blend_s)

    def _drop_superseded(self, from_ns: int) -> None:
        """Chunks that a newer one has replaced for every instant from now on."""
        if self._config.chunk_mode == "ensemble":
            while len(self._chunks) > 1 and self._chunks[0].end_ns < from_ns:
                del self._chunks[0]
            return
        for i in range(len(self._chunks) - 1, 0, -1):
            if sum(self._fade(self._chunks[i])) <= from_ns:
                del self._chunks[:i]
                return

    def _ensemble(self, motion_ns: np.ndarray) -> Reference:
        inner, total, weights = motion_ns[1:-1], 0.0, 0.0
        for rank, chunk in enumerate(self._chunks):
            weight = np.exp(-self._config.ensemble_decay * rank) * np.ones((len(inner), 1))
            if rank > 0:
                weight = weight * self._share(chunk, inner)
            if chunk is not self._chunks[-1]:  # leaves by the same fade, before its last step
                left = (chunk.end_ns - inner) / max(nanoseconds(self._config.blend_s), 1)
                weight = weight * np.maximum(smooth(left)[:, None], 1e-9)
            total, weights = total + weight * _stacked(chunk, motion_ns), weights + weight
        return Reference(*np.asarray(total / weights))


def _stacked(chunk: TimedChunk, motion_ns: np.ndarray) -> FloatArray:
    """(3, n, joints): position, velocity and acceleration that one chunk asks for at the inner times."""
    reference = reference_from(sample(chunk, motion_ns))
    return np.stack([reference.q, reference.v, reference.a])
