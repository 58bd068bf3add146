"""What Qwen3-VL reads (3B): patches of the present frame of every view, and the token row around them (model.md section 8)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from internvla_a1.core.errors import ConfigError, DataError
from internvla_a1.policy.tokenizer import TextTokenizer
from internvla_a1.policy.transforms.chain import Sample
from internvla_a1.policy.transforms.images import VIEW


@dataclass(frozen=True)
class QwenImageProcessor:
    """Smart resize, bicubic with antialias, normalise, cut into patches. Defaults are the public Qwen3-VL settings."""

    patch: int = 16
    temporal_patch: int = 2
    merge: int = 2
    min_pixels: int = 65536
    max_pixels: int = 16777216
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Multiples of patch * merge near the given size, within the pixel bounds, keeping the aspect ratio."""
        factor = self.patch * self.merge
        if max(height, width) > 200 * min(height, width):
            raise DataError(f"a picture of {height} x {width} is too narrow: aspect ratio at most 200")
        h, w = (max(factor, round(side / factor) * factor) for side in (height, width))
        if h * w > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            h, w = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
        elif h * w < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            h, w = (math.ceil(side * grow / factor) * factor for side in (height, width))
        return h, w

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(3, H, W) in [0, 1] -> (rows, 3 * temporal_patch * patch^2) and grid (3,): 1, patch rows, patch columns.

        Row order: merge blocks, row-major; within a row: channel, time, y, x. Bicubic values may leave [0, 1].
        """
        h, w = self.target(*image.shape[-2:])
        x = image.to(torch.float32)[None]
        if (h, w) != tuple(image.shape[-2:]):
            x = F.interpolate(x, size=(h, w), mode="bicubic", align_corners=False, antialias=True)
        x = (x - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]
        rows, columns = h // self.patch, w // self.patch
        x = x.expand(self.temporal_patch, -1, -1, -1)
        x = x.reshape(
            self.temporal_patch, 3, rows // self.merge, self.merge, self.patch, columns // self.merge, self.merge, self.patch
        )  # (time, channel, block row, row, y, block column, column, x)
        x = x.permute(2, 5, 3, 6, 1, 0, 4, 7)
        return x.reshape(rows * columns, -1), torch.tensor([1, rows, columns])


@dataclass(frozen=True)
class QwenInputs:
    """Adds observation.pixel_values (V * rows, values), .image_grid_thw (V, 3), .input_ids and .attention_mask (P,).

    Token row: per view start, image placeholders, end; then the bare task padded or cut to text_tokens. A missing view
    repeats the pixels and placeholders of the view before it with attention 0. `now`: index of the present frame.
    """

    processor: QwenImageProcessor
    tokenizer: TextTokenizer
    views: int = 3
    text_tokens: int = 48
    start_id: int = 151652
    image_id: int = 151655
    end_id: int = 151653
    now: int = 1

    def __call__(self, sample: Sample) -> Sample:
        patches: list[Tensor] = []
        grids: list[Tensor] = []
        ids: list[int] = []
        attention: list[int] = []
        for view in range(self.views):
            present = bool(sample[f"{VIEW}{view}_mask"])
            if present:
                frames = sample[f"{VIEW}{view}"]
                rows, grid = self.processor(frames[min(self.now, len(frames) - 1)])
            elif view == 0:
                raise DataError("view 0 is missing; the 3B cannot do without it")
            patches.append(rows)
            grids.append(grid)
            count = int(grid.prod()) // self.processor.merge**2
            ids += [self.start_id, *[self.image_id] * count, self.end_id]
            attention += [int(present)] * (count + 2)
        words, mask = self.tokenizer.row(sample["task"], self.text_tokens)
        if self.image_id in words:
            raise ConfigError(f"the instruction holds the image placeholder {self.image_id}")
        return {
            **sample,
            "observation.pixel_values": torch.cat(patches),
            "observation.image_grid_thw": torch.stack(grids),
            "observation.input_ids": torch.tensor([*ids, *words]),
            "observation.attention_mask": torch.tensor([*attention, *mask]),
        }


@dataclass(frozen=True)
class LanguageTokens:
    """2B and tiny: adds observation.language.tokens and .attention_mask (text_tokens,), the bare task and nothing else."""

    tokenizer: TextTokenizer
    text_tokens: int = 48

    def __call__(self, sample: Sample) -> Sample:
        words, mask = self.tokenizer.row(sample["task"], self.text_tokens)
        return {**sample, "observation.language.tokens": torch.tensor(words), "observation.language.attention_mask": torch.tensor(mask)}
