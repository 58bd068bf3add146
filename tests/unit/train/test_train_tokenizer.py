"""Training the image tokenizer: standardised latents, latents that change slowly, and colours where they belong."""

import shutil

import numpy as np
import pytest
import torch
from train_made_up import SMALL, small_config, write_demo

from internvla_a1.train.config import TrainConfig, build
from internvla_a1.train.materials import gather, make_model, open_caches
from internvla_a1.train.small_tasks import CodecObjective, PictureBatches, colored, smoothness, standardise


def small_codec():
    return make_model(build(TrainConfig, {"out": "x", "model": {"changes": SMALL}}, "t")).codec


def test_standardised_latents_have_unit_scale_and_the_same_pictures():
    codec = small_codec()
    images = torch.rand(40, 3, 32, 32)
    before = codec.decode(codec.encode(images * 2 - 1))
    standardise(codec, images)
    latents = codec.encode(images * 2 - 1)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3 and (latents.std((0, 2, 3)) - 1).abs().max() < 1e-2
    assert torch.allclose(codec.decode(latents), before, atol=1e-4)


def test_smoothness_is_the_change_in_a_frame_over_that_in_a_horizon_and_every_view_counts_alike():
    start, step = torch.randn(2, 5, 3, 2, 2).unbind()
    step[:4] *= 100.0  # of the first view, which would hide the other
    view = torch.tensor([0, 0, 0, 0, 1]).repeat(3)
    even = torch.cat([start, start + step, start + 4 * step])
    assert float(smoothness(even, view)) == pytest.approx(1 / 16, rel=1e-4)
    jumps = torch.cat([start, start + torch.tensor([1, 1, 1, 1, 4.0])[:, None, None, None] * step, start + 4 * step])
    assert float(smoothness(jumps, view)) == pytest.approx((1 / 16 + 1) / 2, rel=1e-4)


def test_a_tokenizer_learns_latents_that_change_slowly_while_things_move():
    strips = torch.rand(8, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    images = torch.cat([strips[..., k : k + 32] for k in (0, 1, 8)])
    batch = {"images": images, "view": torch.zeros(24), "noise": torch.zeros(1)}
    found = []
    for weight in (0.0, 1.0):
        codec = small_codec()
        objective = CodecObjective(codec, 0.0, smooth=True)
        steps = torch.optim.Adam(codec.parameters(), 2e-3)
        for _ in range(25):
            parts = objective(batch)
            total = sum(w * parts[k][0] / parts[k][1] for k, w in (("weighted", 1.0), ("smooth", weight)))
            steps.zero_grad()
            total.backward()
            steps.step()
        found.append(float((parts["smooth"][0] / parts["smooth"][1]).detach()))
    assert found[1] < 0.5 * found[0]


def test_a_colour_too_many_weighs_as_much_as_one_that_is_missing():
    red = torch.tensor([0.85, 0.1, 0.09])[:, None, None]
    grey = torch.full((1, 3, 8, 8), 0.5)
    there = grey.clone()
    there[0, :, 2:4, 2:4] = red
    near = torch.zeros(8, 8)
    near[1:5, 1:5] = 1
    assert torch.equal(colored(there, grey * 2 - 1)[0, 0], near)
    assert torch.equal(colored(grey, there * 2 - 1)[0, 0], near)


def test_a_row_of_the_smooth_tokenizer_is_one_view_now_a_frame_later_and_a_horizon_later(tmp_path):
    write_demo(tmp_path / "demo")
    config = build(TrainConfig, small_config(tmp_path), "test")
    (cache,) = open_caches(config, gather(config).sources, 32)
    codec = make_model(config).config.codec
    batch = PictureBatches([cache], codec, seed=1, horizon=3)(0, 40, slice(0, 40))
    found = set()
    flat = torch.from_numpy(np.array(cache.images)).float() / 255  # (N, V, S, S, 3)
    for now, following, later, view in zip(*batch["images"].chunk(3), batch["view"][:40].tolist(), strict=True):
        pictures = flat[:, view].permute(0, 3, 1, 2)
        here = [n for n in range(len(flat)) if torch.allclose(pictures[n], now, atol=1e-6)]  # still pictures look alike
        ends = [int(cache.last[n]) for n in here]
        ahead = [(pictures[min(n + 1, end)], pictures[min(n + 3, end)]) for n, end in zip(here, ends, strict=True)]
        assert any(torch.allclose(a, following, atol=1e-6) and torch.allclose(b, later, atol=1e-6) for a, b in ahead)
        found.add(view)
    assert found == {0, 1} and batch["noise"].shape == (120, codec.latent, codec.grid, codec.grid)
    halves = [PictureBatches([cache], codec, 1, 3)(0, 40, slice(i, i + 20)) for i in (0, 20)]
    joined = torch.cat([h["noise"].unflatten(0, (3, 20)) for h in halves], 1).flatten(0, 1)
    assert torch.equal(joined, batch["noise"])  # however many processes share it


def test_a_data_set_recorded_anew_in_the_same_place_is_decoded_anew(tmp_path):
    config = build(TrainConfig, small_config(tmp_path), "test")
    found = []
    for seed in (0, 0, 1):
        shutil.rmtree(tmp_path / "demo", ignore_errors=True)
        write_demo(tmp_path / "demo", seed=seed)
        found += open_caches(config, gather(config).sources, 32)
    assert found[0].folder == found[1].folder != found[2].folder
    assert not np.array_equal(found[1].images, found[2].images)
