"""Arms of the foresight study: the same model with one thing taken away, in training and in inference alike.

`no_foresight_loss` is a loss weight of 0 and `no_history` a past that equals the present: neither changes the model. The other
two change what the state and action tokens may see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from internvla_a1.core.errors import CheckpointError, ConfigError
from internvla_a1.model.inputs import Inputs
from internvla_a1.model.layout import Layout
from internvla_a1.model.network import InternVLAA1

ABLATIONS = ("full", "no_foresight_loss", "no_foresight_expert", "no_history", "pooled_action_expert")
POOLED = "pooled_proj"  # the module that one arm has on top; its weights lie beside the weights folder, see split_off


@dataclass(frozen=True)
class BlindLayout(Layout):
    """State and actions do not see past tokens from `blind_from` on: the middle, or everything."""

    blind_from: int = 0

    def key_mask(self, end: int) -> Tensor | None:
        """(B, 1, 1, end); the phases before the state token are as they were."""
        if end <= self.past:
            return super().key_mask(end)
        mask = self.valid[:, None, None, :end].clone()
        mask[..., self.blind_from : self.past] = False
        return mask

    def block_mask(self) -> Tensor:
        """(B, 1, length, length) of the joint pass."""
        mask = super().block_mask().clone()
        mask[:, :, self.past :, self.blind_from : self.past] = False
        return mask


def ablate(model: InternVLAA1, name: str) -> InternVLAA1:
    """Turn a model into an arm of the study, in place. Raises ConfigError for an unknown name."""
    if name not in ABLATIONS:
        raise ConfigError.asked("ablation", name, ABLATIONS)
    if name == "no_foresight_expert":
        _blind(model, lambda layout: len(layout.prefix))
    elif name == "pooled_action_expert":
        setattr(model, POOLED, nn.Linear(model.config.und.hidden, model.config.act.hidden))
        _blind(model, lambda layout: 0)
        _pool(model)
    return model


def _blind(model: InternVLAA1, blind_from: Callable[[Layout], int]) -> None:
    plain = model.layout
    made: dict[int, tuple[Layout, BlindLayout]] = {}

    def layout(inputs: Inputs, published: bool, drop: bool = True) -> Layout:
        found = plain(inputs, published, drop)
        if id(found) not in made or made[id(found)][0] is not found:
            values: dict[str, Any] = {f.name: getattr(found, f.name) for f in fields(Layout)}
            made[id(found)] = (found, BlindLayout(**values, blind_from=blind_from(found)))
        return made[id(found)][1]

    model.layout = layout  # type: ignore[method-assign]


def _pool(model: InternVLAA1) -> None:
    """The state token carries the mean of the understanding expert's output: an action expert of its own, fed one pooled vector."""
    plain = model.embed_state

    def embed_state(inputs: Inputs) -> Tensor:
        layout = model.layout(inputs, published=False)
        count = len(layout.prefix)
        valid = layout.valid[:, :count]
        x = model.embed_prefix(inputs, layout)
        rope = layout.rope(0, count)
        for layer in model.mixture.und.stack:
            h = layer.input_layernorm(x)
            keys, values = layer.self_attn.keys_values(h, rope)
            x = layer.finish(x, model.mixture.attend(layer.self_attn.queries(h, rope), keys, values, valid[:, None, None, :]))
        weight = valid[..., None].to(x.dtype)
        pooled = (model.mixture.und.norm(x) * weight).sum(1) / weight.sum(1).clamp(min=1)
        return plain(inputs) + model.get_submodule(POOLED)(pooled)[:, None].to(model.compute_dtype)

    model.embed_state = embed_state  # type: ignore[method-assign]


def ablated_latents(latents: Tensor, name: str) -> Tensor:
    """(B, V, 3, ...) of past, now and future; without history the past is the present."""
    if name != "no_history":
        return latents
    return torch.cat([latents[:, :, 1:2], latents[:, :, 1:]], dim=2)


def split_off(model: InternVLAA1, folder: Path) -> None:
    """Take what the arm has on top of the architecture out of the model, into <folder>/ablation.safetensors; nothing for most arms."""
    extra = getattr(model, POOLED, None)
    if extra is not None:
        save_file({k: v.detach().contiguous() for k, v in extra.state_dict().items()}, str(folder / "ablation.safetensors"))
        delattr(model, POOLED)


def restore(model: InternVLAA1, name: str, folder: Path) -> InternVLAA1:
    """`ablate` a loaded model, with what `split_off` put into `folder`. Raises CheckpointError where that is missing."""
    ablate(model, name)
    if hasattr(model, POOLED):
        path = folder / "ablation.safetensors"
        try:
            model.get_submodule(POOLED).load_state_dict(load_file(str(path)))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{path}: {error}") from error
        model.get_submodule(POOLED).requires_grad_(False)
    return model
