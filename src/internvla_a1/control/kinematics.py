"""Forward and inverse kinematics of a URDF in numpy: frames of all links, Jacobian of a tool, damped least squares."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.types import FloatArray

MOVING = ("revolute", "continuous", "prismatic")


@dataclass(frozen=True)
class _Joint:
    name: str
    kind: str
    parent: str
    child: str
    origin: FloatArray  # (4, 4)
    axis: FloatArray  # (3,), unit
    mimic: tuple[str, float, float] | None  # joint, multiplier, offset
    limits: tuple[float, float, float] | None  # lower, upper, velocity


def rotation(rpy: Sequence[float]) -> FloatArray:
    """(3, 3) from roll, pitch, yaw about fixed axes (REP 103), rad."""
    (sr, sp, sy), (cr, cp, cy) = np.sin(rpy), np.cos(rpy)
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
    about_y = np.array([[cp, 0.0, sp], [0.0, 1.0, 0.0], [-sp, 0.0, cp]])
    about_z = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
    return about_z @ about_y @ about_x


def about(axis: FloatArray, angle: float) -> FloatArray:
    """(3, 3): a turn of `angle` rad about a unit axis (Rodrigues)."""
    x, y, z = axis
    k = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * k + (1.0 - np.cos(angle)) * (k @ k)


class UrdfChain:
    """The tree of a URDF (text, xacro already expanded). Raises ConfigError for what is not one."""

    def __init__(self, urdf: str) -> None:
        try:
            root = ET.fromstring(urdf)
        except ET.ParseError as error:
            raise ConfigError(f"the URDF is not XML: {error}") from error
        joints = [_read(e) for e in root.findall("joint")]
        self.links = tuple(e.get("name", "") for e in root.findall("link"))
        children = {j.child for j in joints}
        roots = [name for name in self.links if name not in children]
        if len(roots) != 1:
            raise ConfigError(f"a URDF has one root link; here: {', '.join(roots) or 'none'}")
        self.root = roots[0]
        self._joints = _from_root(self.root, joints)
        self.joints = {j.name: j for j in self._joints}
        self.moving = tuple(j.name for j in self._joints if j.kind in MOVING and j.mimic is None)

    def limits(self, joint: str) -> tuple[float, float, float] | None:
        """lower, upper, velocity of a joint as the URDF gives them; None where it gives none."""
        return self.joints[joint].limits

    def position(self, joint: str, q: Mapping[str, float]) -> float:
        """Of one joint, mimics followed; a moving joint that q lacks raises ConfigError."""
        spec = self.joints[joint]
        if spec.mimic is not None:
            leader, multiplier, offset = spec.mimic
            return multiplier * self.position(leader, q) + offset
        if joint not in q:
            raise ConfigError.asked("position of a joint of the URDF", joint, sorted(q))
        return float(q[joint])

    def fk(self, q: Mapping[str, float]) -> dict[str, FloatArray]:
        """Pose (4, 4) of every link in the root link's frame; q: rad or m by joint name, mimics may be left out."""
        poses = {self.root: np.eye(4)}
        for joint in self._joints:
            motion = np.eye(4)
            if joint.kind in MOVING:
                value = self.position(joint.name, q)
                if joint.kind == "prismatic":
                    motion[:3, 3] = joint.axis * value
                else:
                    motion[:3, :3] = about(joint.axis, value)
            poses[joint.child] = poses[joint.parent] @ joint.origin @ motion
        return poses


class ArmKinematics:
    """The commanded joints of a chain and one tool link. q: (joints,) in the order of joint_names."""

    def __init__(self, chain: UrdfChain, joint_names: Sequence[str], tool: str, passive: Mapping[str, float] | None = None) -> None:
        for name in joint_names:
            if name not in chain.moving:
                raise ConfigError.asked("joint of the URDF", name, chain.moving)
        if tool not in chain.links:
            raise ConfigError.asked("tool link of the URDF", tool, chain.links)
        self.chain, self.joint_names, self.tool = chain, tuple(joint_names), tool
        fixed = dict.fromkeys(chain.moving, 0.0)
        fixed.update(passive or {})
        self._path = _path_to(chain, tool)
        self._fixed = fixed

    def _frames(self, q: FloatArray) -> tuple[FloatArray, list[tuple[int, str, FloatArray, FloatArray]]]:
        """Pose of the tool, and of each commanded joint on the way: its index, kind, axis and place in the root frame."""
        values = {**self._fixed, **dict(zip(self.joint_names, q, strict=True))}
        pose, found = np.eye(4), []
        for joint in self._path:
            pose = pose @ joint.origin
            if joint.kind not in MOVING:
                continue
            if joint.name in self.joint_names:
                found.append((self.joint_names.index(joint.name), joint.kind, pose[:3, :3] @ joint.axis, pose[:3, 3].copy()))
            motion, value = np.eye(4), self.chain.position(joint.name, values)
            if joint.kind == "prismatic":
                motion[:3, 3] = joint.axis * value
            else:
                motion[:3, :3] = about(joint.axis, value)
            pose = pose @ motion
        return pose, found

    def fk(self, q: FloatArray) -> FloatArray:
        """(4, 4) of the tool in the root frame."""
        return self._frames(q)[0]

    def jacobian(self, q: FloatArray) -> FloatArray:
        """(6, joints): linear then angular velocity of the tool in the root frame per joint velocity."""
        pose, found = self._frames(q)
        out = np.zeros((6, len(self.joint_names)))
        for index, kind, axis, place in found:
            if kind == "prismatic":
                out[:3, index] = axis
            else:
                out[:3, index] = np.cross(axis, pose[:3, 3] - place)
                out[3:, index] = axis
        return out

    def velocity(self, q: FloatArray, twist: FloatArray, damping: float = 0.05) -> FloatArray:
        """Joint velocities (joints,) for a twist (6,) by damped least squares; near a singularity slower, never wild."""
        jacobian = self.jacobian(q)
        square = jacobian @ jacobian.T
        manipulability = np.sqrt(max(float(np.linalg.det(square)), 0.0))
        share = max(0.0, 1.0 - manipulability / damping) if damping > 0 else 0.0
        return jacobian.T @ np.linalg.solve(square + (damping * share) ** 2 * np.eye(6) + 1e-8 * np.eye(6), twist)

    def ik(self, target: FloatArray, start: FloatArray, lower: FloatArray, upper: FloatArray, steps: int = 100) -> FloatArray | None:
        """Joint positions within the limits that bring the tool to `target` (4, 4), from `start`; None where 0.1 mm and 1 mrad
        are not reached."""
        q = np.clip(start, lower, upper)
        for _ in range(steps):
            error = pose_error(self.fk(q), target)
            if np.linalg.norm(error[:3]) < 1e-4 and np.linalg.norm(error[3:]) < 1e-3:
                return q
            step = self.velocity(q, error, damping=0.02)
            q = np.clip(q + step * min(1.0, 0.3 / max(float(np.abs(step).max()), 1e-9)), lower, upper)
        return None


def pose_error(pose: FloatArray, target: FloatArray) -> FloatArray:
    """(6,): translation in m and rotation vector in rad that take pose to target, both (4, 4), in the root frame."""
    turn = target[:3, :3] @ pose[:3, :3].T
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
    sine = float(np.linalg.norm(axis))
    angle = float(np.arctan2(sine, (np.trace(turn) - 1) / 2))
    if sine < 1e-9:
        half_turn = angle > 1.0
        axis = np.sqrt(np.maximum((np.diag(turn) + 1) / 2, 0.0)) if half_turn else axis
        return np.concatenate([target[:3, 3] - pose[:3, 3], axis * (angle if half_turn else 1.0)])
    return np.concatenate([target[:3, 3] - pose[:3, 3], axis / sine * angle])


def _read(element: ET.Element) -> _Joint:
    def numbers(tag: str, key: str, default: str) -> FloatArray:
        child = element.find(tag)
        text = default if child is None else child.get(key, default)
        return np.array([float(x) for x in text.split()])

    def link(tag: str) -> str:
        child = element.find(tag)
        if child is None:
            raise ConfigError(f"joint {element.get('name')} of the URDF has no {tag}")
        return child.get("link", "")

    origin = np.eye(4)
    origin[:3, :3], origin[:3, 3] = rotation(numbers("origin", "rpy", "0 0 0").tolist()), numbers("origin", "xyz", "0 0 0")
    axis = numbers("axis", "xyz", "1 0 0")
    norm = float(np.linalg.norm(axis))
    kind = element.get("type", "")
    limit, mimic = element.find("limit"), element.find("mimic")
    limits = None
    if limit is not None and kind in MOVING:
        limits = float(limit.get("lower", "0")), float(limit.get("upper", "0")), float(limit.get("velocity", "0"))
    follows = None
    if mimic is not None:
        follows = mimic.get("joint", ""), float(mimic.get("multiplier", "1")), float(mimic.get("offset", "0"))
    return _Joint(element.get("name", ""), kind, link("parent"), link("child"), origin, axis / norm if norm > 0 else axis, follows, limits)


def _from_root(root: str, joints: list[_Joint]) -> list[_Joint]:
    """Parents before children."""
    by_parent: dict[str, list[_Joint]] = {}
    for joint in joints:
        by_parent.setdefault(joint.parent, []).append(joint)
    ordered, waiting = [], [root]
    while waiting:
        for joint in by_parent.get(waiting.pop(), []):
            ordered.append(joint)
            waiting.append(joint.child)
    if len(ordered) != len(joints):
        raise ConfigError(f"{len(joints) - len(ordered)} joints of the URDF do not hang on its root {root}")
    return ordered


def _path_to(chain: UrdfChain, link: str) -> list[_Joint]:
    by_child = {j.child: j for j in chain.joints.values()}
    path = []
    while link in by_child:
        path.append(by_child[link])
        link = by_child[link].parent
    return path[::-1]
