"""/tf and /tf_static from a URDF, for machines without robot_state_publisher. tf2_ros is not needed: TFMessage is plain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from geometry_msgs.msg import TransformStamped
from tf2_msgs.msg import TFMessage

from internvla_a1.ros import qos
from internvla_a1.ros.time import stamp_msg
from internvla_a1.ros.urdf import FrameTree, Transform
from internvla_a1.ros.wiring import Wiring


def robot_state_publisher_installed() -> bool:
    """Whether the ament index knows robot_state_publisher."""
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        get_package_prefix("robot_state_publisher")
    except (PackageNotFoundError, LookupError, OSError):  # OSError: AMENT_PREFIX_PATH is not set
        return False
    return True


class TransformPublisher:
    """Fixed joints once on /tf_static, the others on /tf. `prefix` goes before every frame name, e.g. "ghost/"."""

    def __init__(self, node: Wiring, urdf_text: str, prefix: str = "") -> None:
        self._tree = FrameTree(urdf_text)
        self._prefix = prefix
        self._moving = node.publisher(TFMessage, "/tf", qos.TF)
        self._static = node.publisher(TFMessage, "/tf_static", qos.TF_STATIC)

    def publish_static(self, stamp_ns: int) -> None:
        """The fixed joints; latched, so once is enough."""
        self._static.publish(self._message(self._tree.fixed, stamp_ns))

    def publish(self, stamp_ns: int, positions: Mapping[str, float]) -> None:
        """The moving joints whose position is given; rad or m."""
        self._moving.publish(self._message(self._tree.moving(positions), stamp_ns))

    def _message(self, transforms: Iterable[Transform], stamp_ns: int) -> TFMessage:
        return TFMessage(transforms=[transform_msg(t, stamp_ns, self._prefix) for t in transforms])


def transform_msg(transform: Transform, stamp_ns: int, prefix: str = "") -> TransformStamped:
    """geometry_msgs/TransformStamped."""
    message = TransformStamped(child_frame_id=prefix + transform.child)
    message.header.frame_id = prefix + transform.parent
    message.header.stamp = stamp_msg(stamp_ns)
    t, r = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = (float(v) for v in transform.xyz)
    r.x, r.y, r.z, r.w = (float(v) for v in transform.quat)
    return message
