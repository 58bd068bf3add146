"""Training the policy: flow matching, foresight, and the auxiliary heads of small models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from internvla_a1.core.errors import ConfigError
from internvla_a1.eval.ablation import ablate, ablated_latents, split_off
from internvla_a1.eval.colors import color_mask
from internvla_a1.model import InternVLAA1, save_model
from internvla_a1.model.config import ModelConfig, StemConfig
from internvla_a1.model.vision_stem import StemVision
from internvla_a1.train.auxiliary import GroundingHead, SpeedHead, TargetHead, token_labels
from internvla_a1.train.batches import COLOR, IS_PAD, LATENTS, NOISE, RAW, SPEED, TARGET, TIME, CachedBatches, draw_noise
from internvla_a1.train.config import FreezeConfig, TrainConfig
from internvla_a1.train.folder_batches import Batches
from internvla_a1.train.materials import Materials, copy_tokenizer, gather, make_batches
from internvla_a1.train.objective import Parts, flow_parts, gen_weights, joint_pass
from internvla_a1.train.sources import contract_of


class PolicyObjective(nn.Module):
    """The model with its training-only heads; forward gives the losses of a batch as sums and counts."""

    def __init__(
        self,
        model: InternVLAA1,
        config: TrainConfig,
        target_scale: tuple[Tensor, Tensor] | None,
        speed_scale: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.config = model, config
        self._stem = model.config.vision if isinstance(model.config.vision, StemConfig) else None
        if not isinstance(model.vision, StemVision):
            model.vision.recompute = config.gradient_checkpointing
        width = model.config.und.hidden
        self.grounding = GroundingHead(width) if config.loss.grounding else None
        self.target = TargetHead(width, *target_scale) if target_scale is not None else None
        self.speed = SpeedHead(model.config.gen.hidden, *speed_scale) if speed_scale is not None else None
        if self.grounding is not None:
            if self._stem is None:
                raise ConfigError("loss.grounding needs the convolutional stem: its tokens are small patches of the picture")
            model.vision.register_forward_hook(self._keep)
        self._tokens: Tensor | None = None

    def _keep(self, module: nn.Module, inputs: object, tokens: Tensor) -> None:
        self._tokens = tokens

    def forward(self, batch: Mapping[str, Tensor]) -> Parts:
        model, config = self.model, self.config
        latents = ablated_latents(self._latents(batch), config.ablation)
        noise, time = batch[NOISE], batch[TIME]
        joint = joint_pass(model, batch, noise, time, latents, self.target is not None, config.gradient_checkpointing, config.compile)
        pad = batch[IS_PAD] if config.loss.mask_padded_actions else None
        known = time == 0 if time.dim() == 3 else None
        parts = flow_parts(model, joint, batch["action"], noise, latents, pad, gen_weights(batch, latents, config.loss), known)
        if self.grounding is not None and self._tokens is not None and self._stem is not None:
            parts |= grounding_parts(self.grounding, self._tokens, batch, self._stem)
            self._tokens = None
        if self.target is not None and joint.und_out is not None:
            text = self._text_columns(batch, joint.und_out.shape[1])
            known = torch.isfinite(batch[TARGET]).all(-1) & (batch[TARGET][:, 2] > -0.5)
            parts |= self.target(joint.und_out, text, batch[TARGET].nan_to_num(), known)
        if self.speed is not None:
            parts |= self.speed(joint.gen_in, batch[SPEED].nan_to_num(), torch.isfinite(batch[SPEED]))
        return parts

    def _latents(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B, V, 3, 16, h, w): from the cache, or encoded now by the frozen codec."""
        if LATENTS in batch:
            return batch[LATENTS]
        model = self.model
        images = torch.stack([batch[f"observation.images.image{v}"] for v in range(model.config.views)], 1)
        with torch.no_grad():
            return model.encode_frames(images.flatten(0, 2)).unflatten(0, images.shape[:3])

    def _text_columns(self, batch: Mapping[str, Tensor], prefix: int) -> Tensor:
        """(B, prefix) true for text tokens; the last kept columns of the prefix are the text."""
        attention = batch["observation.language.attention_mask"].bool()
        kept = attention[:, attention.any(0)]
        full = torch.zeros(len(kept), prefix, dtype=torch.bool, device=kept.device)
        full[:, prefix - kept.shape[1] :] = kept
        return full


def grounding_parts(head: GroundingHead, tokens: Tensor, batch: Mapping[str, Tensor], vision: StemConfig) -> Parts:
    """tokens: (B * V, T, width) of every view in the order of the samples."""
    raw = batch[RAW]
    grid = vision.image // vision.patch // vision.merge
    presence, centroid = token_labels(color_mask(raw, batch[COLOR]), grid)
    return head(tokens.unflatten(0, raw.shape[:2]), presence, centroid)


class NoisyBatches:
    """Adds noise and times, drawn by the number of the batch."""

    def __init__(self, batches: Batches, config: TrainConfig, model: ModelConfig) -> None:
        self._batches, self._config, self._model = batches, config, model

    def __call__(self, step: int, size: int, part: slice) -> dict[str, Tensor]:
        model, config = self._model, self._config
        drawn = draw_noise(config.seed, step, size, config.noise_draws, model.chunk, model.action_dim, part, model.prefix_steps)
        return {**self._batches(step, size, part), **drawn}


def freeze(model: InternVLAA1, options: FreezeConfig) -> None:
    """The published options. The image tokenizer is always frozen (model.md section 7)."""
    model.codec.requires_grad_(False)
    if options.vision_encoder:
        model.vision.requires_grad_(False)
    if options.train_expert_only:
        for part in (model.vision, model.embed_tokens, model.mixture.und):
            part.requires_grad_(False)
    if options.train_vlm_only:
        for part in (model.mixture.gen, model.mixture.act, model.latent_head, model.action_head):
            part.requires_grad_(False)


class PolicyTask:
    """loop.Task for `kind: policy`."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.materials: Materials = gather(config)
        model = ablate(self.materials.model, config.ablation)
        freeze(model, config.freeze)
        # on a CPU the backward pass of torch's fused attention takes several times that of plain products
        model.set_attention("sdpa" if torch.cuda.is_available() else "products")
        batches = make_batches(config, self.materials, latents=True)
        self.batches: Batches = NoisyBatches(batches, config, model.config)
        if (config.loss.target or config.loss.speed) and not isinstance(batches, CachedBatches):
            raise ConfigError("loss.target and loss.speed need data.cache")
        target_scale = _target_scale(batches) if config.loss.target else None
        speed_scale = _speed_scale(batches) if config.loss.speed else None
        self.module = PolicyObjective(model, config, target_scale, speed_scale)
        gen = 0.0 if config.ablation in ("no_foresight_loss", "no_foresight_expert", "pooled_action_expert") else config.loss.lambda_gen
        ground = config.loss.grounding
        self.weights = {"action": 1.0, "gen": gen, "ground": ground, "centroid": ground, "target": config.loss.target}
        self.weights["speed"] = config.loss.speed

    def export(self, module: nn.Module, folder: Path) -> None:
        """A weights folder that NetworkPolicy opens."""
        export_policy(cast(PolicyObjective, module).model, self.config, self.materials, folder)


def _target_scale(batches: Batches) -> tuple[Tensor, Tensor]:
    assert isinstance(batches, CachedBatches)
    known = torch.cat([torch.from_numpy(c.target[c.usable & (c.target[:, 2] > -0.5)]) for c in batches.caches])
    return known.mean(0), known.std(0).clamp(min=0.02)


def _speed_scale(batches: Batches) -> tuple[Tensor, Tensor]:
    assert isinstance(batches, CachedBatches)
    known = torch.cat([torch.from_numpy(c.speed[c.usable]) for c in batches.caches if c.speed is not None])
    return known.mean(), known.std().clamp(min=0.01)


def export_policy(model: InternVLAA1, config: TrainConfig, materials: Materials, folder: Path) -> None:
    """config.json, model.safetensors, stats.json, tokenizer/, train_config.json and the manifest with the contract."""
    kinds = {s.robot_type for s in materials.sources}
    contract = contract_of(materials.sources[0], config.data) if len(kinds) == 1 else None
    folder.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(materials.tokenizer_folder, folder)
    (folder / "train_config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
    split_off(model, folder.parent)
    # the tiny tokenizer is rounded where its own training ends, so that all that builds on it has the values that are stored
    dtype = torch.float32 if config.model.size == "tiny" else torch.bfloat16
    save_model(model, folder, dtype, materials.statistics, contract, {"ablation": config.ablation}, codec_dtype=torch.bfloat16)
