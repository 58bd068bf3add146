"""Fetch published weights: only data files, resumable, compared with the hub's own sha256, then given a manifest."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from internvla_a1.core.errors import CheckpointError, ConfigError, MissingDependencyError
from internvla_a1.model.checkpoint.folder import CONFIG
from internvla_a1.model.checkpoint.header import parse_json
from internvla_a1.model.checkpoint.manifest import Manifest, file_sha256, read_manifest
from internvla_a1.model.checkpoint.paths import inside, read_text_file
from internvla_a1.model.checkpoint.write import TOKENIZER_FILES, write_manifest

WANTED = ("*.safetensors", "config.json", "stats.json", "train_config.json", "model.safetensors.index.json", *TOKENIZER_FILES)
TOKENIZERS = {"qwena1": "Qwen/Qwen3-VL-2B-Instruct", "interna1": "OpenGVLab/InternVL3-1B-hf"}


@dataclass(frozen=True)
class HubFile:
    """One file of a repository; sha256 where the hub knows it (large files)."""

    name: str
    size: int | None
    sha256: str | None


class Hub(Protocol):
    """What pulling needs of a model hub."""

    def files(self, repo: str, revision: str | None) -> tuple[str, list[HubFile]]:
        """The commit that the revision names, and its files."""
        ...

    def download(self, repo: str, commit: str, names: list[str], folder: Path) -> None:
        """Put these files into the folder, going on where an earlier attempt stopped."""
        ...


class HuggingFaceHub:
    """The adapter to huggingface_hub. endpoint: another server with the same interface, e.g. a mirror."""

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        try:
            import huggingface_hub
        except ImportError as error:
            raise MissingDependencyError("huggingface_hub", "weights pull", "pip install huggingface_hub") from error
        self._hub, self._endpoint, self._token = huggingface_hub, endpoint, token

    def files(self, repo: str, revision: str | None) -> tuple[str, list[HubFile]]:
        try:
            api = self._hub.HfApi(endpoint=self._endpoint, token=self._token)
            info = api.model_info(repo, revision=revision, files_metadata=True)
        except Exception as error:  # the client raises its own, httpx's and OSError
            raise CheckpointError(f"{repo}: the hub does not answer with its files: {type(error).__name__}: {error}") from error
        siblings = info.siblings or []
        return info.sha or "main", [HubFile(s.rfilename, s.size, s.lfs.sha256 if s.lfs else None) for s in siblings]

    def download(self, repo: str, commit: str, names: list[str], folder: Path) -> None:
        escaped = [n.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]") for n in names]
        try:
            self._hub.snapshot_download(
                repo, revision=commit, local_dir=folder, allow_patterns=escaped, endpoint=self._endpoint, token=self._token, max_workers=4
            )
        except Exception as error:
            raise CheckpointError(f"{repo}: download stopped: {type(error).__name__}: {error}; run the same command to go on") from error


def pull(hub: Hub, repo: str, folder: Path, revision: str | None = None, tokenizer: str | None = None) -> Manifest:
    """Fetch a checkpoint into `folder` and, if it brings none, its text tokenizer into `folder`/tokenizer; write the manifest.

    tokenizer: hub id, None takes the one the architecture was trained with, "none" leaves it out. CheckpointError says
    what is missing or damaged; a second call goes on where the first stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    had = read_manifest(folder)
    commit, names = _fetch(hub, repo, revision, folder)
    if CONFIG not in names or not any(n.endswith(".safetensors") for n in names):
        raise CheckpointError(f"{repo}: no {CONFIG} or no safetensors file; it has {', '.join(names) or 'nothing that is data'}")
    source = {"hub": repo, "revision": commit}
    if not any(n in names for n in ("tokenizer.json", "vocab.json")) and tokenizer != "none":
        kind = parse_json(folder / CONFIG, read_text_file(folder, CONFIG)).get("type")
        tokenizer = tokenizer or TOKENIZERS.get(str(kind))
        if tokenizer is None:
            raise ConfigError.asked(f"{repo}: text tokenizer for config type", kind, TOKENIZERS)
        tokenizer_commit, found = _fetch(hub, tokenizer, None, folder / "tokenizer", TOKENIZER_FILES)
        if not found:
            raise CheckpointError(f"{tokenizer}: no tokenizer files")
        source |= {"tokenizer": tokenizer, "tokenizer_revision": tokenizer_commit}
    return write_manifest(folder, had.contract if had else None, source)


def _fetch(hub: Hub, repo: str, revision: str | None, folder: Path, wanted: tuple[str, ...] = WANTED) -> tuple[str, list[str]]:
    if repo.count("/") != 1 or any(part in ("", ".", "..") for part in repo.split("/")):
        raise ConfigError(f"hub id {repo!r}: expected OWNER/NAME")
    commit, files = hub.files(repo, revision)
    chosen = [f for f in files if "/" not in f.name and any(fnmatch.fnmatch(f.name, pattern) for pattern in wanted)]
    folder.mkdir(parents=True, exist_ok=True)
    hub.download(repo, commit, [f.name for f in chosen], folder)
    for file in chosen:
        path = inside(folder, file.name)
        size = path.stat().st_size
        if file.size is not None and size != file.size:
            raise CheckpointError(f"{path}: {size} bytes, the hub says {file.size}; delete it and pull again")
        if file.sha256 is not None and file_sha256(path) != file.sha256:
            raise CheckpointError(f"{path}: sha256 differs from the hub's; delete it and pull again")
    return commit, [f.name for f in chosen]
