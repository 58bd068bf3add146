"""The kernels of small image tokenizers against torch on the same weights, and when they keep out."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from model_helpers import small_model

from internvla_a1.model.config import CodecConfig
from internvla_a1.model.cosmos import CosmosCodec
from internvla_a1.model.cpu.codec import SmallEncoderKernels, suits
from internvla_a1.model.cpu.library import SWITCH, forget, small_codec_library
from internvla_a1.model.example import example_batch
from internvla_a1.model.loading import prepare

SMALL = CodecConfig(channels=32, multipliers=(1, 2), res_blocks=1, latent=16, downsamples=1, image=64)
needs_kernels = pytest.mark.skipif(
    small_codec_library() is None, reason="neither AVX2 nor AVX-512, or no C++ compiler: torch computes instead"
)


def codec(config: CodecConfig) -> CosmosCodec:
    """Biases, norms and wavelets away from where they begin, so that none can be left out unseen."""
    torch.manual_seed(0)
    made = CosmosCodec(config).requires_grad_(False)
    for parameter in made.parameters():
        if parameter.ndim == 1:
            parameter += 0.2 * torch.randn_like(parameter)
    assert suits(config)
    made.kernels = SmallEncoderKernels(config)
    return made


def images(config: CodecConfig, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, config.image, config.image, generator=torch.Generator().manual_seed(1)) * 2 - 1


def by_torch(codec: CosmosCodec, pictures: torch.Tensor) -> torch.Tensor:
    return codec.quant_conv(codec.encoder(pictures))


@needs_kernels
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        CodecConfig(channels=32, multipliers=(1, 2, 4), res_blocks=1, latent=24, downsamples=2, image=128),  # the shipped policy's
        CodecConfig(channels=64, multipliers=(1, 2), res_blocks=2, latent=40, downsamples=1, image=64),
        CodecConfig(channels=32, multipliers=(3,), res_blocks=3, latent=7, downsamples=0, image=32),
        CodecConfig(channels=96, multipliers=(1, 1), res_blocks=0, latent=16, downsamples=1, image=128),
    ],
)
@torch.no_grad()
def test_latents_are_those_of_torch(config: CodecConfig) -> None:
    made, pictures = codec(config), images(config, 3)
    found, wanted = made.encode(pictures), by_torch(made, pictures)
    assert float(wanted.std()) > 0.05 and found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(made.encode(pictures[1:2]), found[1:2], atol=0, rtol=0)  # nothing is left over from other images


@needs_kernels
@pytest.mark.parametrize("value", [-1.0, 0.0, 0.3])
@torch.no_grad()
def test_a_picture_of_one_colour_is_encoded_as_exactly_as_by_torch(value: float) -> None:
    """Of such a map GroupNorm divides by next to nothing, so that what sums in float32 are off by would show."""
    made = codec(replace(SMALL, image=256))
    pictures = torch.full((1, 3, 256, 256), value)
    found, exact = made.encode(pictures), by_torch(copy.deepcopy(made).double(), pictures.double())
    error, torchs = (float((latents - exact).abs().max()) for latents in (found, by_torch(made, pictures)))
    assert error < max(4 * torchs, 2e-5), (error, torchs)


@needs_kernels
@torch.no_grad()
def test_a_pixel_that_is_not_finite_comes_out_as_one() -> None:
    made, pictures = codec(SMALL), images(SMALL)
    pictures[1, 2, 5, 7] = float("nan")
    found = made.encode(pictures)
    assert bool(torch.isfinite(found[0]).all()) and not bool(torch.isfinite(found[1]).any())


@needs_kernels
@torch.no_grad()
def test_changed_weights_are_seen_after_forgetting_the_old_and_copies_work() -> None:
    model = small_model("tiny", codec=SMALL)
    assert isinstance(model.codec.kernels, SmallEncoderKernels)
    pictures = images(SMALL)
    before = model.codec.encode(pictures)
    model.codec.encoder.mid.attn_1.v.weight.mul_(2.0)
    model.codec.encoder.conv_in.weight.mul_(1.5)
    model.forget_weights()
    after = model.codec.encode(pictures)
    torch.testing.assert_close(after, by_torch(model.codec, pictures), atol=2e-5, rtol=1e-5)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(copy.deepcopy(model).codec.encode(pictures), after, atol=0, rtol=0)


@needs_kernels
def test_gradients_other_sizes_and_other_numbers_are_torchs() -> None:
    made, pictures = codec(SMALL), images(SMALL).requires_grad_(True)
    made.encode(pictures).sum().backward()
    assert pictures.grad is not None and bool(pictures.grad.any())
    with torch.no_grad():
        larger = images(replace(SMALL, image=128))
        torch.testing.assert_close(made.encode(larger), by_torch(made, larger), atol=0, rtol=0)
    assert prepare(small_model("tiny", codec=SMALL), torch.device("cpu"), "bfloat16").codec.kernels is None


@needs_kernels
@torch.no_grad()
def test_a_chunk_is_that_of_torch() -> None:
    fast = small_model("tiny", codec=SMALL)
    plain = prepare(copy.deepcopy(fast), torch.device("cpu"), torch.float32, kernels=False)
    assert fast.codec.kernels is not None and plain.codec.kernels is None
    batch, noise = example_batch(fast.config), torch.randn(1, fast.config.chunk, fast.config.action_dim)
    found, wanted = (model.predict(batch, noise, foresight=True) for model in (fast, plain))
    torch.testing.assert_close(found.actions, wanted.actions, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.now_latents, wanted.now_latents, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"channels": 48}, {"multipliers": (1, 8)}, {"image": 72}, {"image": 24}, {"channels": 128, "multipliers": (2, 4, 4)}]
)
def test_a_tokenizer_of_other_sizes_is_left_to_torch(changes: dict) -> None:
    assert suits(SMALL) and not suits(replace(SMALL, **changes))


def test_switched_off_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    forget()
    try:
        assert small_model("tiny", codec=SMALL).codec.kernels is None
    finally:
        monkeypatch.undo()
        forget()
