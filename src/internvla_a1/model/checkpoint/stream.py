"""Write a safetensors file tensor by tensor: memory for one tensor, whatever the size of the file."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from internvla_a1.core.errors import CheckpointError
from internvla_a1.model.checkpoint.header import ITEM_BYTES
from internvla_a1.model.checkpoint.mapped import DTYPE_NAMES, all_finite

ALIGNMENT = 64  # of the first tensor in the file, and so in the mapping: one cache line


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: what the header says, and where its values come from when its turn has come."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]


def plan(tensors: Mapping[str, Tensor]) -> dict[str, Planned]:
    """Tensors that already exist."""
    return {name: Planned(t.dtype, tuple(t.shape), partial(torch.Tensor.detach, t)) for name, t in tensors.items()}


def write_tensors(path: Path, planned: Mapping[str, Planned], metadata: Mapping[str, str] | None = None) -> None:
    """Write the file in one step: readers see the old one or the whole new one. CheckpointError on NaN or infinity."""
    for name, p in planned.items():
        if p.dtype not in DTYPE_NAMES:
            raise CheckpointError(f"{path}: tensor {name}: {p.dtype} cannot be stored")
    order = sorted(planned, key=lambda name: (-ITEM_BYTES[DTYPE_NAMES[planned[name].dtype]], name))  # wide types first: all stay aligned
    head: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name in order:
        p = planned[name]
        size = torch.Size(p.shape).numel() * ITEM_BYTES[DTYPE_NAMES[p.dtype]]
        head[name] = {"dtype": DTYPE_NAMES[p.dtype], "shape": list(p.shape), "data_offsets": [position, position + size]}
        position += size
    raw = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-(len(raw) + 8) % ALIGNMENT)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(struct.pack("<Q", len(raw)))
            file.write(raw)
            for name in order:
                file.write(_bytes(path, name, planned[name]))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _bytes(path: Path, name: str, planned: Planned) -> memoryview:
    tensor = planned.make().detach().to("cpu", planned.dtype).contiguous()
    if tuple(tensor.shape) != planned.shape:
        raise CheckpointError(f"{path}: tensor {name} is {list(tensor.shape)}, announced as {list(planned.shape)}")
    if not all_finite(tensor):
        raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity; not written")
    return tensor.reshape(-1).view(torch.uint8).numpy().data
