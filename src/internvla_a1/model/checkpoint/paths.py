"""Which files of a weights folder may be opened: plain names inside it, nothing that leads out."""

from __future__ import annotations

from pathlib import Path

from internvla_a1.core.errors import CheckpointError

MAX_JSON_BYTES = 64 * 1024 * 1024


def inside(folder: Path, name: str) -> Path:
    """The path of `name`, which must be a file of this folder (or of a sub-folder) after following links.

    Raises CheckpointError for absolute names, `..`, links that lead out, and what is not a regular file.
    """
    if not name or "\\" in name or "\0" in name or name.startswith("/") or ".." in name.split("/"):
        raise CheckpointError(f"{folder}: the file name {name!r} leads outside the weights folder")
    root, path = folder.resolve(), folder / name
    target = path.resolve()
    if not target.is_relative_to(root):
        raise CheckpointError(
            f"{path}: links to {target}, outside the weights folder; copy the file here "
            "(a hub cache is made of such links: fetch with `internvla-a1 weights pull` instead)"
        )
    if not target.is_file():
        raise CheckpointError(f"{path}: no such file" if not target.exists() else f"{path}: not a regular file")
    return path


def read_text_file(folder: Path, name: str, limit: int = MAX_JSON_BYTES) -> bytes:
    """All bytes of a small file of the folder. Raises CheckpointError if it is missing, outside or larger than `limit`."""
    path = inside(folder, name)
    size = path.stat().st_size
    if size > limit:
        raise CheckpointError(f"{path}: {size} bytes, limit {limit}")
    return path.read_bytes()
