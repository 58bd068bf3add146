"""Heads that exist in training only: where the instructed colour is, per image token, where its parcel lies, how fast the belt runs.

Grounding was what the small policy lacked (demo.md): without these it goes cleanly to the wrong parcel. Labels of the first come
from the pixels alone, so any colour may be asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST_PIXELS = 3


def token_labels(mask: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """(B, V, H, W) bool -> presence (B, V, grid * grid) and centroid (B, V, grid * grid, 2) within the token, x then y, -1 to 1."""
    size = mask.shape[-1] // grid
    patches = mask[..., : size * grid, : size * grid].float().unflatten(-2, (grid, size)).unflatten(-1, (grid, size)).transpose(-3, -2)
    count = patches.sum((-1, -2))
    place = (torch.arange(size, device=mask.device) - (size - 1) / 2) / (size / 2)
    x = (patches * place).sum((-1, -2)) / count.clamp(min=1)
    y = (patches * place[:, None]).sum((-1, -2)) / count.clamp(min=1)
    return (count >= LEAST_PIXELS).float().flatten(-2), torch.stack([x, y], -1).flatten(-3, -2)


class GroundingHead(nn.Module):
    """Per image token: logit of presence, and the centroid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3)

    def forward(self, tokens: Tensor, presence: Tensor, centroid: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """tokens: (B, V, T, width). Losses as sums and counts: binary cross entropy (positives weigh 6), absolute centroid error."""
        out = self.linear(tokens.float())
        positive = out.new_tensor(6.0)
        bce = F.binary_cross_entropy_with_logits(out[..., 0], presence, pos_weight=positive, reduction="sum")
        offset = ((out[..., 1:] - centroid).abs().sum(-1) * presence).sum()
        return {"ground": (3.0 * bce, presence.new_tensor(float(presence.numel()))), "centroid": (offset, presence.sum())}

    @torch.no_grad()
    def scores(self, tokens: Tensor, presence: Tensor) -> tuple[float, float]:
        """(recall, precision) of presence."""
        found = self.linear(tokens.float())[..., 0] > 0
        right = float((found & (presence > 0)).sum())
        return right / max(1.0, float(presence.sum())), right / max(1.0, float(found.sum()))


class TargetHead(nn.Module):
    """Position of the instructed parcel (x, y, z), read from the mean of the understanding expert's text tokens."""

    def __init__(self, width: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, und_out: Tensor, text: Tensor, target: Tensor, known: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """und_out: (B, P, width); text: (B, P) bool; target: (B, 3) m; known: (B,) bool, false where there is no parcel."""
        weight = text[..., None].float()
        pooled = (und_out.float() * weight).sum(1) / weight.sum(1).clamp(min=1)
        error = F.smooth_l1_loss(self.linear(pooled), (target - self.mean) / self.std, beta=0.1, reduction="none")
        return {"target": ((error.mean(-1) * known).sum(), known.float().sum())}


class SpeedHead(nn.Module):
    """Speed of the belt, read from the mean of the generation expert's tokens: what the past frame is there for.

    The action and foresight losses alone taught it slowly: the policy closed its fingers where a belt of middle speed would have
    brought the parcel.
    """

    def __init__(self, width: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, gen_in: Tensor, speed: Tensor, known: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """gen_in: (B, M, width); speed: (B,) m/s; known: (B,) bool, false without data or without a past frame."""
        error = F.smooth_l1_loss(self.predict(gen_in), (speed - self.mean) / self.std, beta=0.1, reduction="none")
        return {"speed": ((error * known).sum(), known.float().sum())}

    def predict(self, gen_in: Tensor) -> Tensor:
        """(B, M, width) -> (B,) in standard deviations from the mean."""
        return self.linear(self.norm(gen_in.float().mean(1)))[:, 0]
