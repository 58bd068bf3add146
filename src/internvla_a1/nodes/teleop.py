"""teleop_node: a joystick (sensor_msgs/Joy) or a leader arm (sensor_msgs/JointState) becomes teleop/joint_command.

Nothing goes out without the deadman; letting go sends one trajectory without points, which the executor takes as "released".
Joystick axes move joints, or the tool in the base frame; the executor adds the limits.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from sensor_msgs.msg import JointState, Joy
from trajectory_msgs.msg import JointTrajectory

from internvla_a1.control.jogging import JogConfig, Jogger
from internvla_a1.control.kinematics import ArmKinematics, UrdfChain
from internvla_a1.core.clock import seconds
from internvla_a1.core.errors import ConfigError
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.resources import find
from internvla_a1.core.robot import RobotSpec, load_robot
from internvla_a1.core.types import FloatArray
from internvla_a1.ros import joints, qos
from internvla_a1.ros.lifecycle import ManagedNode
from internvla_a1.ros.params import integer, integers, number, text
from internvla_a1.ros.run import run_node
from internvla_a1.ros.time import stamp_msg
from internvla_a1.ros.urdf import load_urdf


@dataclass(frozen=True)
class TeleopParams:
    robot: str = text("config/robots/demo_arm.yaml", "Robot file", required=True)
    device: str = text("joystick", "What moves the arm", choices=("joystick", "leader"))
    space: str = text("cartesian", "What joystick axes move", choices=("joint", "cartesian"))
    rate: float = number(50.0, "Hz", 20.0, 200.0, "Rate of teleop/joint_command")
    input_timeout: float = number(0.1, "s", 0.02, 1.0, "Silence of the device that counts as letting go (set the driver's autorepeat)")
    deadman_button: int = integer(4, "", 0, 63, "Joystick button that must be held; with a leader arm too, if deadman_source is joystick")
    deadman_source: str = text("joystick", "Leader arm: joystick button, or always while it sends", choices=("joystick", "always"))
    axes: tuple[int, ...] = integers((1, 0, 4, 3, 6, 7, 5), "", -1, 63, "Joystick axis per joint, or for x, y, z, turns, gripper; -1: none")
    leader_prefix: str = text("", "What precedes the robot's joint names in the leader's joint states")
    joint_speed: float = number(0.25, "", 0.01, 1.0, "Joint jogging: share of the velocity limit at full stick")
    linear_speed: float = number(0.1, "m/s", 0.001, 0.5, "Cartesian jogging at full stick")
    angular_speed: float = number(0.5, "rad/s", 0.01, 3.0, "Cartesian turning at full stick")
    deadband: float = number(0.08, "", 0.0, 0.5, "Stick travel that counts as centred")


class TeleopNode(ManagedNode):
    """Inputs are kept with the time of their arrival; the timer decides and publishes."""

    def __init__(self) -> None:
        self._pressed = False
        super().__init__("teleop", TeleopParams)

    def configure(self, params: TeleopParams) -> None:
        self.params = params
        self.robot = load_robot(find(params.robot))
        names = self.robot.joint_names
        wanted = 7 if params.space == "cartesian" else len(names)
        if params.device == "joystick" and len(params.axes) != wanted:
            raise ConfigError(f"parameter axes: {len(params.axes)} given, {params.space} jogging of {self.robot.name} needs {wanted}")
        self.jogger = _jogger(self.robot, params) if params.device == "joystick" else None
        self._forget()
        self.command_out = self.publisher(JointTrajectory, "teleop/joint_command", qos.RELIABLE)
        self.subscription(Joy, "joy", self._on_joy, qos.DEFAULT)
        self.subscription(JointState, "joint_states", self._on_joints, qos.SENSOR)
        if params.device == "leader":
            self.subscription(JointState, "leader/joint_states", self._on_leader, qos.SENSOR)
        self.timer(1.0 / params.rate, self._tick)

    def activate(self) -> None:
        self._forget()

    def deactivate(self) -> None:
        self._release()

    def _forget(self) -> None:
        self._joy: tuple[int, Joy] | None = None
        self._measured: tuple[int, FloatArray] | None = None
        self._leader: tuple[int, FloatArray, FloatArray | None] | None = None
        self._leader_stamp = 0
        self._pressed = False

    def _on_joy(self, message: Joy) -> None:
        if not np.isfinite(message.axes).all():
            self.diagnostics.refuse("joystick", Refusal(Reason.NON_FINITE, "an axis is not finite"))
            return
        self._joy = self.now().steady_ns, message

    def _on_joints(self, message: JointState) -> None:
        state = joints.joint_state(message, self.robot.joint_names)
        if isinstance(state, Refusal):
            self.diagnostics.refuse("joint state", state)
            return
        self._measured = self.now().steady_ns, state.positions

    def _on_leader(self, message: JointState) -> None:
        names = [self.params.leader_prefix + name for name in self.robot.joint_names]
        state = joints.joint_state(message, names)
        if isinstance(state, Refusal):
            self.diagnostics.refuse("leader", state)
            return
        if self._leader is not None and state.stamp_ns < self._leader_stamp:
            self.diagnostics.refuse("leader", Refusal(Reason.STAMP_OLD, "an older stamp than the one before"))
            return
        self._leader_stamp = state.stamp_ns
        self._leader = self.now().steady_ns, state.positions, state.velocities

    def _tick(self) -> None:
        if not self.active:
            return
        target = self._target(self.now().steady_ns)
        if target is None:
            self._release()
            return
        if not self._pressed:
            self.get_logger().info("deadman pressed")
        self._pressed = True
        positions, velocities = target
        row = None if velocities is None else velocities[None, :]
        segment = joints.Segment(self.now().stamp_ns, self.robot.joint_names, np.array([0.0]), positions[None, :], row)
        self.command_out.publish(joints.trajectory_msg(segment))
        self.diagnostics.count("commands")

    def _target(self, steady_ns: int) -> tuple[FloatArray, FloatArray | None] | None:
        """Position and velocity to ask for, None without deadman or with a silent device."""
        joy = self._fresh(self._joy, steady_ns)
        held = joy is not None and len(joy[1].buttons) > self.params.deadman_button and joy[1].buttons[self.params.deadman_button] == 1
        if self.params.device == "leader":
            leader = self._fresh(self._leader, steady_ns)
            if leader is None or not (held or self.params.deadman_source == "always"):
                return None
            return leader[1], leader[2]
        measured = self._fresh(self._measured, steady_ns)
        if not held or joy is None or measured is None or self.jogger is None:
            return None
        sticks, dt = self._sticks(joy[1]), 1.0 / self.params.rate
        if self.params.space == "joint":
            return self.jogger.joint(sticks, measured[1], dt)
        return self.jogger.cartesian(sticks[:6], measured[1], dt, float(sticks[6]))

    def _fresh(self, item: tuple | None, steady_ns: int) -> tuple | None:
        return item if item is not None and seconds(steady_ns - item[0]) <= self.params.input_timeout else None

    def _sticks(self, joy: Joy) -> FloatArray:
        return np.array([joy.axes[i] if 0 <= i < len(joy.axes) else 0.0 for i in self.params.axes], dtype=np.float64)

    def _release(self) -> None:
        if self.jogger is not None:
            self.jogger.release()
        if not self._pressed:
            return
        self._pressed = False
        self.get_logger().info("deadman released")
        message = JointTrajectory(joint_names=list(self.robot.joint_names))
        message.header.stamp = stamp_msg(self.now().stamp_ns)
        self.command_out.publish(message)


def _jogger(robot: RobotSpec, params: TeleopParams) -> Jogger:
    config = JogConfig(params.joint_speed, params.linear_speed, params.angular_speed, params.deadband)
    if params.space == "joint":
        return Jogger(robot, None, config)
    chain = UrdfChain(load_urdf(robot.urdf))
    return Jogger(robot, ArmKinematics(chain, robot.joint_names, robot.tool_frame, robot.passive), config)


def main() -> int:
    return run_node(TeleopNode)


if __name__ == "__main__":
    sys.exit(main())
