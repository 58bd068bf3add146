"""LeRobot v2.1 and v3.0 folders behind one reader: numbers of an episode, frames of a camera, instructions."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from internvla_a1.core.errors import DataError
from internvla_a1.core.types import ImageArray
from internvla_a1.data.features import V21, DatasetInfo, read_info
from internvla_a1.data.images import from_bytes
from internvla_a1.data.statistics import RunningStatistics
from internvla_a1.data.video import decode


@dataclass(frozen=True)
class EpisodeEntry:
    """Where one episode lies. first_row: its first row in data_file; videos: camera key -> (file, number of its first frame)."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data_file: Path
    first_row: int
    videos: dict[str, tuple[Path, int]]


class Dataset:
    """An opened folder. Nothing is read before it is asked for; the numbers of the last episodes are kept."""

    def __init__(self, root: Path, info: DatasetInfo, episodes: Sequence[EpisodeEntry], tasks: dict[int, str], keep: int = 64) -> None:
        self.root, self.info, self.episodes, self.tasks = root, info, tuple(episodes), tasks
        self._numbers: OrderedDict[tuple[int, tuple[str, ...]], dict[str, np.ndarray]] = OrderedDict()
        self._keep = keep

    @property
    def total_frames(self) -> int:
        return sum(e.length for e in self.episodes)

    def numbers(self, episode: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Feature key -> (frames, dims) float32 of one episode. Raises DataError for a key that is not there or a NaN."""
        asked = (episode, tuple(keys))
        if asked in self._numbers:
            self._numbers.move_to_end(asked)
            return self._numbers[asked]
        self.info.require(tuple(keys), self.root)
        entry = self.episodes[episode]
        table = _rows(entry.data_file, entry.first_row, entry.length, list(keys))
        values = {key: _matrix(table.column(key), f"{entry.data_file}: {key}") for key in keys}
        for key, matrix in values.items():
            if not np.isfinite(matrix).all():
                raise DataError(f"{entry.data_file}: episode {entry.index}: {key} has NaN or infinite values")
        self._numbers[asked] = values
        while len(self._numbers) > self._keep:
            self._numbers.popitem(last=False)
        return values

    def frames(self, episode: int, camera: str, numbers: Sequence[int]) -> ImageArray:
        """(len(numbers), H, W, 3) uint8 RGB of one camera, frame numbers counted from the start of the episode."""
        self.info.require((camera,), self.root)
        entry = self.episodes[episode]
        outside = [k for k in numbers if not 0 <= k < entry.length]
        if outside:
            raise DataError(f"{self.root}: episode {entry.index} has {entry.length} frames, asked for frame {outside[0]}")
        if camera in entry.videos:
            path, first = entry.videos[camera]
            return decode(path, [first + k for k in numbers], self.info.fps)
        low, high = min(numbers), max(numbers)
        column = _rows(entry.data_file, entry.first_row + low, high - low + 1, [camera]).column(camera)
        pictures = {k: from_bytes(self._picture(column[k - low].as_py())) for k in set(numbers)}
        return np.stack([pictures[k] for k in numbers])

    def instruction(self, episode: int, frame: int) -> str:
        """The task text of one frame."""
        entry = self.episodes[episode]
        if len(entry.tasks) == 1:
            return entry.tasks[0]
        index = int(self.numbers(episode, ("task_index",))["task_index"][frame, 0])
        if index not in self.tasks:
            raise DataError(f"{self.root}: episode {entry.index}: no task {index} in meta/tasks")
        return self.tasks[index]

    def statistics(self) -> dict[str, dict]:
        """meta/stats.json, or for v2.1 the episodes' statistics put together."""
        path = self.root / "meta" / "stats.json"
        if path.is_file():
            return json.loads(path.read_text())
        total: dict[str, RunningStatistics] = {}
        for row in _json_lines(self.root / "meta" / "episodes_stats.jsonl"):
            for key, values in row["stats"].items():
                total.setdefault(key, RunningStatistics()).merge(RunningStatistics.from_json(values))
        return {key: stats.to_json() for key, stats in total.items()}

    def _picture(self, value: dict | bytes) -> bytes:
        if isinstance(value, bytes):
            return value
        if value.get("bytes"):
            return value["bytes"]
        path = self.root / str(value.get("path"))
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise DataError(f"{self.root}: a picture's path leads outside: {path}")
        return path.read_bytes()


def open_dataset(root: str | Path) -> Dataset:
    """Open a LeRobot v2.1 or v3.0 folder. Raises DataError with path and reason if it is not one."""
    root = Path(root)
    info = read_info(root)
    try:
        tasks, episodes = _v21(root, info) if info.version == V21 else _v30(root, info)
    except (KeyError, ValueError, OSError, pa.ArrowException) as error:
        raise DataError(f"{root}: malformed meta data: {type(error).__name__}: {error}") from error
    for entry in episodes:
        for path in (entry.data_file, *(p for p, _ in entry.videos.values())):
            if not path.is_file():
                raise DataError(f"{root}: episode {entry.index}: no file {path}")
    return Dataset(root, info, episodes, tasks)


def _v21(root: Path, info: DatasetInfo) -> tuple[dict[int, str], list[EpisodeEntry]]:
    tasks = {int(row["task_index"]): str(row["task"]) for row in _json_lines(root / "meta" / "tasks.jsonl")}
    episodes = []
    for row in _json_lines(root / "meta" / "episodes.jsonl"):
        index = int(row["episode_index"])
        place = {"episode_chunk": index // info.chunks_size, "episode_index": index}
        videos = {}
        for key in info.cameras:
            if info.features[key].dtype == "video" and info.video_path:
                videos[key] = (root / info.video_path.format(video_key=key, **place), 0)
        data_file = root / info.data_path.format(**place)
        episodes.append(EpisodeEntry(index, int(row["length"]), tuple(row["tasks"]), data_file, 0, videos))
    return tasks, episodes


def _v30(root: Path, info: DatasetInfo) -> tuple[dict[int, str], list[EpisodeEntry]]:
    table = pq.read_table(root / "meta" / "tasks.parquet")
    text = next(name for name in table.column_names if name != "task_index")  # "task", or pandas' "__index_level_0__"
    pairs = zip(table.column("task_index").to_pylist(), table.column(text).to_pylist(), strict=True)
    tasks = {int(i): str(t) for i, t in pairs}
    rows: list[dict] = []
    for path in sorted((root / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
        names = [n for n in pq.read_schema(path).names if not n.startswith("stats/")]
        rows += pq.read_table(path, columns=names).to_pylist()
    rows.sort(key=lambda r: r["episode_index"])
    filled: dict[Path, int] = {}
    episodes = []
    for row in rows:
        place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        data_file = root / info.data_path.format(**place)
        videos = {}
        for key in info.cameras:
            if info.features[key].dtype == "video" and info.video_path:
                at = {n: row[f"videos/{key}/{n}"] for n in ("chunk_index", "file_index")}
                first = round(row[f"videos/{key}/from_timestamp"] * info.fps)
                videos[key] = (root / info.video_path.format(video_key=key, **at), first)
        first_row = filled.get(data_file, 0)
        filled[data_file] = first_row + row["length"]
        episodes.append(EpisodeEntry(row["episode_index"], row["length"], tuple(row["tasks"]), data_file, first_row, videos))
    return tasks, episodes


def _rows(path: Path, first: int, count: int, keys: list[str]) -> pa.Table:
    """Rows [first, first + count) of some columns, reading no more row groups than needed."""
    try:
        with pq.ParquetFile(path) as file:
            absent = [k for k in keys if k not in file.schema_arrow.names]
            if absent:
                raise DataError(f"{path}: no column {absent[0]!r}")
            groups, start, begin = [], 0, None
            for g in range(file.num_row_groups):
                n = file.metadata.row_group(g).num_rows
                if start < first + count and start + n > first:
                    groups.append(g)
                    begin = start if begin is None else begin
                start += n
            if begin is None or first + count > start:
                raise DataError(f"{path}: {start} rows, rows {first} to {first + count} are needed")
            return file.read_row_groups(groups, columns=keys).slice(first - begin, count)
    except pa.ArrowException as error:
        raise DataError(f"{path}: {error}") from error


def _matrix(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """A column of numbers or of equal lists as (frames, dims) float32."""
    array = column.combine_chunks()
    if pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type) or pa.types.is_large_list(array.type):
        flat = array.flatten()
        if len(flat) % len(array):
            raise DataError(f"{where}: lists of unequal length")
        return flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(array), -1)
    return array.to_numpy(zero_copy_only=False).astype(np.float32)[:, None]


def _json_lines(path: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON lines: {error}") from error
