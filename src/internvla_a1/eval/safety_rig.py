"""A simulated arm and a simulated clock around the real executor: what the safety figures are measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from internvla_a1.control.collision_protocol import CollisionGate
from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.executor import Executor
from internvla_a1.control.interface import Mode, Segment, TeleopCommand, TickOutput
from internvla_a1.core.clock import NS, ManualClock, Now, nanoseconds
from internvla_a1.core.faults import Refusal
from internvla_a1.core.resources import find
from internvla_a1.core.robot import RobotSpec, load_robot
from internvla_a1.core.types import ActionChunk, FloatArray

TICK_S = 0.01
WIGGLE_RAD_S = 1.5  # angular speed of the motion that test policies ask for


def demo_robot() -> RobotSpec:
    """The arm of the demo cell: 6 joints and a gripper."""
    return load_robot(find("config/robots/demo_arm.yaml"))


def middle(robot: RobotSpec) -> FloatArray:
    """(joints,): the middle of every joint's range."""
    return (robot.array("lower") + robot.array("upper")) / 2


def wiggle(robot: RobotSpec, t_s: FloatArray, amplitude: float = 0.3) -> FloatArray:
    """(n, joints): a smooth motion about the middle of the range, at times (n,) s; the gripper stays."""
    moving = np.where(robot.gripper_mask, 0.0, amplitude)
    phase = np.linspace(0.0, 1.0, len(moving))
    return middle(robot) + moving * np.sin(WIGGLE_RAD_S * t_s[:, None] + phase)


@dataclass
class SimArm:
    """Follows segments as a joint_trajectory_controller does: by time, a new one replaces the old one at once."""

    q: FloatArray
    offset: FloatArray  # measured - commanded, e.g. after it was pushed
    segment: Segment | None = None

    def take(self, segment: Segment | None) -> None:
        if segment is not None:
            self.segment = segment

    def at(self, stamp_ns: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Commanded q, v, a (joints,) now; after the last point of the segment it stands."""
        if self.segment is None:
            return self.q, np.zeros_like(self.q), np.zeros_like(self.q)
        t = (stamp_ns - self.segment.stamp_ns) / NS
        q, v, a = (x[0] for x in self.segment.sample(np.array([t])))
        if not self.segment.times_s[0] <= t < self.segment.times_s[-1]:
            v, a = np.zeros_like(v), np.zeros_like(a)
        return q, v, a


@dataclass
class Log:
    """What was sent and how the arm moved, one row a tick."""

    q: list[FloatArray] = field(default_factory=list)
    v: list[FloatArray] = field(default_factory=list)
    a: list[FloatArray] = field(default_factory=list)
    outputs: list[TickOutput] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)


class Rig:
    """Executor, arm and clock. `step` is one tick; messages are sent in between, as callers like."""

    def __init__(
        self,
        robot: RobotSpec | None = None,
        config: ExecutorConfig | None = None,
        collision: CollisionGate | None = None,
        start: FloatArray | None = None,
        record: bool = True,
    ) -> None:
        self.robot = robot or demo_robot()
        self.clock = ManualClock(steady_ns=1000 * NS, stamp_ns=5_000_100 * NS)
        self.executor = Executor(self.robot, config, collision)
        q = middle(self.robot) if start is None else start
        self.arm = SimArm(q.copy(), np.zeros_like(q))
        self.log = Log()
        self.record = record
        self.state_alive = True
        self.output: TickOutput | None = None
        self.chunk_id = 0

    @property
    def now(self) -> Now:
        return self.clock.now()

    @property
    def mode(self) -> Mode:
        return self.executor.supervisor.mode

    @property
    def out(self) -> TickOutput:
        """Of the last tick."""
        if self.output is None:
            return self.step()
        return self.output

    def measured(self) -> FloatArray:
        return self.arm.at(self.now.stamp_ns)[0] + self.arm.offset

    def send_state(self) -> Refusal | None:
        return self.executor.on_joint_state(self.robot.joint_names, self.measured(), self.now.stamp_ns, self.now)

    def step(self, ticks: int = 1, stamps: bool = True) -> TickOutput:
        """Advance the clock, report the joints, tick. stamps False: the stamp clock stands still."""
        for _ in range(ticks):
            self.clock.advance(TICK_S, stamps)
            if self.state_alive:
                self.send_state()
            self.output = self.tick()
        return self.out

    def tick(self) -> TickOutput:
        """A tick without advancing the clock."""
        self.output = output = self.executor.tick(self.now)
        self.arm.take(output.segment)
        if self.record:
            q, v, a = self.arm.at(self.now.stamp_ns)
            self.log.q.append(q)
            self.log.v.append(v)
            self.log.a.append(a)
            self.log.outputs.append(output)
            if output.segment is not None:
                self.log.segments.append(output.segment)
        return output

    def give_policy(self) -> Refusal | None:
        """From any mode without latched fault: the policy gets the arm."""
        if self.output is None:
            self.step(2)
        return self.executor.on_request("policy", self.now)

    def make_chunk(
        self, delay_s: float = 0.05, steps: int = 30, path: Callable[[FloatArray], FloatArray] | None = None, offset: float = 0.0
    ) -> ActionChunk:
        """A chunk of the wiggle, or of `path` (times (n,) s -> (n, joints)), observed delay_s ago."""
        self.chunk_id += 1
        stamp = self.now.stamp_ns - nanoseconds(delay_s)
        t = np.asarray((stamp % (1000 * NS)) / NS + self.robot.control_dt_s * np.arange(1, steps + 1), np.float64)
        positions = (path or (lambda times: wiggle(self.robot, times)))(t)
        positions = positions + np.where(self.robot.gripper_mask, 0.0, offset)
        return ActionChunk(stamp, self.chunk_id, self.robot.joint_names, self.robot.control_dt_s, positions)

    def send_chunk(self, **how: object) -> Refusal | None:
        return self.executor.on_chunk(self.make_chunk(**how), self.now)  # type: ignore[arg-type]

    def run_policy(self, seconds: float, every_s: float = 0.2, **how: object) -> None:
        """Chunks at a steady pace for so long."""
        every = max(1, round(every_s / TICK_S))
        for i in range(round(seconds / TICK_S)):
            if i % every == 0:
                self.send_chunk(**how)
            self.step()

    def moving(self, seconds: float = 1.0) -> Rig:
        """The policy has the arm, the arm moves."""
        self.give_policy()
        self.run_policy(seconds)
        return self

    def teleop(self, q: FloatArray, deadman: bool = True, velocities: FloatArray | None = None) -> Refusal | None:
        command = TeleopCommand(self.now.stamp_ns, self.robot.joint_names, q, velocities, deadman)
        return self.executor.on_teleop(command, self.now)

    def push(self, by: FloatArray, seconds: float = 0.5) -> None:
        """A hand moves the arm away from its command by (joints,), steadily."""
        start, ticks = self.arm.offset, round(seconds / TICK_S)
        for i in range(ticks):
            self.arm.offset = start + by * (i + 1) / ticks
            self.step()

    def jump(self, s: float) -> None:
        """The stamp clock jumps; the steady clock does not."""
        now = self.now
        self.clock = ManualClock(now.steady_ns, now.stamp_ns + nanoseconds(s))

    def until_rest(self, most_s: float = 3.0) -> float:
        """Seconds until the arm stands, inf if it does not in most_s."""
        for i in range(round(most_s / TICK_S)):
            if not self.speed():
                return i * TICK_S
            self.step()
        return float("inf")

    def while_in(self, mode: Mode, stamps: bool = True, chunks: bool = False, most_s: float = 5.0) -> None:
        """Step until the mode is left; raises TimeoutError where it is not."""
        for _ in range(round(most_s / TICK_S)):
            if self.mode is not mode:
                return
            if chunks:
                self.send_chunk()
            self.step(stamps=stamps)
        raise TimeoutError(f"still in {mode.name} after {most_s} s")

    def speed(self) -> float:
        return float(np.abs(self.arm.at(self.now.stamp_ns)[1]).max())

    def braking_time(self) -> float:
        """T_b from now: v / a_stop plus the ramps of the jerk limit, s."""
        limits = self.executor.limits
        _, v, a = self.arm.at(self.now.stamp_ns)
        ramps = (np.abs(a) + 2 * limits.stop) / limits.jerk
        return float(np.max((np.abs(v) + np.abs(a) * ramps) / limits.stop + ramps)) + 2 * TICK_S


@dataclass(frozen=True)
class Excess:
    """The worst over a set of segments, as shares of the limits (1 is at the limit); positions in rad or m beyond the soft limit."""

    position: float = -np.inf
    velocity: float = 0.0
    acceleration: float = 0.0
    jerk: float = 0.0
    non_finite: int = 0
    not_at_rest: int = 0

    @property
    def violations(self) -> int:
        """Kinds of limit that were broken."""
        over = (self.position > 1e-6, self.velocity > 1 + 1e-6, self.acceleration > 1 + 1e-6)
        return sum(over) + self.non_finite + self.not_at_rest


def worst_of(segments: Sequence[Segment], executor: Executor, start: FloatArray | None = None) -> Excess:
    """Sample each segment every 2.5 ms, to its end, and compare with the limits (widened to hold `start`)."""
    limits = executor.limits if start is None else executor.limits.containing(start)
    worst = Excess()
    for segment in segments:
        q, v, a = segment.sample(np.arange(segment.times_s[0], segment.times_s[-1] + 0.0025, 0.0025))
        finite = bool(np.isfinite(q).all() and np.isfinite(v).all() and np.isfinite(segment.velocities).all())
        change = np.abs(np.diff(a, axis=0)).max(axis=0) if len(a) > 1 else np.zeros(q.shape[1])
        worst = replace(
            worst,
            position=max(worst.position, float(np.maximum(q - limits.upper, limits.lower - q).max())),
            velocity=max(worst.velocity, float((np.abs(v) / limits.velocity).max())),
            acceleration=max(worst.acceleration, float((np.abs(a) / limits.acceleration).max())),
            jerk=max(worst.jerk, float((change / 0.01 / limits.jerk).max())),
            non_finite=worst.non_finite + (not finite),
            not_at_rest=worst.not_at_rest + bool(np.any(segment.velocities[-1])),
        )
    return worst
