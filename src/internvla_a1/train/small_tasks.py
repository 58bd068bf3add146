"""Two preparations of a small model: its image tokenizer, and the grounding of its vision stem."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from internvla_a1.core.errors import ConfigError
from internvla_a1.eval.colors import any_color, color_mask
from internvla_a1.model import InternVLAA1
from internvla_a1.model.config import CodecConfig, QwenVisionConfig, StemConfig
from internvla_a1.model.cosmos import CosmosCodec, ResBlock, SpatialAttention
from internvla_a1.train.auxiliary import GroundingHead, token_labels
from internvla_a1.train.batches import RAW, CachedBatches, random_of
from internvla_a1.train.cache import Cache
from internvla_a1.train.config import TrainConfig
from internvla_a1.train.folder_batches import Batches
from internvla_a1.train.materials import gather, make_batches, open_caches
from internvla_a1.train.objective import Parts
from internvla_a1.train.policy_task import export_policy, grounding_parts


class CodecObjective(nn.Module):
    """Reconstruction of pictures (B, 3, S, S) in [0, 1], coloured pixels counting `1 + object_weight` times.

    noise: what is decoded are the latents with this much noise, in their standard deviations. `smooth` asks that latents change slowly
    while things move (`smoothness`): whoever then foresees a motion to within a frame has nearly the latents that come.
    """

    def __init__(self, codec: CosmosCodec, object_weight: float, noise: float = 0.0, smooth: bool = False) -> None:
        super().__init__()
        self.codec, self.object_weight, self.noise, self.smooth = codec, object_weight, noise, smooth
        codec.requires_grad_(True)

    def forward(self, batch: Mapping[str, Tensor]) -> Parts:
        images = batch["images"]
        latents = self.codec.encode(images * 2 - 1)
        deviation = latents.float().std((0, 2, 3), keepdim=True).clamp(min=1e-4)
        noisy = latents
        if self.noise:
            noisy = latents + (self.noise * deviation.detach() * batch["noise"]).to(latents.dtype)
        restored = self.codec.decode(noisy).float()
        weight = 1 + self.object_weight * colored(images, restored)
        error = (restored - (images * 2 - 1)) ** 2
        count = error.new_tensor(float(error.numel()))
        parts = {
            "weighted": ((weight * error).sum(), count),
            "plain": (error.detach().sum(), count),
            "size": (latents.float().pow(2).sum(), count.new_tensor(float(latents.numel()))),
        }
        if self.smooth:
            samples = count.new_tensor(float(len(images)))
            parts["smooth"] = (smoothness(latents.float() / deviation, batch["view"]) * samples, samples)
        return parts


def colored(images: Tensor, drawn: Tensor) -> Tensor:
    """(B, 1, S, S): one near pixels of a parcel's colour, in images ([0, 1]) or in drawn ([-1, 1]).

    A colour too many is as wrong as one that is missing.
    """
    seen = any_color(images) | any_color(((drawn.detach() + 1) / 2).clamp(0, 1))
    return F.max_pool2d(seen.float()[:, None], 3, 1, 1)


def smoothness(latents: Tensor, view: Tensor) -> Tensor:
    """Mean over views of: squared change of the latents in one frame over that in one horizon.

    latents: (3 n, c, h, w), n of the present, then n one frame later, then n one horizon later; view: (3 n,) from which each one is.
    """
    present, following, later = latents.chunk(3)
    near, far = ((present - other).pow(2).mean((1, 2, 3)) for other in (following, later))
    here = view.chunk(3)[0]
    shares = [near[here == v].sum() / far[here == v].sum().clamp(min=1e-6) for v in here.unique()]
    return torch.stack(shares).mean()


class PictureBatches:
    """Single pictures of any view and moment, at the codec's size.

    horizon: 0, or each row gives three pictures of one view: now, one frame later and `horizon` frames later, inside the episode.
    `noise`: (B, channels, grid, grid), standard normal.
    """

    def __init__(self, caches: list[Cache], codec: CodecConfig, seed: int, horizon: int = 0) -> None:
        self._caches, self._codec, self._seed = caches, codec, seed
        self._offsets = (0, 1, horizon) if horizon else (0,)
        self._counts = np.array([len(c.images) * c.images.shape[1] for c in caches])

    def __call__(self, step: int, size: int, part: slice) -> dict[str, Tensor]:
        rng = random_of(self._seed, step, 3)
        drawn = rng.integers(0, int(self._counts.sum()), size)[part]
        ends, codec = np.cumsum(self._counts), self._codec
        rows, views = [], []
        for k in drawn:
            c = int(np.searchsorted(ends, k, "right"))
            cache = self._caches[c]
            frame, view = divmod(int(k - (ends[c] - self._counts[c])), cache.images.shape[1])
            rows.append(cache.images[cache.at(np.array([frame]), self._offsets)[0][0], view])
            views.append(view)
        pictures = np.stack(rows, 1).reshape(-1, *rows[0].shape[1:])  # all of the present first
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float().div_(255)  # group norm is slow on NHWC
        noise = rng.standard_normal((len(self._offsets), size, codec.latent, codec.grid, codec.grid), np.float32)[:, part]
        return {
            "images": F.interpolate(images, size=(codec.image, codec.image), mode="bilinear", align_corners=False),
            "view": torch.tensor(views).repeat(len(self._offsets)),
            "noise": torch.from_numpy(noise).flatten(0, 1),
        }

    def some(self, count: int) -> Tensor:
        """(count, 3, S, S) for calibration."""
        return self(0, count, slice(0, count))["images"][:count]


class CodecTask:
    """loop.Task for `kind: codec`: the Cosmos architecture at the model's size."""

    def __init__(self, config: TrainConfig) -> None:
        if not config.data.cache:
            raise ConfigError("kind: codec needs data.cache")
        self.config, self.materials = config, gather(config)
        sizes = self.materials.model.config
        if isinstance(sizes.vision, QwenVisionConfig):
            raise ConfigError("kind: codec takes the pictures of data.cache, which a Qwen vision tower does not use")
        if not config.model.init:
            start_plain(self.materials.model.codec)
        caches = open_caches(config, self.materials.sources, sizes.vision.image)  # the policy's cache: pictures are decoded once
        loss = config.loss
        horizon = config.data.frame_offsets[-1] if loss.codec_smooth else 0
        self._pictures = PictureBatches(caches, sizes.codec, config.seed, horizon)
        self.batches: Batches = self._pictures
        self.module = CodecObjective(self.materials.model.codec, loss.object_weight, loss.codec_noise, bool(loss.codec_smooth))
        self.weights = {"weighted": 1.0, "plain": 0.0, "size": 1e-4, "smooth": loss.codec_smooth}

    def export(self, module: nn.Module, folder: Path) -> None:
        """A model folder whose codec counts; the rest is untrained, or that of model.init."""
        codec = cast(CodecObjective, module).codec
        standardise(codec, self._pictures.some(256))
        model: InternVLAA1 = self.materials.model
        model.codec.load_state_dict(codec.state_dict())
        export_policy(model, self.config, self.materials, folder)


@torch.no_grad()
def start_plain(codec: CosmosCodec) -> None:
    """Residual blocks and attention begin by adding nothing: what is learned first is what the straight way through can do."""
    for module in codec.modules():
        if isinstance(module, ResBlock | SpatialAttention):
            last = module.conv2 if isinstance(module, ResBlock) else module.proj_out
            nn.init.zeros_(last.weight)
            if last.bias is not None:
                nn.init.zeros_(last.bias)


@torch.no_grad()
def standardise(codec: CosmosCodec, images: Tensor) -> None:
    """Give the latents mean 0 and deviation 1 per channel, exactly undone before decoding: folded into the two 1x1 convolutions."""
    parts = [codec.encode(part * 2 - 1).float() for part in images.split(32)]
    latents = torch.cat(parts)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3)).clamp(min=1e-4)
    quant, post = codec.quant_conv, codec.post_quant_conv
    assert post.bias is not None and quant.bias is not None
    post.bias.add_(post.weight.flatten(1) @ mean)
    post.weight.mul_(std[None, :, None, None])
    quant.weight.div_(std[:, None, None, None])
    quant.bias.sub_(mean).div_(std)


class GroundingObjective(nn.Module):
    """Vision stem, word embeddings and the grounding head."""

    def __init__(self, model: InternVLAA1) -> None:
        super().__init__()
        if not isinstance(model.config.vision, StemConfig):
            raise ConfigError("kind: grounding needs the convolutional stem")
        self.vision, self.embed_tokens = model.vision, model.embed_tokens
        self.head = GroundingHead(model.config.und.hidden)
        self._config, self._stem = model.config, model.config.vision

    def tokens(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B * V, T, width)."""
        views = self._config.views
        images = torch.stack([batch[f"observation.images.image{v}"][:, 0] for v in range(views)], 1).flatten(0, 1)
        text = self.embed_tokens(batch["observation.language.tokens"]) * batch["observation.language.attention_mask"][..., None]
        return self.vision(images, text.repeat_interleave(views, 0))

    def forward(self, batch: Mapping[str, Tensor]) -> Parts:
        return grounding_parts(self.head, self.tokens(batch), batch, self._stem)


class GroundingTask:
    """loop.Task for `kind: grounding`: any colour is asked for, its pixels are the label."""

    def __init__(self, config: TrainConfig) -> None:
        if not config.data.cache:
            raise ConfigError("kind: grounding needs data.cache")
        self.config, self.materials = config, gather(config)
        batches = make_batches(config, self.materials, latents=False, any_color=True)
        if not isinstance(batches, CachedBatches):
            raise ConfigError("kind: grounding needs the convolutional stem and data.cache")
        batches.offsets = (0,)
        self.batches: Batches = batches
        self.module = GroundingObjective(self.materials.model)
        self.weights = {"ground": 1.0, "centroid": 1.0}

    def export(self, module: nn.Module, folder: Path) -> None:
        """A model folder whose vision stem and embeddings count, with recall and precision on fresh batches in grounding.json."""
        export_policy(self.materials.model, self.config, self.materials, folder)
        recall, precision = grounding_scores(cast(GroundingObjective, module), self.batches, self.config.steps, self.config.batch_size)
        (folder.parent / "grounding.json").write_text(json.dumps({"recall": recall, "precision": precision}) + "\n")


@torch.no_grad()
def grounding_scores(module: GroundingObjective, batches: Batches, first: int, size: int, count: int = 8) -> tuple[float, float]:
    """Mean (recall, precision) of presence per token over `count` batches that training did not see."""
    scores = []
    for step in range(first, first + count):
        batch = batches(step, size, slice(0, size))
        vision = module.vision.config
        presence, _ = token_labels(color_mask(batch[RAW], batch["color"]), vision.image // vision.patch // vision.merge)
        tokens = module.tokens(batch).unflatten(0, batch[RAW].shape[:2])
        scores.append(module.head.scores(tokens, presence))
    recall, precision = np.mean(scores, 0)
    return float(recall), float(precision)
