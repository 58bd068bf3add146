"""Where the package's own files are: in a source checkout, in an installed ROS package, or where INTERNVLA_A1_SHARE points."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from internvla_a1.core.errors import ConfigError


def share_dir() -> Path:
    """The folder that holds launch/, urdf/, config/ and model_weights/."""
    candidates = [Path(p) for p in (os.environ.get("INTERNVLA_A1_SHARE"),) if p]
    candidates.append(Path(__file__).resolve().parents[3])
    candidates += [Path(p) / "share" / "internvla_a1" for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    candidates.append(Path(sys.prefix) / "share" / "internvla_a1")
    for candidate in candidates:
        if (candidate / "config").is_dir() and (candidate / "urdf").is_dir():
            return candidate
    raise ConfigError(f"the package's config and urdf folders were not found; looked in {', '.join(map(str, candidates))}")


def find(relative: str) -> Path:
    """A file of the package by its path, e.g. 'config/robots/demo_arm.yaml'; absolute paths and existing ones stay as they are."""
    path = Path(relative)
    if path.is_absolute() or path.exists():
        return path
    found = share_dir() / relative
    if not found.exists():
        raise ConfigError(f"{relative}: not found, neither here nor in {share_dir()}")
    return found
