"""Decoded pictures and numbers as flat files on disk, so that two CPU cores train instead of decoding video."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from internvla_a1.core.errors import ConfigError
from internvla_a1.data.features import PLAN_KEY
from internvla_a1.data.images import fitted
from internvla_a1.eval.colors import any_color
from internvla_a1.train.progress import counting
from internvla_a1.train.sources import OpenSource

FLUSH_EVERY = 25  # episodes between two marks of progress
FLUSHED_BATCHES = 32  # the same for what is derived from pictures


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time works in `folder`; the others wait. Ends with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def single_threads() -> Iterator[ThreadPoolExecutor]:
    """A worker on every core, each with one thread of torch: an operation on a small picture is too short for several to share."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # what one thread sets holds for all that begin later


@dataclass(frozen=True)
class Cache:
    """One data set, decoded. N frames in the order of the episodes.

    images (N, V, S, S, 3) uint8; state, action (N, D) float32; first, last (N,): bounds of the frame's episode; task (N,)
    index into tasks; target (N, 3) m, NaN where unknown; speed (N,) m/s of the belt or None;
    plan (N, steps, D): what the expert would have done from a frame on in which a policy drove, all 0 for others; None where nobody did;
    usable (N,) bool: frames that may be trained on.
    """

    images: np.ndarray
    state: np.ndarray
    action: np.ndarray
    first: np.ndarray
    last: np.ndarray
    task: np.ndarray
    tasks: tuple[str, ...]
    target: np.ndarray
    speed: np.ndarray | None
    usable: np.ndarray
    folder: Path
    plan: np.ndarray | None = None

    def at(self, frames: np.ndarray, offsets: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(n, len(offsets)) frame numbers held inside their episodes, and which had to be."""
        wanted = frames[:, None] + np.asarray(offsets)
        held = np.clip(wanted, self.first[frames][:, None], self.last[frames][:, None])
        return held, held != wanted


def build_cache(
    source: OpenSource,
    folder: Path,
    side: int,
    target_key: str = "",
    label_key: str = "label_valid",
    speed_key: str = "",
) -> Cache:
    """Decode a data set into `folder`, going on where an interrupted run stopped; return it opened. Several processes may ask at once."""
    with alone(folder):
        starts = _decode(source, folder, side)
    return _numbers(source, folder, starts, target_key, label_key, speed_key)


def _decode(source: OpenSource, folder: Path, side: int) -> np.ndarray:
    """images.npy; returns the first frame of every episode, and the end."""
    dataset, layout = source.dataset, source.layout
    total, views = dataset.total_frames, len(layout.views)
    note = {"data": str(dataset.root.resolve()), "frames": total, "views": list(layout.views.values()), "side": side}
    mark = folder / "progress.json"
    state = json.loads(mark.read_text()) if mark.is_file() else {}
    if {key: state.get("note", {}).get(key) for key in note} != note:
        folder.mkdir(parents=True, exist_ok=True)
        state = {"note": note, "episodes": 0}
        mark.unlink(missing_ok=True)
    mode = "r+" if state["episodes"] else "w+"
    images = np.lib.format.open_memmap(folder / "images.npy", mode, np.uint8, (total, views, side, side, 3))
    lengths = [e.length for e in dataset.episodes]
    starts = np.cumsum([0, *lengths])

    def decode(place: tuple[int, int, str]) -> None:
        e, v, camera = place
        images[starts[e] : starts[e + 1], v] = [fitted(f, side) for f in dataset.frames(e, camera, range(lengths[e]))]

    cameras = list(enumerate(layout.views.values()))
    if state["episodes"] == len(lengths):
        return starts
    # decoding pictures leaves the interpreter to others
    with ThreadPoolExecutor(os.cpu_count()) as pool, counting(f"episodes of {folder.name}", len(lengths), state["episodes"]) as report:
        for first in range(state["episodes"], len(lengths), FLUSH_EVERY):
            end = min(first + FLUSH_EVERY, len(lengths))
            list(pool.map(decode, [(e, v, camera) for e in range(first, end) for v, camera in cameras]))
            images.flush()
            _write(mark, {"note": note, "episodes": end})
            report(end)
    return starts


def _numbers(source: OpenSource, folder: Path, starts: np.ndarray, target_key: str, label_key: str, speed_key: str) -> Cache:
    dataset, layout = source.dataset, source.layout
    total = int(starts[-1])
    images = np.load(folder / "images.npy", mmap_mode="r")
    known = dataset.info.features
    for loss, key in (("target", target_key), ("speed", speed_key)):
        if key and key not in known:
            raise ConfigError(f"{dataset.root}: the {loss} loss needs the feature {key!r}, which is not there; set loss.{loss}: 0")
    extra = [k for k in (target_key, speed_key) if k] + [k for k in (label_key, PLAN_KEY) if k in known]
    plan = np.zeros((total, known[PLAN_KEY].shape[0] // source.size, source.size), np.float32) if PLAN_KEY in known else None
    keys = [*layout.state_keys, *layout.action_keys, *extra]
    state, action = (np.zeros((total, source.size), np.float32) for _ in range(2))
    target, usable = np.full((total, 3), np.nan, np.float32), np.ones(total, bool)
    speed = np.zeros(total, np.float32) if speed_key else None
    task = np.zeros(total, np.int32)
    tasks: dict[str, int] = {}
    for e, entry in enumerate(dataset.episodes):
        rows = slice(starts[e], starts[e + 1])
        numbers = dataset.numbers(e, keys)
        state[rows] = np.concatenate([numbers[k] for k in layout.state_keys], 1)
        action[rows] = np.concatenate([numbers[k] for k in layout.action_keys], 1)
        if target_key:
            target[rows] = numbers[target_key]
        if speed is not None:
            speed[rows] = numbers[speed_key][:, 0]
        if plan is not None:
            plan[rows] = numbers[PLAN_KEY].reshape(entry.length, -1, source.size)
        if label_key in known:
            usable[rows] = numbers[label_key][:, 0] > 0.5
        task[rows] = [tasks.setdefault(dataset.instruction(e, t), len(tasks)) for t in range(entry.length)]
    told = np.array([bool(t.strip()) for t in tasks])[task]
    first = np.repeat(starts[:-1], np.diff(starts))
    last = np.repeat(starts[1:] - 1, np.diff(starts))
    return Cache(images, state, action, first, last, task, tuple(tasks), target, speed, usable & told, folder, plan)


def build_latents(cache: Cache, encode: Callable[[np.ndarray], np.ndarray], key: str, batch: int = 128) -> np.ndarray:
    """(N, V, channels, h, w) float16 latents of every picture, made once per codec (`key`), resumable. encode: (n, S, S, 3) -> latents."""
    return _derived(cache, encode, f"latents-{key}", batch)


def build_objects(cache: Cache, grid: int, batch: int = 128) -> np.ndarray:
    """(N, V, grid, grid) float16, the share of pixels of some parcel colour in every cell of every picture, made once."""

    def share(pictures: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div_(255)
        return F.adaptive_avg_pool2d(any_color(images).float(), grid).numpy()

    return _derived(cache, share, f"objects-{grid}", batch)


def _derived(cache: Cache, make: Callable[[np.ndarray], np.ndarray], name: str, batch: int) -> np.ndarray:
    """<name>.npy beside the pictures: make((n, S, S, 3)) -> (n, ...) of all of them, going on where an interrupted run stopped."""
    path, mark = cache.folder / f"{name}.npy", cache.folder / f"{name}.json"
    count, views = cache.images.shape[:2]

    def fill(start: int) -> None:
        part = cache.images[start : start + batch]
        values[start : start + batch] = make(part.reshape(-1, *part.shape[2:])).reshape(-1, *shape[1:])

    with alone(cache.folder), single_threads() as pool:
        done = json.loads(mark.read_text())["frames"] if mark.is_file() and path.is_file() else 0
        shape = (count, views, *make(cache.images[0]).shape[1:])
        if done < count:
            values = np.lib.format.open_memmap(path, "r+" if done else "w+", np.float16, shape)
            with counting(f"{name.partition('-')[0]} of {cache.folder.name}", count, done) as report:
                for start in range(done, count, FLUSHED_BATCHES * batch):
                    end = min(start + FLUSHED_BATCHES * batch, count)
                    list(pool.map(fill, range(start, end, batch)))
                    values.flush()
                    _write(mark, {"frames": end})
                    report(end)
        return np.load(path, mmap_mode="r")


def _write(path: Path, value: dict) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value))
    os.replace(partial, path)


def action_chunks(cache: Cache, frames: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, horizon, D) absolute actions from each frame on, the last one repeated at the end of the episode; (n, horizon) is_pad.

    Where a policy drove they are the expert's plan. Raises ConfigError where that is shorter than the horizon.
    """
    ahead, is_pad = cache.at(frames, range(horizon))
    chunk = cache.action[ahead]
    if cache.plan is not None:
        if cache.plan.shape[1] < horizon:
            told = f"{cache.folder.name}: plans of {cache.plan.shape[1]} steps, a chunk has {horizon}"
            raise ConfigError(f"{told}; record with `plan_steps: {horizon}`")
        planned = cache.plan[frames].any((1, 2))
        chunk[planned], is_pad[planned] = cache.plan[frames[planned], :horizon], False
    return chunk, is_pad
