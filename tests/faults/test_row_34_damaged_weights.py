"""faults.md row 34: weights that are truncated, flipped, swapped, incomplete, mis-shaped or non-finite are refused with a reason."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from internvla_a1.core.errors import CheckpointError
from internvla_a1.model.checkpoint import Contract, open_checkpoint, require_tensors, write_checkpoint, write_manifest

CONTRACT = Contract("demo_arm", ("a", "b"), (True, False), {"image0": "top"}, 0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = torch.Generator().manual_seed(0)
    tensors = {
        "model.state_proj.weight": torch.randn(16, 32, generator=rng),
        "model.state_proj.bias": torch.randn(16, generator=rng).to(torch.bfloat16),
        "model.norm.weight": torch.randn(64, generator=rng).to(torch.float16),
        "model.count": torch.arange(4),
    }
    stats = {"demo_arm": {"observation.state": {"mean": [0.0, 0.1], "std": [1.0, 2.0]}}}
    write_checkpoint(tmp_path / "w", {"type": "qwena1", "chunk_size": 8}, tensors, stats, CONTRACT)
    return tmp_path / "w"


def test_an_intact_folder_opens_with_every_value(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    stored = load_file(folder / "model.safetensors")
    assert set(checkpoint.tensors) == set(stored)
    assert all(torch.equal(checkpoint.tensors[k], v) and checkpoint.tensors[k].dtype == v.dtype for k, v in stored.items())
    assert checkpoint.contract == CONTRACT
    assert checkpoint.stats is not None and checkpoint.stats["demo_arm"]["observation.state"]["std"] == [1.0, 2.0]


def test_500_truncations_of_any_file_are_all_refused(folder: Path) -> None:
    rng = np.random.default_rng(1)
    refused = 0
    names = sorted(p.name for p in folder.iterdir())
    for i in range(500):
        path = folder / names[i % len(names)]
        whole = path.read_bytes()
        path.write_bytes(whole[: rng.integers(len(whole))])
        refused += _refused(folder)
        path.write_bytes(whole)
    assert refused == 500
    open_checkpoint(folder)


def test_3000_bit_flips_in_any_file_are_all_refused(folder: Path) -> None:
    rng = np.random.default_rng(2)
    files = {p: bytearray(p.read_bytes()) for p in sorted(folder.iterdir())}
    refused = 0
    for i in range(3000):
        path = list(files)[i % len(files)]
        content = files[path]
        byte, bit = rng.integers(len(content)), 1 << rng.integers(8)
        content[byte] ^= bit
        path.write_bytes(content)
        refused += _refused(folder)
        content[byte] ^= bit
        path.write_bytes(content)
    assert refused == 3000
    open_checkpoint(folder)


def _refused(folder: Path) -> int:
    try:
        open_checkpoint(folder)
    except CheckpointError as error:
        return int(str(folder) in str(error))
    return 0


def test_without_hashing_the_structure_is_still_checked(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        open_checkpoint(folder, verify=False)


def _rewrite(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    tensors = {k: v.clone() for k, v in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("model.norm.weight"), "missing tensor model.norm.weight"),
        (lambda t: t.update(spy=torch.zeros(1)), "extra tensor spy"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(32, 2, dtype=torch.float16)}), r"model.norm.weight is F16 \[32, 2\]"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(64)}), "model.norm.weight is F32"),
        (lambda t: t["model.norm.weight"].add_(1), "values of tensor model.norm.weight"),
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_a_tensor_that_is_not_the_manifests_is_named(folder: Path, change, said: str, verify: bool) -> None:
    _rewrite(folder, change)
    if not verify and "values" in said:
        open_checkpoint(folder, verify=False)
        return
    with pytest.raises(CheckpointError, match=said if verify else said.split(" is ")[0]):
        open_checkpoint(folder, verify=verify)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["model.state_proj.weight", "model.state_proj.bias", "model.norm.weight"])
def test_a_non_finite_tensor_is_named_with_and_without_a_manifest(folder: Path, name: str, value: float) -> None:
    _rewrite(folder, lambda t: t[name].view(-1)[3].fill_(value))
    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(folder)
    with pytest.raises(CheckpointError, match=name):
        write_manifest(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=f"{name} holds NaN or infinity"):
        open_checkpoint(folder)


def test_files_swapped_between_two_checkpoints_are_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_checkpoint(other, {"type": "qwena1"}, {"model.x": torch.ones(3)}, None, CONTRACT)
    shutil.copyfile(other / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="manifest"):
        open_checkpoint(folder)


def test_weights_that_the_manifest_does_not_list_are_refused(folder: Path) -> None:
    save_file({"model.cosmos.x": torch.ones(1)}, folder / "encoder.safetensors")
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors is not in the manifest"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "stats.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(folder)


def test_a_manifest_edited_by_hand_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    value["contract"]["joint_names"] = ["b", "a"]
    path.write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="edited by hand"):
        open_checkpoint(folder)


def test_a_model_says_which_tensors_are_missing_extra_or_of_another_shape(folder: Path) -> None:
    found = open_checkpoint(folder).tensors
    expected = {name: tuple(t.shape) for name, t in found.items()}
    require_tensors(folder, found, expected)
    require_tensors(folder, found, {**expected, "optional": (1,)}, optional=("optional",))
    expected.pop("model.count")
    with pytest.raises(CheckpointError, match=r"missing a; extra model\.count; model\.norm\.weight is \[64\], expected \[65\]"):
        require_tensors(folder, found, {**expected, "a": (1,), "model.norm.weight": (65,)})


def test_a_large_file_is_hashed_once_until_somebody_writes_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from internvla_a1.model.checkpoint import integrity

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(integrity, "REMEMBER_ABOVE_BYTES", 1)
    monkeypatch.setattr(integrity, "SETTLED_NS", 0)
    open_checkpoint(folder)
    real, hashed = integrity.file_sha256, []
    monkeypatch.setattr(integrity, "file_sha256", lambda path: hashed.append(path.name) or real(path))
    open_checkpoint(folder)
    assert hashed == []
    open_checkpoint(folder, remember=False)
    assert len(hashed) == 3
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="values of tensor"):
        open_checkpoint(folder)
