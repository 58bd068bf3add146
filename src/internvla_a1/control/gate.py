"""The door for chunks: everything about one is checked here, once; past it a chunk is in the robot's order, finite and in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.motion_clock import MotionClock
from internvla_a1.core.clock import Now, nanoseconds, seconds
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.joints import JointMatcher
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import ActionChunk, FloatArray


@dataclass(frozen=True)
class TimedChunk:
    """A chunk past the gate. positions (steps, joints) in the robot's order; times in motion time, ns."""

    chunk_id: int
    observed_ns: int  # the instant of the observation behind it
    accepted_ns: int
    dt_ns: int
    positions: FloatArray
    frozen_steps: int
    limited: bool = False  # whether a position limit had a say
    before: FloatArray | None = None  # (joints,) where the arm was at observed_ns: what step 0 is approached from
    held_from: int | None = None  # from this step on the arm stays where it is: what it was asked for touches something
    held: np.ndarray | None = None  # (joints,) bool: which joints stay then

    @property
    def steps(self) -> int:
        return len(self.positions)

    @property
    def end_ns(self) -> int:
        """The instant of the last step."""
        return self.observed_ns + self.steps * self.dt_ns

    def step_at(self, motion_ns: int) -> int:
        """Index of the step being approached, in [0, steps - 1]."""
        return int(min(max(-(-(motion_ns - self.observed_ns) // self.dt_ns) - 1, 0), self.steps - 1))

    def remaining_from(self, motion_ns: int) -> int:
        """Index of the first step that is not in the past; `steps` when all are."""
        return int(min(max(-(-(motion_ns - self.observed_ns) // self.dt_ns) - 1, 0), self.steps))


class ChunkGate:
    """Checks of one chunk against the robot, the clock and the give-back. Order and age relative to other chunks: ChunkBuffer."""

    def __init__(self, robot: RobotSpec, config: ExecutorConfig, clock: MotionClock, matcher: JointMatcher) -> None:
        self._robot, self._config, self._clock, self._matcher = robot, config, clock, matcher

    def admit(self, chunk: ActionChunk, now: Now, not_before_ns: int) -> TimedChunk | Refusal:
        """The chunk in the robot's order and motion time, or why it is refused whole. not_before_ns: motion time of the give-back."""
        refusal = self._source(chunk) or self._shape(chunk)
        if refusal is not None:
            return refusal
        order = self._matcher.order(chunk.joint_names, extra_allowed=False)
        if isinstance(order, Refusal):
            return order
        refusal = finite(chunk.positions) or self._stamp(chunk, now)
        if refusal is not None:
            return refusal
        observed = self._clock.of_stamp(chunk.stamp_ns, now)
        if observed < not_before_ns:
            early = seconds(not_before_ns - observed)
            return Refusal(Reason.BEFORE_GIVE_BACK, f"observed {early:.3f} s before the policy was given the arm")
        positions = np.ascontiguousarray(chunk.positions[:, order], dtype=np.float64)
        frozen = min(max(int(chunk.frozen_steps), 0), len(positions))
        return TimedChunk(int(chunk.chunk_id), observed, self._clock.read(now), nanoseconds(chunk.dt_s), positions, frozen)

    def _source(self, chunk: ActionChunk) -> Refusal | None:
        if chunk.source != "policy":
            return Refusal(Reason.NOT_ACTIVE_SOURCE, f"chunk from {chunk.source[:64]!r}, expected 'policy'")
        return None

    def _shape(self, chunk: ActionChunk) -> Refusal | None:
        config, wanted = self._config, self._robot.control_dt_s
        shape = np.shape(chunk.positions)
        if len(shape) != 2 or shape[1] != len(chunk.joint_names) or not np.issubdtype(np.asarray(chunk.positions).dtype, np.number):
            return Refusal(Reason.WRONG_SHAPE, f"positions {shape} for {len(chunk.joint_names)} joints")
        if not config.min_steps <= shape[0] <= config.max_steps:
            return Refusal(Reason.WRONG_HORIZON, f"{shape[0]} steps, allowed {config.min_steps} to {config.max_steps}")
        if not abs(chunk.dt_s - wanted) <= config.chunk_dt_tolerance * wanted:  # also refuses nan
            return Refusal(Reason.WRONG_HORIZON, f"dt {chunk.dt_s} s, the robot's is {wanted:.4f} s")
        return None

    def _stamp(self, chunk: ActionChunk, now: Now) -> Refusal | None:
        ahead = seconds(chunk.stamp_ns - now.stamp_ns)
        if ahead > self._config.future_tolerance_s:
            return Refusal(Reason.STAMP_FUTURE, f"{ahead:.3f} s ahead of this clock, at most {self._config.future_tolerance_s} s")
        return None


def finite(positions: FloatArray) -> Refusal | None:
    """Refuses a chunk with any nan or infinity in it, whole."""
    bad = ~np.isfinite(positions)
    if not bad.any():
        return None
    step, joint = (int(i) for i in np.argwhere(bad)[0])
    return Refusal(Reason.NON_FINITE, f"{int(bad.sum())} of {bad.size} numbers, the first at step {step}, column {joint}")
