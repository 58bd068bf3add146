"""The part of URDF that the simulator needs, as plain values: links with solids and inertias, joints, camera sensors."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.core.types import FloatArray


@dataclass(frozen=True)
class Pose:
    """xyz (3,) m; quat (4,) w, x, y, z."""

    xyz: FloatArray
    quat: FloatArray


@dataclass(frozen=True)
class Solid:
    """A box (full size x, y, z) or a cylinder (radius, length) along its own z."""

    kind: str
    size: tuple[float, ...]
    pose: Pose
    rgba: tuple[float, float, float, float]


@dataclass(frozen=True)
class Inertia:
    """mass kg; matrix (3, 3) kg m² about the centre of mass at `com` (3,), axes of the link."""

    mass: float
    com: FloatArray
    matrix: FloatArray


@dataclass(frozen=True)
class Link:
    name: str
    visuals: tuple[Solid, ...]
    collisions: tuple[Solid, ...]
    inertia: Inertia | None


@dataclass(frozen=True)
class Joint:
    """Limits in rad or m and their derivative; effort N m or N. mimic: the joint that this one follows, multiplier 1."""

    name: str
    kind: str
    parent: str
    child: str
    pose: Pose
    axis: FloatArray
    lower: float
    upper: float
    velocity: float
    effort: float
    damping: float
    mimic: str


@dataclass(frozen=True)
class Sensor:
    """A camera: its optical frame is <name>_optical_frame."""

    name: str
    horizontal_fov: float
    width: int
    height: int
    near: float


@dataclass(frozen=True)
class Urdf:
    links: dict[str, Link]
    joints: tuple[Joint, ...]
    sensors: tuple[Sensor, ...]

    def children(self, link: str) -> tuple[Joint, ...]:
        return tuple(j for j in self.joints if j.parent == link)

    def joint(self, name: str) -> Joint:
        """Raises ConfigError with the joints there are."""
        for joint in self.joints:
            if joint.name == name:
                return joint
        raise ConfigError.asked("joint of the URDF", name, [j.name for j in self.joints])

    @property
    def root(self) -> str:
        inner = {j.child for j in self.joints}
        return next(name for name in self.links if name not in inner)


def expand_xacro(path: Path) -> str:
    """The URDF text of a xacro file. Raises ConfigError where the file is not valid, MissingDependencyError without xacro."""
    try:
        import xacro
    except ImportError as error:
        raise MissingDependencyError("xacro", "the simulated cell", "pip install xacro (or apt install ros-jazzy-xacro)") from error
    try:
        return str(xacro.process_file(str(path)).toxml())
    except (xacro.XacroException, OSError, ET.ParseError) as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_urdf(text: str) -> Urdf:
    """Read URDF text. Raises ConfigError on shapes and joints that the simulator does not know."""
    root = ET.fromstring(text)
    colors = {}
    for material in root.iter("material"):
        color = material.find("color")
        if color is not None:
            colors[material.get("name", "")] = tuple(_numbers(color.get("rgba", "")))
    links = {}
    for element in root.findall("link"):
        name = element.get("name", "")
        links[name] = Link(
            name,
            tuple(_solid(v, colors) for v in element.findall("visual")),
            tuple(_solid(c, colors) for c in element.findall("collision")),
            _inertia(element.find("inertial")),
        )
    joints = tuple(_joint(element) for element in root.findall("joint"))
    sensors = tuple(_sensor(s) for s in root.iter("sensor") if s.get("type") == "camera")
    return Urdf(links, joints, sensors)


def _numbers(text: str) -> list[float]:
    return [float(t) for t in text.split()]


def _pose(origin: ET.Element | None) -> Pose:
    if origin is None:
        return Pose(np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0]))
    roll, pitch, yaw = (a / 2 for a in _numbers(origin.get("rpy", "0 0 0")))
    cr, sr, cp, sp, cy, sy = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
    quat = np.array(
        [cr * cp * cy + sr * sp * sy, sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy, cr * cp * sy - sr * sp * cy]
    )
    return Pose(np.array(_numbers(origin.get("xyz", "0 0 0"))), quat)


def _solid(element: ET.Element, colors: dict[str, tuple[float, ...]]) -> Solid:
    shape = element.find("geometry/*")
    material = element.find("material")
    rgba = colors.get(material.get("name", ""), (0.7, 0.7, 0.7, 1.0)) if material is not None else (0.7, 0.7, 0.7, 1.0)
    pose = _pose(element.find("origin"))
    if shape is not None and shape.tag == "box":
        return Solid("box", tuple(_numbers(shape.get("size", ""))), pose, rgba)  # type: ignore[arg-type]
    if shape is not None and shape.tag == "cylinder":
        size = (float(shape.get("radius", "0")), float(shape.get("length", "0")))
        return Solid("cylinder", size, pose, rgba)  # type: ignore[arg-type]
    raise ConfigError.asked("shape in the URDF", None if shape is None else shape.tag, ("box", "cylinder"))


def _inertia(element: ET.Element | None) -> Inertia | None:
    if element is None:
        return None
    mass, inertia = element.find("mass"), element.find("inertia")
    if mass is None or inertia is None:
        raise ConfigError("an inertial of the URDF needs mass and inertia")
    i = {k: float(inertia.get(k, "0")) for k in ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")}
    matrix = np.array([[i["ixx"], i["ixy"], i["ixz"]], [i["ixy"], i["iyy"], i["iyz"]], [i["ixz"], i["iyz"], i["izz"]]])
    return Inertia(float(mass.get("value", "0")), _pose(element.find("origin")).xyz, matrix)


def _joint(element: ET.Element) -> Joint:
    kind = element.get("type", "")
    if kind not in ("fixed", "revolute", "prismatic"):
        raise ConfigError.asked(f"type of joint {element.get('name')}", kind, ("fixed", "revolute", "prismatic"))
    parent, child = element.find("parent"), element.find("child")
    if parent is None or child is None:
        raise ConfigError(f"joint {element.get('name')} needs parent and child")
    limit, axis, mimic, dynamics = (element.find(tag) for tag in ("limit", "axis", "mimic", "dynamics"))
    bounds = {k: float(limit.get(k, "0")) if limit is not None else 0.0 for k in ("lower", "upper", "velocity", "effort")}
    return Joint(
        element.get("name", ""),
        kind,
        parent.get("link", ""),
        child.get("link", ""),
        _pose(element.find("origin")),
        np.array(_numbers(axis.get("xyz", "1 0 0")) if axis is not None else [1.0, 0.0, 0.0]),
        bounds["lower"],
        bounds["upper"],
        bounds["velocity"],
        bounds["effort"],
        float(dynamics.get("damping", "0")) if dynamics is not None else 0.0,
        mimic.get("joint", "") if mimic is not None else "",
    )


def _sensor(element: ET.Element) -> Sensor:
    def number(path: str) -> float:
        found = element.findtext(path)
        if found is None:
            raise ConfigError(f"camera {element.get('name')}: {path} is missing in its sensor tag")
        return float(found)

    size = int(number("camera/image/width")), int(number("camera/image/height"))
    return Sensor(element.get("name", ""), number("camera/horizontal_fov"), *size, number("camera/clip/near"))
