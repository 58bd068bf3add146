"""executor_node: the one node that commands the arm. A steady timer ticks control.Executor; what it returns is published.

Its process holds no network: it outlives the policy. Each segment ends at rest, so the arm stops by itself if this node dies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
from internvla_a1_msgs.msg import ActionChunk, ExecutorStatus, HandoverState
from internvla_a1_msgs.srv import SetMode
from rclpy.duration import Duration
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float32, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from internvla_a1.control.config import ExecutorConfig
from internvla_a1.control.executor import Executor
from internvla_a1.control.interface import Handover, Mode, PlannedMotion, Segment, Status, TeleopCommand, TickOutput
from internvla_a1.core.clock import Now, nanoseconds
from internvla_a1.core.errors import ConfigError
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.priority import REALTIME, come_first
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.nodes.homing import GATES, PLANNERS, make_gate, make_planner
from internvla_a1.ros import convert, diagnostics, joints, qos
from internvla_a1.ros.arm_drivers import DRIVERS, make_driver
from internvla_a1.ros.lifecycle import ManagedNode
from internvla_a1.ros.params import flag, integer, number, text
from internvla_a1.ros.time import stamp_ns
from internvla_a1.ros.urdf import load_urdf

_WATCH_PUBLISHERS_S = 0.25
_FLUSH_S = 0.2
_WOKEN_TICKS = 4  # a longer gap between ticks
_WAKING_TICKS = 4
_CLOCK_LAG_NS = 30_000_000
_SENDING_NS = 60_000_000  # sending takes 0.2 ms; later than this, a controller that drops old segments (80 ms: docs/real_robot.md) may have
_SHOW_EVERY_NS = 50_000_000
_CLOCKLESS = Handover(Mode.HOLD, "waiting for /clock", 0.0, 0)
_LOG_S = 1.0  # the same refusal again
_IDLE_LOG_S = 60.0  # a policy that runs while nobody has given it the arm is no trouble


@dataclass(frozen=True)
class ExecutorParams(ExecutorConfig):
    """The pure executor's parameters and the node's own."""

    robot: str = text("config/robots/demo_arm.yaml", "Robot file: joints, limits, groups, controllers", required=True)
    driver: str = text("topic", "How segments reach the controllers", choices=DRIVERS)
    collision: str = text("auto", "Collision gate; auto: pinocchio with coal where it is installed, else MoveIt", choices=GATES)
    planner: str = text("auto", "Planner of go_home; auto: the first of MoveIt, roboplan and its own that is here", choices=PLANNERS)
    autostart: bool = flag(False, "Come up in HOLD at once, without waiting for a lifecycle manager to find this node")
    lead_s: float = number(0.02, "s", 0.0, 0.1, "Plans change this far ahead of now: the time a segment needs to the controller")
    realtime_priority: int = integer(REALTIME, "", 0, 99, "SCHED_FIFO priority where the system allows it; 0: ordinary")
    status_rate: float = number(20.0, "Hz", 10.0, 100.0, "Rate of executor/status")
    max_surprise: float = number(0.0, "", 0.0, 100.0, "Surprise score above which the policy is put on hold; 0: never")

    def __post_init__(self) -> None:
        """The ranges were checked on the way in; what only holds between values is checked when the core's own part is made."""

    @property
    def core(self) -> ExecutorConfig:
        """The pure executor's part. Plans begin `lead_s` ahead, so that much less of them follows the reference: a segment ends in time."""
        values = {f.name: getattr(self, f.name) for f in fields(ExecutorConfig)}
        return ExecutorConfig(**{**values, "cover_s": self.cover_s - self.lead_s})


class ExecutorNode(ManagedNode):
    """Callbacks hand messages to the core, the tick publishes what it decides."""

    def __init__(self) -> None:
        self.core: Executor | None = None
        self._news: tuple[object, ...] = ()
        self._shown: tuple[object, ...] = ()
        self._shown_ns = 0
        self._last: TickOutput | None = None
        self._status_ns = self._lead_ns = 0
        self._ticked_early = False
        self._ticked_ns = self._stamp_ns = self._awaited_ns = 0
        self._in_time_ns = 0  # when the last segment was found to be in time
        self._waking = 0  # ticks that may still be left out after this process was kept from running
        self._unheard: ActionChunk | None = None  # came meanwhile
        super().__init__("executor", ExecutorParams)

    def now(self) -> Now:
        """This instant plus the lead, on both clocks alike: what is decided now holds when the controller has it.

        Ages and stamps keep their meaning, since every reading is shifted. Without a lead a segment would change what the arm has
        already done while it was on its way, and the arm would jerk to catch up.
        """
        now = super().now()
        return Now(now.steady_ns + self._lead_ns, now.stamp_ns + self._lead_ns if now.stamp_ns else 0)

    def _steady_ns(self) -> int:
        """Without the lead."""
        return super().now().steady_ns

    def configure(self, params: ExecutorParams) -> None:
        self.params, self._lead_ns = params, nanoseconds(params.lead_s)
        self.robot = load_robot(find(params.robot))
        read = cache(load_urdf)  # expanding a xacro file takes as long as all the rest of this, and an arm waits
        self.gate = make_gate(params.collision, self.robot, self.get_logger().warning, read)
        self.core = core = Executor(self.robot, params.core, self.gate)  # in HOLD; faults latch across deactivation
        self.planner = make_planner(params.planner, self.robot, core.limits, self.gate, self.get_logger().warning, read)
        self.driver = make_driver(params.driver, self, self.robot, self._on_controller)
        self._status_out = self.publisher(ExecutorStatus, "executor/status", qos.RELIABLE)
        self._handover_out = self.publisher(HandoverState, "handover/state", qos.LATCHED)
        self.subscription(JointState, "joint_states", self._on_joints, qos.SENSOR)
        self.subscription(ActionChunk, "policy/action_chunk", self._on_chunk, qos.RELIABLE)
        self.subscription(JointTrajectory, "teleop/joint_command", self._on_teleop, qos.RELIABLE)
        self.subscription(String, "handover/request", self._on_request, qos.RELIABLE)
        self.subscription(Bool, "estop", self._on_estop, qos.LATCHED, always=True)
        self.subscription(Float32, "foresight/surprise", self._on_surprise, qos.RELIABLE)
        self.service(SetMode, "handover/set_mode", self._set_mode)
        self.service(Trigger, "executor/go_home", self._go_home)
        self.service(Trigger, "executor/clear_fault", self._clear_fault)
        self.timer(params.tick_s, self._on_period)
        self.timer(_WATCH_PUBLISHERS_S, self._watch_publishers)
        scheduling = come_first(params.realtime_priority)
        self.diagnostics.set("scheduling", scheduling)
        gate = self.gate.name if self.gate is not None else "none"
        self.get_logger().info(
            f"{self.robot.name}: driver {params.driver}, collision gate {gate}, planner {self.planner.name}; scheduling {scheduling}"
        )

    def deactivate(self) -> None:
        """Brake and hold: one segment that ends at rest, and wait until the controller has it."""
        if self.core is None:
            return
        now = self.now()
        self.core.on_request("hold", now)
        out = self.core.tick(now)
        if out.segment is not None:
            self._send(out.segment)
        self._publish(out, final=True)
        self._unheard = None
        self.driver.flush(_FLUSH_S)
        self._handover_out.wait_for_all_acked(Duration(seconds=_FLUSH_S))

    def cleanup(self) -> None:
        self.core, self._last = None, None

    def _on_period(self) -> None:
        self._ticked_early = False
        self._tick()

    def _tick(self) -> None:
        if not self.active or self.core is None:
            return
        now = self.now()
        if self._just_woken(now):
            return
        if self._unheard is not None:
            unheard, self._unheard = self._unheard, None
            self._take(unheard)
            now = self.now()
        if self.params.use_sim_time and now.stamp_ns == 0:
            self.diagnostics.warn_throttled("clock", "waiting for /clock", 5.0)
            self._publish_handover(0, _CLOCKLESS, False)
            return
        out = self.core.tick(now)
        if out.segment is not None and not self._send(out.segment, lambda: self._in_time(now)):
            self.core.unsent()
            self.diagnostics.count("segments_late")
            out = replace(out, segment=None)
        elif out.segment is not None and self._steady_ns() - self._in_time_ns > _SENDING_NS:
            self.core.unsure()
            self.diagnostics.count("segments_unsure")
        self._publish(out)

    def _in_time(self, began: Now) -> bool:
        """False where this process was stopped or starved in mid-tick: the segment would change what the arm has already done."""
        self._in_time_ns = self._steady_ns()
        waited = self._in_time_ns + self._lead_ns - began.steady_ns
        return waited <= max(self._lead_ns, nanoseconds(self.params.tick_s))

    def _overslept(self, now: Now) -> bool:
        """Whether what is read now may have been said while this process was kept from running."""
        return self._waking > 0 or now.steady_ns - self._ticked_ns > _WOKEN_TICKS * nanoseconds(self.params.tick_s)

    def _just_woken(self, now: Now) -> bool:
        """Whether this process was kept from running until now: what was said to it meanwhile is heard first, /clock above all.

        Its joint states would look lost, and simulated time would still stand where it was: a segment stamped so would take the
        arm back.
        """
        overslept, gap_ns, self._ticked_ns = self._overslept(now), now.steady_ns - self._ticked_ns, now.steady_ns
        if self._waking:
            self._waking -= 1
            if self.params.use_sim_time and now.stamp_ns < self._awaited_ns:
                return True
            self._waking = 0
        elif overslept:
            self._waking, self._awaited_ns = _WAKING_TICKS, self._stamp_ns + gap_ns - _CLOCK_LAG_NS
            self.diagnostics.count("ticks_late")
            return True
        self._stamp_ns = now.stamp_ns
        return False

    def _publish(self, out: TickOutput, final: bool = False) -> None:
        self._last = out
        stamp = self.get_clock().now().nanoseconds
        self._publish_handover(stamp, out.handover, final)
        if final or stamp - self._status_ns >= 1e9 / self.params.status_rate or stamp < self._status_ns:
            self._status_ns = stamp
            self._publish_status(stamp, out)

    def _send(self, segment: Segment, in_time: Callable[[], bool] = lambda: True) -> bool:
        s = segment
        sent = self.driver.send(joints.Segment(s.stamp_ns, s.joint_names, s.times_s, s.positions, s.velocities), in_time)
        self.diagnostics.count("segments", int(sent))
        return sent

    def _publish_handover(self, stamp: int, handover: Handover, final: bool) -> None:
        news = (handover.mode, handover.reason.partition(":")[0])  # the rest of a reason may count time
        shown = (handover.reason, round(handover.blend, 2), handover.chunk_id)
        if news != self._news:
            self.get_logger().info(f"{handover.mode.name}: {handover.reason}")
        elif not final and (shown == self._shown or 0 <= stamp - self._shown_ns < _SHOW_EVERY_NS):
            return
        self._news, self._shown, self._shown_ns = news, shown, stamp
        self._handover_out.publish(convert.handover_msg(stamp, int(handover.mode), handover.reason, handover.blend, handover.chunk_id))

    def _publish_status(self, stamp: int, out: TickOutput) -> None:
        s: Status = out.status
        self._status_out.publish(
            convert.status_msg(
                stamp, s.joint_names, s.commanded, s.tracking_error,
                chunk_id=s.chunk_id, step=s.step, chunk_age_s=s.chunk_age_s, accepted=s.chunks_accepted, rejected=s.chunks_rejected,
                limits_applied=s.limits_applied, last_rejection=s.last_rejection,
            )
        )  # fmt: skip
        self.diagnostics.update({f"refused/{reason}": count for reason, count in s.refusals.items()})
        self.diagnostics.update({"mode": out.handover.mode.name, "moving": s.moving, "collision_gate": s.collision_gate})
        self.diagnostics.set("planner", self.planner.name)
        self.diagnostics.update({"chunks_accepted": s.chunks_accepted, "chunks_rejected": s.chunks_rejected})
        self.diagnostics.set("faults", "; ".join(str(f) for f in out.faults) or "none")

    def _told(self, what: str, refusal: Refusal | None) -> tuple[bool, str]:
        if refusal is not None:
            self.diagnostics.last_refusal = f"{what}: {refusal}"
            every_s = _IDLE_LOG_S if refusal.reason is Reason.NOT_ACTIVE_SOURCE else _LOG_S
            self.diagnostics.warn_throttled(f"{what}/{refusal.reason.value}", f"{what} refused: {refusal}", every_s)
        return refusal is None, str(refusal or "")

    def _on_joints(self, message: JointState) -> None:
        velocities = message.velocity if len(message.velocity) else None
        stamp = stamp_ns(message.header.stamp)
        self._told("joint state", self._live().on_joint_state(message.name, message.position, stamp, self.now(), velocities))

    def _on_chunk(self, message: ActionChunk) -> None:
        if self.params.use_sim_time and self._overslept(self.now()):
            self._unheard = message  # its stamp is ahead of a /clock that was not heard either: the newest is judged once that was
            return
        if self._take(message) and not self._ticked_early:  # not a tick later; once a period, so that a flood does not make the ticks
            self._ticked_early = True
            self._tick()

    def _take(self, message: ActionChunk) -> bool:
        return self._told("chunk", self._live().on_chunk(convert.unjudged_chunk(message), self.now()))[0]

    def _on_teleop(self, message: JointTrajectory) -> None:
        names, stamp = tuple(message.joint_names), stamp_ns(message.header.stamp)
        if not message.points:
            command = TeleopCommand(stamp, names, np.zeros(0), deadman=False)
        else:
            point = message.points[-1]
            velocities = np.array(point.velocities) if len(point.velocities) else None
            command = TeleopCommand(stamp, names, np.array(point.positions), velocities)
        self._told("teleop command", self._live().on_teleop(command, self.now()))

    def _on_request(self, message: String) -> None:
        self._told("handover request", self._live().on_request(message.data.strip().lower()[:64], self.now()))

    def _on_estop(self, message: Bool) -> None:
        if self.core is not None:
            self.core.on_estop(message.data, self.now())
            if self.active:
                self._tick()  # not a tick later

    def _on_surprise(self, message: Float32) -> None:
        limit = self.params.max_surprise
        if limit > 0 and not message.data <= limit and self._live().supervisor.mode is Mode.POLICY:
            self.diagnostics.refuse("policy", f"surprise {message.data:.2f} is above {limit:.2f}: on hold")
            self._live().on_request("hold", self.now())

    def _set_mode(self, request: SetMode.Request, response: SetMode.Response) -> SetMode.Response:
        refusal = self._live().on_request(request.mode.strip().lower()[:64], self.now())
        response.success, response.message = self._told("handover request", refusal)
        return response

    def _go_home(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        core, status = self._live(), self._last.status if self._last is not None else None
        if core.supervisor.mode is not Mode.HOLD:
            response.success, response.message = False, f"go home needs HOLD, now {core.supervisor.mode.name}: ask for hold first"
        elif status is None or not len(status.tracking_error):
            response.success, response.message = False, "no joint state yet"
        else:
            response.success, response.message = self._told("go home", self._home(core, status))
        return response

    def _home(self, core: Executor, status: Status) -> Refusal | None:
        """Plan from where the arm is; a gripper keeps its command, it may hold something."""
        gripper = self.robot.gripper_mask
        start = np.where(gripper, status.commanded, status.commanded - status.tracking_error)
        path = self.planner.plan(start, np.where(gripper, status.commanded, self.robot.array("home")))
        if isinstance(path, Refusal):
            return path
        return core.on_planned_motion(PlannedMotion("home", *path), self.now())

    def _clear_fault(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._told("reset", self._live().on_clear_fault(self.now()))
        return response

    def _on_controller(self, ok: bool, detail: str) -> None:
        if self.core is not None:
            self.core.on_controller_result(ok, detail, self.now())

    def _watch_publishers(self) -> None:
        if self.active and self.core is not None:
            self.core.on_publishers(self.driver.publishers(), self.now())

    def _live(self) -> Executor:
        if not self.active or self.core is None:
            raise ConfigError(f"the executor is {self.state_label()}; activate it first")
        return self.core

    def health(self) -> diagnostics.Health:
        faults = self._last.faults if self._last is not None else ()
        if not self.active:
            return diagnostics.WARN, self.state_label()
        return (diagnostics.ERROR, str(faults[0])) if faults else (diagnostics.OK, "active")
