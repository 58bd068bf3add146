"""Uncertainty of counted successes."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """successes of trials, with the Wilson 95 % interval (Wilson 1927, doi 10.2307/2276774)."""

    successes: int
    trials: int

    @property
    def value(self) -> float:
        """nan for no trials."""
        return self.successes / self.trials if self.trials else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high); (0, 1) for no trials."""
        n, k = self.trials, self.successes
        if n == 0:
            return 0.0, 1.0
        p, z2 = k / n, Z95**2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.successes}/{self.trials} = {100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def difference(a: Share, b: Share) -> tuple[float, float, float]:
    """a - b with the 95 % interval of Newcombe's hybrid score method (doi 10.1002/(SICI)1097-0258(19980430)17:8<873)."""
    (la, ua), (lb, ub) = a.interval, b.interval
    gap = a.value - b.value
    low = gap - math.sqrt((a.value - la) ** 2 + (ub - b.value) ** 2)
    high = gap + math.sqrt((ua - a.value) ** 2 + (b.value - lb) ** 2)
    return gap, low, high
