"""A ROS node outside of the stack: hears what the arm is told and does, says what a person, a policy or a fault would say."""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from internvla_a1_msgs.msg import ActionChunk, ExecutorStatus, HandoverState, SortingScore
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64, String
from trajectory_msgs.msg import JointTrajectory

from internvla_a1.core.faults import Refusal
from internvla_a1.core.priority import REALTIME, come_first
from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.types import FloatArray
from internvla_a1.demo.bystander import MODES, Bystander
from internvla_a1.ros import joints, qos

_KEPT_S = 20.0


class Measured(NamedTuple):
    """A joint state: when it was heard (steady s), its stamp, positions and velocities (joints,)."""

    at: float
    stamp_ns: int
    q: FloatArray
    v: FloatArray


class Told(NamedTuple):
    """A segment that the arm was sent, and when it was heard (steady s)."""

    at: float
    segment: joints.Arrays


class Said(NamedTuple):
    """A handover state, and when it was heard (steady s)."""

    at: float
    mode: str
    reason: str
    chunk_id: int


class Observer(Bystander):
    """Deques are appended to in the thread that spins; readers copy them."""

    def __init__(self, domain: int, robot: RobotSpec) -> None:
        super().__init__(domain, "observer")
        self.robot = robot
        self.measured: deque[Measured] = deque(maxlen=round(_KEPT_S * 100))
        self.told: deque[Told] = deque(maxlen=round(_KEPT_S * 100))
        self.nonsense = 0  # segments that the arm was sent and that are none: not finite, wrong sizes
        self.said: deque[Said] = deque(maxlen=2000)
        self.status: ExecutorStatus | None = None
        self.order = ""  # the newest instruction
        self.score = (0, 0, 0, 0)  # spawned, right, wrong, missed
        self.diagnostics: dict[str, dict[str, str]] = {}
        self._hear()
        self._speak()
        come_first(REALTIME, (self.start(),))  # what is heard late was not late

    def _hear(self) -> None:
        listen = self.node.create_subscription
        listen(JointState, "joint_states", self._on_joints, qos.SENSOR)
        listen(JointTrajectory, "arm_controller/joint_trajectory", self._on_segment, qos.DEFAULT)
        listen(HandoverState, "handover/state", self._on_handover, qos.LATCHED)
        listen(ExecutorStatus, "executor/status", self._on_status, qos.RELIABLE)
        listen(String, "instruction", self._on_order, qos.LATCHED)
        listen(SortingScore, "cell/score", self._on_score, qos.LATCHED)
        listen(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.DEFAULT)

    def _speak(self) -> None:
        say = self.node.create_publisher
        self.chunks = say(ActionChunk, "policy/action_chunk", qos.RELIABLE)
        self.teleop = say(JointTrajectory, "teleop/joint_command", qos.RELIABLE)
        self.estop = say(Bool, "estop", qos.LATCHED)
        self.requests = say(String, "handover/request", qos.DEFAULT)
        self.joint_states = say(JointState, "joint_states", qos.SENSOR)
        self.instruction = say(String, "instruction", qos.LATCHED)
        self.belt = say(Float64, "cell/belt_speed", qos.RELIABLE)

    # -- hearing ---------------------------------------------------------------------------------------------------------

    def _on_joints(self, message: JointState) -> None:
        now = time.monotonic()
        if message.header.frame_id:  # what this node itself says wrongly is marked
            return
        state = joints.joint_state(message, self.robot.joint_names)
        if not isinstance(state, Refusal) and state.velocities is not None:
            self.measured.append(Measured(now, state.stamp_ns, state.positions, state.velocities))

    def _on_segment(self, message: JointTrajectory) -> None:
        now = time.monotonic()
        segment = joints.arrays(message)
        if isinstance(segment, Refusal):
            self.nonsense += 1
        else:
            self.told.append(Told(now, segment))

    def _on_handover(self, message: HandoverState) -> None:
        self.said.append(Said(time.monotonic(), MODES.get(message.mode, str(message.mode)), message.reason, message.chunk_id))

    def _on_status(self, message: ExecutorStatus) -> None:
        self.status = message

    def _on_order(self, message: String) -> None:
        self.order = message.data

    def _on_score(self, message: SortingScore) -> None:
        self.score = (message.spawned, message.sorted_correct, message.sorted_wrong, message.missed)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.hardware_id] = {v.key: v.value for v in status.values}

    # -- asking ----------------------------------------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """The executor's mode; empty while it has not spoken."""
        return self.said[-1].mode if self.said else ""

    @property
    def stamp_ns(self) -> int:
        """The stack's own time: the newest joint stamp, moved on by the steady time since."""
        if not self.measured:
            return time.time_ns()
        newest = self.measured[-1]
        return newest.stamp_ns + round((time.monotonic() - newest.at) * 1e9)

    def speed(self) -> float:
        """The fastest measured joint of the arm, rad/s, grippers apart."""
        return float(np.abs(self.measured[-1].v[~self.robot.gripper_mask]).max()) if self.measured else 0.0

    def until_mode(self, mode: str, limit_s: float) -> bool:
        return self.until(lambda: self.mode == mode, limit_s)
