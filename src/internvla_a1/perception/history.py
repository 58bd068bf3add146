"""Values by stamp: what was seen or measured at an instant in the past."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from internvla_a1.core.clock import nanoseconds

T = TypeVar("T")


class History(Generic[T]):
    """A ring of stamped values, strictly rising. A stamp that goes back empties it: time has jumped, nothing of before counts."""

    def __init__(self, length: int) -> None:
        self._held: deque[tuple[int, T]] = deque(maxlen=length)

    def __len__(self) -> int:
        return len(self._held)

    def clear(self) -> None:
        self._held.clear()

    def push(self, stamp_ns: int, value: T) -> None:
        """The same stamp again replaces its value."""
        if self._held and stamp_ns < self._held[-1][0]:
            self._held.clear()
        if self._held and stamp_ns == self._held[-1][0]:
            self._held.pop()
        self._held.append((stamp_ns, value))

    @property
    def newest(self) -> tuple[int, T] | None:
        return self._held[-1] if self._held else None

    def nearest(self, stamp_ns: int, tolerance_s: float) -> tuple[int, T] | None:
        """The stamped value nearest to an instant, if it is within the tolerance."""
        best = min(self._held, key=lambda item: abs(item[0] - stamp_ns), default=None)
        return best if best is not None and abs(best[0] - stamp_ns) <= nanoseconds(tolerance_s) else None

    def around(self, stamp_ns: int) -> tuple[tuple[int, T] | None, tuple[int, T] | None]:
        """The last value at or before an instant, and the first at or after it."""
        before = after = None
        for item in self._held:
            if item[0] <= stamp_ns:
                before = item
            if item[0] >= stamp_ns:
                after = item
                break
        return before, after
