"""Bumpless both ways: what a person's device means for the arm, and how fast a new source gets its authority."""

from __future__ import annotations

import numpy as np

from internvla_a1.control.collision_protocol import CollisionGate
from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.interface import TeleopCommand
from internvla_a1.control.limiter import Reference
from internvla_a1.control.limits import Limits
from internvla_a1.control.measured import stamp_refusal
from internvla_a1.control.motion_clock import MotionClock
from internvla_a1.core.clock import NS, Now, nanoseconds, seconds
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.joints import JointMatcher
from internvla_a1.core.smoothing import smooth
from internvla_a1.core.types import FloatArray

_LOOK_RAD = 1.2  # how far ahead of the arm a command is checked: more than it can move before the next command, and stop
_STEP_RAD = 0.05


class Authority:
    """How far a switch has gone: from where the arm was (`origin`) to what the new source wants."""

    def __init__(self, origin: FloatArray, since_ns: int, ramp_s: float) -> None:
        self._origin, self._since_ns, self._ramp_ns = origin, since_ns, nanoseconds(ramp_s)

    def share(self, motion_ns: np.ndarray) -> FloatArray:
        """0..1 at motion times (n,)."""
        if self._ramp_ns == 0:
            return np.ones(len(motion_ns))
        return smooth((motion_ns - self._since_ns) / self._ramp_ns)

    def apply(self, wanted: Reference, motion_ns: np.ndarray) -> Reference:
        """wanted as far as the switch has gone at its motion times (n,)."""
        share = self.share(motion_ns)[:, None]
        return Reference(self._origin + share * (wanted.q - self._origin), share * wanted.v, share * wanted.a)


class TeleopInput:
    """The last command of the person's device, in the robot's order."""

    def __init__(self, config: ExecutorConfig, clock: MotionClock, matcher: JointMatcher) -> None:
        self._config, self._clock, self._matcher = config, clock, matcher
        self._offset: FloatArray | None = None
        self.forget()

    def forget(self) -> None:
        """After a jump of time, or at the end of a takeover: the device must speak again."""
        self._positions: FloatArray | None = None
        self._velocities: FloatArray | None = None
        self._moment_ns = self._received_ns = 0
        self._offset = None
        self._stopped_at: FloatArray | None = None

    @property
    def ready(self) -> bool:
        return self._positions is not None

    def age_s(self, now: Now) -> float:
        """Steady seconds since the last accepted command; infinite without one."""
        return seconds(now.steady_ns - self._received_ns) if self.ready else float("inf")

    def take(self, command: TeleopCommand, now: Now) -> Refusal | None:
        """Accept a command with the deadman pressed, or say why not."""
        order = self._matcher.order(command.joint_names, extra_allowed=False)
        if isinstance(order, Refusal):
            return order
        positions = np.asarray(command.positions, dtype=np.float64)
        velocities = None if command.velocities is None else np.asarray(command.velocities, dtype=np.float64)
        for name, values in (("positions", positions), ("velocities", velocities)):
            if values is None:
                continue
            if values.shape != (len(command.joint_names),):
                return Refusal(Reason.WRONG_SHAPE, f"teleop {name} {values.shape} for {len(command.joint_names)} joints")
            if not np.isfinite(values).all():
                return Refusal(Reason.NON_FINITE, f"teleop {name}")
        refusal = stamp_refusal(seconds(now.stamp_ns - command.stamp_ns), self._config)
        if refusal is not None:
            return refusal
        moment = self._clock.of_stamp(command.stamp_ns, now)
        if self.ready and moment <= self._moment_ns:
            return Refusal(Reason.STAMP_REPEATED, f"teleop command {(self._moment_ns - moment) / NS:.4f} s older than the one held")
        self._positions = positions[order]
        self._velocities = None if velocities is None else velocities[order]
        self._moment_ns, self._received_ns = moment, now.steady_ns
        self._stopped_at = None
        return None

    def restrain(self, commanded: FloatArray, limits: Limits, gate: CollisionGate) -> str:
        """Let the command reach no further than what is free on the straight way to it; returns what would touch what.

        An arm that is already too near to something may be moved, by a person, whichever way.
        """
        if self._positions is None:
            return ""
        goal = self._positions if self._offset is None else self._positions + self._offset
        if self._velocities is not None:
            goal = goal + self._config.teleop_age_s * self._velocities
        way = np.clip(goal, limits.lower, limits.upper) - commanded
        far = float(np.abs(way).max())
        way = way * min(1.0, _LOOK_RAD / max(far, 1e-9))
        steps = int(min(far, _LOOK_RAD) / _STEP_RAD) + 1
        path = commanded + np.arange(1, steps + 1)[:, None] / steps * way
        found = gate.check(commanded, path)
        if found.safe == steps or gate.check(commanded, commanded[None]).safe == 0:
            return ""
        self._stopped_at = path[found.safe - 1] if found.safe else commanded.copy()
        return found.hit

    def capture(self, q: FloatArray, v: FloatArray, limits: Limits) -> None:
        """Relative clutch: from now on the device moves the arm from where it comes to rest, wherever the device is."""
        if self._config.teleop_mode == "relative" and self._positions is not None:
            rest = q + np.sign(v) * v**2 / (1.4 * limits.acceleration)
            self._offset = np.clip(rest, limits.lower, limits.upper) - self._positions

    @property
    def captured(self) -> bool:
        return self._offset is not None

    def target(self, motion_ns: np.ndarray) -> FloatArray | None:
        """Positions (n, joints) wanted at motion times (n,): the last command, moved on by its velocity for at most the allowed age."""
        if self._positions is None:
            return None
        if self._stopped_at is not None:
            return np.broadcast_to(self._stopped_at, (len(motion_ns), len(self._stopped_at)))
        base = self._positions if self._offset is None else self._positions + self._offset
        if self._velocities is None:
            return np.broadcast_to(base, (len(motion_ns), len(base)))
        ahead = np.clip((motion_ns - self._moment_ns) / NS, 0.0, self._config.teleop_age_s)
        return base + ahead[:, None] * self._velocities
