"""The tool paths of a chunk as markers: a line coloured by time, a ball where the gripper begins to open or close."""

from __future__ import annotations

from collections.abc import Iterable

from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from internvla_a1.foresight.path import ToolPath, time_colors
from internvla_a1.ros.time import duration_msg, stamp_msg

LINE_M = 0.006
BALL_M = 0.028
TEXT_M = 0.035
OPENS = (0.15, 0.55, 1.0)
CLOSES = (1.0, 0.45, 0.1)


def path_markers(paths: Iterable[ToolPath], frame: str, stamp_ns: int, lifetime_s: float) -> MarkerArray:
    """The first marker removes the previous picture. frame: the robot's base frame; after lifetime_s a path that nobody renews is gone."""
    clear = Marker(action=Marker.DELETEALL)
    clear.header.frame_id, clear.header.stamp = frame, stamp_msg(stamp_ns)
    markers = [clear]
    for path in paths:
        if len(path.points) > 1:
            markers.append(_line(path))
        for i, event in enumerate(path.gripper):
            color = OPENS if event.opens else CLOSES
            ball = _marker(path, "gripper", 2 * i, Marker.SPHERE, color, BALL_M)
            label = _marker(path, "gripper", 2 * i + 1, Marker.TEXT_VIEW_FACING, color, TEXT_M)
            label.text = f"{'open' if event.opens else 'close'} in {path.times_s[event.step]:.1f} s"
            ball.pose.position, label.pose.position = _point(path.points[event.step]), _point(path.points[event.step])
            label.pose.position.z += 0.04
            markers += [ball, label]
    for marker in markers[1:]:
        marker.header = clear.header
        marker.lifetime = duration_msg(lifetime_s)
    return MarkerArray(markers=markers)


def _line(path: ToolPath) -> Marker:
    marker = _marker(path, "path", 0, Marker.LINE_STRIP, (1.0, 1.0, 1.0), LINE_M)
    marker.points = [_point(p) for p in path.points]
    marker.colors = [_color(c) for c in time_colors(path.times_s).tolist()]
    return marker


def _marker(path: ToolPath, what: str, i: int, kind: int, color: Iterable[float], size_m: float) -> Marker:
    marker = Marker(ns=f"{what}/{path.group}", id=i, type=kind, action=Marker.ADD, color=_color(color))
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = size_m
    return marker


def _point(xyz: Iterable[float]) -> Point:
    x, y, z = (float(v) for v in xyz)
    return Point(x=x, y=y, z=z)


def _color(rgb: Iterable[float]) -> ColorRGBA:
    r, g, b = (float(v) for v in rgb)
    return ColorRGBA(r=r, g=g, b=b, a=1.0)
