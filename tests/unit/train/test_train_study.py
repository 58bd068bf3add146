"""The foresight study: arms trained and scored alike, going on where it stopped, and what its intervals say."""

import json
import shutil

import cv2
import numpy as np
import pytest
import yaml
from train_made_up import small_config, write_demo

from internvla_a1.cli import parse
from internvla_a1.core.errors import ConfigError, InternVLAError
from internvla_a1.eval.campaign import Case, Result
from internvla_a1.eval.closed_loop import Outcome
from internvla_a1.eval.gaps import gap, rate
from internvla_a1.eval.protocol import Protocol
from internvla_a1.train.study import _finished, load_study, rows_of, run, train_all


def test_one_seed_has_the_interval_of_its_episodes():
    sorted_ = np.zeros((1, 400), bool)
    sorted_[0, :300] = True
    found = rate(sorted_)
    assert found.value == 0.75 and found.seeds == (0.75,)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert (found.low, found.high) == (pytest.approx(0.75 - half, abs=0.004), pytest.approx(0.75 + half, abs=0.004))


def test_where_nothing_failed_the_interval_is_not_a_point():
    assert rate(np.ones((3, 200), bool)).low == pytest.approx(1 - 1.96**2 / (600 + 1.96**2), abs=1e-4)


def test_training_seeds_that_disagree_widen_the_interval():
    alike, apart = np.zeros((3, 200), bool), np.zeros((3, 200), bool)
    alike[:, :150], apart[0, :200], apart[1, :150], apart[2, :100] = True, True, True, True
    one, other = rate(alike), rate(apart)
    assert one.value == other.value == 0.75
    assert other.high - other.low > 2.5 * (one.high - one.low)


def test_a_gap_pairs_episodes_and_is_clear_only_where_zero_is_out():
    luck = np.random.default_rng(0).random((3, 200))
    better, worse = luck < 0.8, luck < 0.6  # the same episodes are the hard ones
    found = gap(better, worse)
    assert found.clear and found.value == pytest.approx(0.2, abs=0.03)
    assert found.high - found.low < 0.12  # unpaired it would be about 0.15
    assert not gap(better, better[:, ::-1]).clear
    with pytest.raises(ConfigError, match="cannot be paired"):
        gap(better, worse[:, :100])


@pytest.fixture
def study_file(tmp_path):
    write_demo(tmp_path / "demo")
    values = {k: v for k, v in small_config(tmp_path).items() if k not in ("out", "seed", "threads")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**values, "steps": 2, "out": "x"}))
    (tmp_path / "cases.yaml").write_text("- {label: glance, speed: 0.08, limit_s: 0.4, image_size: 32}\n")
    path = tmp_path / "study.yaml"
    arms = ["full", "pooled_action_expert"]
    names = {k: str(tmp_path / f"{v}") for k, v in (("out", "study"), ("config", "run.yaml"), ("cases", "cases.yaml"))}
    path.write_text(yaml.safe_dump({**names, "arms": arms, "seeds": [0], "episodes": 1, "processes": 2}))
    return path


def test_arms_are_trained_once_and_compared_in_a_table(study_file):
    assert run(parse(["study", "--config", str(study_file)])[1]) == 0
    out = study_file.parent / "study"
    weights = [out / f"{arm}-0/final/model.safetensors" for arm in ("full", "pooled_action_expert")]
    made = [w.stat().st_mtime_ns for w in weights]
    assert "| glance | 0.0 [0.0, 79.3] (0.0) |" in (out / "study.md").read_text()
    assert json.loads((out / "study.json").read_text())[0]["gaps"]["pooled_action_expert"]["value"] == 0.0
    assert (out / "report.html").is_file()
    assert cv2.imread(str(out / "study.png")).std() > 5  # something is drawn
    assert run(parse(["study", "--config", str(study_file)])[1]) == 0
    assert [w.stat().st_mtime_ns for w in weights] == made
    assert len((out / "outcomes.jsonl").read_text().splitlines()) == 2
    with pytest.raises(ConfigError, match="weights of another configuration"):
        train_all(load_study(str(study_file), ['set=["ema=0.5"]']))


def test_a_run_whose_episodes_are_on_record_needs_no_weights(study_file, tmp_path):
    records = tmp_path / "records"
    arguments = ["study", "--config", str(study_file), "--set", f"records={records}"]
    assert run(parse(arguments)[1]) == 0
    table = (records / "study.md").read_text()
    for arm in ("full", "pooled_action_expert"):
        shutil.rmtree(study_file.parent / f"study/{arm}-0")
    assert run(parse(arguments)[1]) == 0
    assert (records / "study.md").read_text() == table and not (study_file.parent / "study/full-0").exists()
    assert not _finished(load_study(str(study_file), [f"records={records}", "episodes=2"]), "full", 0)  # one is missing
    assert not _finished(load_study(str(study_file), [f"records={records}", 'set=["ema=0.5"]']), "full", 0)  # another configuration


def test_a_training_that_fails_says_why(study_file):
    study = load_study(str(study_file), ['set=["optim.rate=1"]', "processes=1"])
    with pytest.raises(InternVLAError, match=r"full, seed 0 ended with 2(?s:.*)unknown key"):
        train_all(study)


def test_what_a_study_cannot_be(study_file):
    for change, message in (("arms=[fuller]", "fuller"), ("seeds=[]", "at least one"), ("depth=3", "depth")):
        with pytest.raises(ConfigError, match=message):
            load_study(str(study_file), [change])


def test_rows_take_every_seed_of_an_arm_and_the_first_arm_is_the_one_compared(study_file):
    study = load_study(str(study_file), ["seeds=[0, 1]", "episodes=2"])

    def result(hits):
        played = (Outcome(n, "sorted" if hit else "missed", "", -1.0, 1.0, 1, 0.01, False, 0) for n, hit in enumerate(hits))
        return Result(Case("expert", Protocol(), label="any"), tuple(played))

    hits = {("full", 0): (1, 1), ("full", 1): (1, 0), ("pooled_action_expert", 0): (1, 0), ("pooled_action_expert", 1): (0, 0)}
    (row,) = rows_of(study, {run: [result(h)] for run, h in hits.items()})
    assert row["rates"]["full"].seeds == (1.0, 0.5) and row["rates"]["pooled_action_expert"].value == 0.25
    assert row["gaps"]["pooled_action_expert"].seeds == (0.5, 0.5)
