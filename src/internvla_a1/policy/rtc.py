"""Real-time chunking: the new chunk keeps what is already committed and bends away from it smoothly.

`Guidance` (arXiv 2506.07339) does so to any flow, at inference. `Prefix` (arXiv 2512.05964) is for a model that was trained with
committed steps before the steps to come (ModelConfig.prefix_steps), and needs no gradient.

The first paper integrates from noise (tau = 0) to data (tau = 1); this model from noise at t = 1 to data at t = 0 with velocity
noise - action, so tau = 1 - t and the correction changes its sign. Everything here is in the model's own space:
normalised, relative to the state where the mask says so, padded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from internvla_a1.core.errors import ConfigError
from internvla_a1.model.flow import FixedHook, VelocityField


@dataclass(frozen=True)
class RtcSettings:
    """max_guidance: beta of the paper; None takes the number of Euler steps, the largest that cannot overshoot (paper: 5 of 5).

    soft_steps: committed steps behind the frozen ones that guide the new chunk as well, ever less; -1: all there are, as in the
    paper. A policy that is asked many times within a chunk is held back by a long overlap: the tiny one, asked every 0.13 s,
    sorted 10 of 16 parcels from a belt at 0.16 m/s with all of it, 13 without, and 14 with two steps.
    """

    max_guidance: float | None = None
    soft_steps: int = 2

    def __post_init__(self) -> None:
        if self.max_guidance is not None and not 0 < self.max_guidance < math.inf:
            raise ConfigError(f"max_guidance must be above 0, not {self.max_guidance}")
        if self.soft_steps < -1:
            raise ConfigError(f"soft_steps must not be below -1 (all), not {self.soft_steps}")


def soft_mask(horizon: int, frozen: int, overlap: int) -> Tensor:
    """(horizon,) weights: 1 for the frozen steps, exponential decay to the end of the overlap, 0 beyond (paper eq. 5).

    frozen may exceed the horizon and the overlap: all steps are frozen then. Never negative, never rising.
    """
    frozen = min(max(frozen, 0), horizon)
    overlap = min(max(overlap, frozen), horizon)
    step = torch.arange(horizon, dtype=torch.float32)
    c = (overlap - step) / (overlap - frozen + 1)
    decay = c * torch.expm1(c) / math.expm1(1.0)
    return torch.where(step < frozen, 1.0, torch.where(step < overlap, decay, 0.0))


def guidance_weight(t: float, limit: float) -> float:
    """min(beta, (1 - tau) / (tau r^2)) with r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2) and tau = 1 - t."""
    tau = 1.0 - t
    if tau <= 0.0 or t <= 0.0:
        return limit  # both ends diverge
    return min(limit, (tau * tau + t * t) / (tau * t))


@dataclass(frozen=True)
class Guidance(FixedHook):
    """A velocity hook that pulls the first `dims` values of the weighted steps towards `target`.

    target: (horizon, >= dims); weights: (horizon,), see soft_mask. v_guided = v - w(t) J^T diag(weights) (target - x0), where
    x0 = x - t v is the chunk that the model expects from here and J = d x0 / d x.
    """

    target: Tensor
    weights: Tensor
    dims: int
    limit: float

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.target, self.weights

    @property
    def key(self) -> tuple:
        return self.dims, self.limit

    def over(self, tensors: tuple[Tensor, ...]) -> Guidance:
        target, weights = tensors
        return Guidance(target, weights, self.dims, self.limit)

    def __call__(self, velocity: VelocityField, x: Tensor, t: float) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            v = velocity(leaf, t)
            expected = leaf - t * v
            wanted = self.target[None, :, : self.dims].to(x)
            missing = self.weights[None, :, None].to(x) * (wanted - expected[..., : self.dims].detach())
            (pull,) = torch.autograd.grad(expected[..., : self.dims], leaf, grad_outputs=missing)
        return v.detach() - guidance_weight(t, self.limit) * pull


@dataclass(frozen=True)
class Prefix(FixedHook):
    """A velocity hook that shows the model the committed steps as they are, at time 0.

    target: (horizon, action_dim); known: (horizon,) true for committed steps, whose own velocity leads them to the target.
    """

    target: Tensor
    known: Tensor
    differentiates = False

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.target, self.known

    @property
    def key(self) -> tuple:
        return ("prefix",)

    def over(self, tensors: tuple[Tensor, ...]) -> Prefix:
        target, known = tensors
        return Prefix(target, known)

    def __call__(self, velocity: VelocityField, x: Tensor, t: float) -> Tensor:
        known, target = self.known[:, None], self.target.to(x)
        return torch.where(known, (x - target) / t, velocity(torch.where(known, target, x), t, self.known))


def committed_rows(rows: Tensor, horizon: int, frozen: int) -> tuple[Tensor, int]:
    """What is committed on the new chunk's grid: (horizon, dims), and how many rows of it mean something.

    rows: (n, dims). A delay beyond what is committed leaves the arm at rest on the last row, so that row is repeated up to
    `frozen`; a delay beyond the horizon covers the whole chunk.
    """
    known = min(len(rows), horizon)
    covered = max(known, min(frozen, horizon)) if known else 0
    index = torch.arange(horizon).clamp(max=max(known - 1, 0))
    return rows[index] if known else rows.new_zeros(horizon, rows.shape[-1]), covered
