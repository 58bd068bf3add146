"""The pieces of training against plain arithmetic: losses, schedule, masks, batches, heads, freezing, ablations."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from train_made_up import SIDE, SMALL, config_of, inputs_of, write_demo

from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.core.types import Observation
from internvla_a1.data.features import PLAN_KEY
from internvla_a1.data.images import fitted
from internvla_a1.data.reader import open_dataset
from internvla_a1.eval.ablation import ABLATIONS, ablate, ablated_latents
from internvla_a1.eval.colors import any_color, color_mask
from internvla_a1.model import new_model
from internvla_a1.policy.network import NetworkPolicy
from internvla_a1.policy.transforms import resize_with_pad, to_float
from internvla_a1.policy.transforms.numbers import ACTION, STATE
from internvla_a1.train.auxiliary import SpeedHead, token_labels
from internvla_a1.train.batches import LATENTS, OBJECTS, SPEED, draw_noise, shifted
from internvla_a1.train.cache import action_chunks
from internvla_a1.train.cli import run_training
from internvla_a1.train.config import FreezeConfig, LossConfig, OptimConfig, TrainConfig, load_train_config
from internvla_a1.train.folder_batches import Ahead, FolderBatches
from internvla_a1.train.materials import gather, make_batches, make_model
from internvla_a1.train.objective import Scaled, compiled_layer, flow_parts, gen_weights, joint_pass, view_balance
from internvla_a1.train.policy_task import freeze
from internvla_a1.train.schedule import MovingAverage, optimizer, rate


def test_one_draw_gives_the_losses_of_the_model(model):
    values, noise, time, latents = inputs_of(model)
    parts = flow_parts(model, joint_pass(model, values, noise, time, latents, True, False), values["action"], noise, latents)
    action, gen = model.losses(values, noise[:, 0], time[:, 0], latents)
    used = model.config.used_action_dim
    assert float(parts["action"][0] / parts["action"][1]) == pytest.approx(float(action[..., :used].mean()), rel=1e-5)
    assert float(parts["gen"][0] / parts["gen"][1]) == pytest.approx(float(gen), rel=1e-5)


def test_several_draws_equal_as_many_passes(model):
    values, noise, time, latents = inputs_of(model, draws=3)
    together = joint_pass(model, values, noise, time, latents, False, False).velocity
    for r in range(3):
        alone = joint_pass(model, values, noise[:, r : r + 1], time[:, r : r + 1], latents, False, False).velocity
        assert torch.allclose(together[:, r], alone[:, 0], atol=2e-6)


def test_gradient_checkpointing_changes_no_gradient(model):
    values, noise, time, latents = inputs_of(model)
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        joint = joint_pass(model, values, noise, time, latents, True, recompute)
        (joint.velocity.square().sum() + joint.und_out.square().sum() + joint.predicted.square().sum()).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][k], gradients[1][k]) for k in gradients[0])


def test_compiled_layers_give_the_same_losses_and_gradients(model):
    values, noise, time, latents = inputs_of(model)
    found = []
    for compiled in (False, True):
        model.zero_grad()
        joint = joint_pass(model, values, noise, time, latents, False, False, compiled)
        (joint.velocity.square().sum() + joint.predicted.square().sum()).backward()
        found.append((joint.velocity.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (velocity, gradients), (ours, theirs) = found
    assert torch.allclose(velocity, ours, atol=2e-5) and gradients.keys() == theirs.keys()
    assert all(torch.allclose(g, theirs[n], atol=1e-4 * (1 + float(g.abs().max()))) for n, g in gradients.items())


def test_without_a_compiler_it_is_said_how_to_go_on(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingDependencyError, match=r"apt install g\+\+; or do without: --set compile=false"):
        compiled_layer.__wrapped__()


def test_padded_steps_count_as_published_unless_told_otherwise(model):
    values, noise, time, latents = inputs_of(model)
    joint = joint_pass(model, values, noise, time, latents, False, False)
    pad = torch.zeros(3, model.config.chunk, dtype=torch.bool)
    pad[:, -1] = True
    every = flow_parts(model, joint, values["action"], noise, latents)["action"]
    some = flow_parts(model, joint, values["action"], noise, latents, pad)["action"]
    assert float(some[1]) == float(every[1]) * (model.config.chunk - 1) / model.config.chunk
    assert float(some[0]) < float(every[0])


def test_balanced_views_count_alike_however_much_moves_in_them():
    latents = torch.randn(4, 2, 3, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    latents[:, 1, 2] = latents[:, 1, 1] + 0.1 * (latents[:, 1, 2] - latents[:, 1, 1])
    weighted = (latents[:, :, 2] - latents[:, :, 1]).pow(2).mean(2) * gen_weights({}, latents, LossConfig(gen_balance=True))
    assert torch.allclose(weighted.mean((0, 2, 3))[0], weighted.mean((0, 2, 3))[1])
    still = latents[:, :, :1].expand(-1, -1, 3, -1, -1, -1)
    assert torch.isfinite(gen_weights({}, still, LossConfig(gen_balance=True))).all()
    assert gen_weights({}, latents, LossConfig()) is None
    objects = {OBJECTS: torch.rand(4, 2, 2, 2)}
    both = gen_weights(objects, latents, LossConfig(gen_balance=True, gen_object_weight=5.0))
    assert torch.allclose(both, (1 + 5 * objects[OBJECTS]) * view_balance(latents))


def test_losses_split_over_processes_add_up_to_the_whole():
    whole = {"a": (torch.tensor(6.0), torch.tensor(4.0)), "b": (torch.tensor(3.0), torch.tensor(0.0))}
    parts = [{"a": (torch.tensor(5.0), torch.tensor(1.0))}, {"a": (torch.tensor(1.0), torch.tensor(3.0))}]
    total, means = Scaled({"a": 2.0, "b": 5.0})(whole, {k: c for k, (_, c) in whole.items()}, 1)
    assert float(total) == pytest.approx(2 * 6 / 4 + 5 * 3 / 1) and float(means["a"]) == 1.5
    halves = [Scaled({"a": 2.0})(p, {"a": torch.tensor(4.0)}, 2)[0] for p in parts]
    assert float(sum(halves)) / 2 == pytest.approx(2 * 6 / 4)


def test_the_published_schedule():
    published = OptimConfig()
    assert rate(0, published, 30000) == pytest.approx(2.5e-5 / 1001)
    assert rate(999, published, 30000) == pytest.approx(2.5e-5 * 1000 / 1001)
    assert rate(15000, published, 30000) == pytest.approx((2.5e-5 + 2.5e-6) / 2)
    assert rate(30000, published, 30000) == rate(90000, published, 30000) == pytest.approx(2.5e-6)
    assert (published.betas, published.weight_decay, published.clip) == ((0.9, 0.95), 0.01, 1.0)
    assert TrainConfig("x").loss.lambda_gen == 0.01 and TrainConfig("x").precision == "bfloat16"


def test_weight_decay_spares_norms_and_biases(model):
    groups = optimizer(model.named_parameters(), OptimConfig()).param_groups
    assert all(p.dim() > 1 for p in groups[0]["params"]) and groups[0]["weight_decay"] == 0.01
    assert all(p.dim() <= 1 for p in groups[1]["params"]) and groups[1]["weight_decay"] == 0.0


def test_the_moving_average_follows_and_replaces():
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    average = MovingAverage(layer, 0.5)
    torch.nn.init.ones_(layer.weight)
    expected = 0.0
    for n in range(1, 200):
        average.update(layer)
        expected += (1 - expected) * (1 - min(0.5, n / (n + 50)))
    average.copy_to(layer)
    assert float(layer.weight.detach()) == pytest.approx(expected)


@pytest.mark.parametrize(
    "options, trained, frozen",
    [
        (FreezeConfig(), ("vision.", "mixture.und.", "action_head."), ("codec.",)),
        (FreezeConfig(vision_encoder=True), ("mixture.und.",), ("vision.", "codec.")),
        (FreezeConfig(train_expert_only=True), ("mixture.gen.", "mixture.act."), ("vision.", "mixture.und.", "embed_tokens.")),
        (FreezeConfig(train_vlm_only=True), ("vision.", "mixture.und."), ("mixture.gen.", "mixture.act.", "latent_head.", "action_head.")),
    ],
)
def test_freezing_options(place, options, trained, frozen):
    model = make_model(config_of(place))
    freeze(model, options)
    named = dict(model.named_parameters())
    assert all(p.requires_grad for n, p in named.items() if n.startswith(trained))
    assert not any(p.requires_grad for n, p in named.items() if n.startswith(frozen))


def test_noise_and_time_are_those_of_the_step_whatever_part_is_asked_for():
    whole = draw_noise(1, 5, 8, 2, 3, 4, slice(0, 8))
    part = draw_noise(1, 5, 8, 2, 3, 4, slice(4, 8))
    assert torch.equal(whole["noise"][4:], part["noise"]) and torch.equal(whole["time"][4:], part["time"])
    many = draw_noise(0, 0, 20000, 1, 1, 1, slice(0, 20000))["time"]
    assert many.min() >= 0.001 and many.max() <= 1.0
    assert float(many.mean()) == pytest.approx(0.999 * 0.6 + 0.001, abs=0.01)  # mean of Beta(1.5, 1)


def test_cached_and_uncached_batches_are_the_same(place):
    config = config_of(place, augment={}, loss={"lambda_gen": 0.1})
    materials = gather(config)
    cached = make_batches(config, materials, latents=False)
    plain = FolderBatches(materials.sources, materials.numbers, cached.mixture, materials.tokenizer, materials.model.config)
    usable = np.flatnonzero(cached.caches[0].usable)
    plain.mixture = type("Fixed", (), {"batch": lambda self, n, size: [(s, int(usable[k])) for s, k in cached.mixture.batch(n, size)]})()
    a, b = cached(0, 6, slice(0, 6)), plain(0, 6, slice(0, 6))
    for key in b:
        assert torch.allclose(a[key].float(), b[key].float(), atol=1e-6), key


def test_the_parts_of_a_batch_make_the_whole_and_unusable_frames_stay_out(place):
    config = config_of(place)
    materials = gather(config)
    batches = make_batches(config, materials, latents=True)
    whole = batches(3, 8, slice(0, 8))
    parts = [batches(3, 8, slice(0, 4)), batches(3, 8, slice(4, 8))]
    for key in whole:
        assert torch.equal(whole[key].nan_to_num(), torch.cat([p[key] for p in parts]).nan_to_num()), key
    assert whole[LATENTS].shape == (8, 2, 3, 16, 4, 4)
    assert not batches.caches[0].usable[:2].any() and batches.caches[0].usable[2:12].all()


def test_of_a_frame_in_which_a_policy_drove_the_experts_plan_is_learned(tmp_path):
    root = write_demo(tmp_path / "demo", plan_steps=5)
    config = config_of(tmp_path)
    cache = make_batches(config, gather(config), latents=True).caches[0]
    chunk, is_pad = action_chunks(cache, np.array([2, 3, 4, 11]), 4)
    plans = open_dataset(root).numbers(0, [PLAN_KEY])[PLAN_KEY].reshape(12, 5, 7)
    np.testing.assert_array_equal(chunk[:2], plans[2:4, :4])
    np.testing.assert_array_equal(chunk[2], cache.action[4:8])
    assert is_pad.tolist() == [[False] * 4] * 3 + [[False, True, True, True]]
    with pytest.raises(ConfigError, match="plans of 5 steps, a chunk has 6; record with `plan_steps: 6`"):
        action_chunks(cache, np.array([2]), 6)


def test_batches_prepared_ahead_are_the_batches_asked_for():
    ahead = Ahead(lambda step, size, part: {"x": torch.tensor([step, size, part.start])}, 4, slice(0, 2), threads=2)
    assert [ahead.get(n)["x"].tolist() for n in (5, 6, 9)] == [[5, 4, 0], [6, 4, 0], [9, 4, 0]]
    ahead.close()


def test_actions_are_relative_where_the_arm_says_so(place):
    config = config_of(place, augment={})
    materials = gather(config)
    numbers, cache = materials.numbers[0], make_batches(config, materials, latents=False).caches[0]
    state, action = cache.state[[4]], cache.action[[4]][None]
    scaled = numbers.actions(action, state, 16)[0, 0]
    stats = materials.statistics["demo_arm"]["action"]
    expected = action[0, 0] - np.where(np.arange(7) < 6, state[0], 0)
    expected = (expected - np.array(stats["mean"])) / (np.array(stats["std"]) + 1e-6)
    assert scaled[:7].numpy() == pytest.approx(expected, abs=1e-5) and (scaled[7:] == 0).all()
    assert numbers.states(state, 16).shape == (1, 16)


def test_pixels_of_the_asked_colour_become_labels():
    image = torch.full((1, 1, 3, 16, 16), 0.5)
    image[0, 0, :, 2:6, 10:14] = torch.tensor([0.85, 0.1, 0.09])[:, None, None]
    assert color_mask(image, torch.tensor([0])).sum() == 16
    assert color_mask(image, torch.tensor([2])).sum() == color_mask(image, torch.tensor([-1])).sum() == 0
    assert any_color(image[0]).sum() == 16
    presence, centroid = token_labels(color_mask(image, torch.tensor([0])), 2)
    assert presence.flatten().tolist() == [0, 1, 0, 0]
    assert centroid[0, 0, 1].tolist() == pytest.approx([0.0, 0.0])  # columns 10 to 13 are the middle of 8 to 15, rows 2 to 5 of 0 to 7


def test_pictures_are_shifted_by_whole_pixels_with_their_edges_repeated():
    image = torch.arange(16.0).view(1, 1, 1, 4, 4)
    moved = shifted(image, np.array([[1, 0]]))
    assert moved[0, 0, 0].tolist() == [*image[0, 0, 0, 1:].tolist(), image[0, 0, 0, 3].tolist()]


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_arm_of_the_study_trains_and_predicts_the_same_way(place, name):
    model = ablate(new_model(make_model(config_of(place)).config, 1), name).eval()
    values, noise, _time, latents = inputs_of(model, batch=2, seed=1)
    latents = ablated_latents(latents, name)
    with torch.no_grad():
        one = torch.ones(2, 1)
        velocity = joint_pass(model, values, noise, one, latents, False, False).velocity[:, 0]
        predicted = model.predict(values, noise[:, 0], num_steps=1, past_latents=latents[:, :, 0]).padded_actions
    assert torch.allclose(predicted, noise[:, 0] - velocity, atol=1e-5)


def test_without_its_expert_no_future_reaches_the_actions_and_pooled_actions_see_no_token(place):
    config = make_model(config_of(place)).config
    for name, blind in (("full", False), ("no_foresight_expert", True), ("pooled_action_expert", True)):
        model = ablate(new_model(config, 1), name).train()
        values, noise, time, latents = inputs_of(model, batch=2, seed=1)
        out = [joint_pass(model, values, noise, time, lat, False, False).velocity for lat in (latents, latents + 1)]
        assert torch.equal(*out) == blind, name
    with pytest.raises(ConfigError, match="ablation"):
        ablate(new_model(config, 1), "no_wheels")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"optim": {"learning_rate": 1}}, "unknown key"), ({"kind": "magic"}, "kind"), ({"steps": 0}, "steps"),
        ({"steps": "many"}, "expected int"),
        ({"freeze": {"train_expert_only": True, "train_vlm_only": True}}, "nothing to train"), ({"ema": 1.0}, "ema"),
        ({"model": {"changes": {"wings": 2}}}, "wings"), ({"data": {"sources": []}}, "sources is empty"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_work_is_refused_in_words(place, changes, message):
    with pytest.raises(ConfigError, match=message):
        gather(config_of(place, **changes))


def test_files_build_on_others_and_take_overrides(tmp_path):
    (tmp_path / "base.yaml").write_text("out: runs/a\nsteps: 5\noptim: {lr: 1e-3, warmup: 7}\n")
    (tmp_path / "top.yaml").write_text("base: base.yaml\noptim: {lr: 2e-3}\n")
    config = load_train_config(tmp_path / "top.yaml", ["steps=9", "optim.clip=0.5"])
    assert (config.steps, config.optim.lr, config.optim.warmup, config.optim.clip, config.out) == (9, 2e-3, 7, 0.5, "runs/a")
    (tmp_path / "base.yaml").write_text("base: top.yaml\n")
    with pytest.raises(ConfigError, match="circles"):
        load_train_config(tmp_path / "top.yaml")


def test_state_noise_leaves_the_padding_alone(place):
    config = config_of(place, augment={"state": 0.5})
    batch = make_batches(config, gather(config), latents=False)(0, 4, slice(0, 4))
    assert (batch[STATE][:, 7:] == 0).all() and (batch[ACTION][..., 7:] == 0).all()
    assert math.isfinite(float(batch[STATE].sum())) and replace(config.augment, state=0.0).state == 0.0


@pytest.mark.parametrize("shape", [(48, 48), (37, 52), (20, 11)])
def test_cached_pictures_are_what_the_policys_way_in_makes(shape):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    wanted = (resize_with_pad(to_float(picture), 32, 32) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(fitted(picture, 32).astype(int) - wanted).max() <= 1


def test_the_speed_of_the_belt_is_asked_only_where_a_past_frame_tells_it(place):
    config = config_of(place, augment={"history_drop": 0.5})
    batches = make_batches(config, gather(config), latents=True)
    batch = batches(0, 32, slice(0, 32))
    same = (batch[LATENTS][:, :, 0] == batch[LATENTS][:, :, 1]).flatten(1).all(1)
    assert 0 < same.sum() < 32
    assert torch.equal(torch.isnan(batch[SPEED]), same)
    assert set(batch[SPEED][~same].mul(100).round().int().tolist()) <= {2, 4, 6}


def test_the_speed_loss_teaches_the_tokens_that_the_actions_read(model):
    values, noise, time, latents = inputs_of(model)
    joint = joint_pass(model, values, noise, time, latents, True, False)
    head = SpeedHead(model.config.gen.hidden, torch.tensor(0.1), torch.tensor(0.05))
    total, count = head(joint.gen_in, torch.tensor([0.0, 0.1, 9.0]), torch.tensor([True, True, False]))["speed"]
    assert count == 2
    model.zero_grad()
    total.backward()
    gen, act = model.mixture.gen, model.mixture.act
    assert all(p.grad.any() for p in gen.layers[0].parameters())
    assert not any(p.grad is not None and p.grad.any() for p in (*gen.layers[-1].parameters(), *act.parameters()))


def test_cells_with_coloured_pixels_now_or_then_may_count_more_in_the_foresight_loss(place, model):
    config = config_of(place, augment={})
    batch = make_batches(config, gather(config), latents=True)(0, 8, slice(0, 8))
    share = batch[OBJECTS]
    assert share.shape == (8, 2, 4, 4) and 0 < share.max() <= 1
    assert (share > 0).any((2, 3)).all() and (share == 0).any((2, 3)).all()  # the square, and the grey around it
    values, noise, time, latents = inputs_of(model)
    joint = joint_pass(model, values, noise, time, latents, False, False)
    plain, alike, one = (
        flow_parts(model, joint, values["action"], noise, latents, None, weight)["gen"]
        for weight in (None, torch.full((3, 2, 4, 4), 2.0), torch.zeros(3, 2, 4, 4).index_fill(2, torch.tensor([1]), 1.0))
    )
    assert float(plain[0] / plain[1]) == pytest.approx(float(alike[0] / alike[1]), rel=1e-5)
    row = ((joint.predicted - latents[:, :, 2].flatten(0, 1)[joint.layout.views]) ** 2)[:, :, 1].mean()
    assert float(one[0] / one[1]) == pytest.approx(float(row), rel=1e-5)


def test_the_change_of_state_is_the_same_in_training_and_in_use(place, tmp_path):
    sizes = {**SMALL, "state_change": True}
    config = config_of(place, out=str(tmp_path / "run"), augment={}, steps=1, save_every=1, ema=0.0, model={"changes": sizes})
    folder = run_training(config, cpu=True, quiet=True)
    materials = gather(config)
    batches = make_batches(config, materials, latents=True)
    cache = batches.caches[0]
    trained = batches._states(cache, materials.numbers[0], np.array([0, 5]))
    policy = NetworkPolicy(load_robot(find("config/robots/demo_arm.yaml")), folder)
    images = {c: np.zeros((SIDE, SIDE, 3), np.uint8) for c in policy.agreement.views.values()}
    seen = Observation(0, images, dict.fromkeys(images, 0.0), policy.robot.joint_names, cache.state[5].astype(float))
    states = [torch.from_numpy(cache.state[k]) for k in (5, 4)]
    used = policy.pipeline.batch(seen, seen, states[0], "put the red box in the left bin", True, states[1])["observation.state"][0]
    assert torch.allclose(used, trained[1], atol=1e-5) and used[7:14].abs().max() > 0.01
    assert not trained[0][7:14].any()  # nothing comes before the first frame
    first = policy.pipeline.batch(seen, seen, states[0], "put the red box in the left bin")["observation.state"][0]
    assert torch.equal(first[:7], used[:7]) and not first[7:].any()


def test_decoded_pictures_are_kept_when_another_loss_asks_for_another_label(place):
    config = config_of(place)
    cache = make_batches(config, gather(config), latents=False).caches[0]
    before = (cache.folder / "images.npy").stat().st_mtime_ns
    other = config_of(place, loss={"lambda_gen": 0.1})
    again = make_batches(other, gather(other), latents=False).caches[0]
    assert again.folder == cache.folder and np.isnan(again.target).all()
    assert (cache.folder / "images.npy").stat().st_mtime_ns == before
