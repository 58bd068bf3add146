"""Checkpoints of a run: safetensors and JSON only, whole or not there, enough to go on bit for bit.

    <out>/checkpoints/step-00001000/model.safetensors, average.safetensors, optimizer.safetensors, trainer.json
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from internvla_a1.core.errors import CheckpointError

_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Snapshot:
    """State of a run after `step` steps. optimizer: "<parameter>/<moment>" -> tensor. notes: plain values (seconds used, config)."""

    step: int
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    notes: dict[str, Any]


def save(folder: Path, snapshot: Snapshot, keep: int) -> Path:
    """Write <folder>/step-<n> in one rename and remove all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{snapshot.step:08d}"
    work = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for name, tensors in (("model", snapshot.model), ("average", snapshot.average), ("optimizer", snapshot.optimizer)):
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, str(work / f"{name}.safetensors"))
    (work / "trainer.json").write_text(json.dumps({"step": snapshot.step, **snapshot.notes}))
    for path in work.iterdir():
        _to_disk(path)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(work, final)
    _to_disk(folder)
    for old in steps(folder)[:-keep]:
        shutil.rmtree(folder / f"step-{old:08d}", ignore_errors=True)
    return final


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def steps(folder: Path) -> list[int]:
    """Numbers of the complete checkpoints, rising."""
    found = [_NAME.fullmatch(p.name) for p in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(m.group(1)) for m in found if m)


def latest(folder: Path) -> Snapshot | None:
    """The newest readable checkpoint; a damaged one is passed over for the one before it. None if there is none."""
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    damaged = []
    for step in reversed(steps(folder)):
        path = folder / f"step-{step:08d}"
        try:
            return read(path)
        except CheckpointError as error:
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(f"{folder}: no readable checkpoint: {'; '.join(damaged)}")
    return None


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(str(file))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: {error}") from error


def read(path: Path) -> Snapshot:
    """Raises CheckpointError with the file that cannot be read."""
    model, average, moments = (_tensors(path / f"{name}.safetensors") for name in ("model", "average", "optimizer"))
    try:
        notes = json.loads((path / "trainer.json").read_text())
        return Snapshot(int(notes.pop("step")), model, average, moments, notes)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path / 'trainer.json'}: {error}") from error


def optimizer_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Flatten {"state": {parameter: {moment: tensor}}} of torch.distributed.checkpoint's form."""
    return {f"{p}/{m}": torch.as_tensor(v) for p, moments in state["state"].items() for m, v in moments.items()}


def optimizer_state(tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The way back; param_groups come from the present optimiser, so that they follow the configuration."""
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        parameter, moment = key.rsplit("/", 1)
        state.setdefault(parameter, {})[moment] = value
    return {"state": state, "param_groups": groups}
