"""Sizes of a published checkpoint from the shapes of its tensors: config.json stores none (model.md section 2).

What shapes cannot tell (number of heads, head_dim without per-head norms, rotary sections, token ids) has the published value, or that
of a `tiny_config.json` beside the weights, which reference vectors carry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from internvla_a1.core.errors import CheckpointError
from internvla_a1.model.config import CodecConfig, ExpertConfig, InternVisionConfig, ModelConfig, QwenVisionConfig, VisionConfig

Shapes = Mapping[str, tuple[int, ...]]  # our tensor names


def infer_config(variant: str, shapes: Shapes, policy: Mapping[str, Any], tiny: Mapping[str, Any] | None = None) -> ModelConfig:
    """policy: config.json; tiny: tiny_config.json. CheckpointError names a tensor without which a size is unknown."""
    tiny = tiny or {}
    try:
        return _infer(variant, shapes, policy, tiny)
    except KeyError as error:
        raise CheckpointError(f"the weights lack {error.args[0]}, so the size of the model cannot be told") from error


def _infer(variant: str, shapes: Shapes, policy: Mapping[str, Any], tiny: Mapping[str, Any]) -> ModelConfig:
    q_width = shapes["mixture.und.layers.0.self_attn.q_proj.weight"][0]
    kv_width = shapes["mixture.und.layers.0.self_attn.k_proj.weight"][0]
    per_head_norm = shapes.get("mixture.und.layers.0.self_attn.q_norm.weight")
    head_dim = per_head_norm[0] if per_head_norm else tiny.get("und", {}).get("head_dim") or _head_dim_2b(q_width, tiny)
    text = tiny.get("effective", {}).get("und", {}).get("text_config", {})
    used_action_dim = policy["output_features"]["action"]["shape"][0] if policy.get("output_features") else 32
    common: dict[str, Any] = dict(
        variant=variant, layers=_count(shapes, "mixture.act.layers."),
        heads=q_width // head_dim, kv_heads=kv_width // head_dim, head_dim=head_dim,
        und=_expert(shapes, "und"), gen=_expert(shapes, "gen"), act=_expert(shapes, "act"), vocab=shapes["embed_tokens.weight"][0],
        codec=_codec(shapes), qkv_bias="mixture.und.layers.0.self_attn.q_proj.bias" in shapes, qk_norm=per_head_norm is not None,
        norm_eps=text.get("rms_norm_eps", 1e-6), scale_text=variant == "2b",
        text_tokens=tiny.get("lang_len", policy.get("tokenizer_max_length", 48)),
        chunk=policy.get("chunk_size", 50), state_dim=shapes["action_head.state_proj.weight"][1],
        action_dim=shapes["action_head.action_in_proj.weight"][1], used_action_dim=used_action_dim,
        steps=policy.get("num_inference_steps", 10), scale_factor=shapes["latent_head.downsample_conv.weight"][2],
        lambda_gen=policy.get("lambda_gen", 0.01), min_period=policy.get("min_period", 0.004), max_period=policy.get("max_period", 4.0),
    )  # fmt: skip
    if variant == "3b":
        sections = tuple(tiny.get("mrope_section") or text.get("rope_scaling", {}).get("mrope_section") or (24, 20, 20))
        return ModelConfig(
            **common, vision=_qwen(shapes, tiny), rope_theta=text.get("rope_theta", 5e6), rope_sections=sections,
            image_token=tiny.get("image_token_id", 151655),
        )  # fmt: skip
    return ModelConfig(**common, vision=_intern(shapes, tiny), rope_theta=text.get("rope_theta", 1e4))


def _head_dim_2b(q_width: int, tiny: Mapping[str, Any]) -> int:
    heads = tiny.get("und", {}).get("num_attention_heads")
    return q_width // heads if heads else 64


def _expert(shapes: Shapes, name: str) -> ExpertConfig:
    mlp, hidden = shapes[f"mixture.{name}.layers.0.mlp.gate_proj.weight"]
    return ExpertConfig(hidden, mlp)


def _count(shapes: Shapes, root: str) -> int:
    numbers = {int(name[len(root) :].split(".", 1)[0]) for name in shapes if name.startswith(root)}
    if not numbers:
        raise KeyError(root + "0")
    return max(numbers) + 1


def _codec(shapes: Shapes) -> CodecConfig:
    channels = shapes["codec.encoder.conv_in.weight"][0]
    levels = _count(shapes, "codec.encoder.down.")
    widths = [shapes[f"codec.encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)]
    return CodecConfig(
        channels=channels, multipliers=tuple(w // channels for w in widths), res_blocks=_count(shapes, "codec.encoder.down.0.block."),
        latent=shapes["codec.quant_conv.weight"][0],
        downsamples=sum(f"codec.encoder.down.{level}.downsample.conv.weight" in shapes for level in range(levels)),
    )  # fmt: skip


def codec_config(shapes: Shapes) -> CodecConfig:
    """Sizes of an image tokenizer alone."""
    try:
        return _codec(shapes)
    except KeyError as error:
        raise CheckpointError(f"the image tokenizer lacks {error.args[0]}") from error


def _qwen(shapes: Shapes, tiny: Mapping[str, Any]) -> VisionConfig:
    hidden, _, temporal, patch, _ = shapes["vision.patch_embed.proj.weight"]
    return QwenVisionConfig(
        depth=_count(shapes, "vision.blocks."), hidden=hidden, heads=tiny.get("vision", {}).get("num_heads", 16),
        mlp=shapes["vision.blocks.0.mlp.linear_fc1.weight"][0], patch=patch, temporal_patch=temporal,
        merge=math.isqrt(shapes["vision.merger.linear_fc1.weight"][1] // hidden), positions=shapes["vision.pos_embed.weight"][0],
    )  # fmt: skip


def _intern(shapes: Shapes, tiny: Mapping[str, Any]) -> VisionConfig:
    hidden, _, patch, _ = shapes["vision.projection.weight"]
    side = math.isqrt(shapes["vision.position_embeddings"][1] - 1)
    return InternVisionConfig(
        depth=_count(shapes, "vision.layer."), hidden=hidden, heads=tiny.get("vision", {}).get("num_attention_heads", 16),
        mlp=shapes["vision.layer.0.mlp.fc1.weight"][0], patch=patch, image=side * patch,
        shuffle=math.isqrt(shapes["vision.projector.linear_1.weight"][1] // hidden),
    )  # fmt: skip
