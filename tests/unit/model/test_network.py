"""The network as a whole: cached against joint, what may be skipped, what must not matter."""

from __future__ import annotations

import pytest
import torch
from model_helpers import noise_for, small_config, small_model

from internvla_a1.core.errors import ConfigError, DataError
from internvla_a1.model import InternVLAA1, tiny_config
from internvla_a1.model.example import example_batch
from internvla_a1.model.inputs import read_batch

VARIANTS = ("3b", "2b", "tiny")


def joint_velocity(model: InternVLAA1, batch: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The velocity at t = 1, where x_t is the noise, from the training pass."""
    inputs = read_batch(model.config, {**batch}, model.device)
    latents = model.frame_latents(inputs, model.layout(inputs, False))
    three = model.all_views(torch.cat([latents, latents[:, :1]], 1), model.layout(inputs, False))
    return model.joint_outputs(inputs, torch.zeros_like(x), x, torch.ones(len(x)), three).velocity


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("missing", [(), (1,)])
def test_cached_inference_equals_the_joint_pass(variant: str, missing: tuple[int, ...]) -> None:
    model = small_model(variant)
    batch, noise = example_batch(model.config, batch=2, missing=missing), noise_for(model, 2)
    with torch.no_grad():
        context = model.encode(read_batch(model.config, batch, model.device))
        first = context.denoiser.step(noise, context.denoiser.time_bias(torch.ones(1), False))
        assert torch.allclose(first, joint_velocity(model, batch, noise), atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "products", "sdpa", "flex"])
def test_every_attention_backend_gives_the_same_actions(backend: str) -> None:
    model = small_model("3b")
    batch = example_batch(model.config, batch=2)
    batch["observation.attention_mask"][1, -4:] = 1  # unequal padding: a mask is needed
    noise = noise_for(model, 2)
    model.set_attention("reference")
    expected = model.predict(batch, noise).actions
    model.set_attention(backend)
    assert torch.allclose(model.predict(batch, noise).actions, expected, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sample_gives_the_same_chunk_alone_and_in_a_batch_with_other_masks(variant: str) -> None:
    model = small_model(variant, compat="published")
    one, two = example_batch(model.config, seed=1), example_batch(model.config, seed=2, missing=(1,), words=4)
    both = {key: torch.cat([one[key], two[key]]) for key in one}
    noise = noise_for(model, 2)
    together = model.predict(both, noise, foresight=True)
    for i, single in enumerate((one, two)):
        alone = model.predict(single, noise[i : i + 1], foresight=True)
        assert torch.allclose(alone.actions[0], together.actions[i], atol=1e-5)
        assert torch.allclose(alone.latents[0], together.latents[i], atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("compat", ["published", "consistent"])
@pytest.mark.parametrize("missing", [(0,), (1,), (0, 1)])
def test_dropping_padding_and_missing_views_changes_no_action(variant: str, compat: str, missing: tuple[int, ...]) -> None:
    if variant == "tiny" and missing == (0, 1):
        missing = ()
    model = small_model(variant, compat=compat)
    batch, noise = example_batch(model.config, missing=missing), noise_for(model)
    with torch.no_grad():
        full = model.encode(read_batch(model.config, batch, model.device), drop=False)
        assert full.layout.padded
        everything = full.denoiser.sample(noise, 4)
    assert torch.allclose(model.predict(batch, noise).padded_actions, everything, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pixels_of_a_missing_view_and_padded_words_do_not_matter(variant: str) -> None:
    model = small_model(variant)
    batch, noise = example_batch(model.config, missing=(1,), words=5), noise_for(model)
    before = model.predict(batch, noise).actions
    changed = {key: value.clone() for key, value in batch.items()}
    changed["observation.images.image1"].uniform_()
    tokens = "observation.input_ids" if variant == "3b" else "observation.language.tokens"
    changed[tokens][:, -3:] = 7
    assert torch.equal(model.predict(changed, noise).actions, before)
    changed["observation.images.image0"].uniform_()
    assert not torch.allclose(model.predict(changed, noise).actions, before, atol=1e-3)


def test_latents_of_the_past_can_be_handed_back_instead_of_frames() -> None:
    model = small_model("tiny")
    batch, noise = example_batch(model.config), noise_for(model)
    past = {k: v[:, :1] if v.ndim == 5 else v for k, v in batch.items()}
    past_latents = model.predict({k: v.repeat(1, 2, 1, 1, 1) if v.ndim == 5 else v for k, v in past.items()}, noise).now_latents
    only_now = {k: v[:, 1:] if v.ndim == 5 else v for k, v in batch.items()}
    expected = model.predict(batch, noise).actions
    assert torch.allclose(model.predict(only_now, noise, past_latents=past_latents).actions, expected, atol=1e-5)
    with pytest.raises(DataError, match="past_latents"):
        model.predict(only_now, noise)


def test_the_same_noise_gives_the_same_chunk_bit_for_bit() -> None:
    model = small_model("tiny")
    batch, noise = example_batch(model.config), noise_for(model)
    first = model.predict(batch, noise).actions
    model.predict(example_batch(model.config, seed=9), noise)
    assert torch.equal(model.predict(batch, noise).actions, first)
    torch.manual_seed(0)
    drawn = model.predict(batch).actions
    torch.manual_seed(0)
    assert torch.equal(model.predict(batch).actions, drawn)


def test_foresight_decodes_for_any_batch_and_does_not_change_the_actions() -> None:
    model = small_model("tiny")
    batch, noise = example_batch(model.config, batch=2, missing=(1,)), noise_for(model, 2)
    plain, seen = model.predict(batch, noise), model.predict(batch, noise, foresight=True)
    assert plain.latents is None and torch.equal(plain.actions, seen.actions)
    assert torch.equal(seen.latents[:, 1], torch.zeros_like(seen.latents[:, 1]))
    images = model.decode_foresight(seen.latents)
    assert images.shape == (2, 2, 3, 64, 64) and images.isfinite().all()


def test_gradients_reach_every_expert_and_no_tokenizer() -> None:
    model = small_model("tiny")
    model.requires_grad_(True).train()
    model.codec.requires_grad_(False)
    batch = example_batch(model.config, batch=2, frames=3)
    batch["action"] = noise_for(model, 2, seed=5)
    loss_action, loss_gen = model.losses(batch, noise_for(model, 2), torch.tensor([0.3, 0.9]))
    assert loss_action.shape == (2, 6, 8)
    (loss_action.mean() + loss_gen).backward()
    without = [n for n, p in model.named_parameters() if not n.startswith("codec") and (p.grad is None or not p.grad.abs().sum() > 0)]
    last = "mixture.und.layers.1."  # its query, output and MLP reach no output
    dead = ("self_attn.q_proj", "self_attn.q_norm", "self_attn.o_proj", "post_attention_layernorm", "mlp")
    assert all(n.startswith(tuple(last + d for d in dead)) or n == "mixture.und.norm.weight" or "film" in n for n in without), without


def test_weights_that_changed_in_training_are_seen_by_the_next_inference() -> None:
    model = small_model("tiny")
    batch, noise = example_batch(model.config), noise_for(model)
    before = model.predict(batch, noise).actions
    model.train()
    with torch.no_grad():
        model.latent_head.gen_in_proj.weight.mul_(2)
        model.action_head.action_time_mlp_in.weight.mul_(1.5)
    model.eval()
    after = model.predict(batch, noise).actions
    fresh = InternVLAA1(model.config)
    fresh.load_state_dict(model.state_dict())
    assert not torch.allclose(after, before, atol=1e-3)
    assert torch.allclose(fresh.eval().predict(batch, noise).actions, after, atol=1e-6)


def test_a_batch_without_a_key_is_refused_by_name() -> None:
    model = small_model("tiny")
    batch = example_batch(model.config)
    del batch["observation.state"]
    with pytest.raises(DataError, match=r"observation\.state"):
        model.predict(batch)
    with pytest.raises(DataError, match="noise must be"):
        model.predict(example_batch(model.config), torch.zeros(1, 2, 3))


def test_unequal_patch_grids_are_refused() -> None:
    model = small_model("3b")
    batch = example_batch(model.config)
    batch["observation.image_grid_thw"][0, 1, 1] = 8
    with pytest.raises(DataError, match="same patch grid"):
        model.predict(batch)


def test_an_impossible_size_is_refused_before_anything_is_built() -> None:
    import dataclasses

    with pytest.raises(ConfigError, match="rotary sections"):
        dataclasses.replace(small_config("3b"), rope_sections=(1, 2, 3))
    with pytest.raises(ConfigError, match="compat"):
        InternVLAA1(small_config("tiny"), compat="exact")


def test_residual_foresight_keeps_a_share_of_the_present() -> None:
    config = tiny_config(residual_foresight=True)
    model, batch = InternVLAA1(config).eval(), example_batch(config)
    head = model.latent_head
    with torch.no_grad():
        head.gen_out_proj.weight.zero_()
        head.gen_out_proj.bias.zero_()
        head.gen_keep_proj.weight.zero_()
        head.gen_keep_proj.bias.fill_(2.0)
    prediction = model.predict(batch, noise_for(model), foresight=True)
    assert prediction.latents is not None
    assert torch.allclose(prediction.latents, torch.sigmoid(torch.tensor(2.0)) * prediction.now_latents, atol=1e-6)


def test_with_motion_tokens_a_token_of_the_present_holds_its_past_from_the_first_layer_on() -> None:
    plain, moving = InternVLAA1(tiny_config()), InternVLAA1(tiny_config(motion_tokens=True))
    missing, extra = moving.load_state_dict(plain.state_dict(), strict=False)
    assert missing == ["latent_head.gen_past_conv.weight"] and not extra
    latents = torch.randn(2, 2, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    before = plain.latent_head.embed(latents, torch.float32)
    assert torch.equal(before, moving.latent_head.embed(latents, torch.float32))  # adds nothing before it is trained
    with torch.no_grad():
        moving.latent_head.gen_past_conv.weight.fill_(0.1)
        after = moving.latent_head.embed(latents, torch.float32)
    trained = moving.latent_head.embed(latents, torch.float32)
    half = before.shape[1] // 2
    assert torch.allclose(after[:, :half], before[:, :half], atol=1e-5) and not torch.allclose(after[:, half:], before[:, half:])
    assert torch.allclose(trained, after, atol=1e-5)
