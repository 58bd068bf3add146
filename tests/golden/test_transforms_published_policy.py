"""The policy on folders with the published layout (3B and 2B): found where the reference vectors are, full set or committed subset."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "policy"))
from model_fixtures import GOLDEN, VARIANTS, complete_folder
from policy_made_up import ask, make_robot, make_stats, observe, write_tokenizer

from internvla_a1.core.errors import CheckpointError
from internvla_a1.model.checkpoint import open_checkpoint, write_manifest
from internvla_a1.model.checkpoint.write import write_json
from internvla_a1.policy.network import NetworkPolicy
from internvla_a1.policy.protocol import Committed

ROBOT = make_robot(9, cameras=3, grippers=(8,))


@pytest.fixture(params=VARIANTS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if (GOLDEN / request.param / "model.safetensors").is_file():
        for name in ("config.json", "model.safetensors", "tiny_config.json"):
            shutil.copyfile(GOLDEN / request.param / name, tmp_path / name)
    else:
        complete_folder(request.param, tmp_path)
    write_json(tmp_path / "stats.json", make_stats(ROBOT))
    write_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def test_a_published_folder_drives_a_robot(folder: Path) -> None:
    policy = NetworkPolicy(ROBOT, folder, threads=1)
    assert policy.model.compat == "published" and policy.history_s == pytest.approx(1.5)
    result = policy.infer(ask(policy))
    assert result.chunk.positions.shape == (policy.model.config.chunk, 9)
    assert np.isfinite(result.chunk.positions).all()
    assert result.foresight is not None
    drawn = policy.decode(result.foresight)
    assert set(drawn.images) == set(ROBOT.camera_names)
    policy.reset()
    assert np.array_equal(policy.infer(ask(policy)).chunk.positions, result.chunk.positions)
    missing = policy.infer(ask(policy, observation=observe(ROBOT, missing=("cam2",))))
    assert not np.array_equal(missing.chunk.positions, result.chunk.positions)


def test_a_manifest_protects_a_published_folder(folder: Path) -> None:
    write_manifest(folder, source={"hub": "made-up/checkpoint"})
    with_manifest = open_checkpoint(folder)
    assert with_manifest.manifest is not None and with_manifest.contract is None
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="the values of tensor"):
        open_checkpoint(folder)


def test_the_image_tokenizer_may_come_in_files_of_its_own(folder: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    root = "model.cosmos_tokenizer." if any(k.startswith("model.cosmos_tokenizer.") for k in whole) else "model.cosmos."
    before = NetworkPolicy(ROBOT, folder).infer(ask(NetworkPolicy(ROBOT, folder))).chunk.positions
    for name, half in (("encoder.safetensors", "_enc_model."), ("decoder.safetensors", "_dec_model.")):
        part = {k.removeprefix(root + half): v.clone() for k, v in whole.items() if k.startswith(root + half)}
        assert part
        save_file(part, folder / name)
    save_file({k: v for k, v in whole.items() if not k.startswith(root)}, folder / "model.safetensors")
    after = NetworkPolicy(ROBOT, folder).infer(ask(NetworkPolicy(ROBOT, folder))).chunk.positions
    assert np.abs(before - after).max() < 1e-6  # other places in the files, other alignment, other last bit


def test_a_delta_policy_keeps_a_frozen_start(folder: Path) -> None:
    policy = NetworkPolicy(ROBOT, folder)
    free = policy.infer(ask(policy)).chunk.positions
    chunk = policy.infer(ask(policy, committed=Committed(free + 0.05, 2))).chunk
    assert chunk.frozen_steps == 2 and np.array_equal(chunk.positions[:2], free[:2] + 0.05)
