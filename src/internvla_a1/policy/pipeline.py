"""The way in (observation -> batch) and the way out (actions -> robot units) of one checkpoint on one robot (model.md section 8)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.types import Observation
from internvla_a1.model.checkpoint import Checkpoint
from internvla_a1.model.config import ModelConfig, QwenVisionConfig
from internvla_a1.policy.contract import Agreement
from internvla_a1.policy.tokenizer import TextTokenizer, load_tokenizer
from internvla_a1.policy.transforms import (
    Chain,
    ConcatKeys,
    DeltaActions,
    Normalise,
    PadDims,
    RemapViews,
    ResizeWithPad,
    Sample,
    SelectKeys,
    SplitKeys,
    Unnormalise,
    absolute_actions,
    to_float,
)
from internvla_a1.policy.transforms.chain import Transform
from internvla_a1.policy.transforms.images import VIEW
from internvla_a1.policy.transforms.numbers import ACTION, STATE
from internvla_a1.policy.transforms.qwen import LanguageTokens, QwenImageProcessor, QwenInputs

CAMERA = "camera.image."  # keys of live pictures before they are mapped to views
QWEN_KEYS = ("observation.pixel_values", "observation.image_grid_thw", "observation.input_ids", "observation.attention_mask")
CHANGE_SCALE = 5.0
TEXT_KEYS = ("observation.language.tokens", "observation.language.attention_mask")


@dataclass(frozen=True)
class Pipeline:
    """way_in: sample -> batch row; actions_in, actions_out: for chunks of actions alone, mirror images of each other.

    split: the state vector to its features. All tensors are on the CPU, without a batch axis.
    """

    way_in: Chain
    actions_in: Chain
    actions_out: Chain
    split_state: SplitKeys
    split_action: SplitKeys
    views: dict[int, str]
    state_in: Chain | None = None  # state features alone, where their change goes along (ModelConfig.state_change)

    def batch(
        self, now: Observation, past: Observation, state: Tensor, task: str, with_past: bool = True, previous: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The policy keys of model.md section 8, batch 1. A view without a past frame shows its present one twice.

        previous: (joints,) state of one control period earlier; None: the arm stood still.
        """
        sample: Sample = {**self.split_state({STATE: state}), "task": task}
        for camera in self.views.values():
            image = now.images.get(camera)
            if image is None:
                continue
            before = past.images.get(camera)
            before = image if before is None or before.shape != image.shape else before
            frames = [before, image] if with_past else [image]
            sample[CAMERA + camera] = torch.stack([to_float(frame) for frame in frames])
        row = self.way_in(sample)
        if self.state_in is not None and previous is not None:
            after, before = (self.state_in(self.split_state({STATE: s}))[STATE] for s in (state, previous))
            row[STATE][len(state) : 2 * len(state)] = state_change(after, before)
        return {key: value.unsqueeze(0) for key, value in row.items()}

    def normalised_actions(self, actions: Tensor, state: Tensor) -> Tensor:
        """(steps, joints) absolute, robot units -> (steps, action_dim) as the model sees them."""
        sample = {**self.split_state({STATE: state}), **self.split_action({ACTION: actions})}
        return self.actions_in(sample)[ACTION]

    def absolute(self, actions: Tensor, state: Tensor) -> Tensor:
        """(steps, >= joints) from the model -> (steps, joints) absolute, robot units."""
        return self.actions_out({**self.split_state({STATE: state}), ACTION: actions})[ACTION]


def state_change(after: Tensor, before: Tensor) -> Tensor:
    """Of normalised states (..., D): scaled so that a quick step of an arm is about 1."""
    return CHANGE_SCALE * (after - before)


def make_pipeline(checkpoint: Checkpoint, model: ModelConfig, agreement: Agreement, tokenizer: str | Path | None = None) -> Pipeline:
    """The published orders: 3B processes the pictures before it normalises, 2B and tiny tokenise first and remap last."""
    row, stats = agreement.row, agreement.statistics
    folder = Path(tokenizer) if tokenizer is not None else checkpoint.tokenizer_folder
    if folder is None:
        raise ConfigError(
            f"{checkpoint.path}: no text tokenizer; set `tokenizer` to its folder, "
            "or let `internvla-a1 weights pull` put it into tokenizer/"
        )
    words = load_tokenizer(folder)
    if max(words.size, words.pad_id + 1) > model.vocab:
        raise ConfigError(f"{folder}: {words.size} tokens, the model knows {model.vocab}; this is another model's tokenizer")
    state_stats = {key: stats[key] for key in row.state_keys}
    action_stats = {key: stats[key] for key in row.action_keys}
    numbers: tuple[Transform, ...] = (
        Normalise(state_stats, agreement.mode), ConcatKeys(row.state_keys, STATE), PadDims(STATE, model.state_dim),
    )  # fmt: skip
    remap = RemapViews({CAMERA + name: f"{VIEW}{view}" for view, name in agreement.views.items()}, model.views)
    keys = tuple(f"{VIEW}{v}{end}" for v in range(model.views) for end in ("", "_mask"))
    if isinstance(model.vision, QwenVisionConfig):
        side, inputs = _qwen(checkpoint, model, model.vision, words)
        steps: tuple[Transform, ...] = (ResizeWithPad(side, side), remap, inputs, *numbers, SelectKeys((*keys, STATE, *QWEN_KEYS)))
    else:
        side = model.vision.image
        text = LanguageTokens(words, model.text_tokens)
        steps = (ResizeWithPad(side, side), text, *numbers, remap, SelectKeys((*keys, STATE, *TEXT_KEYS)))
    if model.state_change and 2 * row.size > model.state_dim:
        raise ConfigError(f"{checkpoint.path}: {row.size} joints and their change do not fit {model.state_dim} state values")
    relative = (row.state_keys, row.action_keys, agreement.delta_mask)
    split_action = SplitKeys(row.action_keys, row.dims, ACTION)
    whole, mode = ConcatKeys(row.action_keys, ACTION), agreement.mode
    return Pipeline(
        way_in=Chain(steps),
        actions_in=Chain((DeltaActions(*relative), Normalise(action_stats, mode), whole, PadDims(ACTION, model.action_dim))),
        actions_out=Chain((split_action, Unnormalise(action_stats, mode), absolute_actions(*relative), whole)),
        split_state=SplitKeys(row.state_keys, row.dims, STATE),
        split_action=split_action,
        views=agreement.views,
        state_in=Chain((Normalise(state_stats, agreement.mode), ConcatKeys(row.state_keys, STATE))) if model.state_change else None,
    )


def _qwen(checkpoint: Checkpoint, model: ModelConfig, vision: QwenVisionConfig, words: TextTokenizer) -> tuple[int, QwenInputs]:
    """Side of a view before the processor, and the processor: 224 and 256 x 256 pixels at patch 16, in proportion otherwise."""
    sizes = _tiny_sizes(checkpoint.path)
    processor = QwenImageProcessor(vision.patch, vision.temporal_patch, vision.merge, min_pixels=256 * vision.patch**2)
    inputs = QwenInputs(
        processor, words, model.views, model.text_tokens,
        start_id=sizes.get("vision_start_token_id", model.image_token - 3), image_id=model.image_token,
        end_id=sizes.get("vision_end_token_id", model.image_token - 2),
    )  # fmt: skip
    return 14 * vision.patch, inputs


def _tiny_sizes(folder: Path) -> dict[str, Any]:
    """Reference vectors come with the sizes that a published config.json does not hold."""
    path = folder / "tiny_config.json"
    return json.loads(path.read_text()) if path.is_file() else {}
