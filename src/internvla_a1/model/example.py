"""A seeded batch of the right shapes for any configuration: what benchmarks, the int8 gate and smoke tests run on."""

from __future__ import annotations

import torch
from torch import Tensor

from internvla_a1.model.config import ModelConfig, QwenVisionConfig
from internvla_a1.model.inputs import IMAGE

VISION_START, VISION_END = 151652, 151653


def example_batch(
    config: ModelConfig,
    batch: int = 1,
    frames: int = 2,
    words: int = 10,
    missing: tuple[int, ...] = (),
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Policy keys of model.md section 8 with random images, state and `words` random tokens; `missing` views are masked and white."""
    random = torch.Generator().manual_seed(seed)
    values: dict[str, Tensor] = {"observation.state": torch.randn(batch, config.state_dim, generator=random)}
    side = 224 if isinstance(config.vision, QwenVisionConfig) else config.vision.image
    for view in range(config.views):
        shape = (batch, frames, 3, side, side)
        values[f"{IMAGE}{view}"] = torch.ones(shape) if view in missing else torch.rand(shape, generator=random)
        values[f"{IMAGE}{view}_mask"] = torch.full((batch,), view not in missing)
    vocabulary = min(1000, config.vocab // 2)  # clear of the markers of a small vocabulary
    text = torch.randint(0, vocabulary, (batch, config.text_tokens), generator=random)
    text_valid = (torch.arange(config.text_tokens) < words).long().expand(batch, -1)
    if isinstance(config.vision, QwenVisionConfig):
        vision = config.vision
        cells = 16  # a 256 x 256 view of 16-pixel patches
        tokens = (cells // vision.merge) ** 2
        marks = [min(m, config.vocab - 3 + i) for i, m in enumerate((VISION_START, VISION_END))]
        one = torch.tensor([marks[0], *[config.image_token] * tokens, marks[1]]).expand(batch, -1)
        view_valid = torch.tensor([v not in missing for v in range(config.views)]).long().repeat_interleave(tokens + 2)
        values["observation.input_ids"] = torch.cat([*[one] * config.views, text], 1)
        values["observation.attention_mask"] = torch.cat([view_valid.expand(batch, -1), text_valid], 1)
        rows, width = config.views * cells * cells, 3 * vision.temporal_patch * vision.patch**2
        values["observation.pixel_values"] = torch.rand(batch, rows, width, generator=random) * 2 - 1
        values["observation.image_grid_thw"] = torch.tensor([1, cells, cells]).expand(batch, config.views, 3).contiguous()
    else:
        values["observation.language.tokens"] = text
        values["observation.language.attention_mask"] = text_valid.contiguous()
    return {key: value.to(device) for key, value in values.items()}
