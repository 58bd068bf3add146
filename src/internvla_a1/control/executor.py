"""The one place that decides what the arm is told. Pure: messages and time in, one segment and a status out; nothing raises.

Order of a tick: time, watchdogs, supervisor, reference of the source that has the arm, plan within limits, last gate, segment.
The commanded state is the plan that was sent, read at now: when this process is late, the arm is where the plan says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from internvla_a1.control import watchdogs
from internvla_a1.control.chunk_buffer import ChunkBuffer
from internvla_a1.control.collision_protocol import CollisionGate
from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.gate import ChunkGate
from internvla_a1.control.handover import TeleopInput
from internvla_a1.control.intake import admit_chunk, admit_motion
from internvla_a1.control.interface import Handover, Mode, PlannedMotion, Status, TeleopCommand, TickOutput
from internvla_a1.control.limiter import Reference, reference_from
from internvla_a1.control.limits import Limits
from internvla_a1.control.measured import MeasuredJoints
from internvla_a1.control.motion_clock import MotionClock
from internvla_a1.control.mover import Mover, knot_of
from internvla_a1.control.supervisor import Supervisor
from internvla_a1.core.clock import NS, Now, nanoseconds, seconds
from internvla_a1.core.faults import Fault, Reason, Refusal
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import ActionChunk

_MESSAGES_PER_TICK = 50  # of one kind; more are dropped unread, so that a flood cannot make a tick late
_SLEPT_TICKS = 4  # a longer gap between two ticks was a pause of this process
_SETTLE_S = 1.0  # a planned motion is over this long after its last point
_NONSENSE = (Reason.NON_FINITE, Reason.WRONG_JOINTS, Reason.WRONG_SHAPE, Reason.WRONG_HORIZON)


class Executor:
    """Owns the arm's command. Feed it messages as they come, call `tick` every config.tick_s, send what it returns."""

    def __init__(self, robot: RobotSpec, config: ExecutorConfig | None = None, collision: CollisionGate | None = None) -> None:
        """Raises ConfigError where robot and parameters leave a joint no range."""
        self.robot = robot
        self.config = config = config or ExecutorConfig()
        self.collision = collision
        self.supervisor = Supervisor()
        self._clock = MotionClock(config.use_sim_time, config.clock_jump_s, config.max_real_time_factor)
        self._measured = MeasuredJoints(robot, config, self._clock)
        self._gate = ChunkGate(robot, config, self._clock, self._measured.matcher)
        self._chunks = ChunkBuffer(config)
        self._teleop = TeleopInput(config, self._clock, self._measured.matcher)
        self._motion: tuple[PlannedMotion, int] | None = None
        self._mover = Mover(robot, config, collision)
        self._ticks = 0
        # A person's hand is followed as it moves. Where a chunk or a planned path goes is known ahead: half as often does, with half of
        # the cover left at the least.
        self._every = config.publish_every
        self._every_known = max(self._every, min(2 * self._every, int(config.cover_s / 2 / config.tick_s)))
        self._last_tick: Now | None = None

        self._pending: list[Fault] = []  # of events since the last tick
        self._pressed, self._estop_ns, self._clear_ns = False, 0, 0
        self._estop_heard = False
        self._chunk_ns, self._first = (0, 0), True  # steady and motion time of the newest chunk or of the arm request
        self._asked_ns = 0  # steady time of the last request or takeover
        self._give_back_ns = 0  # motion time
        self._publishers = 1
        self._controller: tuple[str, int] | None = None
        self._nonsense = 0
        self._load: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self._accepted = self._rejected = self._limited = 0
        self._last_rejection = ""

    @property
    def limits(self) -> Limits:
        """What the arm may do: the robot's limits with the soft margins of the parameters."""
        return self._mover.limits

    # -- what comes in ---------------------------------------------------------------------------------------------------

    def on_joint_state(
        self, names: Sequence[str], positions: ArrayLike, stamp_ns: int, now: Now, velocities: ArrayLike | None = None
    ) -> Refusal | None:
        """A joint state as it was received, any order, extra joints allowed; positions in rad or m."""
        if self._flooded("joint_state"):
            return self._refused(Reason.FLOODED, "joint states")
        refusal = self._measured.take(names, positions, stamp_ns, now, velocities)
        if refusal is None:
            return None
        fault = watchdogs.too_many_in_a_row(Reason.ENCODER_FAULT, self._measured.implausible_in_a_row, refusal.detail, self.config)
        if fault is not None:
            self._pending.append(fault)
        return self._count(refusal)

    def on_chunk(self, chunk: ActionChunk, now: Now) -> Refusal | None:
        """A chunk of the policy. Accepted only while the policy has the arm."""
        refusal = self._refused_chunk(chunk, now)
        if refusal is None:
            self._accepted += 1
            self._nonsense = 0
            return None
        self._rejected += 1
        self._last_rejection = str(refusal)
        if refusal.reason in _NONSENSE:
            self._nonsense += 1
            fault = watchdogs.too_many_in_a_row(Reason.POLICY_NONSENSE, self._nonsense, refusal.detail, self.config)
            if fault is not None and self.supervisor.mode is Mode.POLICY:
                self._pending.append(fault)
        return self._count(refusal)

    def _refused_chunk(self, chunk: ActionChunk, now: Now) -> Refusal | None:
        if self._flooded("chunk"):
            return Refusal(Reason.FLOODED, "chunks")
        if self.supervisor.mode is not Mode.POLICY:
            return Refusal(Reason.NOT_ACTIVE_SOURCE, f"the policy does not have the arm ({self.supervisor.mode.name})")
        motion = self._clock.read(now)
        timed = self._gate.admit(chunk, now, self._give_back_ns)
        if isinstance(timed, Refusal):
            return timed
        late = self._chunks.refuse(timed, motion)
        if late is not None:
            return late
        if self._measured.positions is None:
            return Refusal(Reason.NOT_ALLOWED, "no joint state yet")
        measured = self._measured.positions
        place = self._mover.place(knot_of(motion), measured)
        checked = admit_chunk(timed, place, motion, self._mover.bounds, self.collision, self.robot.gripper_mask)
        if isinstance(checked, Refusal):
            return checked
        if checked.held_from is not None:
            cut = self._count(Refusal(Reason.COLLISION, f"chunk {timed.chunk_id} cut after step {checked.held_from - 1} of {timed.steps}"))
            self._last_rejection = str(cut)
        self._limited += checked.limited
        self._chunks.add(checked, self._mover.told(timed.observed_ns, measured))
        self._mover.urgent = True  # its first segment leaves with the next tick
        self._chunk_ns, self._first = (now.steady_ns, motion), False
        return None

    def on_teleop(self, command: TeleopCommand, now: Now) -> Refusal | None:
        """A command of a person's device. With the deadman pressed it takes the arm from the policy (config.auto_takeover)."""
        if self._flooded("teleop"):
            return self._refused(Reason.FLOODED, "teleop commands")
        if not command.deadman:
            self._teleop.forget()
            self.supervisor.let_go()
            return None
        refusal = self._teleop.take(command, now)
        if refusal is not None:
            return self._count(refusal)
        if self.config.auto_takeover and self.supervisor.takeover():
            self._start_teleop(now)
        if self.supervisor.mode is not Mode.TELEOP:
            return self._refused(Reason.NOT_ACTIVE_SOURCE, f"teleop does not have the arm ({self.supervisor.mode.name}); ask for it")
        return self._restrained(now)

    def _restrained(self, now: Now) -> Refusal | None:
        """A person's command is followed as far as nothing is touched; what would be is said."""
        if self.collision is None or self._measured.positions is None:
            return None
        commanded = self._mover.state(knot_of(self._clock.read(now)), self._measured.positions)[0]
        hit = self._teleop.restrain(commanded, self._mover.bounds, self.collision)
        return self._refused(Reason.COLLISION, f"teleop command followed only up to {hit}") if hit else None

    def on_request(self, mode: str, now: Now) -> Refusal | None:
        """hold, teleop or policy, by a person. From TELEOP or HOLD, `policy` is the give-back."""
        before = self.supervisor.mode
        if mode in ("policy", "teleop") and self._measured.age_s(now) > self.config.joint_state_age_s:
            return self._refused(Reason.NOT_ALLOWED, f"{mode} is refused while the joint states are silent")
        refusal = self.supervisor.ask(mode)
        if refusal is not None:
            return self._count(refusal)
        self._motion = None
        if self.supervisor.mode is before:
            return None
        if mode == "teleop":
            self._start_teleop(now)
        elif mode == "policy":
            self._release(now)
            self._chunk_ns, self._first, self._nonsense = (now.steady_ns, self._clock.read(now)), True, 0
            self._give_back_ns = self._clock.read(now) + nanoseconds(self.config.history_s)
        return None

    def on_clear_fault(self, now: Now) -> Refusal | None:
        """A reset: out of FAULT and ESTOP into HOLD, where the causes are gone."""
        self.supervisor.update(self._present(now, 0.0))
        refusal = self.supervisor.clear()
        return None if refusal is None else self._count(refusal)

    def on_planned_motion(self, motion: PlannedMotion, now: Now) -> Refusal | None:
        """Execute a planner's path, from HOLD at rest; any request, takeover or fault ends it."""
        at = self._clock.read(now)
        refusal = admit_motion(motion, self.supervisor, self._measured.positions, self.config, self.robot)
        if refusal is None and not self._mover.at_rest(knot_of(at)):
            refusal = Refusal(Reason.NOT_ALLOWED, "the arm is still coming to rest")
        if refusal is not None:
            return self._count(refusal)
        self._release(now)
        self._motion = (motion, at)
        return None

    def on_estop(self, pressed: bool, now: Now) -> None:
        """The emergency-stop topic: true stops; every message is a heartbeat."""
        if pressed or self._pressed:
            self._clear_ns = now.steady_ns
        self._pressed = pressed
        self._estop_ns, self._estop_heard = now.steady_ns, True
        if pressed:
            self.supervisor.update(self._present(now, 0.0))

    def on_controller_result(self, ok: bool, detail: str, now: Now) -> None:
        """What the arm's controller or its action server answered; detail: its code and text."""
        self._controller = None if ok else (detail, now.steady_ns)

    def on_publishers(self, count: int, now: Now) -> None:
        """How many publishers the arm's command topic has, this one included."""
        self._publishers = count

    # -- what goes out ---------------------------------------------------------------------------------------------------

    def tick(self, now: Now) -> TickOutput:
        """One control period. Never raises, never waits; its work does not depend on what came in."""
        motion = self._clock.read(now)
        self._load.clear()
        self._ticks += 1
        jump = self._clock.take_jump()
        if jump is not None:
            self._forget()
            self._pending += [f for f in (watchdogs.clock_jumped(jump, self.config),) if f is not None]
        gap = 0.0 if self._last_tick is None else seconds(now.steady_ns - self._last_tick.steady_ns)
        self._last_tick = now
        if _SLEPT_TICKS * self.config.tick_s < gap <= self.config.pause_s:
            self._measured.excuse(gap, now)
        present = self._present(now, gap) + self._pending
        self._pending = []
        self.supervisor.update(present)
        knot = knot_of(motion)
        due = self._ticks % (self._every if self.supervisor.mode is Mode.TELEOP else self._every_known) == 0
        self._move(motion, knot, due)
        self._mover.remember(motion)
        segment = self._mover.segment(knot, motion, now.stamp_ns, due)
        return TickOutput(segment, self._status(motion, knot), self._handover(motion), self.supervisor.faults)

    def unsent(self) -> None:
        """The segment of the last tick did not go out, because this process was kept waiting: the arm follows the one before."""
        self._mover.take_back()

    def unsure(self) -> None:
        """This process was stopped while it sent the last segment: it may have come in time, or too late to be taken.

        The arm comes to rest as either segment ends, within cover and braking time; then it is led on from where it stands.
        """
        self._mover.unsure()

    def _present(self, now: Now, gap_s: float) -> list[Fault]:
        """The faults whose cause is there right now."""
        config, mode = self.config, self.supervisor.mode
        active = mode in (Mode.POLICY, Mode.TELEOP) or self._motion is not None
        teleop_age = min(self._teleop.age_s(now), seconds(now.steady_ns - self._asked_ns))
        clear_s = seconds(now.steady_ns - self._clear_ns) if self._clear_ns else float("inf")  # infinite: it never was pressed
        checks = [
            watchdogs.estop_pressed(self._pressed, clear_s, config),
            watchdogs.estop_silent(seconds(now.steady_ns - self._estop_ns), config) if self._estop_heard else self._never_heard(now),
            watchdogs.second_commander(self._publishers),
            watchdogs.joint_state_silent(self._measured.age_s(now), config),
            watchdogs.clock_stopped(self._clock.standing_s(now), config),
            watchdogs.paused(gap_s, config) if active else None,
            watchdogs.teleop_silent(teleop_age, config) if mode is Mode.TELEOP else None,
            watchdogs.chunk_silent(self._chunk_age_s(now), self._first, config) if mode is Mode.POLICY else None,
        ]
        if self._controller is not None:
            detail, since = self._controller
            checks.append(watchdogs.controller_failed(detail, seconds(now.steady_ns - since), config))
        return [c for c in checks if c is not None]

    def _chunk_age_s(self, now: Now) -> float:
        """On the steady clock; in simulation, where a slow clock moves the arm as slowly, motion time must say so too."""
        steady, motion = self._chunk_ns
        return seconds(min(now.steady_ns - steady, self._clock.read(now) - motion))

    def _never_heard(self, now: Now) -> Fault | None:
        """A configured source that never spoke counts as silent from the first tick on."""
        if self._estop_ns == 0:
            self._estop_ns = now.steady_ns
        return watchdogs.estop_silent(seconds(now.steady_ns - self._estop_ns), self.config)

    # -- motion ----------------------------------------------------------------------------------------------------------

    def _move(self, motion: int, knot: int, due: bool) -> None:
        """Follow the source that has the arm, or stop."""
        supervisor, measured = self.supervisor, self._measured.positions
        if self._motion is not None and (supervisor.mode is not Mode.HOLD or supervisor.blocking() is not None or self._arrived(motion)):
            self._motion = None
        if measured is not None:
            self._mover.settle(knot, measured)
        active = supervisor.mode in (Mode.POLICY, Mode.TELEOP) or self._motion is not None
        wanted = self._wanted(self._mover.times(knot)) if active else None
        if wanted is None or measured is None:
            self._mover.stop(supervisor.mode is Mode.ESTOP, knot)
            return
        problem = self._mover.advance(wanted, knot, measured, self._ramp_s(), due, self._until(), supervisor.mode is Mode.TELEOP)
        if isinstance(problem, Refusal):
            self._count(problem)
        elif problem is not None:
            self._pending.append(problem)
        self._limited += self._mover.limited
        self._mover.limited = False

    def _wanted(self, times: np.ndarray) -> Reference | None:
        """The reference of the source that has the arm; None where it has nothing to say yet."""
        if self._motion is not None:
            path, start = self._motion
            at = (times - start) / NS
            return reference_from(np.column_stack([np.interp(at, path.times_s, column) for column in path.positions.T]))
        if self.supervisor.mode is Mode.POLICY:
            return self._chunks.reference(times)
        target = self._teleop.target(times)
        return None if target is None else reference_from(target)

    def _until(self) -> int | None:
        """Motion time up to which the newest chunk is followed, should no other come; None where no chunk leads."""
        if self._motion is not None or self.supervisor.mode is not Mode.POLICY:
            return None
        return self._chunk_ns[1] + nanoseconds(self.config.max_open_loop_s - self.config.brake_early_s)

    def _arrived(self, motion: int) -> bool:
        return self._motion is not None and seconds(motion - self._motion[1]) > float(self._motion[0].times_s[-1]) + _SETTLE_S

    def _ramp_s(self) -> float:
        if self._motion is not None:
            return 0.0
        if self.supervisor.mode is Mode.POLICY:
            return self.config.give_back_blend_s
        return self.config.takeover_ramp_s if self.config.teleop_mode == "absolute" else 0.0

    def _release(self, now: Now) -> None:
        """A new source begins: nothing planned before counts."""
        self._chunks.clear()
        self._mover.release(knot_of(self._clock.read(now)), self._measured.positions)

    def _start_teleop(self, now: Now) -> None:
        self._asked_ns = now.steady_ns
        self._release(now)
        if self._teleop.age_s(now) > self.config.teleop_age_s:
            self._teleop.forget()
        if self._measured.positions is not None:
            q, v, _ = self._mover.state(knot_of(self._clock.read(now)), self._measured.positions)
            self._teleop.capture(q, v, self._mover.bounds)
        self._mover.urgent = True

    def _forget(self) -> None:
        """Time jumped: nothing from before counts."""
        self._chunks.clear()
        self._measured.forget()
        self._teleop.forget()
        self._motion = None

    # -- words -----------------------------------------------------------------------------------------------------------

    def _status(self, motion: int, knot: int) -> Status:
        measured, newest = self._measured.positions, self._chunks.newest
        plan = self._mover.plan
        commanded = plan.state(knot)[0] if plan is not None else measured
        empty = np.zeros(0)
        return Status(
            chunk_id=newest.chunk_id if newest else 0,
            step=newest.step_at(motion) if newest else 0,
            joint_names=self.robot.joint_names,
            commanded=empty if commanded is None else commanded.copy(),
            tracking_error=empty if commanded is None or measured is None else commanded - measured,
            chunk_age_s=seconds(motion - newest.observed_ns) if newest else 0.0,
            chunks_accepted=self._accepted,
            chunks_rejected=self._rejected,
            limits_applied=self._limited,
            last_rejection=self._last_rejection,
            refusals=dict(self.refusals),
            moving=not self._mover.at_rest(knot),
            collision_gate=self.collision.name if self.collision is not None else "none",
        )

    def _handover(self, motion: int) -> Handover:
        newest = self._chunks.newest if self.supervisor.mode is Mode.POLICY else None
        authority = self._mover.authority
        blend = float(authority.share(np.array([motion]))[0]) if authority is not None else 0.0
        reason = f"following {self._motion[0].name}" if self._motion is not None else self.supervisor.reason
        return Handover(self.supervisor.mode, reason, blend, newest.chunk_id if newest else 0)

    def _flooded(self, kind: str) -> bool:
        self._load[kind] += 1
        return self._load[kind] > _MESSAGES_PER_TICK

    def _refused(self, reason: Reason, detail: str) -> Refusal:
        return self._count(Refusal(reason, detail))

    def _count(self, refusal: Refusal) -> Refusal:
        self.refusals[refusal.reason.value] += 1
        return refusal
