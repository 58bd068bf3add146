"""The kernels for AMX and AVX-512 against torch on the same weights: experts, vision towers, any precision; what happens without them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from internvla_a1.model import precision
from internvla_a1.model.config import ModelConfig, config_2b, config_3b
from internvla_a1.model.cpu import library as library_module
from internvla_a1.model.cpu.kernels import BFLOAT16, INTEGER, SINGLE, Kernels
from internvla_a1.model.cpu.library import AMX, SWITCH, VECTORS_ONLY, cpu_has_tiles, forget, instructions, library
from internvla_a1.model.example import example_batch
from internvla_a1.model.inputs import read_batch
from internvla_a1.model.layers import Linear
from internvla_a1.model.loading import new_model, prepare, save_model
from internvla_a1.model.network import InternVLAA1
from internvla_a1.model.quantize import Int8Linear, quantize_rows
from internvla_a1.train.config import TrainConfig, build
from internvla_a1.train.materials import make_model

CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(library() is None, reason="no AVX-512 BF16 here, or no C++ compiler: torch computes instead")


def small(family: str) -> ModelConfig:
    """Two layers at the least width for which kernels are used, but for the MLP of the vision tower: its inputs are worked on in parts."""
    sizes = (config_3b if family == "3b" else config_2b)().to_dict()
    sizes |= {"layers": 2, "vocab": 152_000}
    sizes["vision"] |= {"depth": 2, "hidden": 256, "heads": 4, "mlp": 2048}
    if family == "3b":
        sizes |= {"und": {"hidden": 512, "mlp": 768}, "gen": {"hidden": 256, "mlp": 512}, "act": {"hidden": 256, "mlp": 512}}
        sizes |= {"heads": 4, "kv_heads": 2}
    else:
        sizes |= {expert: {"hidden": 384, "mlp": 640} for expert in ("und", "gen", "act")} | {"heads": 6}
        sizes["vision"]["image"] = 224
    sizes["codec"] |= {"channels": 32, "multipliers": (1, 1, 1), "res_blocks": 1}
    return ModelConfig.from_dict(sizes)


def weights(family: str) -> InternVLAA1:
    """Matrices of bfloat16 values, as published ones are; norms and biases away from 1 and 0."""
    torch.manual_seed(0)
    model = new_model(small(family))
    for parameter in model.parameters():
        moved = parameter.bfloat16().float() if parameter.ndim > 1 else parameter + 0.1 * torch.randn_like(parameter)
        parameter.data.copy_(moved)
    return model


SOFTWARE_TILES = "AMX in software"


@pytest.fixture(params=[AMX, SOFTWARE_TILES, VECTORS_ONLY])
def compiled_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each of them, where this CPU has it; in float32 too, where the slower one is not used by itself."""
    if request.param == AMX and not cpu_has_tiles():
        pytest.skip("this CPU has no AMX")
    if request.param == SOFTWARE_TILES:
        header = Path(__file__).parent / "software_tiles.h"
        version = hashlib.sha256(header.read_bytes()).hexdigest()[:16]  # a changed header is compiled anew
        monkeypatch.setattr(library_module, "TILES", (*library_module.DOTS, "-include", str(header), f"-DSOFTWARE_TILES=0x{version}"))
        monkeypatch.setattr(library_module, "cpu_has_tiles", lambda: True)
    monkeypatch.setenv(SWITCH, "avx512" if request.param == VECTORS_ONLY else "")
    monkeypatch.setattr(precision, "three_products_pay", lambda: True)
    forget()
    if request.param == AMX and instructions() == VECTORS_ONLY:
        forget()
        pytest.skip("this system does not hand out AMX tile registers")
    assert instructions() == (VECTORS_ONLY if request.param == VECTORS_ONLY else AMX)
    yield
    monkeypatch.undo()
    forget()


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(SWITCH, "off")
    forget()
    yield
    forget()


@pytest.fixture(scope="module", params=["3b", "2b"])
def case(request: pytest.FixtureRequest) -> tuple[InternVLAA1, dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    """(model, batch, noise, actions and latents by torch alone)."""
    model = weights(request.param)
    batch = example_batch(model.config, words=10)
    noise = torch.randn(1, model.config.chunk, model.config.action_dim, generator=torch.Generator().manual_seed(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "off")
        forget()
        plain = prepare(copy.deepcopy(model), CPU, torch.float32)
        assert plain.mixture.kernels is None
        wanted = plain.predict(batch, noise, foresight=True)
    forget()
    return model, batch, noise, wanted.actions, wanted.latents


@needs_kernels
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 2e-2), ("int8", 2e-1)])
def test_whole_chunks_are_those_of_torch(case, compiled_for, dtype: str, bound: float) -> None:
    model, batch, noise, actions, latents = case
    fast = prepare(copy.deepcopy(model), CPU, dtype)
    assert fast.mixture.kernels is not None and fast.vision.kernels is not None
    for _ in range(2):  # the second runs on caches that are there already
        found = fast.predict(batch, noise, foresight=True)
        assert float((found.actions - actions).abs().max()) < bound
        assert float((found.latents - latents).abs().max()) < bound


@needs_kernels
def test_what_the_kernels_do_not_take_is_done_by_torch_on_the_same_weights(case, compiled_for) -> None:
    model, batch, noise, actions, _ = case
    fast = prepare(copy.deepcopy(model), CPU, torch.float32)
    two = {key: torch.cat([value, value]) for key, value in batch.items()}
    assert float((fast.predict(two, noise.expand(2, -1, -1)).actions - actions).abs().max()) < 1e-5
    guided = fast.predict(batch, noise, velocity_hook=lambda velocity, x, t: velocity(x, t)).actions
    assert float((guided - actions).abs().max()) < 1e-5


def assert_one_product(rows: int, inputs: int, precision: int) -> None:
    """Of a layer with `inputs` inputs, against float64."""
    generator = torch.Generator().manual_seed(rows)
    layer = Linear(inputs, 176).requires_grad_(False)
    layer.weight.data.copy_(torch.randn(176, inputs, generator=generator).bfloat16())
    x = torch.randn(rows, inputs, generator=generator)
    if precision == INTEGER:
        module = Int8Linear(layer)
        values, scale = quantize_rows(x)
        wanted = (values.double() @ module.weight.double().t()) * scale.double() * module.scale.double()
    else:
        module = layer.bfloat16()
        module.bias.data = module.bias.float()
        wanted = (x.bfloat16() if precision == BFLOAT16 else x).double() @ layer.weight.double().t()
    with torch.no_grad():
        found = Kernels(precision).linear(module, x)
    assert float((found - (wanted + layer.bias.double())).abs().max()) < 2e-5 * float(wanted.abs().max())


@needs_kernels
@pytest.mark.parametrize("precision", [SINGLE, BFLOAT16, INTEGER])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 16, 17, 20, 31, 50, 67, 100])
def test_one_product_for_any_number_of_tokens(compiled_for, rows: int, precision: int) -> None:
    """The last few of them are worked on in another way where there are no tiles."""
    assert_one_product(rows, 320, precision)


@needs_kernels
@pytest.mark.parametrize("precision", [SINGLE, BFLOAT16])
@pytest.mark.parametrize("rows", [300, 515, 1100])
def test_a_product_whose_inputs_are_worked_on_in_parts(compiled_for, rows: int, precision: int) -> None:
    """More tokens and inputs than the second cache holds; 515 and 1100 leave a tail of tokens."""
    assert_one_product(rows, 4096, precision)


@needs_kernels
def test_the_same_noise_gives_the_same_chunk_bit_for_bit(case, compiled_for) -> None:
    model, batch, noise, *_ = case
    fast = prepare(copy.deepcopy(model), CPU, "bfloat16")
    assert torch.equal(fast.predict(batch, noise).actions, fast.predict(batch, noise).actions)


@needs_kernels
def test_threads_that_are_at_different_tokens_do_not_meddle(case, compiled_for, monkeypatch: pytest.MonkeyPatch) -> None:
    """The MLP of the vision tower goes through its tokens in blocks, the last one smaller, and waits for nobody in between."""
    model, batch, *_ = case
    fast = prepare(copy.deepcopy(model), CPU, "bfloat16")
    run, given = fast.vision.kernels.run, []
    monkeypatch.setattr(fast.vision.kernels, "run", lambda *call: given.append(call) or run(*call))
    with torch.no_grad():
        fast.encode(read_batch(fast.config, batch, CPU))
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3, 5, 7) * 4:
            torch.set_num_threads(count)
            with torch.no_grad():
                found.append(run(*given[0]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(tower, found[0]) for tower in found)


@needs_kernels
def test_float32_weights_that_bfloat16_cannot_hold_stay_float32_and_with_torch(compiled_for) -> None:
    model = weights("3b")
    model.mixture.act.layers[0].mlp.up_proj.weight.data[0, 0] = 1.0 + 2**-20
    placed = prepare(model, CPU, torch.float32)
    assert placed.mixture.kernels is None and placed.mixture.act.layers[0].mlp.up_proj.weight.dtype == torch.float32


@needs_kernels
def test_a_head_that_bfloat16_cannot_hold_stays_float32_beside_the_kernels(compiled_for) -> None:
    model = weights("3b")
    exact = model.latent_head.downsample_conv.weight.data
    exact[0, 0] += 2**-20
    wanted = exact.clone()
    placed = prepare(model, CPU, torch.float32)
    assert placed.mixture.kernels is not None and torch.equal(placed.latent_head.downsample_conv.weight, wanted)
    assert placed.embed_tokens.weight.dtype == torch.bfloat16


def test_switched_off_nothing_is_compiled_and_torch_computes(without_kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "_built", lambda *_: pytest.fail("something was compiled"))
    assert library() is None
    assert prepare(weights("3b"), CPU, torch.bfloat16).mixture.kernels is None


def test_without_a_compiler_it_is_said_once_and_torch_computes(
    monkeypatch: pytest.MonkeyPatch, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(library_module, "cpu_has_dots", lambda: True)
    forget()
    try:
        assert library() is None and library() is None
    finally:
        monkeypatch.undo()
        forget()
    assert caplog.text.count("could not be built") == 1 and "apt-get install g++" in caplog.text


@needs_kernels
@pytest.mark.parametrize("family", ["3b", "2b"])
def test_a_model_that_is_loaded_to_be_trained_is_torchs_alone_and_learns(family: str, tmp_path) -> None:
    """Its weights are bfloat16 values, as published ones are, and would otherwise be kept so, out of an optimiser's reach."""
    save_model(weights(family), tmp_path)
    model = make_model(build(TrainConfig, {"out": str(tmp_path / "run"), "model": {"init": str(tmp_path)}}, "test"))
    assert model.mixture.kernels is None and model.vision.kernels is None
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    batch = example_batch(model.config, frames=3, words=10)
    shape = (1, model.config.chunk, model.config.action_dim)
    noise, batch["action"] = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)).unbind(0)
    sum(loss.mean() for loss in model.losses(batch, noise, torch.tensor([0.5]))).backward()
    towers = (model.vision, model.mixture.act)
    assert all(any(p.grad is not None and bool(p.grad.any()) for p in part.parameters()) for part in towers)


@needs_kernels
def test_kernels_leave_gradients_and_other_devices_to_torch(case, compiled_for) -> None:
    fast = prepare(copy.deepcopy(case[0]), CPU, torch.float32)
    x = torch.zeros(1, 4, 256)
    with torch.no_grad():
        assert fast.vision.kernels.takes(x) and fast.mixture.kernels.takes(x, None)
        assert not fast.vision.kernels.takes(x.to("meta")) and not fast.mixture.kernels.takes(x.to("meta"), None)
    with torch.enable_grad():
        assert not fast.vision.kernels.takes(x) and not fast.mixture.kernels.takes(x, None)


@needs_kernels
def test_the_state_that_runs_with_the_first_step_leaves_what_it_leaves_alone(case) -> None:
    model, batch, noise, *_ = case
    fast = prepare(copy.deepcopy(model), CPU, torch.float32)
    kept = []
    with torch.no_grad():
        for finish in (True, False):
            steps = fast.encode(read_batch(fast.config, batch, CPU)).denoiser
            if finish:
                steps.finish_state()
            velocity = steps.step(noise, steps.time_bias(torch.ones(1), False))
            steps.cache.unpack()
            seen = (t[..., : steps.past + 1, :].clone() for t in (steps.cache.keys, steps.cache.values))
            kept.append((velocity, *seen))
    assert all(torch.allclose(a, b, atol=1e-5) and bool(a.any()) for a, b in zip(*kept, strict=True))
