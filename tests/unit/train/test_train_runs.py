"""Whole small runs: interrupted, repeated, split over processes, prepared and handed to the policy."""

import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from train_made_up import SIDE, SMALL, inputs_of, small_config

from internvla_a1.cli import parse
from internvla_a1.core.errors import CheckpointError, ConfigError, InternVLAError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.model import load_model, new_model
from internvla_a1.model.infer import infer_config
from internvla_a1.model.loading import published_tensors, rename
from internvla_a1.policy.network import NetworkPolicy
from internvla_a1.train import checkpoints
from internvla_a1.train.cli import run_training
from internvla_a1.train.config import TrainConfig, build, load_train_config
from internvla_a1.train.foresight_task import predicted_latents
from internvla_a1.train.several import train_in_processes
from internvla_a1.train.words import vocabulary, write_tokenizer

WORKER = Path(__file__).with_name("train_gradients_worker.py")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def go(place, name, stop_after=None, **changes):
    values = {**small_config(place), **changes, "out": str(place / name)}
    return run_training(build(TrainConfig, values, "test"), cpu=True, stop_after=stop_after, quiet=True)


@pytest.fixture(scope="module")
def whole(place):
    return go(place, "whole")


def same_weights(a, b):
    one, two = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_a_resumed_run_has_the_loss_curve_and_weights_of_an_uninterrupted_one_bit_for_bit(place, whole):
    go(place, "cut", stop_after=3)  # its newest checkpoint is of step 2: step 3 is trained again
    assert not (place / "cut/final").exists()
    final = go(place, "cut")
    assert (place / "cut/metrics.jsonl").read_text() == (place / "whole/metrics.jsonl").read_text()
    assert same_weights(final, whole)


def test_with_muon_too_a_resumed_run_is_the_uninterrupted_one(place):
    finals = [
        go(place, name, stop, optim={"lr": 1e-3, "muon": 0.01}) for name, stop in (("straight", None), ("halted", 3), ("halted", None))
    ]
    assert (place / "halted/metrics.jsonl").read_text() == (place / "straight/metrics.jsonl").read_text()
    assert same_weights(finals[0], finals[2])
    state = load_file(place / "straight/checkpoints/step-00000006/optimizer.safetensors")
    assert {k.rsplit("/", 1)[1] for k in state if "mixture.act.layers.0.mlp.up_proj.weight" in k} == {"step", "momentum"}


def test_two_processes_train_on_from_their_checkpoint_to_what_one_process_gets(place, whole):
    values = {**small_config(place), "out": str(place / "shared")}
    train_in_processes(build(TrainConfig, {**values, "budget_s": 1e-6}, "test"), 2)  # one step, a checkpoint
    assert checkpoints.latest(place / "shared/checkpoints").step == 1
    final = train_in_processes(build(TrainConfig, values, "test"), 2)
    one, two = load_file(whole / "model.safetensors"), load_file(final / "model.safetensors")
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 2e-5
    steps = [json.loads(line)["step"] for line in (place / "shared/metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_where_one_of_two_processes_fails_the_other_is_not_left_waiting(place, capfd):
    values = {**small_config(place), "out": str(place / "odd"), "batch_size": 3}
    with pytest.raises(InternVLAError, match=r"rank \d of 2 ended with 2"):
        train_in_processes(build(TrainConfig, values, "test"), 2)
    assert "batch_size 3 does not divide by 2 processes" in capfd.readouterr().err


def test_a_finished_run_is_not_trained_again(place, whole):
    before = (whole / "model.safetensors").read_bytes()
    assert go(place, "whole") == whole
    assert (whole / "model.safetensors").read_bytes() == before


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(place, whole):
    go(place, "hurt", stop_after=5)
    newest = place / "hurt/checkpoints/step-00000004/optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    (place / "hurt/checkpoints/.step-00000006.1").mkdir()
    assert checkpoints.latest(place / "hurt/checkpoints").step == 2
    assert same_weights(go(place, "hurt"), whole)


def test_checkpoints_of_another_configuration_are_refused_with_what_changed(place, whole):
    with pytest.raises(ConfigError, match="changed: batch_size, optim"):
        go(place, "whole", batch_size=8, optim={"lr": 1e-2})


def test_nothing_readable_is_an_error_not_a_fresh_start(tmp_path):
    (tmp_path / "step-00000002").mkdir()
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        checkpoints.latest(tmp_path)


def test_the_result_is_a_policy_that_fits_the_demo_arm(whole):
    robot = load_robot(find("config/robots/demo_arm.yaml"))
    policy = NetworkPolicy(robot, whole)
    assert policy.agreement.views == {0: "overhead", 1: "wrist"}
    assert policy.history_s == pytest.approx(3 * robot.control_dt_s)
    assert policy.agreement.delta_mask == (True,) * 6 + (False,)
    assert json.loads((whole / "train_config.json").read_text())["steps"] == 6


def test_the_eval_command_measures_chunks_against_a_data_set(place, whole, capsys):
    command, args = parse(
        ["eval", "--weights", str(whole), "--open-loop", str(place / "demo"), "--samples", "4", "--out", str(place / "o")]
    )
    assert importlib.import_module(command.module).run(args) == 0
    assert "4 chunks, mse" in capsys.readouterr().out
    assert json.loads((place / "o/open_loop.json").read_text())[0]["samples"] == 4


def test_codec_and_grounding_are_taken_over_by_the_policy_run(place):
    codec, ground = go(place, "codec", kind="codec"), go(place, "ground", kind="grounding")
    assert set(json.loads((place / "ground/grounding.json").read_text())) == {"recall", "precision"}
    final = go(place, "warm", steps=1, save_every=1, ema=0.0, model={"changes": SMALL, "codec": str(codec), "warm_start": str(ground)})
    made, source = load_model(final), load_model(codec)
    assert all(torch.equal(a, b) for a, b in zip(made.codec.parameters(), source.codec.parameters(), strict=True))
    moved = made.vision.embed.weight - load_model(ground).vision.embed.weight
    assert 0 < moved.abs().max() < 5e-3  # one small step away from where grounding left it


def test_weights_of_other_sizes_are_refused_with_both(place, whole):
    wide = {**SMALL, "codec": {**SMALL["codec"], "latent": 8}}
    with pytest.raises(ConfigError, match=r"latent=16.* to have .*latent=8"):
        go(place, "other", model={"changes": wide, "codec": str(whole)})
    deep = {**SMALL, "vision": {**SMALL["vision"], "hidden": 16}}
    with pytest.raises(ConfigError, match=r"vision\.\S+ is \(32, .* there, \(16, "):
        go(place, "other", model={"changes": deep, "warm_start": str(whole)})


def test_the_smooth_tokenizer_goes_on_from_the_one_before(place):
    first = go(place, "rough", kind="codec")
    loss = {"codec_noise": 0.2, "codec_smooth": 0.5, "object_weight": 25.0}
    after = go(place, "smooth", kind="codec", loss=loss, model={"init": str(first)}, optim={"lr": 0.0, "end_lr": 0.0}, ema=0.0)
    told = [json.loads(line) for line in (place / "smooth/metrics.jsonl").read_text().splitlines()]
    assert len(told) == 6 and all(row["smooth"] > 0 for row in told)
    old, new = load_model(first), load_model(after)
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(new.codec.decode(new.codec.encode(images)), old.codec.decode(old.codec.encode(images)), atol=0.02)


def test_sharper_foresight_leaves_every_action_as_it_was(place, whole):
    after = go(place, "foresight", kind="foresight", model={"init": str(whole)})
    old, new = load_model(whole), load_model(after)
    before, now = old.state_dict(), new.state_dict()
    changed = {name for name in before if not torch.equal(before[name], now[name])}
    groups = ("latent_head.gen_out_proj", "mixture.gen.layers.1.mlp", "codec.decoder", "codec.post_quant_conv")
    assert all(any(name.startswith(group) for name in changed) for group in groups)
    last = "mixture.gen.layers.1."
    own = [f"{last}{part}" for part in ("self_attn.q_proj", "self_attn.o_proj", "post_attention_layernorm", "mlp")]
    heads = [f"latent_head.{part}" for part in ("upsample_conv", "gen_out_layer_norm", "gen_out_proj", "gen_keep_proj")]
    may = (*own, *heads, "mixture.gen.norm", "codec.decoder.", "codec.post_quant_conv.")
    assert all(name.startswith(may) for name in changed)
    values, noise, _time, latents = inputs_of(old, batch=2, seed=1)
    one, two = (m.predict(values, noise[:, 0], past_latents=latents[:, :, 0], foresight=True) for m in (old, new))
    assert torch.equal(one.padded_actions, two.padded_actions) and torch.equal(one.now_latents, two.now_latents)
    assert not torch.equal(one.latents, two.latents)


def test_what_it_trains_on_is_what_the_policy_predicts(place, whole):
    model = load_model(whole)
    values, noise, _time, latents = inputs_of(model, batch=2, seed=1)
    with torch.no_grad():
        ours = predicted_latents(model, values, latents)
        theirs = model.predict(values, noise[:, 0], past_latents=latents[:, :, 0], foresight=True).latents
    assert torch.allclose(ours, theirs.flatten(0, 1), atol=1e-5)


def published_folder(folder):
    """Fresh weights of the small 3B of the reference vectors, under the published names."""
    source = Path(__file__).resolve().parents[2] / "golden" / "data" / "3b"
    shapes = {name: tuple(t.shape) for name, t in rename(source, "3b", load_file(source / "model.safetensors")).items()}
    policy, sizes = (json.loads((source / name).read_text()) for name in ("config.json", "tiny_config.json"))
    model = new_model(infer_config("3b", shapes, policy, sizes))
    folder.mkdir()
    save_file({k: t.contiguous() for k, t in published_tensors(model).items()}, folder / "model.safetensors")
    for name in ("config.json", "tiny_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


def test_the_fine_tuning_file_starts_from_a_folder_in_the_published_layout(place, tmp_path):
    write_tokenizer(tmp_path / "tokenizer", vocabulary([]), 1000)
    weights = published_folder(tmp_path / "published")
    changes = [f"out={tmp_path}/run", f"data.sources=[{place}/demo]", f"data.tokenizer={tmp_path}/tokenizer", f"model.init={weights}"]
    changes += ["steps=2", "batch_size=2", "precision=float32", "log_every=1", "freeze.train_expert_only=true"]
    final = run_training(load_train_config("config/train/finetune_3b.yaml", changes), cpu=True, quiet=True)
    before, after = load_model(weights).state_dict(), checkpoints.latest(tmp_path / "run/checkpoints").model
    assert torch.equal(before["embed_tokens.weight"], after["model.embed_tokens.weight"])  # frozen
    moved = after["model.mixture.act.layers.0.mlp.up_proj.weight"] - before["mixture.act.layers.0.mlp.up_proj.weight"]
    assert 0 < moved.abs().max() < 1e-6  # two steps at a warm-up rate
    assert load_file(final / "model.safetensors")["embed_tokens.weight"].dtype == torch.bfloat16
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines] == pytest.approx([2.5e-5 / 1001, 2 * 2.5e-5 / 1001])


def test_without_a_cache_the_same_data_train_through_the_policys_transforms(place):
    values = small_config(place)
    data = {**values["data"], "cache": ""}
    final = go(place, "plain", steps=2, data=data, loss={"lambda_gen": 0.1}, augment={})
    assert (final / "manifest.json").is_file()


def test_two_processes_give_the_gradients_of_one_with_the_doubled_batch(place, tmp_path):
    config = tmp_path / "config.json"
    gradients = []
    for world in (1, 2):
        config.write_text(json.dumps({**small_config(place), "out": str(tmp_path / f"world{world}")}))
        out = tmp_path / f"gradients{world}.safetensors"
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        source = str(Path(__file__).resolve().parents[3] / "src")
        shared = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= {"ACCELERATE_USE_CPU": "true"}
        ranks = [{"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(world)} if world > 1 else {} for r in range(world)]
        started = [subprocess.Popen([sys.executable, str(WORKER), str(config), str(out)], env={**shared, **r}) for r in ranks]
        assert [p.wait(timeout=120) for p in started] == [0] * world
        gradients.append(load_file(out))
    one, two = gradients
    assert one.keys() == two.keys() and len(one) > 50
    worst = max(float((one[k] - two[k]).abs().max()) for k in one)
    assert worst < 1e-6
    assert max(float(g.abs().max()) for g in one.values()) > 1e-3
