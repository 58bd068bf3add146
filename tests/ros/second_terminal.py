"""What a person does in a second terminal, with plain rclpy: look, pause, take over, give back. Prints what came of it as JSON."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import rclpy
from internvla_a1_msgs.msg import ExecutorStatus, HandoverState
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

rclpy.init()
node = rclpy.create_node("second_terminal", parameter_overrides=[Parameter("use_sim_time", value=True)])
heard: dict[str, object] = {}
latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
node.create_subscription(HandoverState, "handover/state", lambda m: heard.update(state=m), latched)
node.create_subscription(ExecutorStatus, "executor/status", lambda m: heard.update(status=m), 1)
node.create_subscription(JointState, "joint_states", lambda m: heard.update(joints=m), qos_profile_sensor_data)
listener = SingleThreadedExecutor()
listener.add_node(node)
stopping = threading.Event()


def listen() -> None:
    while not stopping.is_set():
        listener.spin_once(timeout_sec=0.1)


# What it hears must not keep a device from speaking: silent for 0.1 s, it loses the arm.
listening = threading.Thread(target=listen, daemon=True)
listening.start()
requests = node.create_publisher(String, "handover/request", 1)
commands = node.create_publisher(JointTrajectory, "teleop/joint_command", 1)


def until(done: Callable[[], bool], limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def mode_is(mode: int) -> bool:
    return "state" in heard and heard["state"].mode == mode


def ask(word: str, mode: int, limit_s: float = 10.0) -> bool:
    """Say it until it is so: a request is refused while the arm's first joint states are on their way."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        requests.publish(String(data=word))
        if until(lambda: mode_is(mode), 1.0):
            return True
    return False


def where() -> dict[str, float]:
    return dict(zip(heard["joints"].name, heard["joints"].position, strict=True))


def travel(seconds: float) -> float:
    """The farthest that a joint moved, rad or m."""
    before = where()
    until(lambda: False, seconds)
    return max(abs(q - before[name]) for name, q in where().items())


def drive(offset: float, seconds: float) -> tuple[bool, float, float]:
    """Command joint_1 by hand, slowly by `offset` rad; whether teleop had the arm, how far the joint went, longest own silence (s)."""
    names, start = list(heard["status"].joint_names), where()
    began, had = time.monotonic(), False
    spoke, silence = began, 0.0
    while (passed := time.monotonic() - began) < seconds:
        target = dict(start, joint_1=start["joint_1"] + offset * min(1.0, passed / (0.7 * seconds)))
        message = JointTrajectory(joint_names=names, points=[JointTrajectoryPoint(positions=[target[n] for n in names])])
        message.header.stamp = node.get_clock().now().to_msg()
        commands.publish(message)
        spoke, silence = time.monotonic(), max(silence, time.monotonic() - spoke)
        until(lambda: False, 0.02)
        had = had or mode_is(HandoverState.TELEOP)
    return had, where()["joint_1"] - start["joint_1"], silence


def graph() -> dict[str, dict]:
    """Every topic: its types, and (reliability, durability) of its publishers and subscriptions, this node's left out."""
    found = {}
    for topic, types in node.get_topic_names_and_types():
        ends = [*node.get_publishers_info_by_topic(topic), *node.get_subscriptions_info_by_topic(topic)]
        ends = [e for e in ends if e.node_name != node.get_name()]
        found[topic] = {
            "types": types,
            "publishers": [
                (e.qos_profile.reliability.name, e.qos_profile.durability.name) for e in ends if e.endpoint_type.name == "PUBLISHER"
            ],
            "ends": len(ends),
        }
    return found


def settle(limit_s: float = 30.0) -> None:
    """Wait until nothing new has come into the graph for 4 s: what was lost on the way is announced again every 3 s."""
    end, since, seen = time.monotonic() + limit_s, time.monotonic(), set()
    while time.monotonic() < end and time.monotonic() - since < 4.0:
        now = {name for name, _ in [*node.get_topic_names_and_types(), *node.get_service_names_and_types()]}
        if not now <= seen:
            seen, since = seen | now, time.monotonic()
        until(lambda: False, 0.2)


said: dict[str, object] = {}
said["heard"] = until(lambda: {"state", "status", "joints"} <= heard.keys(), 60.0)
said["policy"] = ask("policy", HandoverState.POLICY, 30.0)
said["policy moves"] = until(lambda: travel(0.5) > 0.05, 20.0)
settle()
said["graph"] = graph()
said["services"] = [name for name, _ in node.get_service_names_and_types()]
said["hold"] = ask("hold", HandoverState.HOLD)
until(lambda: False, 1.0)
said["held travel"] = travel(1.0)
said["teleop asked"] = ask("teleop", HandoverState.TELEOP)
said["teleop"], said["driven"], said["own silence"] = drive(0.15, 2.0)
said["silence holds"] = until(lambda: mode_is(HandoverState.HOLD), 2.0)
said["given back"] = ask("policy", HandoverState.POLICY)
said["policy moves again"] = until(lambda: travel(0.5) > 0.05, 20.0)
print(json.dumps(said), flush=True)
stopping.set()
listening.join()
rclpy.shutdown()
