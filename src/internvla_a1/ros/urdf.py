"""URDF text, and the frames that follow from it and a set of joint positions."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.core.resources import find
from internvla_a1.core.types import FloatArray

_MOVING = ("revolute", "continuous", "prismatic")


@dataclass(frozen=True)
class Transform:
    """Pose of `child` in `parent`: xyz (3,) m; quat (4,) x, y, z, w."""

    parent: str
    child: str
    xyz: FloatArray
    quat: FloatArray


@dataclass(frozen=True)
class UrdfJoint:
    """One joint; `source`, `factor` and `offset` say whose position moves it (its own, or the mimicked joint's)."""

    name: str
    kind: str
    origin: Transform
    axis: FloatArray
    source: str
    factor: float
    offset: float


def load_urdf(reference: str) -> str:
    """URDF text of a .urdf or .xacro file (package path, or package://name/path). Raises ConfigError, MissingDependencyError."""
    path = _locate(reference)
    if ".xacro" not in path.suffixes:
        try:
            return path.read_text()
        except OSError as error:
            raise ConfigError(f"URDF {path}: {error.strerror}") from error
    try:
        import xacro
    except ImportError as error:
        hint = "pip install xacro, or sudo apt install ros-$ROS_DISTRO-xacro"
        raise MissingDependencyError("xacro", f"expanding {path.name}", hint) from error
    try:
        return str(xacro.process_file(str(path)).toxml())
    except Exception as error:  # xacro raises its own, expat's and evaluation errors
        raise ConfigError(f"{path}: {error}") from error


def _locate(reference: str) -> Path:
    if not reference.startswith("package://"):
        return find(reference)
    package, _, rest = reference.removeprefix("package://").partition("/")
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        return Path(get_package_share_directory(package)) / rest
    except (PackageNotFoundError, OSError) as error:
        raise ConfigError(f"{reference}: package {package} is not in the ament index") from error


class FrameTree:
    """Transforms of a URDF, as robot_state_publisher computes them. Raises ConfigError where the text is not a URDF."""

    def __init__(self, text: str) -> None:
        try:
            root = ET.fromstring(text)
        except ET.ParseError as error:
            raise ConfigError(f"the robot description is not XML: {error}") from error
        joints = [_joint(element) for element in root.findall("joint")]
        self._moving = [j for j in joints if j.kind in _MOVING]
        self.fixed = [j.origin for j in joints if j.kind == "fixed"]

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the joints whose positions are needed."""
        return tuple(dict.fromkeys(j.source for j in self._moving))

    def moving(self, positions: Mapping[str, float]) -> list[Transform]:
        """Transforms of the joints whose position is known; rad or m."""
        return [_moved(j, j.factor * positions[j.source] + j.offset) for j in self._moving if j.source in positions]


def _joint(element: ET.Element) -> UrdfJoint:
    name = element.get("name", "")
    parent, child = element.find("parent"), element.find("child")
    if parent is None or child is None:
        raise ConfigError(f"joint {name} of the URDF needs a parent and a child")
    origin, axis, mimic = (element.find(tag) for tag in ("origin", "axis", "mimic"))
    xyz = _triple(origin, "xyz", "0 0 0")
    quat = _from_rpy(_triple(origin, "rpy", "0 0 0"))
    direction = _triple(axis, "xyz", "1 0 0")
    norm = float(np.linalg.norm(direction))
    kind = element.get("type", "")
    if kind in _MOVING and not norm > 0:
        raise ConfigError(f"joint {name} of the URDF has an axis of length 0")
    source, factor, offset = name, 1.0, 0.0
    if mimic is not None:
        source = mimic.get("joint", name)
        factor, offset = float(mimic.get("multiplier", "1")), float(mimic.get("offset", "0"))
    pose = Transform(parent.get("link", ""), child.get("link", ""), xyz, quat)
    return UrdfJoint(name, kind, pose, direction / norm if norm else direction, source, factor, offset)


def _triple(element: ET.Element | None, key: str, default: str) -> FloatArray:
    text = default if element is None else element.get(key, default)
    try:
        values = np.array([float(v) for v in text.split()])
    except ValueError as error:
        raise ConfigError(f"URDF: {key}={text!r} is not three numbers") from error
    if values.shape != (3,):
        raise ConfigError(f"URDF: {key}={text!r} is not three numbers")
    return values


def _from_rpy(rpy: FloatArray) -> FloatArray:
    """(x, y, z, w) of fixed-axis roll, pitch, yaw (REP 103)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy / 2), np.sin(rpy / 2)
    return np.array([sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy, cr * cp * sy - sr * sp * cy, cr * cp * cy + sr * sp * sy])


def _rotate(q: FloatArray, v: FloatArray) -> FloatArray:
    t = 2 * np.cross(q[:3], v)
    return v + q[3] * t + np.cross(q[:3], t)


def _product(a: FloatArray, b: FloatArray) -> FloatArray:
    xyz = a[3] * b[:3] + b[3] * a[:3] + np.cross(a[:3], b[:3])
    return np.array([*xyz, a[3] * b[3] - a[:3] @ b[:3]])


def _moved(joint: UrdfJoint, position: float) -> Transform:
    o = joint.origin
    if joint.kind == "prismatic":
        return Transform(o.parent, o.child, o.xyz + _rotate(o.quat, joint.axis * position), o.quat)
    turn = np.array([*(np.sin(position / 2) * joint.axis), np.cos(position / 2)])
    return Transform(o.parent, o.child, o.xyz, _product(o.quat, turn))
