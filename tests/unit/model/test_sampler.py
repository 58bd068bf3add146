"""The denoising loop: one graph, no host read, no allocation, differentiable when asked."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from model_helpers import noise_for, small_config, small_model
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from internvla_a1.model import InternVLAA1
from internvla_a1.model.denoiser import Denoiser
from internvla_a1.model.example import example_batch
from internvla_a1.model.flow import sample_time, time_embedding, time_steps
from internvla_a1.model.inputs import read_batch
from internvla_a1.model.layout import build_layout


def filled(model: InternVLAA1) -> Denoiser:
    with torch.no_grad():
        return model.encode(read_batch(model.config, example_batch(model.config), model.device)).denoiser


def test_steps_accumulate_in_float32() -> None:
    times, step = time_steps(10)
    assert len(times) == 10 and times[0] == 1.0
    assert times[9] != 0.1 and abs(times[9] - 0.1) < 1e-6
    assert [len(time_steps(n)[0]) for n in (1, 3, 7, 50, 100)] == [1, 3, 7, 50, 100]
    assert step == pytest.approx(-0.1)


def test_time_embedding_is_sine_then_cosine_over_log_spaced_periods() -> None:
    row = time_embedding(torch.tensor([0.25]), 4, 0.01, 1.0)[0].double()
    expected = torch.tensor([25.0, 0.25]).double() * 2 * torch.pi
    assert torch.allclose(row, torch.cat([expected.sin(), expected.cos()]), atol=1e-6)


def test_training_times_follow_the_published_distribution() -> None:
    times = sample_time(20000, torch.Generator().manual_seed(0))
    assert float(times.min()) >= 0.001 and float(times.max()) <= 1.0
    assert float(times.mean()) == pytest.approx(0.999 * 0.6 + 0.001, abs=0.01)  # the mean of Beta(1.5, 1) is 0.6


@pytest.mark.parametrize("variant", ["3b", "2b", "tiny"])
def test_the_loop_allocates_nothing(variant: str) -> None:
    model = small_model(variant)
    denoiser = filled(model)
    biases, step = list(denoiser.biases(4, False).values()), time_steps(4)[1]
    with torch.no_grad():
        denoiser.x.copy_(noise_for(model))
        denoiser.run(denoiser.x, biases, step, denoiser.buffers)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            denoiser.run(denoiser.x, biases, step, denoiser.buffers)
    allocating = {e.key: e.self_cpu_memory_usage for e in recorded.key_averages() if e.self_cpu_memory_usage > 0}
    assert allocating == {}
    assert any(e.key == "aten::mm" for e in recorded.key_averages()), "the profiler saw the loop"


def test_buffers_and_fresh_tensors_give_the_same_chunk() -> None:
    model = small_model("3b")
    denoiser, noise = filled(model), noise_for(model)
    biases, step = list(denoiser.biases(4, False).values()), time_steps(4)[1]
    with torch.no_grad():
        fresh = denoiser.run(noise.clone(), biases, step)
        assert torch.allclose(denoiser.run(noise.clone(), biases, step, denoiser.buffers), fresh, atol=1e-5)


def test_the_whole_sampler_compiles_as_one_graph() -> None:
    torch.manual_seed(0)
    model = small_model("tiny", layers=1)
    model.mixture.kernels = None  # a graph leaves them out; how far they are from torch is test_small_kernels' matter
    denoiser, noise = filled(model), noise_for(model)
    biases, step = list(denoiser.biases(2, False).values()), time_steps(2)[1]
    with torch.no_grad():
        compiled = torch.compile(denoiser.run, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(noise.clone(), biases, step), denoiser.run(noise.clone(), biases, step), atol=1e-6)


def test_the_sampler_reads_nothing_from_a_cuda_device() -> None:
    """On fake CUDA tensors a host read has no value to return and raises; the last lines show that it would."""
    config = small_config("3b")
    pattern = read_batch(config, example_batch(config), torch.device("cpu")).pattern
    layout = build_layout(config, pattern, torch.device("cpu"), torch.float32)
    with torch.device("meta"):
        model = InternVLAA1(config)
    cuda = torch.device("cuda")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(torch.empty(parameter.shape, device=cuda), requires_grad=False))
        tensors = {f.name: getattr(layout, f.name) for f in dataclasses.fields(layout)}
        moved = {n: torch.empty(t.shape, dtype=t.dtype, device=cuda) for n, t in tensors.items() if isinstance(t, torch.Tensor)}
        denoiser = Denoiser(config, model.mixture, model.action_head, dataclasses.replace(layout, **moved), cuda, torch.float32)
        actions = denoiser.run(denoiser.x, list(denoiser.biases(3, False).values()), time_steps(3)[1])
        assert actions.device.type == "cuda" and tuple(actions.shape) == (1, config.chunk, config.action_dim)
        with pytest.raises(DataDependentOutputException):
            actions.sum().item()


def test_static_state_is_built_once_a_shape() -> None:
    model = small_model("tiny")
    noise = noise_for(model)
    model.predict(example_batch(model.config, seed=1), noise)
    kept = dict(model._denoisers)
    pointers = {key: d.cache.keys.data_ptr() for key, d in kept.items()}
    model.predict(example_batch(model.config, seed=2), noise)
    assert model._denoisers == kept and {key: d.cache.keys.data_ptr() for key, d in kept.items()} == pointers
    model.predict(example_batch(model.config, words=3), noise)
    assert len(model._denoisers) == 2


def test_a_hook_stands_in_for_every_step_and_can_differentiate_the_velocity() -> None:
    model = small_model("tiny")
    batch, noise = example_batch(model.config), noise_for(model)
    plain = model.predict(batch, noise).padded_actions
    seen = []

    def guided(velocity, x, t):  # type: ignore[no-untyped-def]
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_(True)
            v = velocity(x, t)
            (gradient,) = torch.autograd.grad((v * v).sum(), x)
        seen.append((t, float(gradient.abs().sum())))
        return v

    assert torch.allclose(model.predict(batch, noise, velocity_hook=guided).padded_actions, plain, atol=1e-5)
    assert [t for t, _ in seen] == time_steps(4)[0] and all(size > 0 for _, size in seen)
    assert not torch.allclose(model.predict(batch, noise, velocity_hook=lambda f, x, t: 0 * x).padded_actions, plain)


def test_velocity_gradients_are_right() -> None:
    model = small_model("tiny")
    denoiser, x = filled(model), noise_for(model).requires_grad_(True)
    bias = denoiser.time_bias(torch.ones(1), False)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((denoiser.step(x, bias) * direction).sum(), x)
    with torch.no_grad():
        nudge = 1e-2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
        ahead, behind = denoiser.step(x + nudge, bias), denoiser.step(x - nudge, bias)
    measured = float(((ahead - behind) * direction).sum())
    assert measured == pytest.approx(float(2 * (gradient * nudge).sum()), rel=0.02)
