"""Two times, never mixed: steady (is the sender alive?) and stamps (of which moment is this data?). Integers, nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

NS = 1_000_000_000


def seconds(ns: int) -> float:
    """Nanoseconds to seconds."""
    return ns / NS


def nanoseconds(s: float) -> int:
    """Seconds to nanoseconds, rounded to the nearest."""
    return round(s * NS)


@dataclass(frozen=True)
class Now:
    """One instant on both clocks, read once at the start of a tick."""

    steady_ns: int  # monotonic, for watchdogs: cannot jump, does not stop with /clock
    stamp_ns: int  # the node's clock (wall or simulated), comparable with header stamps


class ManualClock:
    """A clock that moves when told to: simulations and tests."""

    def __init__(self, steady_ns: int = NS, stamp_ns: int = NS) -> None:
        self._now = Now(steady_ns, stamp_ns)

    def now(self) -> Now:
        return self._now

    def advance(self, s: float, stamps: bool = True) -> Now:
        """Move on by `s` seconds; with stamps=False the simulated time stands still."""
        step = nanoseconds(s)
        self._now = Now(self._now.steady_ns + step, self._now.stamp_ns + (step if stamps else 0))
        return self._now
