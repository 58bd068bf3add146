"""A node's sign of life: topic `heartbeat`, diagnostic_msgs/KeyValue, 5 Hz of steady time.

key is the node's full name, value is "<state> <pid>", e.g. "active 4711": the lifecycle manager sees in one message that
the node's thread is alive, which state it is in and whether it is a new process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from diagnostic_msgs.msg import KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from internvla_a1.ros import qos

TOPIC = "heartbeat"
PERIOD_S = 0.2


class Beat(NamedTuple):
    """One sign of life."""

    node: str
    state: str
    pid: int


class Heartbeat:
    """Publishes the beats of one node from the thread that runs its callbacks."""

    def __init__(self, node: Node, state: Callable[[], str]) -> None:
        self._node = node
        self._state = state
        self._publisher = node.create_publisher(KeyValue, TOPIC, qos.DEFAULT)
        self._timer = node.create_timer(PERIOD_S, self.beat, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def beat(self) -> None:
        """Publish one; called by the timer and after every change of state."""
        self._publisher.publish(KeyValue(key=self._node.get_fully_qualified_name(), value=f"{self._state()} {os.getpid()}"))


def read_beat(message: KeyValue) -> Beat | None:
    """A beat from its message, None if it is not one."""
    state, _, pid = message.value.partition(" ")
    if not message.key or not pid.isdigit():
        return None
    return Beat(message.key, state, int(pid))
