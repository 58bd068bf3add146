"""Is this folder what its manifest says? Streaming, by name, remembered for large files that nobody has written since."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from internvla_a1.core.errors import CheckpointError
from internvla_a1.model.checkpoint.manifest import FileRecord, Manifest, TensorRecord, file_sha256
from internvla_a1.model.checkpoint.mapped import MappedFile
from internvla_a1.model.checkpoint.paths import inside

REMEMBER_ABOVE_BYTES = 64 * 1024 * 1024  # smaller files take under 0.1 s and are hashed every time
SETTLED_NS = 2_000_000_000  # a file written so recently could change again without its time stamp moving


def verify_files(folder: Path, manifest: Manifest, remember: bool = True) -> None:
    """Compare every file of the manifest with the folder. Raises CheckpointError with file, tensor and reason.

    remember: a large file that passed is not hashed again while size, inode, mtime and ctime stay as they are. It does
    not see decay of the disk itself; `internvla-a1 weights verify` always reads everything.
    """
    for name, record in manifest.files.items():
        path = inside(folder, name)
        size = path.stat().st_size
        if size != record.size:
            what = "truncated" if size < record.size else "too long"
            raise CheckpointError(f"{path}: {what}: {size} bytes, manifest says {record.size}{_damage(path, name, manifest)}")
        if remember and _remembered(path, record):
            continue
        before = _state(path, record)
        if file_sha256(path) != record.sha256:
            raise CheckpointError(f"{path}: damaged: sha256 differs from the manifest{_damage(path, name, manifest)}")
        if remember and _state(path, record) == before:
            _remember(path, record, before)


def forget_verified(path: Path) -> None:
    """The next verification of this file reads all of it."""
    _sidecar(path).unlink(missing_ok=True)


def tensor_records(path: Path) -> dict[str, TensorRecord]:
    """dtype, shape and sha256 of every tensor of a safetensors file."""
    mapped = MappedFile(path)
    records = {}
    for name, entry in mapped.header.tensors.items():
        records[name] = TensorRecord(entry.dtype, entry.shape, hashlib.sha256(mapped.bytes_of(name)).hexdigest())
    return records


def compare_tensors(path: Path, found: dict[str, TensorRecord], expected: dict[str, TensorRecord]) -> list[str]:
    """In words, how the tensors of a file differ from the manifest's: missing, extra, other dtype, shape or values."""
    said = [f"missing tensor {name}" for name in expected if name not in found]
    said += [f"extra tensor {name}" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        ours, theirs = found[name], expected[name]
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            said.append(f"tensor {name} is {ours.dtype} {list(ours.shape)}, manifest says {theirs.dtype} {list(theirs.shape)}")
        elif ours.sha256 != theirs.sha256:
            said.append(f"the values of tensor {name} changed")
    return sorted(said)


def _damage(path: Path, name: str, manifest: Manifest) -> str:
    expected = {key.removeprefix(f"{name}:"): r for key, r in manifest.tensors.items() if key.startswith(f"{name}:")}
    if not expected:
        return ""
    try:
        said = compare_tensors(path, tensor_records(path), expected)
    except CheckpointError as error:
        return f" ({error})"
    more = f" and {len(said) - 3} more" if len(said) > 3 else ""
    return f" ({'; '.join(said[:3])}{more})" if said else " (in the header)"


def _sidecar(path: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return cache / "internvla_a1" / "verified" / f"{key}.json"


def _state(path: Path, record: FileRecord) -> dict[str, int | str]:
    stat = path.stat()
    return {
        "size": stat.st_size, "inode": stat.st_ino, "device": stat.st_dev,
        "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns, "sha256": record.sha256,
    }  # fmt: skip


def _remembered(path: Path, record: FileRecord) -> bool:
    if record.size < REMEMBER_ABOVE_BYTES:
        return False
    try:
        return bool(json.loads(_sidecar(path).read_text()) == _state(path, record))
    except (OSError, ValueError):
        return False


def _remember(path: Path, record: FileRecord, state: dict[str, int | str]) -> None:
    if record.size < REMEMBER_ABOVE_BYTES or time.time_ns() - max(int(state["mtime_ns"]), int(state["ctime_ns"])) < SETTLED_NS:
        return
    try:
        sidecar = _sidecar(path)
        sidecar.parent.mkdir(parents=True, exist_ok=True)
        sidecar.write_text(json.dumps(state))
    except OSError:
        return  # a read-only home only means hashing again next time
