"""Node time as `core.clock.Now`, stamps as integers, and notice of jumps of simulated time."""

from __future__ import annotations

import time
from collections.abc import Callable

from builtin_interfaces.msg import Duration as DurationMsg
from builtin_interfaces.msg import Time as TimeMsg
from rclpy.clock import ClockChange, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node

from internvla_a1.core.clock import NS, Now


class NodeClock:
    """Steady time of the machine and the node's own clock (wall, or /clock with use_sim_time)."""

    def __init__(self, node: Node) -> None:
        self._clock = node.get_clock()

    def now(self) -> Now:
        return Now(time.monotonic_ns(), self._clock.now().nanoseconds)


def stamp_ns(message: TimeMsg) -> int:
    """Nanoseconds of a stamp."""
    return int(message.sec) * NS + int(message.nanosec)


def stamp_msg(ns: int) -> TimeMsg:
    """A stamp from nanoseconds >= 0."""
    return TimeMsg(sec=ns // NS, nanosec=ns % NS)


def duration_s(message: DurationMsg) -> float:
    """Seconds of a duration."""
    return float(message.sec) + message.nanosec / NS


def duration_msg(s: float) -> DurationMsg:
    """A duration from seconds, rounded to the nanosecond."""
    ns = round(s * NS)
    return DurationMsg(sec=ns // NS, nanosec=ns % NS)


def watch_jumps(node: Node, on_jump: Callable[[float], None], forward_s: float = 0.1) -> object:
    """Call on_jump(seconds) when simulated time goes back, leaps ahead by more than `forward_s`, or the source changes.

    Returns the handle, which must be kept. Wall time never reports jumps: a node that uses it compares steady time.
    """

    def jumped(jump: TimeJump) -> None:
        if jump.clock_change in (ClockChange.ROS_TIME_ACTIVATED, ClockChange.ROS_TIME_DEACTIVATED):
            return  # the first /clock message after start
        on_jump(jump.delta.nanoseconds / NS)

    threshold = JumpThreshold(
        min_forward=Duration(nanoseconds=round(forward_s * NS)), min_backward=Duration(nanoseconds=-1), on_clock_change=False
    )
    return node.get_clock().create_jump_callback(threshold, post_callback=jumped)
