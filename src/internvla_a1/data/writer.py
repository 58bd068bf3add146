"""LeRobot v3.0 folders: many episodes a file, one parquet row group an episode, MP4s joined without re-encoding."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from internvla_a1.core.errors import DataError
from internvla_a1.data.features import BOOKKEEPING, DATA_PATH, EPISODES_PATH, V30, VIDEO_PATH, Feature
from internvla_a1.data.statistics import RunningStatistics
from internvla_a1.data.video import join

CHUNKS_SIZE = 1000


@dataclass
class _File:
    """A data file under construction: which episodes it holds."""

    index: int
    frames: int = 0
    bytes: int = 0
    episodes: list[int] = field(default_factory=list)


def write_dataset(
    root: Path,
    shards: Sequence[Path],
    features: Sequence[Feature],
    fps: float,
    robot_type: str,
    data_file_mb: int = 100,
    video_file_mb: int = 200,
) -> None:
    """Assemble stored episodes (`episode.store_episode`), in this order, into a LeRobot v3.0 folder at `root`.

    The folder appears in one rename; an older one of the same name is replaced. Raises DataError if episodes disagree
    with the features.
    """
    if not shards:
        raise DataError(f"{root}: no episode to write")
    work = root.with_name(f".{root.name}.writing")
    shutil.rmtree(work, ignore_errors=True)
    notes = [json.loads((shard / "episode.json").read_text()) for shard in shards]
    tasks = {task: i for i, task in enumerate(dict.fromkeys(t for note in notes for t in note["tasks"]))}
    rows = _write_tables(work, shards, notes, features, tasks, fps, data_file_mb * 2**20)
    for feature in features:
        if feature.dtype == "video":
            _join_videos(work, shards, notes, feature.key, fps, video_file_mb * 2**20, rows)
    statistics = _write_statistics(work, notes, features, rows, fps)
    _write_meta(work, rows, tasks, features, fps, robot_type, statistics)
    if root.exists():
        shutil.rmtree(root)
    os.replace(work, root)


def _write_tables(work, shards, notes, features, tasks, fps, limit) -> list[dict[str, Any]]:
    """data/**.parquet; returns one row of meta/episodes per episode."""
    rows: list[dict[str, Any]] = []
    file, writer, start = _File(0), None, 0
    schema = _schema(features)
    for number, (shard, note) in enumerate(zip(shards, notes, strict=True)):
        size = (shard / "table.parquet").stat().st_size
        if writer is not None and file.bytes + size > limit:
            writer.close()
            writer, file = None, _File(file.index + 1)
        if writer is None:
            path = work / DATA_PATH.format(**_slot(file.index))
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = pq.ParquetWriter(path, schema)
        writer.write_table(_table(shard, note, number, start, tasks, fps, schema))
        length = note["length"]
        slot = {f"data/{k}": v for k, v in _slot(file.index).items()}
        rows.append(
            {
                "episode_index": number,
                "tasks": list(dict.fromkeys(note["tasks"])),
                "length": length,
                **slot,
                "dataset_from_index": start,
                "dataset_to_index": start + length,
            }
        )
        file.bytes, start = file.bytes + size, start + length
    if writer is not None:
        writer.close()
    return rows


def _slot(file: int) -> dict[str, int]:
    return {"chunk_index": file // CHUNKS_SIZE, "file_index": file % CHUNKS_SIZE}


def _schema(features: Sequence[Feature]) -> pa.Schema:
    fields = []
    for f in features:
        if f.dtype == "image":
            fields.append(pa.field(f.key, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
        elif f.dtype != "video":
            # LeRobot stores a feature of shape (1,) as a plain column
            fields.append(pa.field(f.key, pa.float32() if f.width == 1 else pa.list_(pa.float32(), f.width)))
    fields += [pa.field(k, pa.float32() if t == "float32" else pa.int64()) for k, t in BOOKKEEPING.items()]
    return pa.schema(fields)


def _table(shard: Path, note: dict, number: int, start: int, tasks: dict[str, int], fps: float, schema: pa.Schema) -> pa.Table:
    stored = pq.read_table(shard / "table.parquet")
    n = note["length"]
    frame = np.arange(n, dtype=np.int64)
    counted = {
        "timestamp": (frame / fps).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full(n, number, np.int64),
        "index": frame + start,
        "task_index": np.array([tasks[t] for t in note["tasks"]], np.int64),
    }
    columns = []
    for entry in schema:
        if entry.name in counted:
            columns.append(pa.array(counted[entry.name], entry.type))
        elif entry.name in stored.column_names:
            column = stored.column(entry.name).combine_chunks()
            columns.append((column.flatten() if entry.type == pa.float32() else column).cast(entry.type))
        else:
            raise DataError(f"{shard}: no column {entry.name!r}; it has {', '.join(stored.column_names)}")
    return pa.Table.from_arrays(columns, schema=schema)


def _join_videos(work, shards, notes, key, fps, limit, rows) -> None:
    """videos/<key>/**.mp4, and where each episode lies in them."""
    group: list[int] = []
    file = size = 0

    def flush() -> None:
        path = work / VIDEO_PATH.format(video_key=key, **_slot(file))
        path.parent.mkdir(parents=True, exist_ok=True)
        join([shards[i] / f"{key}.mp4" for i in group], path, fps)
        begin = 0
        for i in group:
            rows[i].update({f"videos/{key}/{k}": v for k, v in _slot(file).items()})
            rows[i][f"videos/{key}/from_timestamp"] = begin / fps
            begin += notes[i]["length"]
            rows[i][f"videos/{key}/to_timestamp"] = begin / fps

    for i, shard in enumerate(shards):
        more = (shard / f"{key}.mp4").stat().st_size
        if group and size + more > limit:
            flush()
            group, size, file = [], 0, file + 1
        group.append(i)
        size += more
    flush()


def _write_statistics(work, notes, features, rows, fps) -> dict[str, Any]:
    """Per-episode statistics into the rows; returns the statistics of the whole set."""
    total: dict[str, RunningStatistics] = {}
    for note, row in zip(notes, rows, strict=True):
        for key, values in {**note["stats"], **_bookkeeping_statistics(row, fps)}.items():
            for name, value in values.items():
                row[f"stats/{key}/{name}"] = value
            total.setdefault(key, RunningStatistics()).merge(RunningStatistics.from_json(values))
    known = [f.key for f in features] + list(BOOKKEEPING)
    return {key: total[key].to_json() for key in known if key in total}


def _bookkeeping_statistics(row: dict[str, Any], fps: float) -> dict[str, Any]:
    n, start = row["length"], row["dataset_from_index"]
    frame = np.arange(n, dtype=np.float64)[:, None]
    values = {"timestamp": frame / fps, "frame_index": frame, "episode_index": 0 * frame + row["episode_index"], "index": frame + start}
    result = {}
    for key, x in values.items():
        stats = RunningStatistics()
        stats.add(x)
        result[key] = stats.to_json()
    return result


def _write_meta(work, rows, tasks, features, fps, robot_type, statistics) -> None:
    (work / "meta").mkdir(parents=True, exist_ok=True)
    for row in rows:
        row["meta/episodes/chunk_index"] = row["meta/episodes/file_index"] = 0
    episodes = work / EPISODES_PATH.format(chunk_index=0, file_index=0)
    episodes.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), episodes)
    pq.write_table(_tasks_table(tasks), work / "meta" / "tasks.parquet")
    (work / "meta" / "stats.json").write_text(json.dumps(statistics, indent=1))
    bookkeeping = {k: {"dtype": t, "shape": [1], "names": None} for k, t in BOOKKEEPING.items()}
    frames = rows[-1]["dataset_to_index"]
    info = {
        "codebase_version": V30,
        "robot_type": robot_type,
        "total_episodes": len(rows),
        "total_frames": frames,
        "total_tasks": len(tasks),
        "chunks_size": CHUNKS_SIZE,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(fps) if float(fps).is_integer() else fps,
        "splits": {"train": f"0:{len(rows)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if any(f.dtype == "video" for f in features) else None,
        "features": {**{f.key: _described(f, fps) for f in features}, **bookkeeping},
    }
    (work / "meta" / "info.json").write_text(json.dumps(info, indent=2))


def _described(feature: Feature, fps: float) -> dict[str, Any]:
    entry = feature.to_json()
    if feature.dtype == "video":
        height, width, channels = feature.shape
        entry["info"] = {
            "video.height": height,
            "video.width": width,
            "video.channels": channels,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": fps,
            "has_audio": False,
        }
    return entry


def _tasks_table(tasks: dict[str, int]) -> pa.Table:
    """The table that pandas writes for a frame indexed by the task text, which is how LeRobot keeps it."""
    table = pa.table({"task_index": pa.array(list(tasks.values()), pa.int64()), "task": pa.array(list(tasks), pa.string())})
    columns = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
