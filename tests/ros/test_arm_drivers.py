"""The action driver: segments as FollowJointTrajectory goals, the gripper as GripperCommand, refusals with their codes."""

from __future__ import annotations

import time

import numpy as np
import pytest
from control_msgs.action import FollowJointTrajectory, GripperCommand
from internvla_a1_msgs.msg import ActionChunk, ExecutorStatus, HandoverState
from internvla_a1_msgs.srv import SetMode
from processes import Graph
from rclpy.action import ActionServer, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from sensor_msgs.msg import JointState

from internvla_a1.core import types
from internvla_a1.core.resources import share_dir
from internvla_a1.core.robot import load_robot
from internvla_a1.ros import convert, qos
from internvla_a1.ros.joints import joint_state_msg
from internvla_a1.ros.time import duration_s

pytestmark = pytest.mark.ros
Codes = FollowJointTrajectory.Result


class Arm:
    """A controller pair that is wherever it was last told to be, answers goals as told, and publishes joint states at 50 Hz."""

    def __init__(self, folder):
        text = (share_dir() / "config/robots/demo_arm.yaml").read_text()
        text = text.replace("  - {name: arm, controller: arm_controller, tool_frame: tool0}\n", (
            "  - {name: arm, controller: arm_controller, tool_frame: tool0}\n"
            "  - {name: hand, controller: gripper_controller, kind: gripper_command}\n"
        )).replace("gripper_joint, group: arm", "gripper_joint, group: hand")  # fmt: skip
        (folder / "robot.yaml").write_text(text)
        self.robot = load_robot(folder / "robot.yaml")
        self.graph = graph = Graph(folder)
        self.positions = self.robot.array("home")
        self.goals, self.grips, self.code, self.accept = [], [], Codes.SUCCESSFUL, True
        group = ReentrantCallbackGroup()
        self.server = ActionServer(
            graph.node, FollowJointTrajectory, "arm_controller/follow_joint_trajectory", self.follow, callback_group=group,
            goal_callback=lambda _: GoalResponse.ACCEPT if self.accept else GoalResponse.REJECT,
        )  # fmt: skip
        ActionServer(graph.node, GripperCommand, "gripper_controller/gripper_cmd", self.grip, callback_group=group)
        states = graph.publisher(JointState, "joint_states", qos.SENSOR)
        graph.node.create_timer(
            0.02, lambda: states.publish(joint_state_msg(types.JointState(self.now(), self.positions), self.robot.joint_names))
        )
        self.modes = graph.collect(HandoverState, "handover/state", qos.LATCHED)
        self.status = graph.collect(ExecutorStatus, "executor/status", qos.RELIABLE)
        self.chunks = graph.publisher(ActionChunk, "policy/action_chunk", qos.RELIABLE)
        self.count = 0
        graph.start(
            "executor", driver="action", robot=str(folder / "robot.yaml"), collision="none",
            joint_state_age_s=1.0, pause_s=1.0, max_open_loop_s=2.0, publish_every=5,
        )  # fmt: skip
        graph.up("executor")

    def now(self):
        return self.graph.node.get_clock().now().nanoseconds

    def follow(self, goal):
        self.goals.append(goal.request.trajectory)
        if self.code == Codes.SUCCESSFUL:
            self.positions = np.array([*goal.request.trajectory.points[0].positions, self.positions[-1]])
            goal.succeed()
        else:
            goal.abort()
        return FollowJointTrajectory.Result(error_code=self.code, error_string="as told")

    def grip(self, goal):
        self.grips.append(goal.request.command.position)
        goal.succeed()
        return GripperCommand.Result(position=goal.request.command.position, reached_goal=True)

    def ask(self, mode):
        return self.graph.call(SetMode, "handover/set_mode", SetMode.Request(mode=mode))

    def drive(self, done, limit_s=6.0):
        """Chunks that turn joint 1 and close the gripper, until done()."""
        end = time.monotonic() + limit_s
        while not done() and time.monotonic() < end:
            self.count += 1
            positions = np.tile(self.positions, (20, 1))
            positions[:, 0] += 0.5 * self.robot.control_dt_s * np.arange(1, 21)
            positions[:, -1] = 0.02
            chunk = types.ActionChunk(self.now(), self.count, self.robot.joint_names, self.robot.control_dt_s, positions)
            self.chunks.publish(convert.chunk_msg(chunk))
            self.graph.until(done, 0.15)
        return done()


@pytest.fixture
def arm(tmp_path):
    arm = Arm(tmp_path)
    yield arm
    arm.graph.close()


def granted(arm):
    return arm.graph.until(lambda: arm.ask("policy").success, 10.0)


def test_segments_go_out_as_goals_that_end_at_rest_and_the_gripper_on_its_own(arm):
    assert granted(arm) and arm.drive(lambda: len(arm.goals) > 10 and arm.grips), arm.graph.log("executor")
    last = arm.goals[-1]
    assert list(last.joint_names) == [f"joint_{i}" for i in range(1, 7)]
    assert np.abs(last.points[-1].velocities).max() < 1e-6 and duration_s(last.points[-1].time_from_start) > 0.2
    assert arm.drive(lambda: abs(arm.grips[-1] - 0.02) < 2e-3), arm.grips


def test_an_aborted_goal_ends_in_hold_with_its_code_and_is_not_tried_more_than_once_a_second(arm):
    arm.code = Codes.PATH_TOLERANCE_VIOLATED
    assert granted(arm)
    assert arm.drive(lambda: arm.modes and "controller_fault" in arm.modes[-1].reason), arm.graph.log("executor")
    assert "-4" in arm.modes[-1].reason and arm.modes[-1].mode == HandoverState.HOLD
    assert not arm.ask("policy").success
    arm.graph.until(lambda: False, 0.2)
    tried = len(arm.goals)  # the stop itself is a goal
    arm.drive(lambda: False, 0.6)
    assert len(arm.goals) == tried
    arm.code = Codes.SUCCESSFUL
    assert granted(arm) and arm.drive(lambda: len(arm.goals) > tried + 3)


def test_a_rejected_goal_and_a_server_that_is_gone_end_in_hold(arm):
    arm.accept = False
    assert granted(arm) and arm.drive(lambda: arm.modes and "rejected" in arm.modes[-1].reason), arm.graph.log("executor")
    arm.server.destroy()
    assert arm.graph.until(lambda: arm.ask("policy").success, 10.0)
    assert arm.drive(lambda: any(w in arm.modes[-1].reason for w in ("gone", "not answered"))), arm.graph.log("executor")
    assert arm.modes[-1].mode == HandoverState.HOLD
