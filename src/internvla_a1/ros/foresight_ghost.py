"""The ghost arm for RViz: a second set of frames under a prefix, and its joint states."""

from __future__ import annotations

from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import JointState as JointStateMsg
from tf2_msgs.msg import TFMessage

from internvla_a1.core.types import FloatArray, JointState
from internvla_a1.ros import qos
from internvla_a1.ros.foresight_frames import ToolFrames
from internvla_a1.ros.joints import joint_state_msg
from internvla_a1.ros.tf import TransformPublisher
from internvla_a1.ros.time import stamp_msg
from internvla_a1.ros.wiring import Wiring

PREFIX = "ghost/"


class GhostPublisher:
    """Publishes foresight/ghost/joint_states and the frames `ghost/...`, which hang on the root of the real robot."""

    def __init__(self, node: Wiring, urdf_text: str, frames: ToolFrames, joints: tuple[str, ...]) -> None:
        self._frames, self._joints = frames, joints
        self._states = node.publisher(JointStateMsg, "foresight/ghost/joint_states", qos.DEFAULT)
        self._transforms = TransformPublisher(node, urdf_text, PREFIX)
        self._anchor = node.publisher(TFMessage, "/tf_static", qos.TF_STATIC)

    def publish_static(self, stamp_ns: int) -> None:
        """What does not move: once, latched."""
        anchor = TransformStamped(child_frame_id=PREFIX + self._frames.root)
        anchor.header.frame_id, anchor.header.stamp = self._frames.root, stamp_msg(stamp_ns)
        anchor.transform.rotation.w = 1.0
        self._anchor.publish(TFMessage(transforms=[anchor]))
        self._transforms.publish_static(stamp_ns)

    def publish(self, stamp_ns: int, positions: FloatArray) -> None:
        """The ghost's pose now. positions: (joints,) rad or m."""
        self._states.publish(joint_state_msg(JointState(stamp_ns, positions), self._joints))
        self._transforms.publish(stamp_ns, self._frames.positions(positions))
