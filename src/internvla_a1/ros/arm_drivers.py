"""How segments reach the arm's controllers: joint_trajectory topic or FollowJointTrajectory action, gripper as a joint of the
trajectory, as a second controller or as a GripperCommand action. One driver moves all groups of the robot, so both arms of a
pair get their segments in the same tick.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
from rclpy.duration import Duration
from rclpy.serialization import serialize_message
from trajectory_msgs.msg import JointTrajectory

from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.core.robot import GroupSpec, RobotSpec
from internvla_a1.ros import qos
from internvla_a1.ros.joints import Segment, trajectory_msg
from internvla_a1.ros.wiring import Wiring

DRIVERS = ("topic", "action")
KINDS = ("joint_trajectory", "gripper_command")
_ANSWER_S = 0.5  # a controller accepts or rejects a goal within milliseconds
_GRIPPER_STEP = 1e-3  # m or rad: smaller changes of a gripper's target are not sent

Report = Callable[[bool, str], None]


class ArmDriver(Protocol):
    """One way to the controllers. report(ok, detail) is called with what a controller answered."""

    def send(self, segment: Segment, in_time: Callable[[], bool] = lambda: True) -> bool:
        """Hand over a segment of all joints of the robot; never waits. in_time is asked last of all: where it says no, nothing is sent."""
        ...

    def publishers(self) -> int:
        """The most commanders seen on one command channel, this node included."""
        ...

    def flush(self, limit_s: float) -> None:
        """Wait until what was sent has arrived, at most limit_s."""
        ...


def make_driver(kind: str, node: Wiring, robot: RobotSpec, report: Report) -> ArmDriver:
    """The driver by name. Raises ConfigError for an unknown one, MissingDependencyError without control_msgs."""
    if kind not in DRIVERS:
        raise ConfigError.asked("arm driver", kind, DRIVERS)
    channels: list[_Channel] = []
    for group in robot.groups:
        columns = [i for i, j in enumerate(robot.joints) if j.group == group.name]
        channels.append(_channel(kind, node, group, columns, robot, report))
    return GroupDriver(channels)


def _channel(kind: str, node: Wiring, group: GroupSpec, columns: list[int], robot: RobotSpec, report: Report) -> _Channel:
    if group.kind not in KINDS:
        raise ConfigError.asked(f"kind of group {group.name}", group.kind, KINDS)
    if not columns:
        raise ConfigError(f"group {group.name} of {robot.name} has no joints")
    if group.kind == "gripper_command":
        if len(columns) != 1:
            raise ConfigError(f"group {group.name} is a gripper_command and must have one joint, not {len(columns)}")
        return GripperChannel(node, group.controller, columns, report)
    names = robot.group_joints(group.name)
    if kind == "topic":
        return TopicChannel(node, group.controller, columns, names)
    return ActionChannel(node, group.controller, columns, names, report)


class _Channel(Protocol):
    def prepared(self, segment: Segment) -> Callable[[], None]:
        """What is left to be done to send its part: as little as possible."""
        ...

    def publishers(self) -> int: ...

    def flush(self, limit_s: float) -> None: ...


class GroupDriver:
    """Sends each group its own columns."""

    def __init__(self, channels: list[_Channel]) -> None:
        self._channels = channels

    def send(self, segment: Segment, in_time: Callable[[], bool] = lambda: True) -> bool:
        ready = [channel.prepared(segment) for channel in self._channels]
        if not in_time():
            return False
        for send in ready:
            send()
        return True

    def publishers(self) -> int:
        return max(channel.publishers() for channel in self._channels)

    def flush(self, limit_s: float) -> None:
        for channel in self._channels:
            channel.flush(limit_s)


def _part(segment: Segment, columns: list[int], names: tuple[str, ...]) -> JointTrajectory:
    velocities = None if segment.velocities is None else segment.velocities[:, columns]
    return trajectory_msg(Segment(segment.stamp_ns, names, segment.times_s, segment.positions[:, columns], velocities))


class TopicChannel:
    """<controller>/joint_trajectory: no answer, the lowest latency; errors show on the controller's own topics."""

    def __init__(self, node: Wiring, controller: str, columns: list[int], names: tuple[str, ...]) -> None:
        self._node, self._columns, self._names = node, columns, names
        self._publisher = node.publisher(JointTrajectory, f"{controller}/joint_trajectory", qos.RELIABLE)

    def prepared(self, segment: Segment) -> Callable[[], None]:
        # As bytes: what is left to do takes a quarter of the time, and a process that is stopped in it sends its segment late.
        return partial(self._publisher.publish, serialize_message(_part(segment, self._columns, self._names)))

    def publishers(self) -> int:
        return int(self._node.count_publishers(self._publisher.topic_name))  # type: ignore[attr-defined]

    def flush(self, limit_s: float) -> None:
        self._publisher.wait_for_all_acked(Duration(nanoseconds=round(limit_s * 1e9)))


class ActionChannel:
    """<controller>/follow_joint_trajectory: each segment is a goal that replaces the one before; refusals come back with codes."""

    def __init__(self, node: Wiring, controller: str, columns: list[int], names: tuple[str, ...], report: Report) -> None:
        action = _control_msgs("FollowJointTrajectory")
        self._node, self._columns, self._names, self._report = node, columns, names, report
        self._goal = action.Goal
        self._topic = f"{controller}/joint_trajectory"
        self._client = node.action_client(action, f"{controller}/follow_joint_trajectory")
        self._sent = 0
        self._unanswered: dict[int, float] = {}  # goal number -> steady time of sending

    def prepared(self, segment: Segment) -> Callable[[], None]:
        return partial(self._send, self._goal(trajectory=_part(segment, self._columns, self._names)))

    def _send(self, goal: Any) -> None:
        if not self._client.server_is_ready():
            self._report(False, f"action server of {self._topic} is gone")
            return
        now = time.monotonic()
        if self._unanswered and now - min(self._unanswered.values()) > _ANSWER_S:
            self._unanswered.clear()  # a server that was killed seems to be there for many seconds more
            self._report(False, f"the action server of {self._topic} has not answered for {_ANSWER_S} s")
        self._sent += 1
        number = self._sent
        self._unanswered[number] = now
        future = self._client.send_goal_async(goal)
        future.add_done_callback(lambda f: self._answered(f, number))

    def _answered(self, future: Any, number: int) -> None:
        self._unanswered.pop(number, None)
        handle = future.result()
        if handle is None or not handle.accepted:
            self._report(False, "the controller rejected the goal")
            return
        handle.get_result_async().add_done_callback(lambda f: self._ended(f, number))

    def _ended(self, future: Any, number: int) -> None:
        answer = future.result()
        if answer is None:
            return
        result = answer.result
        if result.error_code != result.SUCCESSFUL:  # a replaced goal has SUCCESSFUL too
            self._report(False, f"error code {result.error_code}: {result.error_string}")
        elif number == self._sent:
            self._report(True, "goal reached")

    def publishers(self) -> int:
        """Others on the controller's topic count; other action clients cannot be seen."""
        resolved = self._node.resolve_topic_name(self._topic)  # type: ignore[attr-defined]
        return 1 + int(self._node.count_publishers(resolved))  # type: ignore[attr-defined]

    def flush(self, limit_s: float) -> None:
        """Goals are service calls: the middleware delivers them or not."""


class GripperChannel:
    """<controller>/gripper_cmd (control_msgs/GripperCommand): the segment's last position, when it changes."""

    def __init__(self, node: Wiring, controller: str, columns: list[int], report: Report) -> None:
        action = _control_msgs("GripperCommand")
        self._column, self._report, self._name = columns[0], report, f"{controller}/gripper_cmd"
        self._goal = action.Goal
        self._client = node.action_client(action, self._name)
        self._last = np.inf

    def prepared(self, segment: Segment) -> Callable[[], None]:
        return partial(self._send, float(segment.positions[-1, self._column]))

    def _send(self, target: float) -> None:
        if abs(target - self._last) < _GRIPPER_STEP:
            return
        if not self._client.server_is_ready():
            self._report(False, f"action server {self._name} is gone")
            return
        self._last = target
        goal = self._goal()
        goal.command.position = target
        goal.command.max_effort = 0.0  # as much as the gripper's own limit
        self._client.send_goal_async(goal).add_done_callback(self._answered)

    def _answered(self, future: Any) -> None:
        handle = future.result()
        if handle is None or not handle.accepted:
            self._last = np.inf
            self._report(False, f"{self._name} rejected the goal")

    def publishers(self) -> int:
        return 1

    def flush(self, limit_s: float) -> None:
        """Nothing is under way that holding depends on."""


def _control_msgs(name: str) -> Any:
    try:
        import control_msgs.action
    except ImportError as error:
        raise MissingDependencyError("control_msgs", f"the {name} action", "sudo apt install ros-$ROS_DISTRO-control-msgs") from error
    return getattr(control_msgs.action, name)
