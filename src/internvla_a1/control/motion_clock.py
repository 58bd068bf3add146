"""Motion time: the one time that plans and chunks live in. It goes forward, whatever wall time or simulated time do.

On a real arm it is the steady clock, so that a step of wall time moves nothing; in simulation it is the simulated clock,
joined up over jumps. A stamp is taken to motion time by its age at reception.
"""

from __future__ import annotations

from math import exp

from internvla_a1.core.clock import NS, Now, nanoseconds, seconds

_CATCH_UP_S = 0.1  # how long a process that was kept from hearing /clock may take to hear the rest of it


class MotionClock:
    """Feed it every `Now`; it notices jumps and stops of simulated time."""

    def __init__(self, use_sim_time: bool, jump_s: float, max_rate: float) -> None:
        self._sim = use_sim_time
        self._jump_ns = nanoseconds(jump_s)
        self._rate = max_rate
        self._last: Now | None = None
        self._offset_ns = 0
        self._progress_ns = 0  # steady time of the last progress of simulated time
        # How far simulated time is behind the steady clock. A process that was kept from hearing /clock catches up at once, or in a few
        # leaps: none is a jump.
        self._behind_ns = 0.0
        self._jump_s: float | None = None

    def read(self, now: Now) -> int:
        """Motion time in ns. Rises, or stands still while simulated time does."""
        if not self._sim:
            return now.steady_ns
        if self._last is None:
            self._progress_ns = now.steady_ns
            self._last = now
        stamps = now.stamp_ns - self._last.stamp_ns
        steady = now.steady_ns - self._last.steady_ns
        if stamps:
            self._behind_ns *= exp(-seconds(steady) / _CATCH_UP_S)
        self._behind_ns += self._rate * steady - stamps
        if stamps < 0 or self._behind_ns < -self._jump_ns:
            self._offset_ns -= stamps
            self._jump_s = stamps / NS
        self._behind_ns = max(self._behind_ns, 0.0)
        if stamps != 0:
            self._progress_ns = now.steady_ns
        self._last = now
        return now.stamp_ns + self._offset_ns

    def of_stamp(self, stamp_ns: int, now: Now) -> int:
        """The motion time of the instant that a stamp, received now, is for."""
        return self.read(now) - (now.stamp_ns - stamp_ns)

    def take_jump(self) -> float | None:
        """The jump of simulated time since the last call, s, or None."""
        jump, self._jump_s = self._jump_s, None
        return jump

    def standing_s(self, now: Now) -> float:
        """How long, in steady seconds, simulated time has stood still; 0 on a real arm."""
        return (now.steady_ns - self._progress_ns) / NS if self._sim and self._last is not None else 0.0
