"""The cell's arm on ROS: arm_controller/joint_trajectory and arm_controller/follow_joint_trajectory of joint_trajectory_controller.

Two differences from the real controller: a goal with wrong joints is accepted and aborted with its error code, where ros2_control
rejects it without one; and a message that comes too late is dropped, which the real one leaves to its middleware (docs/real_robot.md).
"""

from __future__ import annotations

from collections import deque
from typing import Any

from control_msgs.action import FollowJointTrajectory
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future
from trajectory_msgs.msg import JointTrajectory

from internvla_a1.core.clock import seconds
from internvla_a1.core.faults import Refusal
from internvla_a1.nodes.cell_loop import CellLoop
from internvla_a1.ros import joints
from internvla_a1.ros.lifecycle import PlainNode
from internvla_a1.ros.time import duration_msg, duration_s, stamp_msg
from internvla_a1.sim.controller import Answer, Code, GoalEnd, Tolerances
from internvla_a1.sim.trajectory import Trajectory

_POLL_S = 0.02
_FEEDBACK_EVERY = 5  # polls


class ArmPort:
    """Hands trajectories to the cell's controller and reports how goals end."""

    def __init__(self, node: PlainNode, loop: CellLoop, name: str, latest_s: float) -> None:
        """latest_s: messages whose trajectory began longer ago are dropped; 0: none. Goals are answered, so theirs are not."""
        self._node, self._loop, self._drop_s = node, loop, latest_s
        self._controller = loop.cell.controller
        self._goals: dict[int, tuple[ServerGoalHandle, Future]] = {}
        self._polls = 0
        self.taken: deque[tuple[float, float]] = deque(maxlen=100)  # trajectories: cell time, and how long before it they began, s
        self.latest_s = 0.0  # the longest of those, ever
        node.subscription(JointTrajectory, f"{name}/joint_trajectory", self._on_topic)
        self._server = ActionServer(
            node,
            FollowJointTrajectory,
            f"{name}/follow_joint_trajectory",
            self._execute,
            goal_callback=lambda _: GoalResponse.ACCEPT,
            cancel_callback=self._on_cancel,
        )
        node.timer(_POLL_S, self._poll)

    def abandon(self, why: str) -> None:
        """Abort every goal, e.g. when the cell is reset."""
        for goal_id in list(self._goals):
            self._finish(GoalEnd(goal_id, Code.INVALID_GOAL, why))

    def close(self) -> None:
        self._server.destroy()

    def _accept(self, message: JointTrajectory, tolerances: Tolerances | None = None, latest_s: float = 0.0) -> Answer:
        arrays = joints.arrays(message)
        if isinstance(arrays, Refusal):
            return Answer(False, Code.INVALID_GOAL, arrays.detail)
        with self._loop.lock:
            stamp = self._loop.cell_stamp_ns(arrays.stamp_ns)
            trajectory = Trajectory(arrays.joint_names, arrays.times_s, arrays.positions, arrays.velocities, arrays.accelerations, stamp)
            now = self._loop.cell.time_s
            if stamp:
                late = now - seconds(stamp)
                self.latest_s = max(self.latest_s, late)
                if 0 < latest_s < late:
                    return Answer(False, Code.OLD_HEADER_TIMESTAMP, f"it began {late:.3f} s ago, the latest taken: {latest_s} s")
                self.taken.append((now, late))
            return self._controller.accept(trajectory, now, tolerances)

    def _on_topic(self, message: JointTrajectory) -> None:
        answer = self._accept(message, latest_s=self._drop_s)
        if answer.accepted:
            self._node.diagnostics.count("trajectories")
        else:
            self._node.diagnostics.refuse("trajectory", f"{answer.code.name}: {answer.text}")

    async def _execute(self, goal: ServerGoalHandle) -> FollowJointTrajectory.Result:
        request = goal.request
        answer = self._accept(request.trajectory, _tolerances(request))
        if not answer.accepted:
            self._node.diagnostics.refuse("goal", f"{answer.code.name}: {answer.text}")
            goal.abort()
            return FollowJointTrajectory.Result(error_code=int(answer.code), error_string=answer.text)
        self._node.diagnostics.count("goals")
        future = Future(executor=self._node.executor)
        self._goals[answer.goal_id] = (goal, future)
        end: GoalEnd = await future
        if end.cancelled and goal.is_cancel_requested:
            goal.canceled()
        elif end.cancelled or end.code is not Code.SUCCESSFUL:
            goal.abort()
        else:
            goal.succeed()
        return FollowJointTrajectory.Result(error_code=int(end.code), error_string=end.text)

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        with self._loop.lock:
            running = self._goals.get(self._controller.active_goal)
            if running is not None and bytes(running[0].goal_id.uuid) == bytes(goal.goal_id.uuid):
                self._controller.cancel(self._loop.cell.time_s)
        return CancelResponse.ACCEPT

    def _poll(self) -> None:
        with self._loop.lock:
            ended, self._controller.ended[:] = list(self._controller.ended), []
            active = self._controller.active_goal
        for end in ended:
            self._finish(end)
        self._polls += 1
        if active in self._goals and self._polls % _FEEDBACK_EVERY == 0:
            self._goals[active][0].publish_feedback(self._feedback())

    def _finish(self, end: GoalEnd) -> None:
        waiting = self._goals.pop(end.goal_id, None)
        if waiting is not None:
            waiting[1].set_result(end)
        if end.code is not Code.SUCCESSFUL:
            self._node.diagnostics.refuse("trajectory", f"{end.code.name}: {end.text}")

    def _feedback(self) -> FollowJointTrajectory.Feedback:
        with self._loop.lock:
            cell = self._loop.cell
            reference = self._controller.sample(cell.time_s)
            names, positions, velocities, _ = cell.joint_state()
            stamp = self._loop.stamp_ns
        feedback = FollowJointTrajectory.Feedback(joint_names=list(names))
        feedback.header.stamp = stamp_msg(stamp)
        feedback.desired.positions = reference.positions.tolist()
        feedback.desired.velocities = reference.velocities.tolist()
        feedback.actual.positions, feedback.actual.velocities = positions.tolist(), velocities.tolist()
        feedback.error.positions = (reference.positions - positions).tolist()
        feedback.desired.time_from_start = feedback.actual.time_from_start = duration_msg(0.0)
        return feedback


def _tolerances(request: Any) -> Tolerances | None:
    """Tolerances of a goal; None where it has none of its own (the controller's defaults then hold)."""
    path = {t.name: t.position for t in request.path_tolerance if t.position > 0}
    goal = {t.name: t.position for t in request.goal_tolerance if t.position > 0}
    late = duration_s(request.goal_time_tolerance)
    return Tolerances(path, goal, max(late, 0.0)) if path or goal or late > 0 else None
