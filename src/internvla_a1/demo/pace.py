"""How fast the cell's clock may run on this machine: in real time while pictures and commands are in time, else slower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SLOWEST = 0.5
WATCH_S = 1.5
_STEP = 0.8
_LEAST = 8  # samples of a link for a judgement
# Milliseconds of the cell's time within which nine of ten are to come; where the processors keep up it is 30 and 120.
_LATEST_MS = {"observation": 60.0, "whole": 220.0}


class Pacer:
    """Judges a stretch of WATCH_S at a time. It never speeds up again: a run is not to swing."""

    def __init__(self) -> None:
        self.pace = 1.0
        self._settling = False

    def judge(self, samples_ms: Mapping[str, Sequence[float]]) -> float | None:
        """samples_ms: wall time of each link in that stretch (see LatencyLog). The new pace; None where it may stay.

        The stretch after a change is left out: what had queued is still on its way.
        """
        if self._settling:
            self._settling = False
            return None
        late = any(
            self.pace * float(np.percentile(samples_ms[link], 90)) > limit
            for link, limit in _LATEST_MS.items()
            if len(samples_ms.get(link, ())) >= _LEAST
        )
        if not late or self.pace <= SLOWEST:
            return None
        self._settling = True
        self.pace = max(round(_STEP * self.pace, 2), SLOWEST)
        return self.pace
