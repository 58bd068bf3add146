"""How chunks move the cell's arm: straight into its trajectory controller, or through the executor's own core as on a robot."""

from __future__ import annotations

from typing import Protocol as Interface

import xacro

from internvla_a1.control.collision import PinocchioGate
from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.executor import Executor
from internvla_a1.control.interface import Mode, Segment, Status
from internvla_a1.core.clock import NS, Now, nanoseconds
from internvla_a1.core.resources import find
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import ActionChunk
from internvla_a1.policy.commitment import Commitments
from internvla_a1.sim.cell import Cell
from internvla_a1.sim.runner import to_trajectory
from internvla_a1.sim.trajectory import Trajectory

LEAD_S = 0.02  # what the executor node plans ahead of now
_ORIGIN_NS = 1000 * NS  # of the steady clock


class Arm(Interface):
    """Moves with the cell's time. stops: how often it was taken from the policy, and given back at once."""

    stops: int

    def take(self, chunk: ActionChunk) -> bool:
        """A chunk has arrived; False if it is not followed."""

    def report(self, commitments: Commitments) -> None:
        """Say which chunk is followed, as the executor's status does."""

    def advance(self, seconds: float) -> None:
        """Let the cell's time pass."""


class DirectArm:
    """The chunk is the controller's trajectory: no limits, no checks."""

    stops = 0

    def __init__(self, cell: Cell) -> None:
        self._cell, self._following = cell, 0

    def take(self, chunk: ActionChunk) -> bool:
        accepted = bool(self._cell.controller.accept(to_trajectory(chunk), self._cell.time_s).accepted)
        self._following = chunk.chunk_id if accepted else self._following
        return accepted

    def report(self, commitments: Commitments) -> None:
        commitments.executing(self._following)

    def advance(self, seconds: float) -> None:
        self._cell.advance(seconds)


def collision_gate(robot: RobotSpec) -> PinocchioGate:
    """The executor's, on the robot file's URDF. Made once: hulls take a while."""
    return PinocchioGate(robot, str(xacro.process_file(str(find(robot.urdf))).toxml()), find(robot.srdf).read_text())


class ExecutorArm:
    """Tracker, limits, collision gate and watchdogs of `control.Executor` between chunk and controller, ticked as its node does."""

    def __init__(self, cell: Cell, gate: PinocchioGate | None) -> None:
        config = ExecutorConfig(use_sim_time=True, cover_s=ExecutorConfig().cover_s - LEAD_S)
        self._cell, self._core, self._tick_s = cell, Executor(cell.robot, config, gate), config.tick_s
        self._left_s = 0.0  # until the next tick
        self._armed = False
        self._status: Status | None = None
        self.stops = 0

    def take(self, chunk: ActionChunk) -> bool:
        accepted = self._core.on_chunk(chunk, self._now()) is None
        self._tick()  # not a tick later
        return accepted

    def report(self, commitments: Commitments) -> None:
        if self._status is not None:
            commitments.executing(self._status.chunk_id, self._status.chunk_age_s, self._status.commanded)

    def advance(self, seconds: float) -> None:
        while seconds > 1e-6:
            step = min(seconds, self._left_s or self._tick_s)
            self._cell.advance(step)
            self._left_s = (self._left_s or self._tick_s) - step
            seconds -= step
            if self._left_s < 1e-6:
                self._left_s = 0.0
                self._tick()

    def _now(self) -> Now:
        stamp = self._cell.stamp_ns + nanoseconds(LEAD_S)
        return Now(_ORIGIN_NS + stamp, stamp)

    def _tick(self) -> None:
        cell, core, now = self._cell, self._core, self._now()
        names, positions, velocities, _ = cell.joint_state()
        core.on_joint_state(names, positions, cell.stamp_ns, now, velocities)
        out = core.tick(now)
        self._status = out.status
        if out.handover.mode is not Mode.POLICY:
            self.stops += self._armed
            if out.handover.mode is Mode.FAULT:
                core.on_clear_fault(now)
            self._armed = core.on_request("policy", now) is None
        if out.segment is not None:
            cell.controller.accept(_trajectory(out.segment), cell.time_s)


def _trajectory(s: Segment) -> Trajectory:
    return Trajectory(s.joint_names, s.times_s, s.positions, s.velocities, stamp_ns=max(s.stamp_ns, 1))
