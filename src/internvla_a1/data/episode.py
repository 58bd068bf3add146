"""One episode on its way to disk: a folder that appears in one rename, so that a killed recorder leaves whole episodes or none."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from internvla_a1.core.errors import DataError
from internvla_a1.core.types import ImageArray
from internvla_a1.data.images import to_png
from internvla_a1.data.statistics import RunningStatistics, image_statistics
from internvla_a1.data.video import encode


@dataclass(frozen=True)
class Episode:
    """One demonstration in memory.

    columns: feature key -> (frames, dims) float32. cameras: feature key -> (frames, H, W, 3) uint8.
    task: the instruction, one for all frames or one a frame. extra: what else to remember (seed, belt speed, outcome).
    """

    columns: dict[str, np.ndarray]
    cameras: dict[str, ImageArray]
    task: str | tuple[str, ...]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The instruction of every frame."""
        return (self.task,) * self.length if isinstance(self.task, str) else self.task

    def check(self) -> None:
        """Raises DataError if lengths disagree, a number is not finite or a picture is no (H, W, 3) uint8."""
        n = self.length
        if n == 0:
            raise DataError("an episode needs at least one frame")
        for key, values in self.columns.items():
            if len(values) != n or values.ndim != 2:
                raise DataError(f"{key}: shape {values.shape}, expected ({n}, dims)")
            if not np.isfinite(values).all():
                raise DataError(f"{key}: NaN or infinite values")
        for key, frames in self.cameras.items():
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[0] != n or frames.shape[3] != 3:
                raise DataError(f"{key}: {frames.dtype} {frames.shape}, expected uint8 ({n}, H, W, 3)")
        if len(self.tasks) != n:
            raise DataError(f"{len(self.tasks)} instructions for {n} frames")


def store_episode(folder: Path, episode: Episode, fps: float, video: bool) -> None:
    """Write `folder` (table.parquet, episode.json, one MP4 a camera if `video`); complete as soon as it exists."""
    episode.check()
    work = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    statistics = {}
    columns: dict[str, pa.Array] = {}
    for key, values in episode.columns.items():
        columns[key] = number_column(values)
        stats = RunningStatistics()
        stats.add(values)
        statistics[key] = stats.to_json()
    for key, frames in episode.cameras.items():
        statistics[key] = image_statistics(frames).to_json()
        if video:
            encode(work / f"{key}.mp4", frames, fps)
        else:
            columns[key] = picture_column(frames)
    pq.write_table(pa.table(columns), work / "table.parquet")
    note = {"length": episode.length, "tasks": list(episode.tasks), "stats": statistics, "extra": episode.extra}
    (work / "episode.json").write_text(json.dumps(note))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(work, folder)


def number_column(values: np.ndarray) -> pa.Array:
    """(frames, dims) float32 as parquet lists; one value a frame becomes a list of one."""
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def picture_column(frames: ImageArray) -> pa.Array:
    """Pictures as the struct of bytes and path that the `datasets` library calls an Image."""
    rows = [{"bytes": to_png(frame), "path": f"frame-{k:06d}.png"} for k, frame in enumerate(frames)]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
