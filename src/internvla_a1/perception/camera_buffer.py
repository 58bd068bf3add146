"""One camera's recent frames, and whether the camera is alive: fresh stamps alone prove nothing, nor do bytes alone."""

from __future__ import annotations

from collections import deque
from enum import Enum

from internvla_a1.core.clock import Now, nanoseconds, seconds
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.types import CameraFrame, ImageArray
from internvla_a1.perception.config import PerceptionConfig

_STANDING = 5  # times the usual limit: by then a simulated clock that has not moved on is no slow one


class CameraState(Enum):
    """Only frames of a LIVE camera go into an observation."""

    WAITING = "waiting"  # nothing yet
    LIVE = "live"
    STALE = "stale"  # silent for too long
    FROZEN = "frozen"  # the same bytes again and again
    RETURNING = "returning"  # sends again, not yet enough good frames


class CameraBuffer:
    """A ring of stamped frames of one camera, strictly rising in stamp."""

    def __init__(self, name: str, config: PerceptionConfig) -> None:
        self.name = name
        self.dropped = 0
        self._config = config
        self._frames: deque[CameraFrame] = deque(maxlen=config.ring)
        self._content = -1
        self._changed_ns = 0  # steady time of the last frame that differed from the one before
        self._received: Now | None = None
        self._good = config.good_frames  # frames in a row since the last trouble; a camera that starts is trusted
        self._frozen = False

    def clear(self) -> None:
        """After a jump of time: no frame of before counts."""
        self._frames.clear()

    def push(self, stamp_ns: int, image: ImageArray, content: int, now: Now) -> Refusal | None:
        """Take a frame. content: `decode.content_hash` of the bytes as they were sent."""
        refusal = self._order(stamp_ns, now)
        if refusal is not None:
            self.dropped += 1
            return refusal
        if self._received is not None and self._silent(now, self._received):
            self._good = 0
        self._received = now
        if content != self._content or not self._changed_ns:
            self._content, self._changed_ns = content, now.steady_ns
            if self._frozen:
                self._frozen, self._good = False, 0
        elif self._same_too_long(now):
            self._frozen, self._good = True, 0
            self._frames.clear()
            held = seconds(now.steady_ns - self._changed_ns)
            return Refusal(Reason.FROZEN, f"camera {self.name}: the same picture for {held:.3f} s with fresh stamps")
        self._good += 1
        self._frames.append(CameraFrame(self.name, stamp_ns, image))
        return None

    def _order(self, stamp_ns: int, now: Now) -> Refusal | None:
        """Stamps must rise and not come from the future; where the held ones do, time went back and they go."""
        ahead = stamp_ns - now.stamp_ns
        if ahead > nanoseconds(self._config.future_tolerance_s):
            return Refusal(Reason.STAMP_FUTURE, f"camera {self.name}: {seconds(ahead):.3f} s ahead of this clock")
        if self._frames and self._frames[-1].stamp_ns - now.stamp_ns > nanoseconds(self._config.future_tolerance_s):
            self.clear()
        if self._frames and stamp_ns <= self._frames[-1].stamp_ns:
            older = seconds(self._frames[-1].stamp_ns - stamp_ns)
            return Refusal(Reason.STAMP_REPEATED, f"camera {self.name}: {older:.4f} s older than the newest frame")
        return None

    def _silent(self, now: Now, received: Now) -> bool:
        """On the steady clock. A simulated camera slower than real time is silent when its own clock says so too, or stands still."""
        limit, silence = nanoseconds(self._config.stale_s), now.steady_ns - received.steady_ns
        if self._config.use_sim_time and 0 <= now.stamp_ns - received.stamp_ns < limit:
            return silence >= _STANDING * limit
        return silence >= limit

    def _same_too_long(self, now: Now) -> bool:
        limit = nanoseconds(self._config.frozen_s)
        return limit > 0 and now.steady_ns - self._changed_ns >= limit

    def state(self, now: Now) -> CameraState:
        """At this instant, on the steady clock."""
        if self._received is None:
            return CameraState.WAITING
        if self._frozen:
            return CameraState.FROZEN
        if self._silent(now, self._received):
            return CameraState.STALE
        return CameraState.LIVE if self._good >= self._config.good_frames and self._frames else CameraState.RETURNING

    @property
    def newest(self) -> CameraFrame | None:
        return self._frames[-1] if self._frames else None

    def nearest(self, stamp_ns: int) -> CameraFrame | None:
        """The frame whose stamp is nearest."""
        return min(self._frames, key=lambda f: abs(f.stamp_ns - stamp_ns), default=None)
