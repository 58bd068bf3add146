"""Tensors that stay on disk until they are used: one private mapping per file, a view of it per tensor, no second copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from internvla_a1.model.checkpoint.header import ITEM_BYTES, Header, TensorEntry, read_header

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class MappedFile:
    """One safetensors file. The mapping is copy-on-write: writing into a tensor never reaches the disk."""

    def __init__(self, path: Path, header: Header | None = None) -> None:
        self.path = path
        self.header = header or read_header(path)
        size = path.stat().st_size
        self._bytes = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)

    def bytes_of(self, name: str) -> memoryview:
        """The stored bytes of one tensor."""
        entry = self.header.tensors[name]
        return self._bytes[entry.begin : entry.end].numpy().data

    def tensor(self, name: str) -> Tensor:
        """One tensor, in its stored dtype and shape."""
        entry = self.header.tensors[name]
        data = self._bytes[entry.begin : entry.end]
        if entry.begin % ITEM_BYTES[entry.dtype]:
            data = data.clone()  # a foreign writer did not align it; a view of another dtype needs alignment
        return data.view(DTYPES[entry.dtype]).view(entry.shape)


class TensorMap(Mapping[str, Tensor]):
    """All tensors of a checkpoint by name; each access makes a view, nothing is read before it is used."""

    def __init__(self, sources: Mapping[str, tuple[MappedFile, str]]) -> None:
        self._sources = dict(sources)

    def __getitem__(self, name: str) -> Tensor:
        file, stored = self._sources[name]
        return file.tensor(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def entry(self, name: str) -> TensorEntry:
        """dtype, shape and place of a tensor, without touching its data."""
        file, stored = self._sources[name]
        return file.header.tensors[stored]


def all_finite(tensor: Tensor, chunk: int = 1 << 18) -> bool:
    """No NaN and no infinity: both ends of the range are finite. Looks at `chunk` values at a time, so it costs no memory."""
    if not tensor.is_floating_point():
        return True
    flat = tensor.reshape(-1)
    pieces = (torch.aminmax(flat[i : i + chunk]) for i in range(0, flat.numel(), chunk))
    return all(bool(torch.isfinite(low) & torch.isfinite(high)) for low, high in pieces)
