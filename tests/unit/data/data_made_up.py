"""Small data sets in the layouts that people publish, made of numbers that tell where they come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from internvla_a1.data.episode import Episode, store_episode
from internvla_a1.data.features import BOOKKEEPING, Feature, camera_feature
from internvla_a1.data.statistics import RunningStatistics
from internvla_a1.data.video import encode
from internvla_a1.data.writer import write_dataset

SIZE = 32
FPS = 15

# The four robots of InternData-A1 share this layout; Franka and Genie-1 differ in the joints (model.md section 9).
INTERNDATA_LIFT2 = {
    "states": {"left_joint": 6, "left_gripper": 1, "right_joint": 6, "right_gripper": 1},
    "cameras": ("images.rgb.head", "images.rgb.hand_left", "images.rgb.hand_right"),
}
INTERNDATA_FRANKA = {"states": {"joint": 7, "gripper": 1}, "cameras": ("images.rgb.head", "images.rgb.hand")}
AGIBOT_WORLD = {
    "states": {"joint": 14, "effector": 2},
    "cameras": ("observation.images.head", "observation.images.hand_left", "observation.images.hand_right"),
}


def value(episode: int, frame: int, column: int, dim: int) -> float:
    """A number that names its place."""
    return 100.0 * episode + frame + 0.1 * column + 0.001 * dim


def picture(episode: int, frame: int, camera: int) -> np.ndarray:
    """A flat grey that names its place; flat survives 4:2:0 video."""
    return np.full((SIZE, SIZE, 3), 10 + 60 * camera + 20 * episode + frame, np.uint8)


def interndata_keys(states: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    return {f"states.{k}.position": n for k, n in states.items()}, {f"actions.{k}.position": n for k, n in states.items()}


def agibot_keys(states: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    return (
        {f"observation.states.{k}.position": n for k, n in states.items()},
        {f"actions.{k}.position": n for k, n in states.items()},
    )


def columns_of(episode: int, length: int, keys: dict[str, int]) -> dict[str, np.ndarray]:
    return {
        key: np.array([[value(episode, t, c, d) for d in range(n)] for t in range(length)], np.float32)
        for c, (key, n) in enumerate(keys.items())
    }


def write_v21(root: Path, robot_type: str, states: dict, actions: dict, cameras: tuple, lengths=(7, 5), scalars_flat: bool = True) -> None:
    """A v2.1 folder with one file an episode. scalars_flat: features of one value are plain columns, as LeRobot v2.1 stored them."""
    keys = {**states, **actions}
    (root / "meta").mkdir(parents=True)
    tasks = [f"task {e}" for e in range(len(lengths))]
    start = 0
    stats_lines, episode_lines = [], []
    for e, n in enumerate(lengths):
        columns = columns_of(e, n, keys)
        stats = {}
        for key, x in columns.items():
            running = RunningStatistics()
            running.add(x)
            stats[key] = running.to_json()
        arrays = {k: pa.array(x[:, 0] if scalars_flat and x.shape[1] == 1 else x.tolist()) for k, x in columns.items()}
        t = np.arange(n)
        arrays |= {
            "timestamp": pa.array((t / FPS).astype(np.float32)),
            "frame_index": pa.array(t),
            "episode_index": pa.array(np.full(n, e)),
            "index": pa.array(t + start),
            "task_index": pa.array(np.full(n, e)),
        }
        path = root / f"data/chunk-000/episode_{e:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(arrays), path)
        for c, camera in enumerate(cameras):
            video = root / f"videos/chunk-000/{camera}/episode_{e:06d}.mp4"
            video.parent.mkdir(parents=True, exist_ok=True)
            encode(video, np.stack([picture(e, k, c) for k in range(n)]), FPS)
        episode_lines.append({"episode_index": e, "tasks": [tasks[e]], "length": n})
        stats_lines.append({"episode_index": e, "stats": stats})
        start += n
    (root / "meta/tasks.jsonl").write_text("".join(json.dumps({"task_index": i, "task": t}) + "\n" for i, t in enumerate(tasks)))
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in episode_lines))
    (root / "meta/episodes_stats.jsonl").write_text("".join(json.dumps(r) + "\n" for r in stats_lines))
    features = {k: {"dtype": "float32", "shape": [n], "names": None} for k, n in keys.items()}
    features |= {c: {"dtype": "video", "shape": [SIZE, SIZE, 3], "names": ["height", "width", "channel"]} for c in cameras}
    features |= {k: {"dtype": t, "shape": [1], "names": None} for k, t in BOOKKEEPING.items()}
    info = {
        "codebase_version": "v2.1",
        "robot_type": robot_type,
        "total_episodes": len(lengths),
        "total_frames": start,
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "fps": FPS,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (root / "meta/info.json").write_text(json.dumps(info))


def write_v30(root: Path, robot_type: str, states: dict, actions: dict, cameras: tuple, lengths=(7, 5), video: bool = True) -> None:
    """The same numbers and pictures as `write_v21`, as one v3.0 folder."""
    keys = {**states, **actions}
    shards = []
    for e, n in enumerate(lengths):
        pictures = {camera: np.stack([picture(e, k, c) for k in range(n)]) for c, camera in enumerate(cameras)}
        shard = root.with_name(f"{root.name}-shards") / f"episode-{e:06d}"
        store_episode(shard, Episode(columns_of(e, n, keys), pictures, f"task {e}"), FPS, video)
        shards.append(shard)
    features = [Feature(k, "float32", (n,)) for k, n in keys.items()] + [camera_feature(c, SIZE, SIZE, video) for c in cameras]
    write_dataset(root, shards, features, FPS, robot_type)
