"""The head of a safetensors file, read with suspicion before anything else touches the file.

Layout: 8 bytes little-endian length n, n bytes of JSON, then the tensors without gaps. A pickle, a zip or a truncated
file fails on the first check; nothing in it is ever decoded. Needs neither torch nor the safetensors package.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvla_a1.core.errors import CheckpointError

MAX_HEADER_BYTES = 16 * 1024 * 1024  # a published 3B file needs 0.2 MB
MAX_TENSORS = 100_000

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: dtype in safetensors spelling, shape, and its bytes [begin, end) counted from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """tensors in file order; metadata: the free strings under `__metadata__`; data_begin: where the header ends."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    data_begin: int


def read_header(path: Path) -> Header:
    """Read and check the head of a safetensors file. Raises CheckpointError with the path and what is wrong."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
            if length < 2 or length > MAX_HEADER_BYTES or 8 + length > size:
                raise CheckpointError(
                    f"{path}: not a safetensors file: its first 8 bytes announce a header of {length} bytes "
                    f"(file {size} bytes, limit {MAX_HEADER_BYTES})"
                )
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    return _parse(path, raw, size)


def _parse(path: Path, raw: bytes, size: int) -> Header:
    if not raw.startswith(b"{"):
        raise CheckpointError(f"{path}: not a safetensors file: its header does not start with '{{'")
    values = parse_json(path, raw)
    metadata = values.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: the header's __metadata__ must map names to strings")
    if len(values) > MAX_TENSORS:
        raise CheckpointError(f"{path}: {len(values)} tensors in the header, limit {MAX_TENSORS}")
    data_begin = 8 + len(raw)
    entries = [(name, _entry(path, name, value, data_begin)) for name, value in values.items()]
    entries.sort(key=lambda item: (item[1].begin, item[1].end))
    position = data_begin
    for name, entry in entries:
        if entry.begin != position:
            what = "overlaps the one before it" if entry.begin < position else "leaves a gap before it"
            raise CheckpointError(f"{path}: tensor {name} {what} (starts at byte {entry.begin}, expected {position})")
        position = entry.end
    if position != size:
        what = "truncated" if position > size else "longer than its header says"
        raise CheckpointError(f"{path}: {what}: {size} bytes, header announces {position}")
    return Header(dict(entries), metadata, data_begin)


def _entry(path: Path, name: str, value: Any, data_begin: int) -> TensorEntry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{path}: tensor {name}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(f"{path}: tensor {name}: dtype {dtype!r}, supported: {', '.join(ITEM_BYTES)}")
    if not _naturals(shape) or not _naturals(offsets) or len(shape) > 8 or len(offsets) != 2:
        raise CheckpointError(f"{path}: tensor {name}: shape and data_offsets must be short lists of whole numbers >= 0")
    begin, end = offsets
    if end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise CheckpointError(f"{path}: tensor {name}: {dtype} {shape} does not fill its {end - begin} bytes")
    return TensorEntry(dtype, tuple(shape), data_begin + begin, data_begin + end)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**48 for v in value)


def parse_json(path: Path, raw: bytes, allow_nan: bool = False) -> dict[str, Any]:
    """A JSON object from untrusted bytes; repeated keys, NaN and bottomless nesting are refused with CheckpointError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a name appears twice in one object")
        return result

    def constant(text: str) -> float:
        if not allow_nan:
            raise ValueError(f"{text} is not a number")
        return math.inf if text == "Infinity" else -math.inf if text == "-Infinity" else math.nan

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value
