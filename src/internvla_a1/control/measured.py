"""Joint states in: matched by name, plausible, in order. What is refused leaves the last good sample in place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.motion_clock import MotionClock
from internvla_a1.core.clock import NS, Now, nanoseconds, seconds
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.joints import JointMatcher
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import FloatArray

_LEAST_DT_S = 0.002  # jitter of stamps: a shorter time between samples is not divided by
_NOISE = 1e-3  # rad or m, always plausible


def stamp_refusal(age_s: float, config: ExecutorConfig) -> Refusal | None:
    """A stamp from the future, or older than anything live can be (unless the clock is simulated)."""
    if age_s < -config.future_tolerance_s:
        return Refusal(Reason.STAMP_FUTURE, f"{-age_s:.3f} s ahead of this clock, at most {config.future_tolerance_s} s")
    if age_s > config.max_stamp_age_s and not config.use_sim_time:
        return Refusal(Reason.STAMP_OLD, f"{age_s:.3f} s old, at most {config.max_stamp_age_s} s; a recording needs use_sim_time")
    return None


def implausible(refused: np.ndarray) -> bool:
    """Whether any joint of a sample moved faster than it can (refused: (joints,) bool)."""
    return bool(refused.any())


class MeasuredJoints:
    """The last plausible joint state. positions (joints,), None before the first and after `forget`."""

    def __init__(self, robot: RobotSpec, config: ExecutorConfig, clock: MotionClock) -> None:
        self._config, self._clock = config, clock
        self.matcher = JointMatcher(robot.joint_names)
        self._fastest = config.glitch_factor * robot.array("max_velocity")
        self.positions: FloatArray | None = None
        self.velocities: FloatArray | None = None
        self._moment_ns = 0  # motion time that the sample is of
        self._received_ns = 0  # steady time of reception
        self.implausible_in_a_row = 0

    def forget(self) -> None:
        """After a jump of time: nothing measured before counts."""
        self.positions = self.velocities = None
        self.implausible_in_a_row = 0

    def age_s(self, now: Now) -> float:
        """Steady seconds since a sample was accepted; infinite before the first."""
        return seconds(now.steady_ns - self._received_ns) if self.positions is not None else float("inf")

    def excuse(self, gap_s: float, now: Now) -> None:
        """What this process slept through is no silence of the sender."""
        self._received_ns = min(self._received_ns + nanoseconds(gap_s), now.steady_ns)

    def take(self, names: Sequence[str], positions: ArrayLike, stamp_ns: int, now: Now, velocities: ArrayLike | None) -> Refusal | None:
        """Accept a sample or say why not."""
        order = self.matcher.order(names, extra_allowed=True)
        if isinstance(order, Refusal):
            return order
        q = _vector(positions, len(names))
        if isinstance(q, Refusal):
            return q
        q = q[order]
        if not np.isfinite(q).all():
            return Refusal(Reason.NON_FINITE, f"joint state of {self._bad(~np.isfinite(q))}")
        refusal = stamp_refusal(seconds(now.stamp_ns - stamp_ns), self._config)
        if refusal is not None:
            return refusal
        moment = self._clock.of_stamp(stamp_ns, now)
        if self.positions is not None:
            if moment == self._moment_ns and self._config.use_sim_time:  # simulated time stands still, the driver is alive
                self._received_ns = now.steady_ns
                return None
            if moment <= self._moment_ns:
                return Refusal(Reason.STAMP_REPEATED, f"joint state {(self._moment_ns - moment) / NS:.4f} s older than the one held")
            if self.age_s(now) <= self._config.joint_state_age_s:
                refusal = self._glitch(q, self.positions, moment)
                if refusal is not None:
                    return refusal
        v = None if velocities is None else _vector(velocities, len(names))
        self.positions = q
        self.velocities = v[order] if isinstance(v, np.ndarray) and np.isfinite(v[order]).all() else None
        self._moment_ns, self._received_ns = moment, now.steady_ns
        self.implausible_in_a_row = 0
        return None

    def _glitch(self, q: FloatArray, held: FloatArray, moment: int) -> Refusal | None:
        dt = max((moment - self._moment_ns) / NS, _LEAST_DT_S)
        step = np.abs(q - held)
        too_fast = step > self._fastest * dt + _NOISE
        if not implausible(too_fast):
            return None
        self.implausible_in_a_row += 1
        worst = int(np.argmax(step / self._fastest))
        name = self.matcher.joint_names[worst]
        return Refusal(
            Reason.IMPLAUSIBLE_SPEED, f"{name}: {step[worst]:.4f} in {dt:.4f} s, at most {self._fastest[worst]:.3f} per s"
        )

    def _bad(self, mask: np.ndarray) -> str:
        return ", ".join(n for n, bad in zip(self.matcher.joint_names, mask, strict=True) if bad)


def _vector(values: ArrayLike, length: int) -> FloatArray | Refusal:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        return Refusal(Reason.WRONG_SHAPE, f"not numbers: {error}"[:200])
    if array.shape != (length,):
        return Refusal(Reason.WRONG_SHAPE, f"{array.shape} values for {length} names")
    return array
