"""Everything a task needs from the configuration: the model, opened data sets, statistics, tokenizer, batches."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.data.mixture import Mixture
from internvla_a1.model import InternVLAA1, ModelConfig, load_model, new_model, tiny_config
from internvla_a1.model.checkpoint import open_checkpoint
from internvla_a1.model.config import QwenVisionConfig, config_2b, config_3b
from internvla_a1.model.precision import has_bfloat16
from internvla_a1.policy.statistics import read_statistics
from internvla_a1.policy.tokenizer import TextTokenizer, load_tokenizer
from internvla_a1.train.batches import CachedBatches, Numbers
from internvla_a1.train.cache import Cache, build_cache, build_latents, build_objects
from internvla_a1.train.config import TrainConfig
from internvla_a1.train.folder_batches import Batches, FolderBatches
from internvla_a1.train.sources import OpenSource, Statistics, compute_statistics, open_source
from internvla_a1.train.words import vocabulary, write_tokenizer

SIZES: dict[str, Callable[..., ModelConfig]] = {"tiny": tiny_config, "2b": config_2b, "3b": config_3b}


@dataclass(frozen=True)
class Materials:
    """What is known before the first step. tokenizer_folder goes into the finished checkpoint."""

    model: InternVLAA1
    sources: tuple[OpenSource, ...]
    statistics: Statistics
    numbers: tuple[Numbers, ...]
    tokenizer: TextTokenizer
    tokenizer_folder: Path


def make_model(config: TrainConfig) -> InternVLAA1:
    """From a weights folder (model.init), or fresh in the size that the configuration names; codec and warm-up weights on top."""
    choice = config.model
    if choice.init:
        model = load_model(find(choice.init), dtype=torch.float32, compat="consistent", kernels=False).requires_grad_(True)
        if set(choice.changes) - {"prefix_steps"}:
            raise ConfigError("model.init takes no model.changes but prefix_steps: the sizes come from the weights")
        model.config = replace(model.config, **choice.changes)
    else:
        made = SIZES[choice.size]
        sizes = made(**_plain(choice.changes)) if choice.size == "tiny" else replace(made(), **_plain(choice.changes))
        model = new_model(sizes, config.seed)
    if choice.codec:
        other = load_model(find(choice.codec), dtype=torch.float32)
        if other.config.codec != model.config.codec:
            raise ConfigError(f"model.codec: {choice.codec} has {other.config.codec}, the model is to have {model.config.codec}")
        model.codec.load_state_dict(other.codec.state_dict())
    if choice.warm_start:
        _warm_start(model, find(choice.warm_start))
    return model


def _plain(changes: dict) -> dict:
    """YAML values for ModelConfig fields: nested mappings become the dataclasses they change."""
    base = tiny_config()
    result = {}
    for key, value in changes.items():
        if not hasattr(base, key):
            raise ConfigError.asked("model.changes", key, sorted(base.to_dict()))
        old = getattr(base, key)
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()} if isinstance(value, dict) else value
        result[key] = replace(old, **values) if isinstance(value, dict) else value
    return result


def _warm_start(model: InternVLAA1, folder: Path) -> None:
    """Vision tower and word embeddings of a grounding run."""
    stored = open_checkpoint(folder).tensors
    names = [n for n in model.state_dict() if n.startswith(("vision.", "embed_tokens."))]
    missing = [n for n in names if n not in stored]
    if missing:
        raise ConfigError(f"{folder}: no tensor {missing[0]} to start from")
    shapes = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    for n in names:
        if tuple(stored[n].shape) != shapes[n]:
            raise ConfigError(f"{folder}: {n} is {tuple(stored[n].shape)} there, {shapes[n]} in the model that is to start from it")
    model.load_state_dict({n: stored[n].float() for n in names}, strict=False)


def gather(config: TrainConfig) -> Materials:
    """Open the data, compute statistics (kept in <out>/stats.json), find or make the tokenizer, build the model."""
    if not config.data.sources:
        raise ConfigError("data.sources is empty: name at least one data set")
    model = make_model(config)
    sources = tuple(open_source(s, config.data, model.config.views, model.config.chunk) for s in config.data.sources)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    statistics = _statistics(config, model, sources, out / "stats.json")
    numbers = tuple(_numbers(s, statistics, config) for s in sources)
    folder = _tokenizer(config, model, sources, out / "tokenizer")
    tokenizer = load_tokenizer(folder)
    if tokenizer.size > model.config.vocab:
        raise ConfigError(f"{folder}: {tokenizer.size} tokens, the model has {model.config.vocab} rows")
    return Materials(model, sources, statistics, numbers, tokenizer, folder)


def _statistics(config: TrainConfig, model: InternVLAA1, sources: tuple[OpenSource, ...], path: Path) -> Statistics:
    if path.is_file():
        return json.loads(path.read_text())
    inherited = open_checkpoint(find(config.model.init)).stats if config.model.init and config.inherit_statistics else None
    known = {s.robot_type for s in sources}
    if inherited is not None and known <= set(inherited):
        statistics = {k: inherited[k] for k in known}
    else:
        statistics = compute_statistics(sources, model.config.chunk, config.data)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(statistics))
    os.replace(partial, path)
    return statistics


def _numbers(source: OpenSource, statistics: Statistics, config: TrainConfig) -> Numbers:
    layout, mode = source.layout, config.data.normalization
    keys = (*layout.state_keys, *layout.action_keys)
    read = read_statistics(config.out, statistics, source.robot_type, keys, mode)
    state, action = ([read[k] for k in part] for part in (layout.state_keys, layout.action_keys))
    return Numbers(tuple(state), tuple(action), source.dims, source.delta_mask, mode)


def _tokenizer(config: TrainConfig, model: InternVLAA1, sources: tuple[OpenSource, ...], own: Path) -> Path:
    if config.data.tokenizer:
        return find(config.data.tokenizer)
    if config.model.init:
        folder = open_checkpoint(find(config.model.init)).tokenizer_folder
        if folder is not None:
            return folder
    if config.model.size != "tiny":
        raise ConfigError("data.tokenizer: name the folder of the text tokenizer (see `internvla-a1 weights pull`)")
    if not (own / "tokenizer.json").is_file():
        tasks = [t for s in sources for e in s.dataset.episodes for t in e.tasks]
        write_tokenizer(own, vocabulary(tasks), model.config.vocab)
    return own


def open_caches(config: TrainConfig, sources: tuple[OpenSource, ...], side: int) -> list[Cache]:
    """The decoded data sets under data.cache, made where they are missing; folders are named for what they hold."""
    target_key = config.loss.target_key if config.loss.target else ""
    speed_key = config.loss.speed_key if config.loss.speed else ""
    caches = []
    for source in sources:
        text = f"{source.dataset.root.resolve()}|{_described(source.dataset.root)}|{side}|{sorted(source.layout.views.items())}"
        name = f"{source.dataset.root.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        caches.append(build_cache(source, Path(config.data.cache) / name, side, target_key, speed_key=speed_key))
    return caches


def _described(root: Path) -> str:
    """Digest of a data set's meta folder, which has the statistics of every episode: another recording in its place has another."""
    digest = hashlib.sha256()
    for path in sorted(p for p in (root / "meta").rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_batches(config: TrainConfig, materials: Materials, latents: bool, any_color: bool = False) -> Batches:
    """From the cache where the configuration has one and the vision tower takes plain pictures, else straight from the data sets."""
    model, sources = materials.model, materials.sources
    weights = tuple(s.weight for s in config.data.sources)
    weights_or_none = weights if any(weights) else None
    vision = model.config.vision
    if not config.data.cache or isinstance(vision, QwenVisionConfig):
        if model.config.state_change:
            raise ConfigError("state_change needs data.cache")
        mixture = Mixture(tuple(len(s.samples) for s in sources), weights_or_none, config.seed)
        return FolderBatches(sources, materials.numbers, mixture, materials.tokenizer, model.config)
    caches = open_caches(config, sources, vision.image)
    mixture = Mixture(tuple(int(c.usable.sum()) for c in caches), weights_or_none, config.seed)
    stored = [latents_of(model, c) for c in caches] if latents else None
    objects = [build_objects(c, model.config.codec.grid) for c in caches] if latents and config.loss.gen_object_weight else None
    return CachedBatches(
        caches, sources, materials.numbers, mixture, materials.tokenizer, model.config, config.data.frame_offsets, config.augment,
        stored, any_color, objects, seed=config.seed,
    )  # fmt: skip


def latents_of(model: InternVLAA1, cache: Cache) -> np.ndarray:
    """(N, V, 16, h, w) of every frame by this model's codec, made once per set of codec weights.

    In bfloat16 where the CPU has it, in half the time: off by half a per cent of their deviation (rms).
    """
    narrow = has_bfloat16(torch.device("cpu"))
    digest = hashlib.sha256()
    for name, tensor in sorted(model.codec.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())

    @torch.no_grad()
    def encode(pictures: np.ndarray) -> np.ndarray:
        x: Tensor = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).contiguous().float().div_(255)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            return model.encode_frames(x).numpy()

    return build_latents(cache, encode, digest.hexdigest()[:12] + ("-bf16" if narrow else ""))


def copy_tokenizer(source: Path, folder: Path) -> None:
    """The tokenizer's files into <folder>/tokenizer."""
    target = folder / "tokenizer"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
