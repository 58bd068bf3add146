"""Settings of the cell that are not geometry: config/cell.yaml as frozen dataclasses. Geometry comes from the URDF."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find


@dataclass(frozen=True)
class Physics:
    """MuJoCo and servo settings. kp in N m/rad or N/m, kv in N m s/rad or N s/m; kv/kp is the tracking lag in s."""

    timestep_s: float = 0.002
    control_period_s: float = 0.004
    servo_kp: float = 4000.0
    servo_kv: float = 120.0
    gripper_kp: float = 1200.0
    gripper_kv: float = 30.0
    friction: float = 0.9
    finger_friction: float = 1.5
    bin_friction: float = 0.08


@dataclass(frozen=True)
class Belt:
    """Speeds in m/s along +y; acceleration in m/s². seam_period_m is also the wrap period of the slab."""

    speed: float = 0.08
    max_speed: float = 0.25
    acceleration: float = 0.4
    seam_period_m: float = 0.2


@dataclass(frozen=True)
class Parcels:
    """The stream. Lengths in m; (low, high) pairs are uniform ranges. Half sizes for boxes, radius for cylinders."""

    pool: int = 16
    mass_kg: float = 0.05
    friction: float = 1.2
    spawn_y: float = -1.08
    leave_y: float = 1.06
    spacing: tuple[float, float] = (0.17, 0.26)
    lateral: tuple[float, float] = (-0.060, 0.060)
    half_width: tuple[float, float] = (0.017, 0.022)
    half_height: tuple[float, float] = (0.020, 0.027)
    yaw: tuple[float, float] = (-0.30, 0.30)
    prefill_y: float = -0.35  # at a reset the belt is already loaded upstream of here
    bin_keep: int = 2  # newest parcels that stay in a bin; older ones go back to the pool
    settle_s: float = 0.4  # a parcel counts as sorted after lying in a bin for this long


@dataclass(frozen=True)
class Orders:
    """The order desk. Lengths in m."""

    announce_y: float = -0.12  # a parcel further downstream than this is not announced any more
    lead_s: float = 0.9  # plus this much belt travel
    reach_y: float = -0.33  # on a belt that stands still, parcels further upstream are out of reach
    missed_y: float = 0.50
    any_shape: float = 0.0  # share of orders that say "parcel" instead of the shape


@dataclass(frozen=True)
class Lamp:
    position: tuple[float, float, float]
    strength: float
    shadow: bool = False


@dataclass(frozen=True)
class Look:
    """Light and colours (RGB 0..1) of what is not in the URDF, and the overview camera of the demo film."""

    ambient: float = 0.36
    headlight: float = 0.22
    floor_z: float = -0.45
    floor: tuple[float, float, float] = (0.66, 0.68, 0.70)
    background: tuple[float, float, float] = (0.80, 0.84, 0.88)
    seam: tuple[float, float, float] = (0.30, 0.32, 0.35)
    lamps: tuple[Lamp, ...] = (Lamp((1.5, 0.9, 2.6), 0.55, True), Lamp((-0.4, -1.4, 2.0), 0.22))
    red: tuple[float, float, float] = (0.85, 0.10, 0.09)
    green: tuple[float, float, float] = (0.10, 0.66, 0.20)
    blue: tuple[float, float, float] = (0.12, 0.27, 0.88)
    overview_eye: tuple[float, float, float] = (1.18, 1.24, 0.86)
    overview_target: tuple[float, float, float] = (0.35, -0.10, 0.17)
    overview_fovy_deg: float = 36.0
    overview_size: tuple[int, int] = (960, 540)  # pixels


@dataclass(frozen=True)
class CellConfig:
    """Everything about the cell that is not in the URDF. `randomise` 0..1: strength of light, colour and camera variation."""

    urdf: str = "urdf/demo_cell.urdf.xacro"
    robot: str = "config/robots/demo_arm.yaml"
    image_size: int = 224
    randomise: float = 0.0
    physics: Physics = field(default_factory=Physics)
    belt: Belt = field(default_factory=Belt)
    parcels: Parcels = field(default_factory=Parcels)
    orders: Orders = field(default_factory=Orders)
    look: Look = field(default_factory=Look)

    def with_speed(self, speed: float) -> CellConfig:
        return replace(self, belt=replace(self.belt, speed=speed))


def load_cell_config(path: str | Path = "config/cell.yaml") -> CellConfig:
    """Read a cell file; keys that are missing keep their default. Raises ConfigError with key and choice on any other."""
    found = find(str(path))
    try:
        raw = yaml.safe_load(found.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cell file {found}: {error}") from error
    config: CellConfig = _merge(CellConfig(), raw or {}, str(found))
    if not 0.0 <= config.belt.speed <= config.belt.max_speed:
        raise ConfigError(f"{found}: belt speed {config.belt.speed} m/s is outside 0 to {config.belt.max_speed} m/s")
    return config


def _merge(default: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a mapping")
    known = {f.name for f in fields(default)}
    for key in raw:
        if key not in known:
            raise ConfigError.asked(f"{where}: unknown key", key, sorted(known))
    return replace(default, **{k: _value(getattr(default, k), v, f"{where}: {k}") for k, v in raw.items()})


def _value(old: Any, new: Any, where: str) -> Any:
    if is_dataclass(old):
        return _merge(old, new, where)
    if isinstance(old, tuple) and old and is_dataclass(old[0]):
        if not isinstance(new, list):
            raise ConfigError(f"{where}: expected a list")
        return tuple(_merge(old[0], item, f"{where}[{i}]") for i, item in enumerate(new))
    if isinstance(old, tuple):
        if not isinstance(new, list) or len(new) != len(old):
            raise ConfigError(f"{where}: expected a list of {len(old)} numbers, not {new!r}")
        return tuple(_value(o, n, where) for o, n in zip(old, new, strict=True))
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        new = float(new)
    if type(new) is not type(old):
        raise ConfigError(f"{where}: expected {type(old).__name__}, not {new!r}")
    return new
