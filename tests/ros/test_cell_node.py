"""The cell as a process: what it publishes, how its arm controller answers."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from control_msgs.action import FollowJointTrajectory
from diagnostic_msgs.msg import DiagnosticArray
from internvla_a1_msgs.msg import SortingScore
from processes import Graph
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.core.scene import Scene, parse_order
from internvla_a1.ros import joints, qos
from internvla_a1.ros.image_bridge import rgb
from internvla_a1.ros.scene_markers import SceneReader
from internvla_a1.ros.time import stamp_msg, stamp_ns

pytestmark = pytest.mark.ros
ROBOT = load_robot(find("config/robots/demo_arm.yaml"))
HOME = ROBOT.array("home")
Codes = FollowJointTrajectory.Result


class Bench:
    def __init__(self, folder):
        self.graph = graph = Graph(folder)
        graph.start("cell", publish_tf="always")
        self.states = graph.collect(JointState, "joint_states", qos.SENSOR)
        self.images = {c.name: graph.collect(Image, c.topic, qos.SENSOR) for c in ROBOT.cameras}
        self.infos = graph.collect(CameraInfo, "wrist/camera_info", qos.SENSOR)
        self.clocks = graph.collect(Clock, "/clock", qos.CLOCK)
        self.objects = graph.collect(MarkerArray, "cell/objects", qos.RELIABLE)
        self.orders = graph.collect(String, "instruction", qos.LATCHED)
        self.scores = graph.collect(SortingScore, "cell/score", qos.LATCHED)
        self.description = graph.collect(String, "robot_description", qos.LATCHED)
        self.tf = graph.collect(TFMessage, "/tf", qos.TF)
        self.tf_static = graph.collect(TFMessage, "/tf_static", qos.TF_STATIC)
        self.diagnostics = graph.collect(DiagnosticArray, "/diagnostics", qos.DEFAULT)
        self.trajectories = graph.publisher(JointTrajectory, "arm_controller/joint_trajectory", qos.RELIABLE)
        self.speeds = graph.publisher(Float64, "cell/belt_speed", qos.RELIABLE)
        self.action = ActionClient(graph.node, FollowJointTrajectory, "arm_controller/follow_joint_trajectory")
        assert graph.until(lambda: all(len(i) > 3 for i in self.images.values()) and self.states, 40.0), graph.log("cell")
        assert graph.until(self.action.server_is_ready)

    def positions(self):
        return joints.joint_state(self.states[-1], ROBOT.joint_names).positions

    def goal(self, target, seconds=0.6, names=ROBOT.joint_names, **extra):
        segment = joints.Segment(0, tuple(names), np.array([seconds]), np.array([target]), np.zeros((1, len(target))))
        return FollowJointTrajectory.Goal(trajectory=joints.trajectory_msg(segment), **extra)

    def send(self, goal):
        future = self.action.send_goal_async(goal)
        assert self.graph.until(future.done)
        return future.result()

    def result(self, handle):
        future = handle.get_result_async()
        assert self.graph.until(future.done)
        return future.result().result

    def counters(self):
        found = [s for m in self.diagnostics for s in m.status if s.name == "cell"]
        return {v.key: v.value for v in found[-1].values} if found else {}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("cell"))
    yield bench
    bench.graph.close()


def moved(joint, by):
    target = HOME.copy()
    target[joint] += by
    return target


def test_three_cameras_come_with_one_stamp_and_their_frames(bench):
    stamps = [{stamp_ns(m.header.stamp) for m in images} for images in bench.images.values()]
    assert len(set.intersection(*stamps)) >= 3
    for camera in ROBOT.cameras:
        image = bench.images[camera.name][-1]
        assert (image.height, image.width, image.header.frame_id) == (224, 224, camera.frame_id)
        assert rgb(image).std() > 10.0
    assert bench.infos[-1].k[0] > 50.0 and bench.infos[-1].header.frame_id == "wrist_optical_frame"


def test_joint_states_come_every_10_ms_of_simulated_time(bench):
    bench.states.clear()
    assert bench.graph.until(lambda: len(bench.states) > 50)
    steps = np.diff([stamp_ns(m.header.stamp) for m in bench.states]) / 1e6
    assert (steps > 0).all() and 9.0 < np.median(steps) < 13.0
    assert set(bench.states[-1].name) == set(ROBOT.joint_names)
    assert bench.clocks and abs(stamp_ns(bench.clocks[-1].clock) - stamp_ns(bench.states[-1].header.stamp)) < 200e6


def test_truth_order_description_and_frames_are_published(bench):
    assert bench.graph.until(lambda: bench.orders and bench.orders[-1].data and bench.scores and bench.tf and bench.tf_static, 20.0)
    scene = SceneReader().read(bench.objects[-1])
    assert isinstance(scene, Scene) and scene.objects and set(scene.bins) == {"left", "right"} and scene.belt_speed > 0
    order = parse_order(bench.orders[-1].data)
    assert any(order.matches(o) for o in scene.objects)
    assert "<robot" in bench.description[-1].data and bench.scores[-1].spawned > 0
    frames = {t.child_frame_id for m in [*bench.tf[-1:], *bench.tf_static[-1:]] for t in m.transforms}
    assert {"link_6", "tool0", "base_link", "wrist_optical_frame"} <= frames


def test_a_trajectory_on_the_topic_moves_the_arm_and_a_wrong_one_does_not(bench):
    bench.trajectories.publish(bench.goal(moved(0, 0.2)).trajectory)
    assert bench.graph.until(lambda: abs(bench.positions()[0] - 0.2) < 0.01)
    before = bench.positions()
    bench.trajectories.publish(bench.goal(moved(0, 0.0)[:6], names=ROBOT.joint_names[:6]).trajectory)
    assert bench.graph.until(lambda: "refused/invalid_joints" in bench.counters())
    bench.trajectories.publish(bench.goal(np.full(7, np.nan)).trajectory)
    assert bench.graph.until(lambda: "refused/invalid_goal" in bench.counters())
    assert np.abs(bench.positions() - before).max() < 0.01
    assert "INVALID_JOINTS" in bench.graph.log("cell") and "INVALID_GOAL" in bench.graph.log("cell")


def test_a_message_that_comes_too_late_is_dropped(bench):
    def stamped(late_s, by):
        trajectory = bench.goal(moved(0, by), seconds=0.8).trajectory
        trajectory.header.stamp = stamp_msg(stamp_ns(bench.states[-1].header.stamp) - round(late_s * 1e9))
        return trajectory

    before = bench.positions()[0]
    bench.trajectories.publish(stamped(0.2, 0.4))
    assert bench.graph.until(lambda: "refused/old_header_timestamp" in bench.counters())
    assert abs(bench.positions()[0] - before) < 0.01 and "latest taken: 0.08 s" in bench.graph.log("cell")
    bench.trajectories.publish(stamped(0.0, 0.3))
    assert bench.graph.until(lambda: abs(bench.positions()[0] - 0.3) < 0.01)
    result = bench.result(bench.send(FollowJointTrajectory.Goal(trajectory=stamped(0.2, 0.1))))  # who sends a goal gets an answer
    assert result.error_code == Codes.SUCCESSFUL and abs(bench.positions()[0] - 0.1) < 0.01


def all_stopped(pid):
    """Every thread of it: one that still runs would take a message in time."""
    return all(state.read_text().rpartition(")")[2].split()[0] == "T" for state in Path(f"/proc/{pid}/task").glob("*/stat"))


def test_the_controllers_profile_makes_any_controller_drop_what_comes_late(tmp_path):
    graph = Graph(tmp_path)
    try:
        publisher = graph.publisher(JointTrajectory, "arm_controller/joint_trajectory", qos.RELIABLE)
        graph.start("listener", environment={"FASTRTPS_DEFAULT_PROFILES_FILE": find("config/fastdds_controller.xml")})
        assert graph.until(lambda: publisher.get_subscription_count() == 1, 20.0), graph.log("listener")

        def say(word, paused_s=0.0):
            message = JointTrajectory()
            message.header.frame_id = word
            process = graph.processes["listener"]
            if paused_s:
                process.send_signal(signal.SIGSTOP)
                assert graph.until(lambda: all_stopped(process.pid))
            publisher.publish(message)
            graph.until(lambda: False, paused_s)
            process.send_signal(signal.SIGCONT)

        def heard(word):
            return word in graph.log("listener")

        say("first")
        assert graph.until(lambda: heard("first"))
        say("late", 0.3)
        say("last")
        assert graph.until(lambda: heard("last")) and not heard("late")
    finally:
        graph.close()


def test_a_goal_is_reached_with_feedback(bench):
    result = bench.result(bench.send(bench.goal(HOME)))
    assert result.error_code == Codes.SUCCESSFUL
    assert np.abs(bench.positions() - HOME).max() < 0.02


def test_refusals_carry_the_controllers_error_codes(bench):
    wrong = bench.result(bench.send(bench.goal(np.zeros(2), names=("joint_1", "elbow"))))
    assert wrong.error_code == Codes.INVALID_JOINTS and "elbow" in wrong.error_string
    old = bench.goal(HOME)
    old.trajectory.header.stamp.sec = 1
    assert bench.result(bench.send(old)).error_code == Codes.OLD_HEADER_TIMESTAMP
    ragged = bench.goal(HOME)
    ragged.trajectory.points[0].positions = [0.0]
    assert bench.result(bench.send(ragged)).error_code == Codes.INVALID_GOAL


def test_a_goal_can_be_cancelled_and_is_replaced_by_the_topic(bench):
    handle = bench.send(bench.goal(moved(0, 0.6), seconds=3.0))
    ended = handle.get_result_async()
    bench.graph.until(lambda: bench.positions()[0] > 0.05)
    bench.trajectories.publish(bench.goal(HOME).trajectory)
    assert bench.graph.until(ended.done) and "replaced" in ended.result().result.error_string
    handle = bench.send(bench.goal(moved(0, 0.6), seconds=3.0))
    bench.graph.until(lambda: bench.positions()[0] > 0.05)
    cancelled = handle.cancel_goal_async()
    assert bench.graph.until(cancelled.done)
    assert "cancelled" in bench.result(handle).error_string
    here = bench.positions()
    bench.graph.until(lambda: False, 0.3)
    assert np.abs(bench.positions() - here).max() < 0.05


def test_the_belt_takes_speeds_within_its_range(bench):
    bench.speeds.publish(Float64(data=0.12))
    assert bench.graph.until(lambda: bench.scores[-1].belt_speed == pytest.approx(0.12, abs=2e-3))
    bench.speeds.publish(Float64(data=9.0))
    assert bench.graph.until(lambda: "9.0" in bench.graph.log("cell"))
    assert bench.scores[-1].belt_speed == pytest.approx(0.12, abs=2e-3)


def test_a_reset_restarts_the_cell_but_never_turns_time_back(bench):
    handle = bench.send(bench.goal(moved(0, 0.6), seconds=5.0))
    before = stamp_ns(bench.states[-1].header.stamp)
    assert bench.graph.call(Trigger, "cell/reset", Trigger.Request()).success
    assert "reset" in bench.result(handle).error_string
    bench.states.clear()
    assert bench.graph.until(lambda: len(bench.states) > 5)
    assert stamp_ns(bench.states[0].header.stamp) >= before
    assert np.abs(bench.positions() - HOME).max() < 0.02
    images = len(bench.images["side"])
    assert bench.graph.until(lambda: len(bench.images["side"]) > images + 3)


def set_pace(graph, factor):
    value = Parameter("real_time_factor", value=factor).to_parameter_msg()
    return graph.call(SetParameters, "cell/set_parameters", SetParameters.Request(parameters=[value])).results[0]


def test_its_pace_is_set_while_it_runs(bench):
    assert set_pace(bench.graph, 0.4).successful
    assert bench.graph.until(lambda: float(bench.counters().get("real_time_factor", 1.0)) == pytest.approx(0.4, abs=0.06))
    refused = set_pace(bench.graph, 50.0)
    assert not refused.successful and "20.0" in refused.reason
    assert set_pace(bench.graph, 1.0).successful
    assert bench.graph.until(lambda: float(bench.counters()["real_time_factor"]) > 0.6)


def test_a_cell_on_wall_time_has_no_other_pace(tmp_path):
    graph = Graph(tmp_path)
    try:
        graph.start("cell", stamps="wall")
        refused = set_pace(graph, 0.5)
        assert not refused.successful and "stamps: wall" in refused.reason
    finally:
        graph.close()


def test_the_cell_keeps_real_time_and_ends_with_0(bench):
    assert bench.graph.until(lambda: "real_time_factor" in bench.counters())
    assert 0.5 < float(bench.counters()["real_time_factor"]) < 1.3
    assert bench.graph.end("cell") == 0
    assert "Traceback" not in bench.graph.log("cell")


def test_a_cell_with_a_wrong_parameter_ends_with_one_line(tmp_path):
    graph = Graph(tmp_path)
    graph.start("cell", belt_speed=0.9, orders="nobody")
    assert graph.processes["cell"].wait(30.0) == 2
    log = graph.log("cell")
    assert "belt_speed: asked for 0.9, allowed: float in [0, 0.25] m/s" in log and "auto, external" in log and "Traceback" not in log
    graph.processes.clear()
    graph.close()
