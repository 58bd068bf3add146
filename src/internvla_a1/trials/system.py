"""What the fault table promises of real processes: each function is one trial on the running stack, and returns measured and allowed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from std_msgs.msg import Bool, String
from trajectory_msgs.msg import JointTrajectory

from internvla_a1.core.errors import InternVLAError
from internvla_a1.core.types import FloatArray
from internvla_a1.demo.stack import Stack
from internvla_a1.ros import convert, joints, qos
from internvla_a1.trials.disturbances import here, spoilt
from internvla_a1.trials.observer import Observer

NODES = ("executor", "perception", "policy", "foresight")
_STOP_RAD_S2 = 4.0  # of the executor's parameters
_AT_REST_RAD_S = 0.02
_PICKING_RAD_S = 0.4
_STILL_S = 0.2
_STILL_ROWS = 5  # joint states, 50 ms
_WATCH_S = 3.0
_PUSHED_RAD = 0.02  # a parcel on the belt pushes the arm that stands in its way by up to 4 mrad
SLACK_S = 0.06
_OPEN_LOOP_S, _COVER_S, _TELEOP_S = 0.5, 0.2, 0.1
_READY_S = 120.0


class Trial(NamedTuple):
    """measured <= allowed is a promise kept. Seconds or counts; infinite where something happened that must not."""

    measured: float
    allowed: float

    @property
    def kept(self) -> bool:
        return self.measured <= self.allowed


class Bench:
    """The stack and a person beside it, who gives the arm back after every trial."""

    def __init__(self, observer: Observer, stack: Stack, rng: np.random.Generator) -> None:
        self.o, self._stack, self.rng = observer, stack, rng
        self.killed = 0.0  # when the executor was last killed, steady s

    def ready(self) -> None:
        """Every node active, the policy has the arm, the arm moves. Raises InternVLAError where that takes too long."""
        end = time.monotonic() + _READY_S
        while time.monotonic() < end:
            if not self._stack.running:
                raise InternVLAError(f"the stack ended:\n{self._stack.tail()}")
            if all(self.o.states.get(n) == "active" for n in NODES) and self._armed() and self.o.speed() > _PICKING_RAD_S:
                return
            time.sleep(0.02)
        raise InternVLAError(f"the arm did not move within {_READY_S:g} s, mode {self.o.mode}:\n{self._stack.tail()}")

    def _armed(self) -> bool:
        if self.o.mode in ("fault", "estop"):
            self.o.clear_fault(1.0)
        if self.o.mode != "policy":
            self.o.request_mode("policy", 1.0)
            time.sleep(0.3)
        return self.o.mode == "policy"

    def rest(self, since: float) -> tuple[float, float]:
        """Watches until the arm stands still: (s from `since` until then, the braking time v / a_stop of what it did).

        Infinite where it moves on after 3 s, or gets away from where it came to rest. It stands still when all its joints do, and
        nothing that it is told later moves it; a parcel that the belt pushes against it may move it a little.
        """
        time.sleep(0.05)
        end = since + _WATCH_S
        while time.monotonic() < end and not self._still():
            time.sleep(0.01)
        arm = ~self.o.robot.gripper_mask
        rows = [m for m in list(self.o.measured) if m.at > since]
        speeds = np.array([np.abs(m.v[arm]).max() for m in rows]) if rows else np.zeros(0)
        told = max((t.at for t in list(self.o.told) if t.at > since and _moves(t.segment.positions)), default=since)
        still = [i for i in range(len(rows)) if rows[i].at > told and (speeds[i : i + _STILL_ROWS] <= _AT_REST_RAD_S).all()]
        if not still or len(rows) - still[0] < _STILL_ROWS:
            return float("inf"), 0.0
        if self.drift(rows[still[0]].at) > _PUSHED_RAD:
            return float("inf"), 0.0
        moving = np.flatnonzero(speeds[: still[0]] > _AT_REST_RAD_S)
        return (rows[moving[-1]].at - since if len(moving) else 0.0), float(speeds.max()) / _STOP_RAD_S2

    def told(self, since: float) -> int:
        """Segments that the arm was sent since then."""
        return sum(t.at > since for t in list(self.o.told))

    def drift(self, since: float) -> float:
        """How far a joint of the arm has got from where it was then, rad."""
        q = np.array([m.q for m in list(self.o.measured) if m.at > since])[:, ~self.o.robot.gripper_mask]
        return float(np.abs(q - q[0]).max()) if len(q) else float("inf")

    def _still(self) -> bool:
        arm, now = ~self.o.robot.gripper_mask, time.monotonic()
        recent = [m for m in list(self.o.measured)[-40:] if m.at > now - _STILL_S]
        return len(recent) > 5 and all(np.abs(m.v[arm]).max() <= _AT_REST_RAD_S for m in recent)

    def until_said(self, mode: str, since: float, limit_s: float) -> float:
        """Seconds from `since` until the executor says a mode; infinite if it does not."""
        found = self.o.until(lambda: any(s.at >= since and s.mode == mode for s in list(self.o.said)), limit_s)
        return next(s.at for s in self.o.said if s.at >= since and s.mode == mode) - since if found else float("inf")

    def stops(self, since: float) -> int:
        """How often the policy lost the arm since then."""
        modes = [s.mode for s in list(self.o.said) if s.at >= since]
        return sum(a == "policy" != b for a, b in zip(["policy", *modes], modes, strict=False))

    def violations(self) -> int:
        """Position, velocity and acceleration, in the simulator's own log."""
        cell = self.o.diagnostics.get("cell", {})
        return sum(int(cell.get(f"limit_violations/{kind}", 0)) for kind in ("position", "velocity", "acceleration"))

    def keep(self, path: Path) -> None:
        """What the arm did and was told in the last 5 s, to look at later. Times: steady s."""
        since = time.monotonic() - 5.0
        rows = [m for m in list(self.o.measured) if m.at > since]
        told = [t for t in list(self.o.told) if t.at > since]
        at, q, v = ([getattr(m, name) for m in rows] for name in ("at", "q", "v"))
        steps = [t.segment.positions for t in told]
        positions = np.concatenate(steps) if steps else np.zeros((0, len(self.o.robot.joint_names)))
        np.savez_compressed(path, at=at, q=q, v=v, told_at=[t.at for t in told], told_steps=[len(s) for s in steps], told=positions)

    def signal(self, node: str, number: int) -> int:
        """Returns the pid that got it."""
        pid = self.o.pids[node]
        os.kill(pid, number)
        return pid


def _moves(positions: FloatArray) -> bool:
    """Whether a segment goes anywhere; the last ones of a stop need not."""
    return float(np.abs(positions - positions[0]).max()) > _PUSHED_RAD / 4


def policy_killed(b: Bench) -> Trial:
    since = time.monotonic()
    b.signal("policy", signal.SIGKILL)
    measured, braking = b.rest(since)
    return Trial(measured, _OPEN_LOOP_S + braking + SLACK_S)


def policy_stopped(b: Bench) -> Trial:
    return _silenced(b)


def policy_spinning(b: Bench) -> Trial:
    """Silent while a core is burnt, as by a loop without end."""
    with _burning():
        return _silenced(b)


def _silenced(b: Bench) -> Trial:
    """SIGSTOP for 2 s, then SIGCONT; the arm is told nothing after it until somebody asks, and stays within what a parcel may push it."""
    since = time.monotonic()
    pid = b.signal("policy", signal.SIGSTOP)
    try:
        measured, braking = b.rest(since)
        time.sleep(max(0.0, since + 2.0 - time.monotonic()))
    finally:
        os.kill(pid, signal.SIGCONT)
    again = time.monotonic()
    time.sleep(0.6)
    if b.o.mode == "policy" or not np.isfinite(measured) or b.told(again) or b.drift(again) > _PUSHED_RAD:
        return Trial(float("inf"), _OPEN_LOOP_S)
    return Trial(measured, _OPEN_LOOP_S + braking + SLACK_S)


@contextmanager
def _burning() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def executor_killed(b: Bench) -> Trial:
    b.killed = time.monotonic()
    b.signal("executor", signal.SIGKILL)
    measured, braking = b.rest(b.killed)
    return Trial(measured, _COVER_S + braking)


def executor_back(b: Bench) -> Trial:
    """From the kill that was just played until the new one says HOLD."""
    return Trial(b.until_said("hold", b.killed + 0.1, 20.0) + 0.1, 2.0)


def executor_paused(b: Bench) -> Trial:
    """Ten seconds of pauses of 0.15 s."""
    since = time.monotonic()
    while time.monotonic() < since + 10.0:
        pid = b.signal("executor", signal.SIGSTOP)
        time.sleep(0.15)
        os.kill(pid, signal.SIGCONT)
        time.sleep(float(b.rng.uniform(0.2, 0.8)))
    return Trial(b.stops(since), 0)


def emergency_stop(b: Bench) -> Trial:
    since = time.monotonic()
    b.o.estop.publish(Bool(data=True))
    took = b.until_said("estop", since, 1.0)
    b.o.estop.publish(Bool(data=False))
    time.sleep(0.6)
    return Trial(took, 0.05)


def takeover(b: Bench) -> Trial:
    since = time.monotonic()
    _jog(b, 0.3)
    took = b.until_said("teleop", since, 0.3)
    b.rest(time.monotonic())
    return Trial(took, 0.05)


def deadman_released(b: Bench) -> Trial:
    """Every other time the link breaks instead."""
    _jog(b, 0.6)
    since = time.monotonic()
    if b.rng.random() < 0.5:
        b.o.teleop.publish(JointTrajectory(joint_names=list(b.o.robot.joint_names)))
    measured, braking = b.rest(since)
    return Trial(measured if b.o.mode != "policy" else float("inf"), _TELEOP_S + braking + SLACK_S)


def _jog(b: Bench, seconds: float) -> None:
    """A person's device moves one joint."""
    start, joint, began = b.o.measured[-1].q, int(b.rng.integers(6)), time.monotonic()
    while (t := time.monotonic() - began) < seconds:
        q = start.copy()
        q[joint] += 0.15 * np.sin(3.0 * t)
        b.o.teleop.publish(joints.trajectory_msg(joints.Segment(b.o.stamp_ns, b.o.robot.joint_names, np.zeros(1), q[None])))
        time.sleep(0.02)


def second_commander(b: Bench) -> Trial:
    since = time.monotonic()
    intruder = b.o.node.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", qos.RELIABLE)
    took = b.until_said("fault", since, 3.0)
    b.o.node.destroy_publisher(intruder)
    time.sleep(0.5)
    return Trial(took, 1.0)


def nonsense_on_the_wire(b: Bench) -> Trial:
    """Ten seconds of chunks that are not finite: what the arm is told stays finite."""
    before, since = b.o.nonsense, time.monotonic()
    while time.monotonic() < since + 10.0:
        b.o.chunks.publish(convert.chunk_msg(spoilt(here(b.o, b.rng), str(b.rng.choice(["nan", "inf"])), b.rng)))
        time.sleep(float(b.rng.uniform(0.03, 0.3)))
    return Trial(b.o.nonsense - before, 0)


def toggled(b: Bench) -> Trial:
    """Ten seconds of requests at 50 Hz, with a device that pushes as well."""
    before, since = b.violations(), time.monotonic()
    while time.monotonic() < since + 10.0:
        b.o.requests.publish(String(data=str(b.rng.choice(["policy", "hold", "teleop"]))))
        if b.rng.random() < 0.5:
            segment = joints.Segment(b.o.stamp_ns, b.o.robot.joint_names, np.zeros(1), b.o.measured[-1].q[None])
            b.o.teleop.publish(joints.trajectory_msg(segment))
        time.sleep(0.02)
    time.sleep(1.2)  # the cell's diagnostics come once a second
    return Trial(b.violations() - before, 0)


def clock_stopped(b: Bench) -> Trial:
    """The cell stands still, and with it /clock."""
    since = time.monotonic()
    pid = b.signal("cell", signal.SIGSTOP)
    took = min(b.until_said(mode, since, 1.0) for mode in ("hold", "fault"))
    os.kill(pid, signal.SIGCONT)
    return Trial(took, 0.6)


def slow_inference(b: Bench) -> Trial:
    """A minute of chunks half as often."""
    with ExitStack() as closing:
        closing.callback(_set_period, b, 0.13)
        _set_period(b, 0.26)
        since = time.monotonic()
        time.sleep(60.0)
        return Trial(b.stops(since), 0)


def _set_period(b: Bench, seconds: float) -> None:
    client = b.o.node.create_client(SetParameters, "policy/set_parameters")
    try:
        if not b.o.until(client.service_is_ready, 5.0):
            raise InternVLAError("the policy node does not answer")
        future = client.call_async(SetParameters.Request(parameters=[Parameter("period_s", value=seconds).to_parameter_msg()]))
        if not b.o.until(future.done, 5.0) or not future.result().results[0].successful:
            raise InternVLAError("the policy node did not take the period")
    finally:
        b.o.node.destroy_client(client)


@dataclass(frozen=True)
class SystemFigure:
    """trials: the full number. all_of_them: every trial must keep the promise, else 99 of 100 (p99).

    follows: measured on what the figure before it in FIGURES has just done to the stack.
    """

    row: int
    what: str
    promised: str
    trials: int
    run: Callable[[Bench], Trial]
    all_of_them: bool = False
    follows: bool = False

    @property
    def name(self) -> str:
        return self.run.__name__

    def ok(self, trials: list[Trial]) -> bool:
        excess = [t.measured - t.allowed for t in trials]
        return bool(trials) and bool((max(excess) if self.all_of_them else np.percentile(excess, 99, method="higher")) <= 0)


FIGURES = (
    SystemFigure(13, "policy killed: at rest", "0.5 s + T_b + 60 ms, p99", 50, policy_killed),
    SystemFigure(13, "policy stopped: at rest, and stays", "0.5 s + T_b + 60 ms, p99", 50, policy_stopped),
    SystemFigure(13, "policy spinning: at rest, and stays", "0.5 s + T_b + 60 ms, p99", 50, policy_spinning),
    SystemFigure(16, "executor killed: at rest", "0.2 s + T_b, all", 50, executor_killed, True),
    SystemFigure(16, "executor killed: the next one in HOLD", "2 s, all", 50, executor_back, True, follows=True),
    SystemFigure(20, "emergency stop", "50 ms, p99", 200, emergency_stop),
    SystemFigure(22, "a person takes over", "50 ms, p99", 200, takeover),
    SystemFigure(23, "deadman released or link lost: at rest", "0.1 s + T_b + 60 ms, all", 50, deadman_released, True),
    SystemFigure(31, "second publisher on the command topic: fault", "1 s, all", 20, second_commander, True),
    SystemFigure(28, "/clock stops: HOLD", "0.6 s, all", 20, clock_stopped, True),
    SystemFigure(17, "10 s of pauses of 0.15 s: stops", "0", 6, executor_paused, True),
    SystemFigure(8, "10 s of chunks with NaN: non-finite commands", "0", 6, nonsense_on_the_wire, True),
    SystemFigure(25, "10 s of toggling at 50 Hz: violations", "0", 6, toggled, True),
    SystemFigure(11, "a minute of inference half as often: stops", "0", 10, slow_inference, True),
)
