"""The last stage of a small policy: sharper foresight, with every action left as it is.

The action expert reads the generation expert's keys and values layer by layer, so what comes after those of the last layer serves the
prediction alone, as does the tokenizer's decoder. These are trained on; all the rest, and so the policy, stays bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from internvla_a1.core.errors import ConfigError
from internvla_a1.model import InternVLAA1
from internvla_a1.model.inputs import read_batch
from internvla_a1.train.batches import FUTURE, LATENTS, CachedBatches
from internvla_a1.train.config import TrainConfig
from internvla_a1.train.folder_batches import Batches
from internvla_a1.train.materials import Materials, gather, make_batches
from internvla_a1.train.objective import Parts, gen_weights, joint_layers
from internvla_a1.train.policy_task import export_policy
from internvla_a1.train.small_tasks import colored

RESTORED_EVERY = 3  # of those once more from the true latents, odd as well: the decoder must not forget them
DRAWN_EVERY = 5  # of the pictures of a batch, odd, so that each of two views has its turn: decoding costs far more than predicting


def unseen_by_actions(model: InternVLAA1) -> list[nn.Module]:
    """The modules that only the predicted pictures depend on."""
    last, head = model.mixture.gen.stack[-1], model.latent_head
    own = [last.self_attn.q_proj, last.self_attn.q_norm, last.self_attn.o_proj, last.post_attention_layernorm, last.mlp]
    out = [model.mixture.gen.norm, head.upsample_conv, head.gen_out_layer_norm, head.gen_out_proj, head.gen_keep_proj]
    return [m for m in (*own, *out, model.codec.post_quant_conv, model.codec.decoder) if m is not None]


def predicted_latents(model: InternVLAA1, batch: Mapping[str, Tensor], latents: Tensor, compiled: bool = False) -> Tensor:
    """latents: (B, V, 3, 16, h, w) of past, now and future -> (N, 16, h, w) predicted for the existing views."""
    inputs = read_batch(model.config, batch, model.device)
    layout = model.layout(inputs, published=False)
    existing = latents.flatten(0, 1)[layout.views]
    xs = [model.embed_prefix(inputs, layout), model.embed_middle(existing[:, :2], layout)]
    rope, mask = (layout.cos[:, :, : layout.past], layout.sin[:, :, : layout.past]), layout.block_mask()
    mask = mask[:, :, : layout.past, : layout.past]
    (_, gen), _ = joint_layers(model.mixture, xs, rope, mask, want_und=False, recompute=False, compiled=compiled)
    gen = model.mixture.gen.norm(gen)
    rows = gen.reshape(layout.batch * len(layout.kept_views), -1, gen.shape[-1])[layout.gen_rows]
    return model.latent_head.predict(rows, existing[:, 1])


class ForesightObjective(nn.Module):
    """Squared latent errors, and squared errors of the pictures decoded from predicted and from true latents.

    No picture error reaches the prediction: it stays the one that is closest in latents, as published, and the decoder learns what to
    draw for a future that is not certain.
    """

    def __init__(self, model: InternVLAA1, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        model.requires_grad_(False)
        for part in unseen_by_actions(model):
            part.requires_grad_(True)

    def forward(self, batch: Mapping[str, Tensor]) -> Parts:
        model, loss = self.model, self.config.loss
        latents, pictures = batch[LATENTS], batch[FUTURE]
        kept = torch.stack([batch[f"observation.images.image{v}_mask"] for v in range(model.config.views)], 1).flatten()
        future, target = latents[:, :, 2].flatten(0, 1)[kept], pictures.flatten(0, 1)[kept]
        predicted = predicted_latents(model, batch, latents, self.config.compile)
        wrong = (predicted - future) ** 2
        weights = gen_weights(batch, latents, loss)
        cells = torch.ones_like(wrong[:, :1]) if weights is None else weights.flatten(0, 1)[kept][:, None]
        some, fewer = slice(None, None, DRAWN_EVERY), slice(None, None, DRAWN_EVERY * RESTORED_EVERY)
        target = torch.cat([target[some], target[fewer]])
        drawn = model.codec.decode(torch.cat([predicted.detach()[some], future[fewer]])).float()
        weight = 1 + loss.object_weight * colored(target, drawn)
        error = (drawn - (target * 2 - 1)) ** 2 * weight
        foreseen, restored = error[: len(predicted[some])], error[len(predicted[some]) :]
        counts = [error.new_tensor(float(part.numel())) for part in (foreseen, restored)]
        present = latents[:, :, 1].flatten(0, 1)[kept]
        return {
            "gen": ((wrong * cells).sum(), cells.sum() * wrong.shape[1]),
            "plain": (wrong.detach().sum(), wrong.new_tensor(float(wrong.numel()))),
            "copy": (((present - future) ** 2).sum(), wrong.new_tensor(float(wrong.numel()))),
            "foreseen": (foreseen.sum(), counts[0]),
            "restored": (restored.sum(), counts[1]),
        }


class ForesightTask:
    """loop.Task for `kind: foresight`."""

    def __init__(self, config: TrainConfig) -> None:
        if not config.data.cache or not config.model.init:
            raise ConfigError("kind: foresight needs data.cache, and model.init: a trained policy")
        self.config = config
        self.materials: Materials = gather(config)
        model = self.materials.model
        model.set_attention("sdpa" if torch.cuda.is_available() else "products")
        batches = make_batches(config, self.materials, latents=True)
        if not isinstance(batches, CachedBatches):
            raise ConfigError("kind: foresight takes the pictures of data.cache, which a Qwen vision tower does not use")
        batches.future_side = model.config.codec.image
        self.batches: Batches = batches
        self.module = ForesightObjective(model, config)
        self.weights = {"gen": 1.0, "plain": 0.0, "copy": 0.0, "foreseen": 1.0, "restored": 1.0}

    def export(self, module: nn.Module, folder: Path) -> None:
        """A weights folder that NetworkPolicy opens."""
        export_policy(cast(ForesightObjective, module).model, self.config, self.materials, folder)
