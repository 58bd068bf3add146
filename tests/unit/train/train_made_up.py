"""A small data set of the demo arm and a model small enough for a training step in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from internvla_a1.data.episode import Episode, store_episode
from internvla_a1.data.features import PLAN_KEY, Feature, camera_feature
from internvla_a1.data.writer import write_dataset
from internvla_a1.model.example import example_batch
from internvla_a1.model.flow import sample_time
from internvla_a1.model.inputs import read_batch
from internvla_a1.train.config import TrainConfig, build

SIDE = 32
COLORS = {"red": (217, 25, 23), "green": (25, 168, 51), "blue": (31, 69, 224)}
SMALL = {
    "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16, "und": {"hidden": 32, "mlp": 48}, "gen": {"hidden": 32, "mlp": 48},
    "act": {"hidden": 32, "mlp": 48}, "vocab": 32, "vision": {"image": SIDE, "hidden": 32, "text_tokens": 12},
    "codec": {"channels": 32, "multipliers": [1, 1], "image": SIDE}, "chunk": 4, "views": 2, "scale_factor": 2, "steps": 2,
    "state_dim": 16,
}  # fmt: skip


def write_demo(root: Path, episodes: int = 3, length: int = 12, seed: int = 0, plan_steps: int = 0) -> Path:
    """Joints on random walks; a square of the asked colour moves through both views. plan_steps: of plans for two of the frames."""
    shards = []
    for e in range(episodes):
        rng = np.random.default_rng((seed, e))
        color = list(COLORS)[e % 3]
        state = np.cumsum(rng.normal(0, 0.05, (length + 1, 7)), 0).astype(np.float32)
        cameras = {}
        for c in ("overhead", "side", "wrist"):
            frames = np.full((length, SIDE, SIDE, 3), 120, np.uint8)
            for t in range(length):
                x = int(rng.integers(0, 4)) + t
                frames[t, 8:16, x : x + 8] = COLORS[color]
            cameras[f"observation.images.{c}"] = frames
        columns = {
            "observation.state": state[:-1], "action": state[1:],
            "privileged.target_position": rng.normal(0, 0.1, (length, 3)).astype(np.float32),
            "privileged.belt_speed": np.full((length, 1), 0.02 * (e + 1), np.float32),
            "label_valid": (np.arange(length) >= 2).astype(np.float32)[:, None],
        }  # fmt: skip
        if plan_steps:
            plan = rng.normal(0, 0.1, (length, 7 * plan_steps)).astype(np.float32)
            columns[PLAN_KEY] = plan * np.isin(np.arange(length), (2, 3))[:, None]
        shards.append(root.with_name(root.name + "-parts") / f"{e}")
        store_episode(shards[-1], Episode(columns, cameras, f"put the {color} box in the left bin"), 15, False)
    features = [Feature(k, "float32", (v.shape[1],)) for k, v in columns.items()] + [camera_feature(c, SIDE, SIDE, False) for c in cameras]
    write_dataset(root, shards, features, 15, "demo_arm")
    return root


def small_config(tmp_path: Path, kind: str = "policy", **changes) -> dict:
    """Plain values of a TrainConfig over one made-up data set."""
    values = {
        "out": str(tmp_path / "run"), "kind": kind, "steps": 6, "batch_size": 4, "noise_draws": 2, "precision": "float32", "threads": 1,
        "ema": 0.9, "save_every": 2, "log_every": 1, "seed": 3,
        "data": {"sources": [str(tmp_path / "demo")], "frame_offsets": [-3, 0, 3], "cache": str(tmp_path / "cache"), "std_floor": 0.01},
        "model": {"changes": SMALL}, "optim": {"lr": 1e-3, "warmup": 2, "decay_steps": 0},
        "loss": {"grounding": 0.3, "target": 1.0, "speed": 0.5, "lambda_gen": 0.1, "gen_object_weight": 5.0},
        "augment": {"gain": 0.05, "color": 0.01, "state": 0.02},
    }  # fmt: skip
    return {**values, **changes}


def config_of(place: Path, **changes) -> TrainConfig:
    """`small_config` with other values, as a TrainConfig."""
    return build(TrainConfig, {**small_config(place), **changes}, "test")


def inputs_of(model, batch=3, draws=1, seed=0):
    """(values, noise, time, latents) of a made-up batch; latents of past, now and future by the model's own codec."""
    g = torch.Generator().manual_seed(seed)
    values = example_batch(model.config, batch, 3, words=5, seed=seed)
    values["action"] = torch.randn(batch, model.config.chunk, model.config.action_dim, generator=g)
    noise = torch.randn(batch, draws, model.config.chunk, model.config.action_dim, generator=g)
    time = sample_time(batch * draws, g).view(batch, draws)
    inputs = read_batch(model.config, values, model.device)
    return values, noise, time, model.three_latents(inputs, model.layout(inputs, False))
