"""What the recorder can record, by the names of the interface contract."""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from internvla_a1.core.errors import ConfigError

DEPTH = 50  # a recorder wants every message, not the newest


@dataclass(frozen=True)
class Topic:
    """One topic, with the quality of service that its publisher offers. name: relative, or absolute where it is global."""

    name: str
    type_name: str
    reliable: bool = True
    latched: bool = False

    @property
    def profile(self) -> QoSProfile:
        return QoSProfile(
            reliability=ReliabilityPolicy.RELIABLE if self.reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if self.latched else DurabilityPolicy.VOLATILE,
            history=HistoryPolicy.KEEP_LAST,
            depth=DEPTH,
        )


_ALL = (
    Topic("perception/observation", "internvla_a1_msgs/msg/Observation", reliable=False),
    Topic("policy/action_chunk", "internvla_a1_msgs/msg/ActionChunk"),
    Topic("policy/foresight", "internvla_a1_msgs/msg/Foresight"),
    Topic("executor/status", "internvla_a1_msgs/msg/ExecutorStatus"),
    Topic("arm_controller/joint_trajectory", "trajectory_msgs/msg/JointTrajectory"),
    Topic("handover/state", "internvla_a1_msgs/msg/HandoverState", latched=True),
    Topic("handover/request", "std_msgs/msg/String"),
    Topic("teleop/joint_command", "trajectory_msgs/msg/JointTrajectory"),
    Topic("instruction", "std_msgs/msg/String", latched=True),
    Topic("joint_states", "sensor_msgs/msg/JointState", reliable=False),
    Topic("estop", "std_msgs/msg/Bool", latched=True),
    Topic("foresight/surprise", "std_msgs/msg/Float32"),
    Topic("cell/score", "internvla_a1_msgs/msg/SortingScore", latched=True),
    Topic("cell/belt_speed", "std_msgs/msg/Float64"),
    Topic("robot_description", "std_msgs/msg/String", latched=True),
    Topic("/tf", "tf2_msgs/msg/TFMessage"),
    Topic("/tf_static", "tf2_msgs/msg/TFMessage", latched=True),
    Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray"),
)
TOPICS = {topic.name: topic for topic in _ALL}


def extra_topic(text: str) -> Topic:
    """A topic from 'name package/msg/Type [best_effort|reliable|latched]'. Raises ConfigError with the form."""
    words = text.split()
    if len(words) not in (2, 3) or (len(words) == 3 and words[2] not in ("best_effort", "reliable", "latched")):
        raise ConfigError(f"extra topic {text!r}: the form is 'name package/msg/Type [best_effort|reliable|latched]'")
    how = words[2] if len(words) == 3 else "reliable"
    return Topic(words[0], words[1], how != "best_effort", how == "latched")
