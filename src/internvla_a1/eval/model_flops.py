"""Floating point operations of every stage, counted by running the same code on tensors without data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from internvla_a1.model.config import ModelConfig
from internvla_a1.model.inputs import Inputs, read_batch
from internvla_a1.model.layout import build_layout
from internvla_a1.model.network import InternVLAA1


class _Meta(InternVLAA1):
    """The network on the meta device; layouts are made where the masks have values."""

    def layout(self, inputs: Inputs, published: bool, drop: bool = True):  # type: ignore[no-untyped-def]
        layout = build_layout(self.config, inputs.pattern, torch.device("cpu"), torch.float32, published, drop)
        moved: dict[str, Any] = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in vars(layout).items()}
        return type(layout)(**moved)


def stage_flops(config: ModelConfig, batch: Mapping[str, Tensor]) -> dict[str, int]:
    """Stage -> FLOPs of one chunk with past latents at hand, two a multiply-add; `chunk` is their sum.

    Counted: matrix products, convolutions and attention as computed here, so skipped work is not credited.
    """
    with torch.device("meta"):
        model = _Meta(config, "published")
    model.eval().set_attention("reference")
    counts: dict[str, int] = {}

    @contextmanager
    def counting(stage: str) -> Iterator[None]:
        with FlopCounterMode(display=False) as counter:
            yield
        counts[stage] = counts.get(stage, 0) + counter.get_total_flops()

    model.stage = counting
    inputs = read_batch(config, {key: value.cpu() for key, value in batch.items()}, torch.device("cpu"))
    moved: dict[str, Any] = {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in vars(inputs).items()}
    grid = config.codec.grid
    past = torch.empty(inputs.images.shape[0], config.views, config.codec.latent, grid, grid, device="meta")
    with torch.no_grad():
        context = model.encode(Inputs(**moved), past_latents=past)
        with counting("actions"):
            noise = torch.empty(inputs.images.shape[0], config.chunk, config.action_dim, device="meta")
            context.denoiser.sample(noise, config.steps)
    counts["chunk"] = sum(counts.values())
    return counts
