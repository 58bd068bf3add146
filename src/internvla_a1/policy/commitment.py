"""What is already committed when a new chunk is asked for: real-time chunking (arXiv 2506.07339), the caller's side.

The time from an observation to its chunk on the wire is measured. Steps that fall inside it will have been executed from the older
chunk by then, so the new chunk has to begin with them.

An executor need not do what a chunk says: it takes it up softly, slows it down, cuts it before a collision. A new chunk that began with
steps which are not run would be planned for an arm that is elsewhere, and the one after it for an arm still further off. So what counts
as committed begins where the arm is told to be, and comes back to the chunk; an arm that is held away from it is committed to nothing.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from internvla_a1.core.clock import nanoseconds, seconds
from internvla_a1.core.smoothing import smooth
from internvla_a1.core.types import ActionChunk, FloatArray
from internvla_a1.policy.protocol import Committed

DELAYS = 10  # the delay expected is the longest of the last ten: a frozen step too many costs less than one too few
KEPT = 8  # chunks that the executor may still be following
CATCH_UP_S = 0.5  # until an arm that is off its chunk is taken to be back on it; 0.3 and 0.8 s sorted less with chunks 400 ms late
HELD = 1e-3  # rad or m between two reports: the arm rests
OFF = 0.05  # rad or m: further off its chunk than by what two chunks disagree, a resting arm is held


class Commitments:
    """Remembers the chunks that were sent and what the executor says of them. Stamps are the node clock's, ns."""

    def __init__(self, margin_s: float = 0.02, fade_s: float = 0.05, gripper: NDArray[np.bool_] | bool = False) -> None:
        """margin_s: transport and one tick of the executor, added to the measured delay. fade_s: of the executor between two chunks.

        gripper: (joints,), which of them are: told to jump, they are always off, and nobody waits for them.
        """
        self._margin_s, self._fade_s, self._gripper = margin_s, fade_s, gripper
        self._delays: deque[float] = deque(maxlen=DELAYS)
        self.clear()

    def clear(self) -> None:
        """Nothing is committed: the policy does not have the arm, or the clock jumped. Measured delays stay."""
        self._sent: deque[ActionChunk] = deque(maxlen=KEPT)
        self._executing = 0
        self._answered = False
        self._told: deque[tuple[int, FloatArray]] = deque(maxlen=2)  # stamp, and where the arm is told to be then

    @property
    def delay_s(self) -> float:
        """Expected time from observation to execution of its chunk, s; 0 before the first measurement."""
        return max(self._delays) + self._margin_s if self._delays else 0.0

    def sent(self, chunk: ActionChunk, stamp_ns: int) -> None:
        """This chunk went out at this instant."""
        self._sent.append(chunk)
        self._delays.append(max(0.0, seconds(stamp_ns - chunk.stamp_ns)))
        self._answered = False

    def executing(self, chunk_id: int, age_s: float = 0.0, commanded: FloatArray | None = None) -> None:
        """The executor reports the chunk that it follows, 0 if none, and where it tells the arm to be, (joints,), age_s after the chunk's
        observation; None: it does not say, and is taken to follow it."""
        self._executing = chunk_id
        self._answered = True
        chunk = next((c for c in self._sent if c.chunk_id == chunk_id), None)
        if chunk is None or commanded is None or len(commanded) != chunk.positions.shape[1]:
            self._told.clear()
            return
        stamp_ns = chunk.stamp_ns + nanoseconds(age_s)
        if self._told and stamp_ns <= self._told[-1][0]:
            self._told.pop()
        self._told.append((stamp_ns, commanded))

    def steps(self, stamp_ns: int, dt_s: float) -> Committed | None:
        """Committed steps on the grid of a chunk observed at `stamp_ns`, None where nothing is left to follow, or the arm is held.

        The step that the arm is on its way to when the chunk takes over is frozen too where it is less than half a step away: another
        place for it would be a jerk. A prefix goes on to the step after the fade, so that nothing is left to fade, and is never empty.
        """
        plan = self._plan()
        if plan is None:
            return None
        count = int((seconds(plan.end_stamp_ns - stamp_ns) + 1e-6) / dt_s)
        if count < 1 or stamp_ns < plan.stamp_ns:
            return None
        ahead = np.asarray(seconds(stamp_ns - plan.stamp_ns) + (np.arange(count) + 1) * dt_s, np.float64)
        frozen = min(count, math.ceil((self.delay_s - 1e-6) / dt_s - 0.5))
        shown = min(count, max(1, math.ceil((self.delay_s + self._fade_s - 1e-6) / dt_s)))
        rows = _at(plan, ahead)
        off = self._off(plan, stamp_ns)
        if off is not None:
            if self._resting() and np.abs(off).max() > OFF:
                return None
            since = np.asarray(seconds(plan.stamp_ns - self._told[-1][0]) + ahead, np.float64)
            rows = rows + (1.0 - smooth(since / CATCH_UP_S))[:, None] * off
        return Committed(rows, frozen, shown)

    def _off(self, plan: ActionChunk, stamp_ns: int) -> FloatArray | None:
        """(joints,) from where the plan would have the arm to where it was last told to be; None where no report says anything of that:
        an older one is of another place by now, and before its first step a chunk does not say where the arm should be."""
        if not self._told:
            return None
        told_ns, told = self._told[-1]
        if seconds(stamp_ns - told_ns) >= CATCH_UP_S or told_ns < plan.stamp_ns + nanoseconds(plan.dt_s):
            return None
        off = told - _at(plan, np.array([seconds(told_ns - plan.stamp_ns)]))[0]
        return np.asarray(np.where(self._gripper, 0.0, off), np.float64)

    def _resting(self) -> bool:
        """Whether the arm was told to be at one place by the last two reports."""
        if len(self._told) < 2:
            return False
        (_, before), (_, now) = self._told
        return bool(np.abs(np.where(self._gripper, 0.0, now - before)).max() < HELD)

    def _plan(self) -> ActionChunk | None:
        """The chunk in execution: what the executor reports, or the newest if it has not reported since that was sent."""
        if not self._sent:
            return None
        if not self._answered and self._executing:
            return self._sent[-1]
        return next((c for c in self._sent if c.chunk_id == self._executing), None)


def _at(plan: ActionChunk, after_s: FloatArray) -> FloatArray:
    """(n, joints) of a chunk at times after its stamp, linear between steps."""
    knots = (np.arange(plan.steps) + 1) * plan.dt_s
    return np.column_stack([np.interp(after_s, knots, column) for column in plan.positions.T])
