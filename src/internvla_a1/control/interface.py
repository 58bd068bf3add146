"""What goes into the executor and what comes out of it, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from internvla_a1.core.faults import Fault
from internvla_a1.core.types import FloatArray


class Mode(IntEnum):
    """Who has the arm; the numbers of internvla_a1_msgs/HandoverState."""

    HOLD = 0
    TELEOP = 1
    POLICY = 2
    FAULT = 3
    ESTOP = 4


@dataclass(frozen=True)
class TeleopCommand:
    """One target of a person's device.

    positions (joints,): rad or m, in the order of joint_names (any order; all joints of the robot).
    velocities: the same for the device's velocity, or None. deadman False means that the person has let go: a
    trajectory message without points.
    """

    stamp_ns: int
    joint_names: tuple[str, ...]
    positions: FloatArray
    velocities: FloatArray | None = None
    deadman: bool = True


@dataclass(frozen=True)
class PlannedMotion:
    """A timed path that a planner made, e.g. go home; executed in HOLD, ended by any request, takeover or fault.

    times_s (points,): rising, from 0. positions (points, joints): rad or m, in the robot's own order; the first is
    where the arm is.
    """

    name: str
    times_s: FloatArray
    positions: FloatArray


@dataclass(frozen=True)
class Segment:
    """What is published as a JointTrajectory with header.stamp = stamp_ns and time_from_start = times_s.

    times_s (points,): rising, the first in [0, 0.02). positions, velocities (points, joints): rad or m and their rates,
    in the robot's own order. Cubic interpolation between the points reproduces the plan exactly; the last point is at rest.
    """

    stamp_ns: int
    joint_names: tuple[str, ...]
    times_s: FloatArray
    positions: FloatArray
    velocities: FloatArray

    def sample(self, times_s: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Position, velocity, acceleration (n, joints) as a joint_trajectory_controller interpolates: cubic, held at both ends."""
        t = np.clip(times_s, self.times_s[0], self.times_s[-1])
        if len(self.times_s) == 1:
            zero = np.zeros((len(t), self.positions.shape[1]))
            return zero + self.positions[0], zero, zero
        i = np.clip(np.searchsorted(self.times_s, t, side="right") - 1, 0, len(self.times_s) - 2)
        h = (self.times_s[i + 1] - self.times_s[i])[:, None]
        s = (t - self.times_s[i])[:, None]
        q0, q1, v0, v1 = self.positions[i], self.positions[i + 1], self.velocities[i], self.velocities[i + 1]
        c2 = (3 * (q1 - q0) / h - 2 * v0 - v1) / h
        c3 = (v0 + v1 - 2 * (q1 - q0) / h) / h**2
        return q0 + s * (v0 + s * (c2 + s * c3)), v0 + s * (2 * c2 + 3 * s * c3), 2 * c2 + 6 * s * c3


@dataclass(frozen=True)
class Handover:
    """What is published as HandoverState."""

    mode: Mode
    reason: str
    blend: float  # 0..1, how far the switch has gone
    chunk_id: int  # 0 if none


@dataclass(frozen=True)
class Status:
    """What is published as ExecutorStatus, plus the counters of /diagnostics. Arrays: (joints,), the robot's own order."""

    chunk_id: int
    step: int
    joint_names: tuple[str, ...]
    commanded: FloatArray  # the last measured position where nothing was commanded yet; empty before any joint state
    tracking_error: FloatArray  # commanded - measured; empty before any joint state
    chunk_age_s: float  # since the observation behind the chunk; 0 without one
    chunks_accepted: int
    chunks_rejected: int
    limits_applied: int
    last_rejection: str
    refusals: dict[str, int]  # by name of the reason, all inputs
    moving: bool
    collision_gate: str  # name of the gate in use, "none" without one


@dataclass(frozen=True)
class TickOutput:
    """Everything that a tick decided. segment is None when there is nothing to send (at rest in HOLD, or not this tick)."""

    segment: Segment | None
    status: Status
    handover: Handover
    faults: tuple[Fault, ...]  # active or latched, worst first
