"""Cosmos CI image tokenizer, continuous, 8 x 8 (model.md section 1): Haar wavelets, a small convolutional autoencoder, no sampling.

Submodule names are those of the published weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from internvla_a1.model.config import CodecConfig

if TYPE_CHECKING:
    from internvla_a1.model.cpu.codec import SmallEncoderKernels

HAAR_LEVELS = 2


class Haar(nn.Module):
    """The filter taps, [1/sqrt 2] * 2. Published files hold them rounded to bfloat16 (0.70703125), which moves latents by 3e-4: so the
    file's value is used, and the exact one where a file has none."""

    def __init__(self) -> None:
        super().__init__()
        self.wavelets = nn.Parameter(torch.full((2,), 0.5**0.5), requires_grad=False)

    @property
    def gain(self) -> Tensor:
        """Of one level: both axes, and the published halving."""
        return self.wavelets.float().square()[0] / 2

    def split(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 48, H/4, W/4)."""
        gain = self.gain.to(x.dtype)
        for _ in range(HAAR_LEVELS):
            x = haar(x) * gain
        return x

    def join(self, x: Tensor) -> Tensor:
        """(N, 48, H, W) -> (N, 3, 4H, 4W)."""
        gain = self.gain.to(x.dtype) * 4
        for _ in range(HAAR_LEVELS):
            x = unhaar(x) * gain
        return x


def haar(x: Tensor) -> Tensor:
    """One level of sums and differences, (N, C, H, W) -> (N, 4C, H/2, W/2): blocks LL, LH, HL, HH (first letter along the width)."""
    a, b = x[..., 0::2], x[..., 1::2]
    low, high = a + b, a - b
    bands = []
    for band in (low, high):
        top, bottom = band[..., 0::2, :], band[..., 1::2, :]
        bands += [top + bottom, top - bottom]
    return torch.cat(bands, dim=1)


def unhaar(x: Tensor) -> Tensor:
    """The transpose of `haar`: (N, 4C, H, W) -> (N, C, 2H, 2W)."""
    ll, lh, hl, hh = x.chunk(4, dim=1)
    low = torch.stack([ll + lh, ll - lh], dim=3).flatten(2, 3)
    high = torch.stack([hl + hh, hl - hh], dim=3).flatten(2, 3)
    return torch.stack([low + high, low - high], dim=4).flatten(3, 4)


def laid_out(x: Tensor, weight: Tensor) -> Tensor:
    """x in the memory order of a convolution's weight: with channels last where `precision.place` has put the weights so."""
    last = torch.channels_last
    return x.contiguous(memory_format=last) if weight.is_contiguous(memory_format=last) and not weight.is_contiguous() else x


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResBlock(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(channels), nn.Conv2d(channels, out, 3, padding=1)
        self.norm2, self.conv2 = norm(out), nn.Conv2d(out, out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class SpatialAttention(nn.Module):
    """One head over all cells of the coarsest map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (p(h).flatten(2).transpose(1, 2)[:, None] for p in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).unflatten(2, tuple(x.shape[2:]))
        return x + self.proj_out(attended)


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = ResBlock(channels, channels), SpatialAttention(channels), ResBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Resample(nn.Module):
    """`conv` after zero padding right and bottom (down) or after doubling the cells (up)."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if up else nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    def __init__(self, channels: int, out: int, blocks: int, resample: str | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResBlock(channels if b == 0 else out, out) for b in range(blocks))
        self.downsample = Resample(out, up=False) if resample == "down" else nn.Identity()
        self.upsample = Resample(out, up=True) if resample == "up" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.upsample(self.downsample(x))


class Encoder(nn.Module):
    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in (1, *config.multipliers)]
        self.patcher = Haar()
        self.conv_in = nn.Conv2d(3 * 4**HAAR_LEVELS, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            Level(widths[i], widths[i + 1], config.res_blocks, "down" if i < config.downsamples else None)
            for i in range(len(config.multipliers))
        )
        self.mid = Middle(widths[-1])
        self.norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], config.latent, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(laid_out(self.patcher.split(images), self.conv_in.weight))
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Mirror of the encoder: levels run from the last to the first, with one more block each."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        count = len(widths)
        self.conv_in = nn.Conv2d(config.latent, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(
            Level(widths[min(i + 1, count - 1)], widths[i], config.res_blocks + 1, "up" if i >= count - config.downsamples else None)
            for i in range(count)
        )
        self.norm_out, self.conv_out = norm(widths[0]), nn.Conv2d(widths[0], 3 * 4**HAAR_LEVELS, 3, padding=1)
        self.unpatcher = Haar()

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(laid_out(latents, self.conv_in.weight)))
        for level in reversed(self.up):
            x = level(x)
        return self.unpatcher.join(self.conv_out(F.silu(self.norm_out(x))))


class CosmosCodec(nn.Module):
    """Images (N, 3, H, W) in [-1, 1] <-> latents (N, 16, H/8, W/8)."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.encoder, self.quant_conv = Encoder(config), nn.Conv2d(config.latent, config.latent, 1)
        self.post_quant_conv, self.decoder = nn.Conv2d(config.latent, config.latent, 1), Decoder(config)
        self.kernels: SmallEncoderKernels | None = None  # set by precision.place

    def encode(self, images: Tensor) -> Tensor:
        if self.kernels is not None and self.kernels.takes(images):
            return self.kernels.encode(self, images)
        return self.quant_conv(self.encoder(images.to(self.quant_conv.weight.dtype)))

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents.to(self.quant_conv.weight.dtype)))
