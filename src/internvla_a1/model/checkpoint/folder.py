"""Open a weights folder: config, statistics, and tensors that stay on disk, after everything was checked.

Layout (model.md section 2): config.json, model.safetensors (or shards under model.safetensors.index.json), optionally the
image tokenizer apart (encoder.safetensors, decoder.safetensors), stats.json, manifest.json, tokenizer/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from internvla_a1.core.errors import CheckpointError
from internvla_a1.model.checkpoint.header import parse_json
from internvla_a1.model.checkpoint.integrity import verify_files
from internvla_a1.model.checkpoint.manifest import Contract, Manifest, read_manifest
from internvla_a1.model.checkpoint.mapped import MappedFile, TensorMap, all_finite
from internvla_a1.model.checkpoint.paths import inside, read_text_file

CONFIG, WEIGHTS, INDEX, STATS = "config.json", "model.safetensors", "model.safetensors.index.json", "stats.json"
SIZES = "tiny_config.json"  # reference vectors only: sizes that a published config.json does not hold
CODEC_FILES = {
    "encoder.safetensors": "_enc_model.", "cosmos_encoder.safetensors": "_enc_model.",
    "decoder.safetensors": "_dec_model.", "cosmos_decoder.safetensors": "_dec_model.",
    "tokenizer.safetensors": "",
}  # fmt: skip
CODEC_ROOTS = {"interna1": "model.cosmos_tokenizer.", "qwena1": "model.cosmos."}


@dataclass(frozen=True)
class Checkpoint:
    """A checked weights folder.

    config: config.json. stats: robot type -> feature key -> min/max/mean/std/count, None without stats.json.
    tensors: published tensor name -> tensor on disk. metadata: the free strings of the weight files' headers.
    """

    path: Path
    config: dict[str, Any]
    stats: dict[str, Any] | None
    tensors: TensorMap
    manifest: Manifest | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def contract(self) -> Contract | None:
        """What the manifest says about the robot; None for a folder as published."""
        return self.manifest.contract if self.manifest else None

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where the text tokenizer's files are: tokenizer/ or the folder itself; None if there are none."""
        for sub in ("tokenizer/", ""):
            for name in ("tokenizer.json", "vocab.json"):
                if (self.path / f"{sub}{name}").exists():
                    return inside(self.path, f"{sub}{name}").parent
        return None


def open_checkpoint(folder: str | Path, verify: bool = True, remember: bool = True) -> Checkpoint:
    """Check a weights folder and map its tensors. Raises CheckpointError with path, tensor and reason.

    verify: compare with the manifest, and look for NaN and infinity where there is none. Without it only the structure
    is checked. remember: see integrity.verify_files. No file is opened that is not JSON or safetensors by content.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such weights folder; see model_weights/README.md for where to get one")
    manifest = read_manifest(folder)
    if manifest is not None:
        _only_listed(folder, manifest)
        if verify:
            verify_files(folder, manifest, remember)
    config = parse_json(folder / CONFIG, read_text_file(folder, CONFIG))
    has_stats = (folder / STATS).exists() or (folder / STATS).is_symlink()
    stats = parse_json(folder / STATS, read_text_file(folder, STATS), allow_nan=True) if has_stats else None
    sources: dict[str, tuple[MappedFile, str]] = {}
    metadata: dict[str, str] = {}
    for name in weight_files(folder):
        file = MappedFile(inside(folder, name))
        metadata.update(file.header.metadata)
        _check_listed(file, name, manifest)
        for stored in file.header.tensors:
            public = _public_name(name, stored, config)
            if public in sources:
                raise CheckpointError(f"{file.path}: tensor {public} is also in {sources[public][0].path.name}")
            sources[public] = (file, stored)
    tensors = TensorMap(sources)
    if verify and manifest is None:
        for name, tensor in tensors.items():
            if not all_finite(tensor):
                raise CheckpointError(f"{folder}: tensor {name} holds NaN or infinity")
    return Checkpoint(folder, config, stats, tensors, manifest, metadata)


def weight_files(folder: Path) -> tuple[str, ...]:
    """The safetensors files of a folder by name: the model (one file or its shards), then the image tokenizer."""
    if (folder / INDEX).exists() and not (folder / WEIGHTS).exists():
        shards = parse_json(folder / INDEX, read_text_file(folder, INDEX)).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(v, str) for v in shards.values()):
            raise CheckpointError(f"{folder / INDEX}: weight_map must map tensor names to files")
        names = sorted(set(shards.values()))
    else:
        names = [WEIGHTS]
    names += [name for name in CODEC_FILES if (folder / name).exists()]
    for name in names:
        inside(folder, name)
    return tuple(names)


def require_tensors(
    where: object, found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], optional: Iterable[str] = ()
) -> None:
    """Compare tensor names and shapes with what a model needs; `optional` names may be present or not.

    Raises CheckpointError that lists missing, extra and mis-shaped tensors.
    """
    may = set(optional)
    missing = [f"missing {name}" for name in expected if name not in found and name not in may]
    extra = [f"extra {name}" for name in found if name not in expected and name not in may]
    shaped = [
        f"{name} is {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    said = missing + extra + shaped
    if said:
        more = f"; and {len(said) - 8} more" if len(said) > 8 else ""
        raise CheckpointError(f"{where}: the tensors do not fit the configuration: {'; '.join(said[:8])}{more}")


def _only_listed(folder: Path, manifest: Manifest) -> None:
    extra = sorted(p.name for p in folder.glob("*.safetensors") if p.name not in manifest.files)
    if extra:
        raise CheckpointError(f"{folder}: {extra[0]} is not in the manifest; remove it or run `internvla-a1 weights convert` again")
    for name in (CONFIG, STATS, INDEX, SIZES):
        if (folder / name).exists() and name not in manifest.files:
            raise CheckpointError(f"{folder}: {name} is not in the manifest; run `internvla-a1 weights convert` again")


def _check_listed(file: MappedFile, name: str, manifest: Manifest | None) -> None:
    """The header against the manifest: cheap, so done even when the data is not hashed."""
    if manifest is None:
        return
    listed = {key.partition(":")[2]: r for key, r in manifest.tensors.items() if key.partition(":")[0] == name}
    for tensor in sorted(listed.keys() ^ file.header.tensors.keys()):
        raise CheckpointError(f"{file.path}: {'missing' if tensor in listed else 'extra'} tensor {tensor}, says the manifest")
    for tensor, entry in file.header.tensors.items():
        record = listed[tensor]
        if (record.dtype, record.shape) != (entry.dtype, entry.shape):
            raise CheckpointError(
                f"{file.path}: tensor {tensor} is {entry.dtype} {list(entry.shape)}, manifest says {record.dtype} {list(record.shape)}"
            )


def _public_name(file: str, stored: str, config: Mapping[str, Any]) -> str:
    """Tensors of a separate image tokenizer file get the name that they have inside a published checkpoint."""
    if file not in CODEC_FILES:
        return stored
    half = CODEC_FILES[file]
    root = CODEC_ROOTS.get(str(config.get("type")), CODEC_ROOTS["qwena1"])
    return root + (stored if stored.startswith(("_enc_model.", "_dec_model.")) else half + stored)
