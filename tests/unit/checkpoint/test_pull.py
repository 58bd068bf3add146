"""Fetching weights with the real hub client from a made-up hub on the loopback interface."""

import json
from pathlib import Path

import pytest
import torch
from hub_made_up import COMMIT, MadeUpHub, serving
from safetensors.torch import save

from internvla_a1.core.errors import CheckpointError, ConfigError
from internvla_a1.model.checkpoint import Contract, open_checkpoint, write_manifest
from internvla_a1.model.checkpoint.pull import HubFile, HuggingFaceHub, pull

QWEN = "Qwen/Qwen3-VL-2B-Instruct"
SMALL = save({"model.x": torch.arange(8.0)})


def hub_with(weights: bytes = SMALL, config: str = "qwena1", **extra: bytes) -> MadeUpHub:
    files = {"config.json": json.dumps({"type": config}).encode(), "model.safetensors": weights, "stats.json": b"{}", **extra}
    return MadeUpHub({"lab/a1": files, QWEN: {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}", "model.safetensors": b"no"}})


def test_weights_and_tokenizer_arrive_with_a_manifest_and_no_code(tmp_path: Path) -> None:
    hub = hub_with(**{"modeling_evil.py": b"boom", "pytorch_model.bin": b"boom", "README.md": b"hi"})
    with serving(hub) as url:
        manifest = pull(HuggingFaceHub(url), "lab/a1", tmp_path)
        fetched = {path.rsplit("/", 1)[1] for verb, path, _ in hub.requests if "/resolve/" in path and verb == "GET"}
        assert fetched == {"config.json", "model.safetensors", "stats.json", "tokenizer.json", "tokenizer_config.json"}
        assert manifest.source == {"hub": "lab/a1", "revision": COMMIT, "tokenizer": QWEN, "tokenizer_revision": COMMIT}
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint.manifest == manifest and torch.equal(checkpoint.tensors["model.x"], torch.arange(8.0))
        assert checkpoint.tokenizer_folder == tmp_path / "tokenizer"
        served = hub.served
        pull(HuggingFaceHub(url), "lab/a1", tmp_path)
        assert hub.served == served  # nothing is fetched twice


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    weights = save({"model.x": torch.arange(3_500_000.0)})
    hub = hub_with(weights)
    hub.cuts = [11_000_000]
    with serving(hub) as url:
        pull(HuggingFaceHub(url), "lab/a1", tmp_path, tokenizer="none")
    ranges = [r for verb, path, r in hub.requests if verb == "GET" and path.endswith("model.safetensors")]
    assert ranges[0] is None and ranges[1] is not None and ranges[1].startswith("bytes=1")
    assert hub.served < len(weights) + 2_000_000
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_bytes_that_are_not_the_hubs_are_refused(tmp_path: Path) -> None:
    hub = hub_with()
    hub.wrong_sha.add("model.safetensors")
    with serving(hub) as url, pytest.raises(CheckpointError, match="sha256 differs from the hub's"):
        pull(HuggingFaceHub(url), "lab/a1", tmp_path, tokenizer="none")
    assert not (tmp_path / "manifest.json").exists()


def test_a_pickle_that_calls_itself_safetensors_gets_no_manifest(tmp_path: Path) -> None:
    with serving(hub_with(b"\x80\x04cos\nsystem\n" + b"x" * 200)) as url, pytest.raises(CheckpointError, match="not a safetensors file"):
        pull(HuggingFaceHub(url), "lab/a1", tmp_path, tokenizer="none")


def test_a_hub_that_does_not_know_the_repository_is_named(tmp_path: Path) -> None:
    with serving(hub_with()) as url, pytest.raises(CheckpointError, match="lab/nothing"):
        pull(HuggingFaceHub(url), "lab/nothing", tmp_path)


class ListedHub:
    """A hub of which only the listing matters; downloads put the given bytes."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files
        self.asked: list[str] = []

    def files(self, repo: str, revision: str | None) -> tuple[str, list[HubFile]]:
        return COMMIT, [HubFile(n, len(c), None) for n, c in self._files.items()]

    def download(self, repo: str, commit: str, names: list[str], folder: Path) -> None:
        self.asked += names
        for name in names:
            (folder / name).write_bytes(self._files[name])


def test_names_that_lead_out_of_the_folder_are_never_asked_for(tmp_path: Path) -> None:
    hub = ListedHub(
        {"config.json": b'{"type": "qwena1"}', "model.safetensors": SMALL, "../evil.safetensors": SMALL, "sub/x.safetensors": SMALL}
    )
    pull(hub, "lab/a1", tmp_path, tokenizer="none")
    assert hub.asked == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("repo", ["", "a", "a/b/c", "../x", "a/..", "/a"])
def test_a_hub_id_is_owner_and_name(tmp_path: Path, repo: str) -> None:
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        pull(ListedHub({}), repo, tmp_path)


@pytest.mark.parametrize("files", [{}, {"config.json": b"{}"}, {"model.safetensors": SMALL}])
def test_a_repository_without_weights_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json or no safetensors"):
        pull(ListedHub(files), "lab/a1", tmp_path)


def test_pulling_again_keeps_the_contract_that_was_added(tmp_path: Path) -> None:
    hub = ListedHub({"config.json": b'{"type": "qwena1"}', "model.safetensors": SMALL})
    pull(hub, "lab/a1", tmp_path, tokenizer="none")
    contract = Contract("arm", ("a",), (True,), {"image0": "top"}, 0.1)
    write_manifest(tmp_path, contract)
    assert pull(hub, "lab/a1", tmp_path, tokenizer="none").contract == contract
