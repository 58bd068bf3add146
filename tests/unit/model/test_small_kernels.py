"""The kernels of small models against torch on the same weights: chunks, guided chunks, gradients, and when they keep out."""

from __future__ import annotations

import copy

import pytest
import torch
from model_helpers import noise_for, small_model
from torch import Tensor

from internvla_a1.model import InternVLAA1
from internvla_a1.model.cpu.library import SWITCH, small_library
from internvla_a1.model.cpu.small import SmallExpertKernels
from internvla_a1.model.denoiser import Denoiser
from internvla_a1.model.example import example_batch
from internvla_a1.model.inputs import read_batch
from internvla_a1.model.loading import prepare

CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(small_library() is None, reason="neither AVX2 nor AVX-512, or no C++ compiler: torch computes instead")


def pair(**changes: object) -> tuple[InternVLAA1, InternVLAA1]:
    """The same weights with kernels and without; norms away from 1."""
    torch.manual_seed(0)
    fast = small_model("tiny", **changes)
    for name, parameter in fast.named_parameters():
        if "norm" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    fast.forget_weights()
    plain = prepare(copy.deepcopy(fast), CPU, torch.float32, kernels=False)
    plain.mixture.kernels = None
    assert isinstance(fast.mixture.kernels, SmallExpertKernels)
    return fast, plain


def denoiser(model: InternVLAA1, words: int) -> Denoiser:
    with torch.no_grad():
        return model.encode(read_batch(model.config, example_batch(model.config, words=words), CPU)).denoiser


@needs_kernels
@pytest.mark.parametrize("words", [1, 5, 12])
@pytest.mark.parametrize("heads", [(4, 2), (4, 1), (2, 2)])
def test_chunks_and_foresight_are_those_of_torch(words: int, heads: tuple[int, int]) -> None:
    fast, plain = pair(heads=heads[0], kv_heads=heads[1])
    batch, noise = example_batch(fast.config, words=words), noise_for(fast)
    for _ in range(2):
        found, wanted = (model.predict(batch, noise, foresight=True) for model in (fast, plain))
        assert torch.allclose(found.padded_actions, wanted.padded_actions, atol=1e-5)
        assert torch.allclose(found.latents, wanted.latents, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("chunk", [1, 6, 16, 19])
def test_gradients_of_the_velocity_are_those_of_torch(chunk: int) -> None:
    fast, plain = pair(chunk=chunk)
    x = noise_for(fast)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))

    def gradient(model: InternVLAA1) -> Tensor:
        steps, leaf = denoiser(model, 5), x.clone().requires_grad_(True)
        velocity = steps.step(leaf, steps.time_bias(torch.tensor([0.4]), False))
        return torch.autograd.grad(velocity, leaf, direction)[0]

    found, wanted = gradient(fast), gradient(plain)
    assert float(wanted.abs().max()) > 0.1 and torch.allclose(found, wanted, atol=1e-5)


@needs_kernels
def test_a_gradient_may_be_asked_for_after_another_step() -> None:
    """The next step's keys and values lie in the cache by then."""
    fast, plain = pair()
    x = noise_for(fast)

    def gradient(model: InternVLAA1) -> Tensor:
        steps, leaf = denoiser(model, 5), x.clone().requires_grad_(True)
        velocity = steps.step(leaf, steps.time_bias(torch.tensor([0.4]), False))
        steps.step(2 * x, steps.time_bias(torch.tensor([0.2]), False))
        return torch.autograd.grad(velocity.square().sum(), leaf)[0]

    assert torch.allclose(gradient(fast), gradient(plain), atol=1e-4, rtol=1e-4)


@needs_kernels
def test_a_value_that_is_not_finite_comes_out_as_one() -> None:
    fast, _ = pair()
    noise = noise_for(fast)
    noise[0, 2, 1] = float("nan")
    assert not bool(torch.isfinite(fast.predict(example_batch(fast.config), noise).padded_actions).all())


@needs_kernels
def test_changed_weights_are_seen_after_forgetting_the_old() -> None:
    fast, plain = pair()
    batch, noise = example_batch(fast.config), noise_for(fast)
    before = fast.predict(batch, noise).actions
    for model in (fast, plain):
        model.mixture.act.layers[0].mlp.up_proj.weight.data.mul_(1.5)
        model.forget_weights()
    after = fast.predict(batch, noise).actions
    assert torch.allclose(after, plain.predict(batch, noise).actions, atol=1e-5) and not torch.allclose(before, after, atol=1e-3)


@needs_kernels
def test_copies_masks_batches_and_gradients_of_weights_are_torchs_or_right() -> None:
    fast, plain = pair()
    batch, noise = example_batch(fast.config), noise_for(fast)
    wanted = plain.predict(batch, noise).actions
    copied = copy.deepcopy(fast)
    assert torch.allclose(copied.predict(batch, noise).actions, wanted, atol=1e-5)
    two = {key: torch.cat([value, value]) for key, value in batch.items()}
    assert torch.allclose(fast.predict(two, noise.expand(2, -1, -1)).actions[1:], wanted, atol=1e-5)
    steps = denoiser(fast, 5)
    fast.mixture.requires_grad_(True)
    steps.step(noise.clone().requires_grad_(True), steps.time_bias(torch.tensor([0.4]), False)).sum().backward()
    gradient = fast.mixture.act.layers[0].mlp.up_proj.weight.grad
    assert gradient is not None and bool(gradient.any())


@needs_kernels
def test_an_int8_model_does_not_keep_on_with_float32_kernels() -> None:
    assert prepare(small_model("tiny"), CPU, "int8").mixture.kernels is None


def test_switched_off_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    small_library.cache_clear()
    try:
        assert small_model("tiny").mixture.kernels is None
    finally:
        monkeypatch.undo()
        small_library.cache_clear()
