"""A convolutional stem in the place of a vision tower: a few milliseconds a view on one CPU core, and trainable there.

The instruction steers the feature maps (FiLM, arXiv 1709.07871), so that a few hundred thousand weights need not describe everything
in view but only what the task asks about.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from internvla_a1.model.config import StemConfig
from internvla_a1.model.layers import normal


class StemVision(nn.Module):
    """Patch embedding, one 3x3 convolution and a merge, each map scaled and shifted by the instruction."""

    def __init__(self, config: StemConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Conv2d(3 * config.patch**2, config.hidden, 1)
        self.mix = nn.Conv2d(config.hidden, config.hidden, 3, padding=1)
        self.merge = nn.Conv2d(config.hidden, width, config.merge, stride=config.merge)
        self.film = nn.Linear(config.text_tokens * width, 4 * config.hidden)
        self.position_embeddings = nn.Parameter(normal(1, config.tokens, width, std=0.02))
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        """images: (N, 3, H, W) in [0, 1]; text: (N, text_tokens, width), zeros where padded -> (N, tokens, width)."""
        scale1, shift1, scale2, shift2 = self.film(text.flatten(1)).unflatten(-1, (4, -1, 1, 1)).unbind(1)
        x = F.gelu(self.embed(F.pixel_unshuffle(images - 0.4, self.config.patch)))
        x = F.gelu(self.mix(x * (1 + scale1) + shift1))
        x = self.merge(x * (1 + scale2) + shift2)
        return x.flatten(2).transpose(1, 2) + self.position_embeddings
