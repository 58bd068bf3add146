"""Batches of policy keys (model.md section 8), drawn by number: the same batch for the same (seed, step), on any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.scene import COLORS
from internvla_a1.data.mixture import Mixture
from internvla_a1.eval.colors import color_of
from internvla_a1.model.config import ModelConfig
from internvla_a1.model.flow import sample_prefix, step_times
from internvla_a1.policy.pipeline import state_change
from internvla_a1.policy.statistics import FeatureStats
from internvla_a1.policy.tokenizer import TextTokenizer
from internvla_a1.policy.transforms import normalise
from internvla_a1.policy.transforms.images import VIEW
from internvla_a1.policy.transforms.numbers import ACTION, STATE
from internvla_a1.train.cache import Cache, action_chunks
from internvla_a1.train.config import AugmentConfig
from internvla_a1.train.sources import OpenSource

LATENTS, NOISE, TIME, IS_PAD = "latents", "noise", "time", "action_is_pad"
TARGET, SPEED, COLOR, RAW, OBJECTS, FUTURE = "target", "speed", "color", "raw", "objects", "future"


def random_of(seed: int, step: int, purpose: int) -> np.random.Generator:
    """The generator of one purpose at one step, shared by all processes."""
    return np.random.default_rng((seed, step, purpose))


def draw_noise(
    seed: int, step: int, batch: int, draws: int, chunk: int, dims: int, part: slice, prefix_steps: int = 0
) -> dict[str, Tensor]:
    """noise (n, draws, chunk, dims) and time (n, draws) = 0.999 Beta(1.5, 1) + 0.001, of the part of the batch asked for.

    With prefix_steps the times are those of every step, (n, draws, chunk): 0 for a prefix of so many at most, drawn anew each time.
    """
    rng = random_of(seed, step, 1)
    noise = rng.standard_normal((batch, draws, chunk, dims), dtype=np.float32)[part]
    time = (0.999 * rng.random((batch, draws)) ** (1 / 1.5) + 0.001).astype(np.float32)[part]
    drawn = {NOISE: torch.from_numpy(noise), TIME: torch.from_numpy(time)}
    if prefix_steps:
        chosen = torch.from_numpy(rng.random((batch, draws))[part])
        drawn[TIME] = step_times(drawn[TIME], sample_prefix(chosen, prefix_steps), chunk)
    return drawn


@dataclass(frozen=True)
class Numbers:
    """State and action of one robot type to model units: delta, normalise, pad (the chain of policy.pipeline, many rows at once)."""

    state: tuple[FeatureStats, ...]
    action: tuple[FeatureStats, ...]
    dims: tuple[int, ...]
    delta_mask: tuple[bool, ...]
    mode: str

    def states(self, values: np.ndarray, width: int) -> Tensor:
        """(n, D) robot units -> (n, width)."""
        return self._scaled(torch.from_numpy(values), self.state, width)

    def actions(self, values: np.ndarray, state: np.ndarray, width: int) -> Tensor:
        """(n, steps, D) absolute robot units -> (n, steps, width)."""
        actions = torch.from_numpy(values)
        relative = actions - torch.from_numpy(state)[:, None]
        return self._scaled(torch.where(torch.tensor(self.delta_mask), relative, actions), self.action, width)

    def _scaled(self, x: Tensor, stats: tuple[FeatureStats, ...], width: int) -> Tensor:
        parts = [normalise(p, s, self.mode) for p, s in zip(x.split(list(self.dims), -1), stats, strict=True)]
        whole = torch.cat(parts, -1)
        return torch.nn.functional.pad(whole, (0, width - whole.shape[-1]))


@dataclass
class CachedBatches:
    """Batches from decoded caches, for models whose vision tower takes plain pictures (stem, InternVL)."""

    caches: Sequence[Cache]
    sources: Sequence[OpenSource]
    numbers: Sequence[Numbers]
    mixture: Mixture
    tokenizer: TextTokenizer
    config: ModelConfig
    offsets: tuple[int, ...]
    augment: AugmentConfig
    latents: Sequence[np.ndarray] | None = None  # per cache; None: three frames a view go along instead
    any_color: bool = False  # ask for a random colour, for grounding alone
    objects: Sequence[np.ndarray] | None = None  # per cache, cache.build_objects; the larger share of present and future goes along
    future_side: int = 0  # `future`: the pictures one horizon ahead, of this many pixels a side; 0: none
    seed: int = 0
    _rows: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._usable = [np.flatnonzero(c.usable) for c in self.caches]
        if self.latents is not None and self.augment.shift_px:
            raise ConfigError("augment.shift_px moves pictures under latents that were made before; use one or the other")

    def __call__(self, step: int, size: int, part: slice) -> dict[str, Tensor]:
        """The rows `part` of batch number `step` of `size` rows."""
        rows = self.mixture.batch(step, size)[part]
        rng = random_of(self.seed, step, 2)
        jitter = self._jitter(rng, size)
        pieces = []
        for i, (s, k) in enumerate(rows):
            pieces.append((s, int(self._usable[s][k]), i + part.start))
        grouped = [self._of_one(s, [p for p in pieces if p[0] == s], jitter) for s in sorted({p[0] for p in pieces})]
        order = np.argsort([p[2] for s in sorted({p[0] for p in pieces}) for p in pieces if p[0] == s])
        merged = {k: torch.cat([g[k] for g in grouped])[torch.from_numpy(order)] for k in grouped[0]}
        return merged

    def _jitter(self, rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
        a, views = self.augment, self.config.views
        shift = rng.integers(-a.shift_px, a.shift_px + 1, (size, 2)) if a.shift_px else np.zeros((size, 2), int)
        return {
            "gain": (1 + a.gain * rng.standard_normal((size, 1, 1, 1, 1))).astype(np.float32),
            "color": (a.color * rng.standard_normal((size, views, 3, 1, 1))).astype(np.float32),
            "state": (a.state * rng.standard_normal((size, self.config.state_dim))).astype(np.float32),
            "drop": rng.random(size) < a.history_drop,
            "shift": shift,
            "ask": rng.integers(0, len(COLORS), size),
        }

    def _of_one(self, s: int, pieces: list[tuple[int, int, int]], jitter: dict[str, np.ndarray]) -> dict[str, Tensor]:
        cache, numbers, source, config = self.caches[s], self.numbers[s], self.sources[s], self.config
        frames, places = np.array([p[1] for p in pieces]), np.array([p[2] for p in pieces])
        times, _ = cache.at(frames, self.offsets)
        times[:, 0] = np.where(jitter["drop"][places], times[:, self.offsets.index(0)], times[:, 0])
        chunk, is_pad = action_chunks(cache, frames, config.chunk)
        state = cache.state[frames]
        tasks = [cache.tasks[cache.task[f]] for f in frames]
        if self.any_color:
            tasks = [_recolored(t, COLORS[c]) for t, c in zip(tasks, jitter["ask"][places], strict=True)]
        tokens, attention = zip(*(self._row(t) for t in tasks), strict=True)
        moving = torch.zeros(1, config.state_dim)
        moving[:, : source.size * (1 + config.state_change)] = 1
        batch = {
            STATE: self._states(cache, numbers, frames) + torch.from_numpy(jitter["state"][places]) * moving,
            ACTION: numbers.actions(chunk, state, config.action_dim),
            IS_PAD: torch.from_numpy(is_pad),
            TARGET: torch.from_numpy(cache.target[frames]),
            COLOR: torch.tensor([color_of(t) for t in tasks]),
            "observation.language.tokens": torch.tensor(tokens),
            "observation.language.attention_mask": torch.tensor(attention),
        }
        now = self.offsets.index(0)
        if cache.speed is not None:  # without a past nobody could tell
            batch[SPEED] = torch.from_numpy(np.where(times[:, 0] == times[:, now], np.float32(np.nan), cache.speed[frames]))
        needed = times[:, now : now + 1] if self.latents is not None else times
        self._pictures(batch, cache, source, needed, {k: v[places] for k, v in jitter.items()})
        if self.latents is not None:
            stored = np.asarray(self.latents[s][times]).astype(np.float32)  # (n, T, v, c, h, w)
            full = np.zeros((len(frames), config.views, *stored.shape[1:2], *stored.shape[3:]), np.float32)
            for v, slot in enumerate(source.layout.views):
                full[:, int(slot[5:])] = stored[:, :, v]
            batch[LATENTS] = torch.from_numpy(full)
        if self.objects is not None:
            batch[OBJECTS] = self._objects(self.objects[s], source, times[:, now:])
        if self.future_side:
            batch[FUTURE] = self._future(cache, source, times[:, -1])
        return batch

    def _pictures(
        self, batch: dict[str, Tensor], cache: Cache, source: OpenSource, times: np.ndarray, jitter: dict[str, np.ndarray]
    ) -> None:
        """(n, T, 3, S, S) of every view, brightness and colour changed alike in all frames of a sample; RAW: the present unchanged."""
        pictures = torch.from_numpy(np.asarray(cache.images[times])).permute(0, 2, 1, 5, 3, 4)  # (n, v, T, 3, S, S)
        pictures = pictures.contiguous().float().div_(255)
        slots = {int(slot[5:]): v for v, slot in enumerate(source.layout.views)}
        now = 0 if times.shape[1] == 1 else self.offsets.index(0)
        raw = pictures.new_zeros(len(times), self.config.views, *pictures.shape[3:])
        for view in range(self.config.views):
            image = torch.ones_like(pictures[:, 0])
            if view in slots:
                image = shifted(pictures[:, slots[view]], jitter["shift"])
                raw[:, view] = image[:, now]
                image = image * torch.from_numpy(jitter["gain"]) + torch.from_numpy(jitter["color"][:, view])[:, None]
            batch[f"{VIEW}{view}"] = image
            batch[f"{VIEW}{view}_mask"] = torch.full((len(times),), view in slots)
        batch[RAW] = raw

    def _states(self, cache: Cache, numbers: Numbers, frames: np.ndarray) -> Tensor:
        """(n, state_dim): the state and, where the model takes it, its change since one frame ago; 0 at the start of an episode."""
        width = self.config.state_dim
        states = numbers.states(cache.state[frames], width)
        if self.config.state_change:
            size = cache.state.shape[1]
            before = numbers.states(cache.state[cache.at(frames, (-1,))[0][:, 0]], width)
            states[:, size : 2 * size] = state_change(states[:, :size], before[:, :size])
        return states

    def _objects(self, objects: np.ndarray, source: OpenSource, times: np.ndarray) -> Tensor:
        """times: (n, 2), present and future -> (n, V, grid, grid), the larger share of the two."""
        largest = torch.from_numpy(np.asarray(objects[times]).max(1).astype(np.float32))
        full = largest.new_zeros(len(times), self.config.views, *largest.shape[2:])
        for v, slot in enumerate(source.layout.views):
            full[:, int(slot[5:])] = largest[:, v]
        return full

    def _future(self, cache: Cache, source: OpenSource, times: np.ndarray) -> Tensor:
        """times: (n,) -> (n, V, 3, side, side) in [0, 1], zeros for missing views."""
        pictures = torch.from_numpy(np.asarray(cache.images[times])).permute(0, 1, 4, 2, 3).float().div_(255)
        side = self.future_side
        small = F.interpolate(pictures.flatten(0, 1), size=(side, side), mode="bilinear", align_corners=False)
        full = small.new_zeros(len(times), self.config.views, *small.shape[1:])
        for v, slot in enumerate(source.layout.views):
            full[:, int(slot[5:])] = small.unflatten(0, (len(times), -1))[:, v]
        return full

    def _row(self, task: str) -> tuple[list[int], list[int]]:
        if task not in self._rows:
            self._rows[task] = self.tokenizer.row(task, self.config.text_tokens)
        return self._rows[task]


def shifted(images: Tensor, by: np.ndarray) -> Tensor:
    """(n, T, 3, S, S) moved by (n, 2) whole pixels, edges repeated."""
    most = int(np.abs(by).max(initial=0))
    if most == 0:
        return images
    side = images.shape[-1]
    padded = torch.nn.functional.pad(images.flatten(0, 1), (most,) * 4, mode="replicate").unflatten(0, images.shape[:2])
    return torch.stack([p[..., most + y : most + y + side, most + x : most + x + side] for p, (y, x) in zip(padded, by, strict=True)])


def _recolored(task: str, color: str) -> str:
    words = [color if w in COLORS else w for w in task.lower().split()]
    return " ".join(words)
