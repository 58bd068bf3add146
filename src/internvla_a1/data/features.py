"""What a LeRobot folder says about itself: `meta/info.json` with its features, version and file patterns."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from internvla_a1.core.errors import DataError

V21, V30 = "v2.1", "v3.0"
BOOKKEEPING: dict[str, str] = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
# what only the simulator knows; no policy sees it: m, in the frame of the cell, and m/s
TARGET_KEY, SPEED_KEY = "privileged.target_position", "privileged.belt_speed"
# what the expert would have done from a frame on in which a policy drove: actions one after another, all 0 where the expert drove itself
PLAN_KEY = "privileged.plan"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


@dataclass(frozen=True)
class Feature:
    """One column. dtype: 'image', 'video' or a number type; shape of one frame's value; names as LeRobot writes them."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def is_camera(self) -> bool:
        return self.dtype in ("image", "video")

    @property
    def width(self) -> int:
        """Number of values of one frame."""
        total = 1
        for n in self.shape:
            total *= n
        return total

    def to_json(self) -> dict[str, Any]:
        """The entry of `features` in info.json."""
        entry: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape), "names": list(self.names) if self.names else None}
        if self.info:
            entry["info"] = self.info
        return entry


def camera_feature(key: str, height: int, width: int, video: bool) -> Feature:
    """A colour camera, (height, width, 3)."""
    return Feature(key, "video" if video else "image", (height, width, 3), ("height", "width", "channels"))


@dataclass(frozen=True)
class DatasetInfo:
    """The part of info.json that this package uses."""

    version: str
    fps: float
    robot_type: str
    features: dict[str, Feature]
    data_path: str
    video_path: str | None
    chunks_size: int
    total_episodes: int
    total_frames: int

    @property
    def cameras(self) -> tuple[str, ...]:
        """Keys of the image and video features."""
        return tuple(k for k, f in self.features.items() if f.is_camera)

    def require(self, keys: tuple[str, ...], root: Path) -> None:
        """Raises DataError naming the first key that the data set lacks, and those it has."""
        for key in keys:
            if key not in self.features:
                known = ", ".join(k for k in self.features if k not in BOOKKEEPING)
                raise DataError(f"{root}: no feature {key!r}; it has: {known}")


def read_info(root: Path) -> DatasetInfo:
    """Read meta/info.json. Raises DataError if the folder is no LeRobot v2.1 or v3.0 data set."""
    path = root / "meta" / "info.json"
    try:
        raw = json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; a LeRobot data set has this file") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    version = str(raw.get("codebase_version", ""))
    if version not in (V21, V30):
        raise DataError(f"{path}: codebase_version {version!r}; this reader knows {V21} and {V30}")
    try:
        features = {k: _feature(k, v) for k, v in raw["features"].items()}
        return DatasetInfo(
            version=version,
            fps=float(raw["fps"]),
            robot_type=str(raw.get("robot_type") or "unknown"),
            features=features,
            data_path=raw["data_path"],
            video_path=raw.get("video_path"),
            chunks_size=int(raw.get("chunks_size", 1000)),
            total_episodes=int(raw["total_episodes"]),
            total_frames=int(raw["total_frames"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: missing or malformed entry: {error}") from error


def _feature(key: str, raw: dict[str, Any]) -> Feature:
    names = raw.get("names")
    if isinstance(names, dict):  # {"motors": [...]} in older folders
        names = next(iter(names.values()), None)
    flat = tuple(str(n) for n in names) if isinstance(names, list) else None
    return Feature(key, str(raw["dtype"]), tuple(int(n) for n in raw["shape"]), flat, raw.get("info") or raw.get("video_info") or {})
