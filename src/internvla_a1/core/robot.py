"""A robot as config/robots/<name>.yaml describes it: joints with limits, groups, cameras, frames, delta mask."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.types import FloatArray


@dataclass(frozen=True)
class JointSpec:
    """One commanded joint. Units: rad, or m for prismatic ones, and their time derivatives."""

    name: str
    group: str
    lower: float
    upper: float
    max_velocity: float
    max_acceleration: float
    max_jerk: float
    home: float
    kind: str = "revolute"  # revolute | prismatic
    gripper: bool = False
    delta: bool = True  # the policy's action is relative to the measured state (model.md section 9)


@dataclass(frozen=True)
class GroupSpec:
    """Joints that one controller moves."""

    name: str
    controller: str  # relative name of the ros2_control controller
    kind: str = "joint_trajectory"  # joint_trajectory | gripper_command
    tool_frame: str = ""


@dataclass(frozen=True)
class CameraSpec:
    """One camera. `topic` is relative; `view` is the model's slot: image0, image1 or image2."""

    name: str
    topic: str
    view: str
    frame_id: str = ""
    compressed: bool = False


@dataclass(frozen=True)
class BoxSpec:
    """A fixed box of the scene for the collision check: centre and full size in m, in the base frame."""

    name: str
    center: tuple[float, float, float]
    size: tuple[float, float, float]


@dataclass(frozen=True)
class RobotSpec:
    """The contract between a robot, its drivers and a checkpoint."""

    name: str
    embodiment: str  # robot type: key into statistics and the tables of model.md section 9
    base_frame: str
    tool_frame: str
    urdf: str  # path relative to the package share, or package://...
    joints: tuple[JointSpec, ...]
    groups: tuple[GroupSpec, ...]
    cameras: tuple[CameraSpec, ...]
    control_dt_s: float  # period of the policy's action steps
    srdf: str = ""
    scene: tuple[BoxSpec, ...] = ()
    urdf_source: str = ""
    passive: dict[str, float] = field(default_factory=dict)  # joints of the URDF that nobody commands, and where they are

    @property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(j.name for j in self.joints)

    @property
    def camera_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.cameras)

    def array(self, attribute: str) -> FloatArray:
        """One number per joint, (joints,): lower, upper, max_velocity, max_acceleration, max_jerk or home."""
        return np.array([getattr(j, attribute) for j in self.joints], dtype=np.float64)

    @property
    def delta_mask(self) -> np.ndarray:
        """(joints,) bool: which action dimensions are relative to the state."""
        return np.array([j.delta for j in self.joints])

    @property
    def gripper_mask(self) -> np.ndarray:
        """(joints,) bool."""
        return np.array([j.gripper for j in self.joints])

    def group_joints(self, group: str) -> tuple[str, ...]:
        """Names of the joints of one group, in the robot's order."""
        return tuple(j.name for j in self.joints if j.group == group)


def load_robot(path: str | Path) -> RobotSpec:
    """Read and check a robot file. Raises ConfigError with the file, the key, and what is possible."""
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"robot file {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"robot file {path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"robot file {path}: expected a mapping at the top")
    nested = {"joints": JointSpec, "groups": GroupSpec, "cameras": CameraSpec, "scene": BoxSpec}
    for key, kind in nested.items():
        items = raw.get(key, [])
        if not isinstance(items, list):
            raise ConfigError(f"{path}: {key} must be a list")
        raw[key] = tuple(_build(kind, item, f"{path}: {key}[{i}]") for i, item in enumerate(items))
    spec: RobotSpec = _build(RobotSpec, raw, str(path))
    _check(spec, path)
    return spec


def _build(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a mapping")
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError.asked(f"{where}: unknown key", unknown[0], sorted(known))
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    values = {k: float(v) if isinstance(v, int) and not isinstance(v, bool) else v for k, v in values.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check(spec: RobotSpec, path: Path) -> None:
    names = spec.joint_names
    if not names:
        raise ConfigError(f"{path}: a robot needs at least one joint")
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: joint names repeat: {', '.join(names)}")
    groups = [g.name for g in spec.groups]
    for j in spec.joints:
        if j.group not in groups:
            raise ConfigError.asked(f"{path}: group of joint {j.name}", j.group, groups)
        for key in ("lower", "upper", "max_velocity", "max_acceleration", "max_jerk", "home"):
            value = getattr(j, key)
            if not isinstance(value, float) or not math.isfinite(value):
                raise ConfigError(f"{path}: joint {j.name}: {key} must be a finite number, not {value!r}")
        if not j.lower < j.upper:
            raise ConfigError(f"{path}: joint {j.name}: lower {j.lower} is not below upper {j.upper}")
        if not j.lower <= j.home <= j.upper:
            raise ConfigError(f"{path}: joint {j.name}: home {j.home} outside [{j.lower}, {j.upper}]")
        for key in ("max_velocity", "max_acceleration", "max_jerk"):
            if getattr(j, key) <= 0:
                raise ConfigError(f"{path}: joint {j.name}: {key} must be above 0, not {getattr(j, key)}")
    views = [c.view for c in spec.cameras]
    for view in views:
        if view not in ("image0", "image1", "image2"):
            raise ConfigError.asked(f"{path}: view of a camera", view, ("image0", "image1", "image2"))
    if len(set(views)) != len(views):
        raise ConfigError(f"{path}: two cameras fill the same view: {', '.join(views)}")
    if not spec.control_dt_s > 0:
        raise ConfigError(f"{path}: control_dt_s must be above 0, not {spec.control_dt_s}")
