"""Ground truth of the cell as a MarkerArray that RViz draws and an expert reads back.

One marker a parcel (namespace `parcels`, text "<name> <colour> <shape>"), one a bin (`bins`, text = name), and one for the belt
(`belt`, text = speed in m/s). Velocities are not in a Marker: the reader estimates them from stamped positions.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from visualization_msgs.msg import Marker, MarkerArray

from internvla_a1.core.clock import seconds
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.scene import COLORS, SHAPES, Scene, SceneObject, yaw_quaternion
from internvla_a1.core.types import FloatArray
from internvla_a1.ros.time import stamp_msg, stamp_ns

FRAME = "world"
_RGB = {"red": (0.85, 0.1, 0.1), "green": (0.1, 0.7, 0.15), "blue": (0.1, 0.25, 0.9)}
_TYPES = {"box": Marker.CUBE, "cylinder": Marker.CYLINDER}
_WINDOW_S = 0.3
_JUMP_M = 0.15  # a parcel that moves further between two pictures was put there


def scene_markers(scene: Scene) -> MarkerArray:
    """All parcels, bins and the belt; the first marker clears what was drawn before."""
    markers = [_marker(scene, "clear", 0, Marker.CUBE, np.zeros(3), np.ones(3), "", action=Marker.DELETEALL)]
    for i, item in enumerate(scene.objects):
        label = f"{item.name} {item.color} {item.shape}"
        marker = _marker(scene, "parcels", i, _TYPES[item.shape], item.position, item.size, label, _RGB[item.color])
        w, x, y, z = (float(v) for v in yaw_quaternion(item.yaw))
        q = marker.pose.orientation
        q.w, q.x, q.y, q.z = w, x, y, z
        markers.append(marker)
    for i, (name, center) in enumerate(scene.bins.items()):
        markers.append(_marker(scene, "bins", i, Marker.TEXT_VIEW_FACING, center, np.full(3, 0.05), name))
    markers.append(_marker(scene, "belt", 0, Marker.TEXT_VIEW_FACING, np.zeros(3), np.full(3, 0.03), repr(scene.belt_speed)))
    return MarkerArray(markers=markers)


def _marker(
    scene: Scene,
    ns: str,
    i: int,
    kind: int,
    position: FloatArray,
    size: FloatArray,
    text: str,
    rgb: tuple[float, float, float] = (1.0, 1.0, 1.0),
    action: int = Marker.ADD,
) -> Marker:
    marker = Marker(ns=ns, id=i, type=kind, action=action, text=text)
    marker.header.frame_id = FRAME
    marker.header.stamp = stamp_msg(scene.stamp_ns)
    p, s, c = marker.pose.position, marker.scale, marker.color
    p.x, p.y, p.z = (float(v) for v in position)
    s.x, s.y, s.z = (float(v) for v in size)
    c.r, c.g, c.b, c.a = (*rgb, 1.0)
    return marker


class SceneReader:
    """Reads scenes from marker arrays and remembers positions, for the velocities. Feed it every message."""

    def __init__(self) -> None:
        self._tracks: dict[str, deque[tuple[int, FloatArray]]] = {}
        self._stamp_ns = -1

    def read(self, message: MarkerArray) -> Scene | Refusal:
        """The scene at the message's stamp. A stamp that goes back starts the histories anew."""
        if not message.markers:
            return Refusal(Reason.WRONG_SHAPE, "no markers")
        stamp = stamp_ns(message.markers[0].header.stamp)
        if stamp == self._stamp_ns:
            return Refusal(Reason.STAMP_REPEATED, f"scene at {seconds(stamp):.3f} s came twice")
        if stamp < self._stamp_ns:
            self._tracks.clear()
        self._stamp_ns = stamp
        objects: list[SceneObject] = []
        bins: dict[str, FloatArray] = {}
        speed = 0.0
        for marker in message.markers:
            point = marker.pose.position
            position = np.array([point.x, point.y, point.z])
            if not np.isfinite(position).all():
                return Refusal(Reason.NON_FINITE, f"marker {marker.ns}/{marker.id} at {position}")
            if marker.ns == "parcels":
                item = self._parcel(marker, stamp, position)
                if isinstance(item, Refusal):
                    return item
                objects.append(item)
            elif marker.ns == "bins":
                bins[marker.text] = position
            elif marker.ns == "belt":
                speed = _speed(marker.text)
        self._forget({o.name for o in objects})
        return Scene(stamp, tuple(objects), bins, speed)

    def _parcel(self, marker: Marker, stamp: int, position: FloatArray) -> SceneObject | Refusal:
        words = marker.text.split()
        if len(words) != 3 or words[1] not in COLORS or words[2] not in SHAPES:
            return Refusal(Reason.WRONG_SHAPE, f"parcel marker says {marker.text[:60]!r}, expected '<name> <colour> <shape>'")
        name, color, shape = words
        q, s = marker.pose.orientation, marker.scale
        yaw = math.atan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y * q.y + q.z * q.z))
        return SceneObject(name, color, shape, np.array([s.x, s.y, s.z]), position, self._velocity(name, stamp, position), yaw)

    def _velocity(self, name: str, stamp: int, position: FloatArray) -> FloatArray:
        track = self._tracks.setdefault(name, deque())
        if track and np.linalg.norm(position - track[-1][1]) > _JUMP_M:
            track.clear()
        track.append((stamp, position))
        while seconds(stamp - track[0][0]) > _WINDOW_S:
            track.popleft()
        if len(track) < 2:
            return np.zeros(3)
        times = np.array([seconds(t - stamp) for t, _ in track])
        times -= times.mean()
        points = np.array([p for _, p in track])
        return times @ points / (times @ times)  # slope of the least-squares line

    def _forget(self, names: set[str]) -> None:
        for name in set(self._tracks) - names:
            del self._tracks[name]


def _speed(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
