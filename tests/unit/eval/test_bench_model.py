"""The benchmarks run from end to end on the smallest sizes; what they print is for people and machines alike."""

import argparse
import json
from pathlib import Path

import pytest

from internvla_a1.cli import parse
from internvla_a1.eval import bench_load, bench_model, bench_policy
from internvla_a1.eval.model_flops import stage_flops
from internvla_a1.model.config import tiny_config
from internvla_a1.model.example import example_batch


def arguments(*words: str) -> argparse.Namespace:
    return parse([*words])[1]


def test_operations_of_every_stage_are_counted() -> None:
    config = tiny_config()
    flops = stage_flops(config, example_batch(config))
    assert {"vision", "understanding", "tokenizer", "generation", "state", "actions"} <= set(flops) and min(flops.values()) > 0
    half = stage_flops(tiny_config(steps=config.steps * 2), example_batch(config))
    assert half["actions"] == pytest.approx(2 * flops["actions"], rel=1e-6) and half["vision"] == flops["vision"]


def test_the_models_benchmark_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_model.run(arguments("bench", "model", "--config", "tiny", "--threads", "1", "--runs", "1", "--out", str(tmp_path))) == 0
    written = json.loads((tmp_path / "bench_model_tiny_float32.json").read_text())
    assert set(written["flops"]) <= set(written["seconds"]) and written["peak_gflops"] > 0
    assert "GFLOP/s" in capsys.readouterr().out and (tmp_path / "bench_model_tiny_float32.png").is_file()


def test_the_policys_benchmark_times_chunks_with_and_without_a_commitment(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_policy.run(arguments("bench", "policy", "--runs", "1")) == 0
    assert capsys.readouterr().out.count("chunking, past") == 4


def test_the_loads_benchmark_times_a_folder_beside_reading_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_load.run(arguments("bench", "load", "--folder", "model_weights/tiny")) == 0
    table = capsys.readouterr().out
    assert "reading the file" in table and "every byte verified" in table and "one chunk" in table
