"""A controller's subscription, as joint_trajectory_controller makes it; prints the frame of what it hears."""

from __future__ import annotations

import contextlib

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile
from trajectory_msgs.msg import JointTrajectory


def heard(message: JointTrajectory) -> None:
    print(message.header.frame_id, flush=True)


rclpy.init()
node = rclpy.create_node("controller")
node.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", heard, QoSProfile(depth=1))
with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
    rclpy.spin(node)
