"""The whole way from nothing, in small: stages go on after an interruption and end in a folder that can be shipped."""

import json

import pytest
import torch
import yaml
from train_made_up import SMALL

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.eval.cli import read_cases
from internvla_a1.model import load_model, save_model
from internvla_a1.model.checkpoint import open_checkpoint
from internvla_a1.policy.network import NetworkPolicy
from internvla_a1.train.config import load_train_config
from internvla_a1.train.materials import make_model
from internvla_a1.train.pipeline import load_pipeline, run_pipeline
from internvla_a1.train.study import load_study

SMALLER = [
    "steps=2", "batch_size=4", "threads=1", "compile=false", "save_every=1", "data.frame_offsets=[-2, 0, 2]",
    f"model.changes={json.dumps(SMALL)}",
]  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "cases.yaml").write_text("- {label: glance, speed: 0.08, limit_s: 0.4, image_size: 32}\n")
    record = {"cameras": ["overhead", "wrist"], "image_size": 32, "wide_share": 1.0, "speed": [0.06, 0.1], "still_share": 0.0}
    tiny, codec = (str(find(f"config/train/{n}.yaml").resolve()) for n in ("tiny", "tiny_codec"))
    (folder / "codec.yaml").write_text(f"base: {codec}\n")
    second = [s for s in SMALLER if not s.startswith("model")]
    stages = [
        {"name": "demos", "kind": "record", "episodes": 1, "options": record},
        {"name": "codec", "kind": "train", "config": str(folder / "codec.yaml"), "data": ["demos"], "set": SMALLER},
        {"name": "one", "kind": "train", "config": tiny, "data": ["demos"], "codec": "codec", "set": SMALLER},
        {"name": "two", "kind": "train", "config": tiny, "data": {"demos": 1}, "init": "one", "set": second},
        {"name": "scores", "kind": "score", "weights": "two", "cases": str(folder / "cases.yaml"), "episodes": 1},
        {"name": "shipped", "kind": "ship", "weights": "two", "score": "scores", "to": str(folder / "tiny")},
    ]
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump({"out": str(folder / "runs"), "processes": 1, "stages": stages}))
    return path


class Killed(Exception):
    """What ends a process in the middle of a stage."""


def test_an_interrupted_pipeline_goes_on_and_ends_in_a_shippable_policy(recipe):
    said = []

    def say(text, last="[4/6] two: train"):
        said.append(text)
        if text == last:
            raise Killed

    with pytest.raises(Killed):
        run_pipeline(str(recipe), say=say)
    demos = recipe.parent / "runs/demos/meta/info.json"
    before = demos.stat().st_mtime_ns
    said.clear()
    assert run_pipeline(str(recipe), say=said.append) == 0
    assert [t.split()[1] for t in said if "complete already" in t] == ["demos:", "codec:", "one:"]
    assert demos.stat().st_mtime_ns == before
    policy = NetworkPolicy(load_robot(find("config/robots/demo_arm.yaml")), recipe.parent / "tiny")
    assert policy.agreement.views == {0: "overhead", 1: "wrist"}
    card = (recipe.parent / "tiny/README.md").read_text()
    assert "| glance | 0/1 |" in card and "1 episodes of stage demos" in card
    seconds = json.loads((recipe.parent / "runs/seconds.json").read_text())
    assert set(seconds) == {"demos", "codec", "one", "two", "scores", "shipped"} and min(seconds.values()) >= 0


def test_a_part_of_the_stages_can_be_asked_for(recipe):
    assert [s.name for s in load_pipeline(recipe, ["until=codec"]).wanted] == ["demos", "codec"]
    with pytest.raises(ConfigError, match="until"):
        load_pipeline(recipe, ["until=dreams"])


def test_a_changed_stage_is_done_again(recipe):
    raw = yaml.safe_load(recipe.read_text())
    raw["stages"][-1]["limit_mb"] = 0.001
    changed = recipe.with_name("changed.yaml")
    changed.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=r"the limit is 0\.001"):
        run_pipeline(str(changed), say=lambda _: None)


def test_a_stage_is_not_taken_for_complete_when_its_training_file_has_changed(recipe):
    file = recipe.with_name("codec.yaml")
    before, said = file.read_text(), []
    file.write_text(before + "ema: 0.5\n")
    try:
        with pytest.raises(ConfigError, match=r"checkpoints of another configuration \(changed: ema"):
            run_pipeline(str(recipe), say=said.append)
    finally:
        file.write_text(before)
    assert [t for t in said if "complete already" in t] == ["[1/6] demos: complete already"]
    assert run_pipeline(str(recipe), say=said.append) == 0  # what was there is there still


def test_what_the_recipe_ships_is_not_too_large_for_it(tmp_path):
    """The limit is looked at after hours. The folder is as large as its weights, but for some files of words and numbers."""
    ship = next(s for s in load_pipeline(find("config/train/pipeline_tiny.yaml")).stages if s.kind == "ship")
    model = make_model(load_train_config("config/train/tiny.yaml", ["model.codec=''", "model.warm_start=''"]))
    save_model(model, tmp_path, torch.float32, codec_dtype=torch.bfloat16)
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) / 2**20 < ship.limit_mb - 0.5
    stored = open_checkpoint(tmp_path).tensors
    assert {t.dtype for n, t in stored.items() if n.startswith("codec.")} == {torch.bfloat16}
    codec = load_model(tmp_path, dtype=torch.float32).codec
    assert torch.equal(codec.encoder.conv_in.weight, model.codec.encoder.conv_in.weight.bfloat16().float())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda raw: raw["stages"][0].update(kind="dream"), "kind"),
        (lambda raw: raw["stages"][1].update(data=["nothing"]), "earlier stage"),
        (lambda raw: raw["stages"][1].update(wheels=4), "unknown key"),
        (lambda raw: raw.pop("out"), "`out`"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_runs(recipe, tmp_path, change, message):
    raw = yaml.safe_load(recipe.read_text())
    change(raw)
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=message):
        load_pipeline(tmp_path / "bad.yaml")


@pytest.mark.parametrize("path", sorted(p.relative_to(find("config").parent) for p in find("config/train").rglob("*.yaml")), ids=str)
def test_every_file_in_config_train_can_be_read(path):
    if path.name.startswith("pipeline"):
        assert load_pipeline(path).stages
    elif path.name.startswith("cases"):
        assert read_cases(path)
    elif "arms" in yaml.safe_load(find(str(path)).read_text()):
        study = load_study(str(path))
        assert load_train_config(study.config).steps and read_cases(find(study.cases))
    elif path.name.startswith("accelerate"):
        assert yaml.safe_load(find(str(path)).read_text())["distributed_type"] == "FSDP"
    else:
        assert load_train_config(path).out
