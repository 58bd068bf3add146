"""Python's side of codec.cpp: the encoder of a small image tokenizer as a list of steps between a few feature maps."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from internvla_a1.model.config import CodecConfig
from internvla_a1.model.cpu.library import small_codec_library
from internvla_a1.model.cpu.small import GRAIN, packed

if TYPE_CHECKING:
    from internvla_a1.model.cosmos import CosmosCodec, ResBlock

CONV, DOWN, POINT, NORM, ATTEND = range(5)  # codec.cpp: Kind
MOST_WIDTH = 128  # beyond, torch's convolutions are as fast
Map = tuple[int, int]  # which one, and its channels


class Step(ctypes.Structure):
    """codec.cpp: Step."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("kind", "source", "to", "inputs", "outputs", "side", "flag")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "weight2", "bias2")),
    ]


class Encoder(ctypes.Structure):
    """codec.cpp: Encoder."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("steps", "maps", "map_floats", "side", "latent")),
        ("step", ctypes.POINTER(Step)),
        ("gain", ctypes.c_float),
    ]


def suits(config: CodecConfig) -> bool:
    """Is this a tokenizer that codec.cpp can encode with, and so small that it should?"""
    widths = [config.channels * m for m in (1, *config.multipliers)]
    fits = config.image == config.grid * config.compression and not config.grid**2 % GRAIN
    return fits and max(widths) <= MOST_WIDTH and not any(w % GRAIN for w in widths)


class Plan:
    """The steps of one encoder with its weights packed, kept alive with their addresses.

    Three maps: 0 holds what is carried on, 1 what a convolution reads, 2 what it makes; 0 and 2 change places with a shortcut.
    """

    def __init__(self, codec: CosmosCodec, config: CodecConfig, block: int) -> None:
        self._block, self._tensors, self._steps = block, list[Tensor](), list[Step]()
        first_side = config.grid << config.downsamples
        self._side, self._floats, self._work = first_side, 0, 0
        encoder: Any = codec.encoder  # of its parts torch says no more than that they are modules
        self._conv(CONV, 0, 2, encoder.conv_in.weight, encoder.conv_in.bias)
        here = (2, encoder.conv_in.out_channels)
        for level in encoder.down:
            for residual in level.block:
                here = self._residual(residual, here)
            if not isinstance(level.downsample, nn.Identity):
                self._side //= 2
                there = 2 - here[0]
                self._conv(DOWN, here[0], there, level.downsample.conv.weight, level.downsample.conv.bias)
                here = (there, here[1])
        here = self._residual(encoder.mid.block_1, here)
        self._attend(encoder.mid.attn_1, here)
        here = self._residual(encoder.mid.block_2, here)
        self._norm(encoder.norm_out, here, 1, silu=True)
        # the last convolution takes the linear map behind it in
        quant: Any = codec.quant_conv
        last = quant.weight.float()[:, :, 0, 0]
        bias = last @ encoder.conv_out.bias.float() + quant.bias.float()
        weight = torch.einsum("lo,opyx->lpyx", last, encoder.conv_out.weight.float())
        spare = -len(last) % block
        self._conv(CONV, 1, here[0], nn.functional.pad(weight, (0, 0, 0, 0, 0, 0, 0, spare)), nn.functional.pad(bias, (0, spare)))
        steps = (Step * len(self._steps))(*self._steps)
        self.encoder = Encoder(len(steps), 3, self._floats, first_side, len(last), steps, float(encoder.patcher.gain))
        self.latent_shape = (len(last), config.grid, config.grid)
        self.memory = torch.empty(3 * self._floats + self._work)

    def _step(self, kind: int, source: int, to: int, sizes: tuple[int, int], flag: bool, *tensors: Tensor) -> None:
        side = self._side * 2 if kind == DOWN else self._side
        self._floats = max(self._floats, (side + 2) ** 2 * sizes[0], (self._side + 2) ** 2 * sizes[1])
        for tensor in tensors:
            self._tensors.append(tensor.detach().float().contiguous())
        addresses = [t.data_ptr() for t in self._tensors[len(self._tensors) - len(tensors) :]]
        self._steps.append(Step(kind, source, to, *sizes, self._side, int(flag), *addresses))

    def _conv(self, kind: int, source: int, to: int, weight: Tensor, bias: Tensor | None, add: bool = False) -> None:
        assert bias is not None
        outputs, inputs = weight.shape[:2]
        matrix = weight.detach().movedim(0, -1).movedim(0, -2).reshape(-1, outputs)  # (rows, columns, inputs) in one, outputs
        self._step(kind, source, to, (inputs, outputs), add, packed(matrix, self._block), bias)

    def _norm(self, norm: nn.GroupNorm, source: Map, to: int, silu: bool) -> None:
        self._work = max(self._work, 3 * source[1])
        self._step(NORM, source[0], to, (source[1], source[1]), silu, norm.weight, norm.bias)

    def _residual(self, block: ResBlock, x: Map) -> Map:
        """-> where x and what the block adds to it are."""
        free, out = 2 - x[0], block.conv1.weight.shape[0]
        self._norm(block.norm1, x, 1, silu=True)
        self._conv(CONV, 1, free, block.conv1.weight, block.conv1.bias)
        self._norm(block.norm2, (free, out), 1, silu=True)
        if not isinstance(block.nin_shortcut, nn.Identity):
            self._conv(POINT, x[0], free, block.nin_shortcut.weight, block.nin_shortcut.bias)
            x = (free, out)
        self._conv(CONV, 1, x[0], block.conv2.weight, block.conv2.bias, add=True)
        return x

    def _attend(self, attention: Any, x: Map) -> None:
        cells, width = self._side**2, x[1]
        self._work = max(self._work, cells * (5 * width + cells))
        self._norm(attention.norm, x, 1, silu=False)
        weight = torch.cat([part.weight for part in (attention.q, attention.k, attention.v)])[:, :, 0, 0]
        bias = torch.cat([part.bias for part in (attention.q, attention.k, attention.v)])
        behind = packed(attention.proj_out.weight[:, :, 0, 0].t(), self._block)
        self._step(ATTEND, 1, x[0], (width, width), True, packed(weight.t(), self._block), bias, behind, attention.proj_out.bias)


class SmallEncoderKernels:
    """Runs `CosmosCodec.encode` of float32 images on one thread; no gradients."""

    def __init__(self, config: CodecConfig) -> None:
        self.config = config
        self._plan: Plan | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return SmallEncoderKernels, (self.config,)  # addresses mean nothing to a copy

    def forget(self) -> None:
        """Weights have changed."""
        self._plan = None

    def takes(self, images: Tensor) -> bool:
        shape = (3, self.config.image, self.config.image)
        ours = images.device.type == "cpu" and images.dtype == torch.float32 and tuple(images.shape[1:]) == shape
        return ours and not torch.is_grad_enabled() and not torch.compiler.is_compiling()

    def encode(self, codec: CosmosCodec, images: Tensor) -> Tensor:
        """See CosmosCodec.encode."""
        library = small_codec_library()
        assert library is not None, "ask small_codec_library() first"
        if self._plan is None:
            self._plan = Plan(codec, self.config, library.codec_block())
        plan, images = self._plan, images.contiguous()
        latents = images.new_empty(len(images), *plan.latent_shape)
        library.codec_encode(
            ctypes.byref(plan.encoder), ctypes.c_void_p(images.data_ptr()), ctypes.c_long(len(images)),
            ctypes.c_void_p(latents.data_ptr()), ctypes.c_void_p(plan.memory.data_ptr()),
        )  # fmt: skip
        return latents
