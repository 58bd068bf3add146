"""Optimiser and learning rate of the published runs (model.md section 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from internvla_a1.train.config import OptimConfig
from internvla_a1.train.muon import Muon

# of names of parameters that read or write what is not a hidden state: a direction of these is not like any other
AT_THE_ENDS = ("embed", "conv_in", "conv_out", "in_proj", "out_proj", "head")


def rate(step: int, config: OptimConfig, decay_steps: int) -> float:
    """Learning rate of step 0, 1, 2...: linear from lr / (warmup + 1) to lr over `warmup` steps, on a cosine to end_lr at decay_steps."""
    if step < config.warmup:
        return config.lr * (1 + step) / (config.warmup + 1)
    share = min(step, decay_steps) / max(decay_steps, 1)
    return config.end_lr + (config.lr - config.end_lr) * 0.5 * (1 + math.cos(math.pi * share))


def optimizer(parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay acts on matrices and kernels only.

    With `muon` the matrices and kernels inside the network are Muon's: all but those named in AT_THE_ENDS. A group's `scale` is its
    learning rate as a multiple of `lr`.
    """
    named = [(n, p) for n, p in parameters if p.requires_grad]
    inner = [p for n, p in named if config.muon and p.dim() > 1 and not any(part in n for part in AT_THE_ENDS)]
    theirs = {id(p) for p in inner}
    groups = [
        {"params": [p for _, p in named if p.dim() > 1 and id(p) not in theirs], "weight_decay": config.weight_decay},
        {"params": [p for _, p in named if p.dim() <= 1], "weight_decay": 0.0},
    ]
    common: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps, "fused": True}
    if not config.muon:
        return torch.optim.AdamW([{"scale": 1.0, **g} for g in groups if g["params"]], **common)
    groups.append({"params": inner, "weight_decay": config.weight_decay, "muon": True, "scale": config.muon / config.lr})
    return Muon([{"scale": 1.0, **g} for g in groups if g["params"]], **common)


class MovingAverage:
    """Exponential moving average of the floating-point tensors of a model, kept in float32; slow start min(decay, n / (n + 50))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.count = decay, 0
        self.shadow = {k: v.detach().clone().float() for k, v in _floating(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.count += 1
        weight = 1.0 - min(self.decay, self.count / (self.count + 50.0))
        for name, value in _floating(model):
            self.shadow[name].lerp_(value.detach().float(), weight)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Replace the model's weights by the averages."""
        for name, value in _floating(model):
            value.copy_(self.shadow[name])


def _floating(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(n, p) for n, p in model.named_parameters() if p.is_floating_point()]
