"""The path of a picture through the stack, timed from stamps and receptions. Integers, nanoseconds, one clock.

camera stamp ── observation ── chunk ── command ── motion
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from internvla_a1.core.types import FloatArray

_KEPT = 256
_MS = 1e6


@dataclass(frozen=True)
class Link:
    """One stretch of the path. Milliseconds; count: how many were measured."""

    name: str
    meaning: str
    count: int
    p50_ms: float
    p95_ms: float
    worst_ms: float


_CLOCKS = 50  # /clock messages, half a second


class ClockMap:
    """Simulated time on the wall clock, from the moments at which /clock came. `pace`: simulated seconds per second in between."""

    def __init__(self, pace: float = 1.0) -> None:
        self.pace = pace
        self._simulated: list[int] = []
        self._wall: list[int] = []

    def add(self, simulated_ns: int, wall_ns: int) -> None:
        """A /clock message has come. Times that do not rise are left out."""
        if not self._simulated or simulated_ns > self._simulated[-1]:
            self._simulated.append(simulated_ns)
            self._wall.append(wall_ns)

    def wall_ns(self, simulated_ns: int) -> int | None:
        """The wall time of a stamp; None before the first /clock.

        By the promptest of the last messages: one that came late must not make a picture look younger than it is.
        """
        k = bisect_right(self._simulated, simulated_ns) - 1
        last = range(max(0, k + 1 - _CLOCKS), k + 1)
        return min((self._wall[i] + round((simulated_ns - self._simulated[i]) / self.pace) for i in last), default=None)

    def simulated_ns(self, wall_ns: int) -> int | None:
        """The stamp of a wall time; None before the first /clock."""
        k = bisect_right(self._wall, wall_ns) - 1
        return self._simulated[k] + round((wall_ns - self._wall[k]) * self.pace) if k >= 0 else None


@dataclass
class LatencyLog:
    """Takes receptions as they come and keeps the time that each stretch took."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    _observations: OrderedDict[int, tuple[int, int]] = field(default_factory=OrderedDict)  # stamp: taken, received
    _chunks: OrderedDict[int, tuple[int, int, int]] = field(default_factory=OrderedDict)  # id: stamp, received, inference

    def _add(self, link: str, ns: int) -> None:
        self.samples.setdefault(link, []).append(ns / _MS)

    def observation(self, stamp_ns: int, taken_ns: int, received_ns: int) -> None:
        """An observation has come. stamp_ns as in the message; taken_ns: that instant on the clock of the receptions."""
        self._add("observation", received_ns - taken_ns)
        _keep(self._observations, stamp_ns, (taken_ns, received_ns))

    def chunk(self, chunk_id: int, stamp_ns: int, received_ns: int, inference_s: float) -> None:
        """A chunk computed from the observation with `stamp_ns` has come."""
        if stamp_ns in self._observations:
            self._add("chunk", received_ns - self._observations[stamp_ns][1])
        inference_ns = round(inference_s * 1e9)
        self._add("inference", inference_ns)
        _keep(self._chunks, chunk_id, (stamp_ns, received_ns, inference_ns))

    def command(self, chunk_id: int, received_ns: int) -> None:
        """The executor commands the arm from this chunk; the first time is a sample."""
        stamp_ns, chunk_ns, inference_ns = self._chunks.pop(chunk_id, (0, 0, 0))
        if not chunk_ns:
            return
        self._add("command", max(0, received_ns - chunk_ns))  # over two connections the command may come some 0.1 ms early
        if stamp_ns in self._observations:
            taken_ns, _ = self._observations[stamp_ns]
            self._add("whole", received_ns - taken_ns)
            self._add("without_policy", received_ns - taken_ns - inference_ns)

    def links(self, motion_ms: list[float]) -> list[Link]:
        """The table of the report; a link that was never seen is left out. motion_ms: from servo_lag()."""
        samples = {**self.samples, "motion": motion_ms}
        return [_summary(name, meaning, samples[key]) for key, name, meaning in _LINKS if samples.get(key)]


_LINKS = (
    ("observation", "camera → observation", "picture taken → synchronised observation: rendering, transport, decoding"),
    ("chunk", "observation → chunk", "observation → action chunk: the policy with its transport"),
    ("inference", "  of which inference", "time that the policy itself reports"),
    ("command", "chunk → command", "action chunk → the first command that the executor takes from it"),
    ("motion", "command → motion", "lag of the measured joints behind the commanded ones"),
    ("whole", "camera → command", "the whole path, policy included"),
    ("without_policy", "camera → command without the policy", "the whole path less the time that the policy itself reports"),
)


def _summary(name: str, meaning: str, values: list[float]) -> Link:
    array = np.asarray(values)
    return Link(name, meaning, len(array), float(np.percentile(array, 50)), float(np.percentile(array, 95)), float(array.max()))


def _keep(store: OrderedDict, key: int, value: object) -> None:
    store[key] = value
    if len(store) > _KEPT:
        store.popitem(last=False)


def servo_lag(
    command_s: FloatArray, commanded: FloatArray, measured_s: FloatArray, measured: FloatArray,
    window_s: float = 1.0, longest_s: float = 0.3,
) -> list[float]:  # fmt: skip
    """How far the measured joints are behind the commanded ones, in ms, one value per window in which the arm moves.

    command_s (n,), measured_s (m,): times in s; commanded (n, joints), measured (m, joints) in rad or m. The lag of a window
    is the shift with the least squared difference, on a grid of 2 ms.
    """
    if len(command_s) < 2 or len(measured_s) < 2:
        return []
    shifts = np.arange(0.0, longest_s, 0.002)
    lags = []
    for start in np.arange(command_s[0] + longest_s, min(command_s[-1], measured_s[-1]) - window_s, window_s):
        inside = (measured_s >= start) & (measured_s < start + window_s)
        if inside.sum() < 10:
            continue
        travel = np.ptp(measured[inside], axis=0)
        moving = travel > 0.05
        if not moving.any():
            continue
        errors = np.zeros(len(shifts))
        for j in np.flatnonzero(moving):
            for k, shift in enumerate(shifts):
                errors[k] += np.mean((np.interp(measured_s[inside] - shift, command_s, commanded[:, j]) - measured[inside, j]) ** 2)
        best = int(np.argmin(errors))
        if best < len(shifts) - 1:
            lags.append(float(shifts[best] * 1e3))
    return lags
