"""Batches straight from the data sets, through the very transforms of the policy: 2B and 3B, any embodiment, no cache."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from internvla_a1.data.mixture import Mixture
from internvla_a1.model.config import ModelConfig, QwenVisionConfig
from internvla_a1.policy.tokenizer import TextTokenizer
from internvla_a1.policy.transforms import Chain, RemapViews, ResizeWithPad, SelectKeys, to_float
from internvla_a1.policy.transforms.images import VIEW
from internvla_a1.policy.transforms.numbers import ACTION, STATE
from internvla_a1.policy.transforms.qwen import LanguageTokens, QwenImageProcessor, QwenInputs
from internvla_a1.train.batches import IS_PAD, Numbers
from internvla_a1.train.sources import OpenSource


class Batches(Protocol):
    """The rows `part` of batch number `step` of `size` rows; a function of its arguments."""

    def __call__(self, step: int, size: int, part: slice) -> dict[str, Tensor]: ...


def picture_chain(config: ModelConfig, tokenizer: TextTokenizer) -> Chain:
    """Pictures and text of one sample: the order of the published code (model.md section 8)."""
    remap = RemapViews({f"{VIEW}{v}": f"{VIEW}{v}" for v in range(config.views)}, config.views)
    vision = config.vision
    if isinstance(vision, QwenVisionConfig):
        processor = QwenImageProcessor(vision.patch, vision.temporal_patch, vision.merge, min_pixels=256 * vision.patch**2)
        ids = {"start_id": config.image_token - 3, "image_id": config.image_token, "end_id": config.image_token - 2}
        inputs = QwenInputs(processor, tokenizer, config.views, config.text_tokens, **ids)
        return Chain((ResizeWithPad(14 * vision.patch, 14 * vision.patch), remap, inputs, _keys(config, qwen=True)))
    text = LanguageTokens(tokenizer, config.text_tokens)
    return Chain((ResizeWithPad(vision.image, vision.image), text, remap, _keys(config, qwen=False)))


def _keys(config: ModelConfig, qwen: bool) -> SelectKeys:
    views = tuple(f"{VIEW}{v}{end}" for v in range(config.views) for end in ("", "_mask"))
    names = ("pixel_values", "image_grid_thw", "input_ids", "attention_mask") if qwen else ("language.tokens", "language.attention_mask")
    return SelectKeys((*views, *(f"observation.{n}" for n in names)))


@dataclass
class FolderBatches:
    """Decodes what a batch needs when it needs it."""

    sources: Sequence[OpenSource]
    numbers: Sequence[Numbers]
    mixture: Mixture
    tokenizer: TextTokenizer
    config: ModelConfig

    def __call__(self, step: int, size: int, part: slice) -> dict[str, Tensor]:
        rows = [self._row(s, k) for s, k in self.mixture.batch(step, size)[part]]
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

    def _row(self, s: int, k: int) -> dict[str, Tensor]:
        source, numbers, config = self.sources[s], self.numbers[s], self.config
        sample = source.samples[k]
        pictures = {f"observation.images.{slot}": to_float(frames) for slot, frames in sample.images.items()}
        row: dict[str, Tensor] = picture_chain(config, self.tokenizer)({**pictures, "task": sample.task})
        state = np.concatenate([sample.state[k] for k in source.layout.state_keys])[None]
        actions = np.concatenate([sample.actions[k] for k in source.layout.action_keys], 1)[None]
        row[STATE] = numbers.states(state, config.state_dim)[0]
        row[ACTION] = numbers.actions(actions, state, config.action_dim)[0]
        row[IS_PAD] = torch.from_numpy(sample.action_is_pad)
        return row


class Ahead:
    """Prepares the next batches in threads while the present one trains; the order and content do not change."""

    def __init__(self, batches: Batches, size: int, part: slice, threads: int = 1) -> None:
        self._batches, self._size, self._part = batches, size, part
        self._pool = ThreadPoolExecutor(max(1, threads))
        self._depth = max(1, threads)
        self._coming: dict[int, Future[dict[str, Tensor]]] = {}

    def get(self, step: int) -> dict[str, Tensor]:
        """The batch of this step; those behind it are started."""
        for ahead in range(step, step + self._depth + 1):
            if ahead not in self._coming:
                self._coming[ahead] = self._pool.submit(self._batches, ahead, self._size, self._part)
        self._coming = {k: v for k, v in self._coming.items() if k >= step}
        return self._coming.pop(step).result()

    def close(self) -> None:
        """Drop what nobody will ask for."""
        self._pool.shutdown(wait=True, cancel_futures=True)
