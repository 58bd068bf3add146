"""Write a weights folder: safetensors, config, statistics, manifest. Everything appears whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from internvla_a1.core.errors import CheckpointError
from internvla_a1.model.checkpoint.folder import CONFIG, INDEX, SIZES, STATS, WEIGHTS, weight_files
from internvla_a1.model.checkpoint.integrity import tensor_records
from internvla_a1.model.checkpoint.manifest import MANIFEST, Contract, FileRecord, Manifest, file_sha256
from internvla_a1.model.checkpoint.mapped import MappedFile, all_finite
from internvla_a1.model.checkpoint.paths import inside
from internvla_a1.model.checkpoint.stream import plan, write_tensors

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip


def write_checkpoint(
    folder: str | Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    stats: Mapping[str, Any] | None = None,
    contract: Contract | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Manifest:
    """Write config.json, model.safetensors, stats.json and manifest.json into `folder` (made if needed).

    Raises CheckpointError on a NaN or infinity. Tokenizer files already in the folder are listed in the manifest.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # while files change, the old manifest must not vouch for them
    write_tensors(folder / WEIGHTS, plan(tensors), metadata)
    write_json(folder / CONFIG, config)
    if stats is not None:
        write_json(folder / STATS, stats)
    return write_manifest(folder, contract)


def write_manifest(folder: str | Path, contract: Contract | None = None, source: Mapping[str, str] | None = None) -> Manifest:
    """Hash every file that a loader would open and write manifest.json. Raises CheckpointError on non-finite tensors."""
    folder = Path(folder)
    weights = weight_files(folder)
    tensors = {}
    for name in weights:
        path = inside(folder, name)
        mapped = MappedFile(path)
        for tensor in mapped.header.tensors:
            if not all_finite(mapped.tensor(tensor)):
                raise CheckpointError(f"{path}: tensor {tensor} holds NaN or infinity; a manifest would vouch for it")
        tensors.update({f"{name}:{tensor}": record for tensor, record in tensor_records(path).items()})
    names = [CONFIG, *weights]
    names += [n for n in (STATS, SIZES, "train_config.json") if (folder / n).is_file()]
    names += [INDEX] if (folder / INDEX).is_file() else []
    names += [n for t in TOKENIZER_FILES for n in (t, f"tokenizer/{t}") if (folder / n).is_file()]
    files = {}
    for name in names:
        path = inside(folder, name)
        files[name] = FileRecord(path.stat().st_size, file_sha256(path))
    manifest = Manifest(files, tensors, contract, dict(source or {}))
    _replace(folder / MANIFEST, manifest.to_json())
    return manifest


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON in one step: a reader sees the old file or the new one."""
    _replace(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
