"""Committed steps before the steps to come, in training: shown as they are, never learned, and as inference shows them."""

import pytest
import torch
from train_made_up import SMALL, config_of, inputs_of, small_config

from internvla_a1.core.errors import ConfigError
from internvla_a1.model import load_model
from internvla_a1.model.flow import step_times
from internvla_a1.policy.rtc import Prefix
from internvla_a1.train.batches import draw_noise
from internvla_a1.train.cli import run_training
from internvla_a1.train.materials import make_model
from internvla_a1.train.objective import flow_parts, joint_pass
from internvla_a1.train.policy_task import PolicyTask


def test_known_steps_are_shown_as_they_are_and_the_others_get_the_velocity_that_inference_would_have(model):
    values, noise, time, latents = inputs_of(model)
    chunk, known = model.config.chunk, 3
    given = step_times(torch.ones_like(time), torch.full_like(time, known, dtype=torch.long), chunk)
    joint = joint_pass(model, values, noise, given, latents, False, False)
    seen = []

    class Spy(Prefix):
        def __call__(self, velocity, x, t):
            v = super().__call__(velocity, x, t)
            seen.append(v.clone())
            return v

    one = {k: v[:1] for k, v in values.items()}
    target = values["action"][0]
    done = model.eval().predict(one, noise[:1, 0], velocity_hook=Spy(target, torch.arange(chunk) < known)).padded_actions
    model.train()
    assert torch.allclose(seen[0][0, known:], joint.velocity[0, 0, known:], atol=1e-4)
    assert torch.allclose(done[0, :known], target[:known], atol=1e-5)
    blind = joint_pass(model, values, noise, torch.ones_like(time), latents, False, False)
    assert not torch.allclose(blind.velocity[0, 0, known:], joint.velocity[0, 0, known:], atol=1e-3)


def test_of_known_steps_there_is_nothing_to_learn(model):
    values, noise, time, latents = inputs_of(model)
    given = step_times(time, torch.tensor([[0], [2], [model.config.chunk - 1]]), model.config.chunk)
    joint = joint_pass(model, values, noise, given, latents, False, False)
    _, plain = flow_parts(model, joint, values["action"], noise, latents)["action"]
    error, count = flow_parts(model, joint, values["action"], noise, latents, known=given == 0)["action"]
    used = model.config.used_action_dim
    assert float(plain - count) == (2 + model.config.chunk - 1) * used
    wrong = (joint.velocity[:, 0] - noise[:, 0] + values["action"])[..., :used] ** 2
    assert float(error) == pytest.approx(
        float(sum(w[n:].sum() for w, n in zip(wrong, (0, 2, model.config.chunk - 1), strict=True))), rel=1e-5
    )


def test_prefixes_have_every_length_short_ones_more_often_and_leave_noise_and_times_as_they_were():
    plain = draw_noise(0, 0, 4000, 1, 6, 1, slice(0, 4000))
    drawn = draw_noise(0, 0, 4000, 1, 6, 1, slice(0, 4000), prefix_steps=4)
    assert torch.equal(plain["noise"], drawn["noise"]) and drawn["time"].shape == (4000, 1, 6)
    assert torch.equal(drawn["time"][..., -1], plain["time"])
    known = drawn["time"][:, 0] == 0
    lengths = known.sum(1)
    assert (known == (torch.arange(6) < lengths[:, None])).all()
    counts = torch.bincount(lengths).tolist()
    assert len(counts) == 5 and counts == sorted(counts, reverse=True) and counts[-1] > 100
    part = draw_noise(0, 0, 4000, 1, 6, 1, slice(100, 200), prefix_steps=4)
    assert torch.equal(part["time"], drawn["time"][100:200])


def test_training_shows_prefixes_and_weights_say_how_long_they_were(place):
    plain = small_config(place)
    first = {"steps": 2, "out": str(place / "first"), "model": {"changes": {**SMALL, "prefix_steps": 3}}}
    folder = run_training(config_of(place, **first), cpu=True, quiet=True)
    assert load_model(folder).config.prefix_steps == 3
    known = [
        float((b["time"] == 0).float().mean())
        for b in (PolicyTask(config_of(place, **c)).batches(0, 8, slice(0, 8)) for c in (first, plain))
    ]
    assert known[0] > 0 == known[1]
    other = config_of(place, model={"init": str(folder), "changes": {"prefix_steps": 1}})
    assert make_model(other).config.prefix_steps == 1
    with pytest.raises(ConfigError, match=r"no model\.changes but prefix_steps"):
        make_model(config_of(place, model={"init": str(folder), "changes": {"layers": 1}}))
    with pytest.raises(ConfigError, match="prefix_steps must be at least 0 and below"):
        make_model(config_of(place, model={"changes": {**SMALL, "prefix_steps": 99}}))
