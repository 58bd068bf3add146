"""One set of pictures, one from each camera, close enough in time; newest first, each set once."""

from __future__ import annotations

from collections.abc import Iterable

from internvla_a1.core.clock import Now, nanoseconds, seconds
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.types import CameraFrame
from internvla_a1.perception.camera_buffer import CameraBuffer, CameraState
from internvla_a1.perception.config import PerceptionConfig


def too_wide(spread_ns: int, config: PerceptionConfig) -> bool:
    """Whether pictures are too far apart in time for one observation."""
    return spread_ns > nanoseconds(config.spread_s)


class Synchroniser:
    """Sets with strictly rising stamps; the stamp of a set is that of its newest picture."""

    def __init__(self, buffers: Iterable[CameraBuffer], config: PerceptionConfig, optional: Iterable[str] = ()) -> None:
        """optional: cameras that a set may lack while they are not live; at least one camera has to be there."""
        self._buffers = tuple(buffers)
        self._optional = frozenset(optional)
        self._config = config
        self._last_ns: int | None = None

    def match(self, now: Now) -> dict[str, CameraFrame] | Refusal | None:
        """The newest set, or why there is none, or None when there is none newer than the last."""
        live = []
        for buffer in self._buffers:
            state = buffer.state(now)
            if state is CameraState.LIVE:
                live.append(buffer)
            elif buffer.name not in self._optional:
                reason = Reason.FROZEN if state is CameraState.FROZEN else Reason.STALE
                return Refusal(reason, f"camera {buffer.name} is {state.value}")
        if not live:
            return Refusal(Reason.STALE, "no camera is live")
        newest = {b.name: b.newest for b in live}
        laggard = min((f for f in newest.values() if f is not None), key=lambda f: f.stamp_ns)
        frames = {b.name: f for b in live if (f := b.nearest(laggard.stamp_ns)) is not None}
        stamps = {name: f.stamp_ns for name, f in frames.items()}
        stamp, oldest = max(stamps.values()), min(stamps.values())
        if self._last_ns is not None and self._last_ns - now.stamp_ns > nanoseconds(self._config.future_tolerance_s):
            self._last_ns = None  # time went back
        if self._last_ns is not None and stamp <= self._last_ns:
            return None
        if too_wide(stamp - oldest, self._config):
            spread = seconds(stamp - oldest)
            return Refusal(Reason.OUT_OF_STEP, f"camera {laggard.camera} lags, spread {spread:.4f} s, at most {self._config.spread_s} s")
        age = seconds(now.stamp_ns - oldest)
        if age > self._config.stale_s:
            return Refusal(Reason.STALE, f"camera {laggard.camera}: its picture is {age:.3f} s old, at most {self._config.stale_s} s")
        self._last_ns = stamp
        return frames
