"""Tiny models for unit tests: the real classes at the smallest sizes that still have every part."""

from __future__ import annotations

import dataclasses

import torch

from internvla_a1.model import InternVLAA1, ModelConfig, new_model, tiny_config
from internvla_a1.model.config import CodecConfig, ExpertConfig, InternVisionConfig, QwenVisionConfig
from internvla_a1.model.loading import prepare

CODEC = CodecConfig(channels=32, multipliers=(1, 1, 2), res_blocks=1, image=64)
SHARED = dict(
    layers=2,
    views=3,
    chunk=6,
    state_dim=8,
    action_dim=8,
    used_action_dim=7,
    codec=CODEC,
    scale_factor=4,
    vocab=320,
    text_tokens=12,
    steps=4,
)


def small_config(variant: str) -> ModelConfig:
    """A 3B, 2B or tiny model a few hundred kilobytes large."""
    narrow = ExpertConfig(40, 72)
    if variant == "3b":
        vision = QwenVisionConfig(depth=2, hidden=32, heads=4, mlp=72, patch=4, positions=36)
        return ModelConfig(
            "3b", heads=4, kv_heads=2, head_dim=32, und=ExpertConfig(64, 96), gen=narrow, act=narrow, vision=vision,
            rope_sections=(6, 5, 5), image_token=310, **SHARED,
        )  # fmt: skip
    if variant == "2b":
        vision_2b = InternVisionConfig(depth=2, hidden=40, heads=4, mlp=72, patch=14, image=56)
        width = ExpertConfig(48, 88)
        return ModelConfig(
            "2b", heads=6, kv_heads=2, head_dim=8, und=width, gen=width, act=width, vision=vision_2b,
            rope_theta=1e4, qkv_bias=True, qk_norm=False, scale_text=True, **SHARED,
        )  # fmt: skip
    return tiny_config(**{**SHARED, "views": 2})


def small_model(variant: str, compat: str = "consistent", dtype: torch.dtype | str = torch.float32, **changes: object) -> InternVLAA1:
    """Weights of a spread that makes every token matter."""
    model = new_model(dataclasses.replace(small_config(variant), **changes), seed=1, compat=compat)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.startswith("codec"):
                parameter.normal_(std=1.2 * parameter[0].numel() ** -0.5, generator=generator)
    return prepare(model, torch.device("cpu"), dtype)


def noise_for(model: InternVLAA1, batch: int = 1, seed: int = 3) -> torch.Tensor:
    return torch.randn(batch, model.config.chunk, model.config.action_dim, generator=torch.Generator().manual_seed(seed))
