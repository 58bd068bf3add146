"""On a real CUDA device: number for number, one graph a chunk, nothing read on the host. `make test ARGS=tests/gpu` where there is one."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from model_helpers import noise_for, small_model

from internvla_a1.model import InternVLAA1, attention
from internvla_a1.model.example import example_batch
from internvla_a1.model.inputs import read_batch
from internvla_a1.model.loading import prepare
from internvla_a1.model.verify import verify_folder
from internvla_a1.policy.rtc import Guidance, Prefix, soft_mask

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
VARIANTS = ("3b", "2b", "tiny")
CUDA = torch.device("cuda")
GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"


@pytest.fixture(autouse=True)
def full_precision():
    kept = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = kept


def placed(variant: str, dtype: torch.dtype | str = torch.float32, kernels: bool = True) -> InternVLAA1:
    model = small_model(variant, dtype=torch.float32)
    return prepare(copy.deepcopy(model), CUDA, dtype, kernels)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the reference vectors are not here")
def test_reference_vectors() -> None:
    results = verify_folder(GOLDEN, "cuda")
    missed = [(name, c.case, c.output, c.error) for name, comparisons in results.items() for c in comparisons if not c.passed]
    assert results and not missed


@pytest.mark.parametrize("variant", VARIANTS)
def test_kernels_and_graph_give_what_the_plain_layers_give(variant: str) -> None:
    plain, fast = placed(variant, kernels=False), placed(variant)
    assert plain.graphs is None and plain.mixture.kernels is None and fast.graphs is not None
    noise = noise_for(plain)
    for seed, words in ((0, 10), (1, 10), (2, 3), (3, 10)):
        batch = example_batch(plain.config, seed=seed, words=words)
        a, b = plain.predict(batch, noise, foresight=True), fast.predict(batch, noise, foresight=True)
        assert torch.allclose(a.padded_actions, b.padded_actions, atol=2e-5)
        assert torch.allclose(a.latents, b.latents, atol=2e-5) and torch.allclose(a.now_latents, b.now_latents, atol=2e-5)
        later = fast.predict(batch, noise, past_latents=a.now_latents)
        assert torch.allclose(plain.predict(batch, noise, past_latents=a.now_latents).padded_actions, later.padded_actions, atol=2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_on_the_cpu_it_gives_the_same_chunk(variant: str) -> None:
    model = small_model(variant)
    noise, batch = noise_for(model), example_batch(model.config)
    there = placed(variant).predict(batch, noise).padded_actions.cpu()
    assert torch.allclose(model.predict(batch, noise).padded_actions, there, atol=5e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_replay_reads_nothing_on_the_host_and_repeats_bit_for_bit(variant: str) -> None:
    model = placed(variant, torch.bfloat16)
    noise, batch = noise_for(model).cuda(), example_batch(model.config)
    first = model.predict(batch, noise).padded_actions
    with torch.no_grad():
        inputs = read_batch(model.config, batch, CUDA)
        torch.cuda.set_sync_debug_mode("error")
        try:
            again = model.graphs.run(inputs, noise, model.config.steps, False, None).actions
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, again)


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_stays_close(variant: str) -> None:
    exact, narrow = placed(variant), placed(variant, torch.bfloat16)
    noise, batch = noise_for(exact), example_batch(exact.config)
    a, b = exact.predict(batch, noise).padded_actions, narrow.predict(batch, noise).padded_actions
    plain = placed(variant, torch.bfloat16, kernels=False).predict(batch, noise).padded_actions
    assert float((a - b).abs().mean()) < 1.5 * float((a - plain).abs().mean()) + 1e-3


def test_two_samples_of_different_padding_take_the_masked_way() -> None:
    plain, fast = placed("3b", kernels=False), placed("3b")
    batch = example_batch(plain.config, batch=2)
    batch["observation.attention_mask"][1, -4:] = 0
    batch["observation.attention_mask"][0, -2:] = 1
    noise = noise_for(plain, 2)
    assert torch.allclose(plain.predict(batch, noise).padded_actions, fast.predict(batch, noise).padded_actions, atol=2e-5)


def test_guidance_differentiates_the_velocity_on_the_device() -> None:
    model = placed("tiny")
    batch, noise = example_batch(model.config), noise_for(model)
    seen = []

    def guided(velocity, x, t):  # type: ignore[no-untyped-def]
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_(True)
            v = velocity(x, t)
            (gradient,) = torch.autograd.grad((v * v).sum(), x)
        seen.append(float(gradient.abs().sum()))
        return v

    assert torch.allclose(model.predict(batch, noise, velocity_hook=guided).actions, model.predict(batch, noise).actions, atol=2e-5)
    assert len(seen) == model.config.steps and all(s > 0 for s in seen)


@pytest.mark.parametrize("variant", VARIANTS)
def test_real_time_chunking_is_part_of_the_graph(variant: str) -> None:
    plain, fast = placed(variant, kernels=False), placed(variant)
    config, batch, noise = plain.config, example_batch(plain.config), noise_for(plain)
    for seed in range(3):
        target = torch.randn(config.chunk, config.action_dim, generator=torch.Generator().manual_seed(seed))
        guidance = Guidance(target, soft_mask(config.chunk, 2, 4), config.used_action_dim, 4.0)
        for hook in (guidance, Prefix(target, torch.arange(config.chunk) < 2 + seed)):
            there = hook.over(tuple(t.to(CUDA) for t in hook.tensors))
            expected = plain.predict(batch, noise, velocity_hook=there).padded_actions
            assert torch.allclose(expected, fast.predict(batch, noise, velocity_hook=there).padded_actions, atol=5e-5)
    assert not torch.allclose(expected, fast.predict(batch, noise).padded_actions, atol=1e-2)


def test_new_weights_are_taken_up() -> None:
    model = placed("2b")
    batch, noise = example_batch(model.config), noise_for(model)
    before = model.predict(batch, noise).actions
    with torch.no_grad():
        model.mixture.act.layers[0].mlp.down_proj.weight.mul_(1.5)
    model.forget_weights()
    after = model.predict(batch, noise).actions
    model.mixture.kernels = model.graphs = None
    assert not torch.allclose(before, after, atol=1e-4) and torch.allclose(after, model.predict(batch, noise).actions, atol=2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_step_has_the_gradients_of_the_cpu(variant: str) -> None:
    found = []
    for device in ("cpu", "cuda"):
        model = prepare(copy.deepcopy(small_model(variant)), torch.device(device), torch.float32, kernels=False)
        model.requires_grad_(True).train()
        batch = example_batch(model.config, batch=2, frames=3)
        batch["action"] = torch.randn(2, model.config.chunk, model.config.action_dim, generator=torch.Generator().manual_seed(5))
        actions, foresight = model.losses(batch, noise_for(model, 2), torch.tensor([0.3, 0.8]))
        (actions.mean() + foresight).backward()
        found.append({name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 50
    assert max(float((found[0][n] - found[1][n]).abs().max()) for n in found[0]) < 1e-4


@pytest.mark.parametrize("variant", ["3b", "2b"])
def test_a_training_pass_in_bfloat16(variant: str) -> None:
    """Under autocast: image features come narrower than the words they are put among, which only a CUDA device refuses."""
    model = prepare(copy.deepcopy(small_model(variant)), CUDA, torch.float32, kernels=False)
    model.requires_grad_(True).train()
    batch = example_batch(model.config, batch=2, frames=3)
    batch["action"] = torch.randn(2, model.config.chunk, model.config.action_dim, generator=torch.Generator().manual_seed(5))
    with torch.autocast("cuda", torch.bfloat16):
        actions, foresight = model.losses(batch, noise_for(model, 2), torch.tensor([0.3, 0.8]))
    (actions.mean() + foresight).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_int8_is_within_its_gate() -> None:
    model = placed("3b", "int8")
    assert torch.isfinite(model.predict(example_batch(model.config), noise_for(model)).actions).all()


@pytest.mark.parametrize("backend", ["sdpa", "flex", "flash_attn", "products"])
def test_attention_backends(backend: str) -> None:
    if backend == "flash_attn" and importlib.util.find_spec("flash_attn") is None:
        pytest.skip("flash_attn is not installed")
    dtype, atol = (torch.bfloat16, 2e-2) if backend == "flash_attn" else (torch.float32, 1e-4)
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, h, n, 64, generator=random).to(CUDA, dtype) for h, n in ((8, 40), (4, 200), (4, 200)))
    found = attention.choose(backend, CUDA, dtype)(q, k, v, None)
    assert torch.allclose(found.float(), attention.reference(q.float(), k.float(), v.float()), atol=atol)
