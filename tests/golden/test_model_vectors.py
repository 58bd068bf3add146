"""The model against the published implementation's numbers: a carried subset always, every vector where they are."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest
import torch
from model_fixtures import GOLDEN, VARIANTS, subset_case, subset_model, with_recorded_middle

from internvla_a1.model import load_model, verify
from internvla_a1.model.network import InternVLAA1
from internvla_a1.model.replay import case_batch

FOLDERS = [GOLDEN / name for name in (*VARIANTS, "cosmos") if (GOLDEN / name).is_dir()]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def carried(variant: str, **changes: object) -> tuple[InternVLAA1, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    case, expected = subset_case(variant)
    model = subset_model(variant)
    model.config = dataclasses.replace(model.config, **changes)
    return (with_recorded_middle(model, expected["gen.embs"]) if variant == "2b" else model), case, expected


def worst(results: list[verify.Comparison]) -> dict[str, float]:
    return {f"{c.case} {c.output}": c.error for c in results if not c.passed}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_missing_view_gives_the_published_numbers(variant: str) -> None:
    model, case, expected = carried(variant)
    results = verify.compare_case(model, "masked_view", case, expected)
    assert len(results) == len(expected) >= 24
    assert worst(results) == {}


def test_flattened_rotary_sections_are_noticed() -> None:
    model, case, expected = carried("3b", rope_sections=(16, 0, 0))
    assert "masked_view actions" in worst(verify.compare_case(model, "masked_view", case, expected))


def test_a_wrong_rotary_base_is_noticed() -> None:
    model, case, expected = carried("2b", rope_theta=1e6)
    assert "masked_view actions" in worst(verify.compare_case(model, "masked_view", case, expected))


def test_consistent_positions_differ_from_published_ones_only_in_the_3b() -> None:
    for variant, differs in (("3b", True), ("2b", False)):
        case, expected = subset_case(variant)
        model = with_recorded_middle(subset_model(variant, "consistent"), expected["gen.embs"])
        actions = model.predict(case_batch(case), case["noise"]).padded_actions
        assert (verify.difference(actions, expected["actions"]) > 1e-3) is differs


def test_verification_fails_when_one_output_is_wrong() -> None:
    model, case, expected = carried("3b")
    expected["act.v_step0"] = expected["act.v_step0"] + 2e-4
    expected["act.unheard_of"] = torch.zeros(1)
    assert set(worst(verify.compare_case(model, "c", case, expected))) == {"c act.v_step0", "c act.unheard_of"}


def test_a_folder_without_vectors_is_refused_with_what_it_should_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.run(argparse.Namespace(folder=tmp_path, threads=1, device="cpu")) == 2
    assert "no reference vectors" in capsys.readouterr().out


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_every_vector_of_the_full_set_is_within_bounds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.run(argparse.Namespace(folder=folder, threads=1, device="cpu")) == 0, capsys.readouterr().out
    assert "recon" in capsys.readouterr().out


@pytest.mark.skipif(not (GOLDEN / "3b").is_dir(), reason="the full set of reference vectors is not here")
def test_bfloat16_errs_no_more_than_the_published_bfloat16() -> None:
    folder = GOLDEN / "3b"
    case, expected = (verify.read_tensors(folder / f"all_views.{part}.safetensors") for part in ("inputs", "outputs"))
    published = verify.difference(verify.read_tensors(folder / "all_views.lowprec.safetensors")["bfloat16.actions"], expected["actions"])
    errors = {}
    for compat in ("published", "consistent"):
        model = load_model(folder, dtype=torch.bfloat16, compat=compat)
        errors[compat] = verify.difference(model.predict(case_batch(case), case["noise"]).padded_actions, expected["actions"])
    assert errors["consistent"] < 0.2 * published  # most of the published error is the rounding of t (Q5)
    assert 0.5 * published < errors["published"] < 1.5 * published
