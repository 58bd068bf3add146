"""faults.md row 35: pickles, header bombs, paths out of the folder and remote code are refused before anything runs."""

import ast
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from internvla_a1.core.errors import CheckpointError
from internvla_a1.model.checkpoint import open_checkpoint, write_checkpoint

SOURCE = Path(__file__).resolve().parents[2] / "src" / "internvla_a1"


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "w", {"type": "qwena1"}, {"model.x": torch.ones(4)})
    (tmp_path / "w" / "manifest.json").unlink()  # the guards below must not lean on it
    return tmp_path / "w"


def test_a_pickle_renamed_safetensors_is_never_opened(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    weights = folder / "model.safetensors"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        weights.write_bytes(pickle.dumps({"model.x": _Canary(canary)}, protocol=protocol))
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            open_checkpoint(folder)
    torch.save({"model.x": _Canary(canary)}, weights)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        open_checkpoint(folder)
    with zipfile.ZipFile(weights, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(_Canary(canary)))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        open_checkpoint(folder)
    assert not canary.exists()


def test_a_pickle_beside_the_weights_is_left_alone(folder: Path, tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "model.pt", "train_state.pkl", "modeling_evil.py", "encoder.jit"):
        (folder / name).write_bytes(pickle.dumps(_Canary(tmp_path / "canary")))
    assert list(open_checkpoint(folder).tensors) == ["model.x"]
    assert not (tmp_path / "canary").exists()


def _header(entries: dict | bytes, data: bytes = b"") -> bytes:
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def _tensor(begin: int, end: int, shape: list | None = None, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape if shape is not None else [(end - begin) // 4], "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "announce"),
        (b"\0" * 7, "announce"),
        (struct.pack("<Q", 2**63) + b"{}", "announce"),
        (struct.pack("<Q", 17 * 2**20) + b"{" + b" " * 100, "announce"),
        (_header(b"{" * 200_000), "JSON"),
        (_header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "JSON"),
        (_header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "JSON"),
        (_header(b"[]"), "does not start"),
        (_header(b'{"a": ' + b"9" * 10_000 + b"}"), "JSON"),
        (_header(b'{"a": \xff}'), "JSON"),
        (_header(b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', b"1234"), "twice"),
        (_header({"a": _tensor(0, 8), "b": _tensor(4, 12)}, b"\0" * 12), "overlaps"),
        (_header({"a": _tensor(0, 4), "b": _tensor(8, 12)}, b"\0" * 12), "gap"),
        (_header({"a": _tensor(0, 4)}, b"\0" * 12), "longer"),
        (_header({"a": _tensor(0, 4, [2**40, 2**40])}, b"\0" * 4), "does not fill"),
        (_header({"a": _tensor(-4, 0)}, b""), "whole numbers"),
        (_header({"a": _tensor(0, 4, [-1])}, b"\0" * 4), "whole numbers"),
        (_header({"a": _tensor(0, 4, [1.0])}, b"\0" * 4), "whole numbers"),
        (_header({"a": _tensor(0, 4, [True])}, b"\0" * 4), "whole numbers"),
        (_header({"a": _tensor(0, 4, [1] * 9)}, b"\0" * 4), "whole numbers"),
        (_header({"a": _tensor(0, 4, dtype="O")}, b"\0" * 4), "dtype"),
        (_header({"a": {**_tensor(0, 4), "code": "x"}}, b"\0" * 4), "expected dtype"),
        (_header({"a": 3}), "expected dtype"),
        (_header({"__metadata__": {"a": 1}}), "metadata"),
    ],
)
def test_a_hostile_header_is_refused(folder: Path, content: bytes, said: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "stats.json"])
def test_a_link_that_leads_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    if (folder / name).exists():
        (folder / name).rename(secret)
    else:
        secret.write_text("{}")
    (folder / name).symlink_to(secret)
    with pytest.raises(CheckpointError, match="outside the weights folder"):
        open_checkpoint(folder)


def test_a_linked_folder_is_fine(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(folder)
    assert len(open_checkpoint(tmp_path / "latest").tensors) == 1


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors", "..\\secret", "", "x\0y", "."])
def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path, tmp_path: Path, shard: str) -> None:
    save_file({"model.x": torch.ones(1)}, tmp_path / "secret.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.x": shard}}))
    with pytest.raises(CheckpointError):
        open_checkpoint(folder)


@pytest.mark.parametrize("weight_map", [None, [], "x", {"a": 1}, {"a": ["b"]}])
def test_a_malformed_index_is_refused(folder: Path, weight_map) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="weight_map"):
        open_checkpoint(folder)


def test_a_fifo_or_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_checkpoint(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_checkpoint(folder)


def test_the_source_never_calls_a_loader_that_can_run_code() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 10
    found = [f"{path.relative_to(SOURCE)}:{line}: {what}" for path in files for line, what in _dangers(ast.parse(path.read_text()))]
    assert found == []


def _dangers(tree: ast.AST) -> list[tuple[int, str]]:
    banned_modules = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}
    banned_calls = {"eval", "exec", "torch.load", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
    said = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            said += [(node.lineno, n) for n in names if n.split(".")[0] in banned_modules]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            said += [(node.lineno, name)] if name in banned_calls else []
            said += [(node.lineno, k.arg) for k in node.keywords if k.arg in ("trust_remote_code", "allow_pickle")]
    return said
