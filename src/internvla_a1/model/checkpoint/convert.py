"""Give a folder our manifest, with the robot's contract and another weight type if wanted; nothing is split or renamed."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from internvla_a1.core.errors import CheckpointError, ConfigError
from internvla_a1.core.robot import RobotSpec
from internvla_a1.model.checkpoint.folder import CONFIG, INDEX, STATS, WEIGHTS, open_checkpoint
from internvla_a1.model.checkpoint.manifest import MANIFEST, Contract, Manifest
from internvla_a1.model.checkpoint.stream import Planned, write_tensors
from internvla_a1.model.checkpoint.write import TOKENIZER_FILES, write_manifest

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def contract_for(robot: RobotSpec, normalization: str = "mean_std", history_steps: int = 15, horizon_steps: int = 15) -> Contract:
    """The contract that a checkpoint trained on this robot has."""
    return Contract(
        robot.embodiment, robot.joint_names, tuple(bool(d) for d in robot.delta_mask), {c.view: c.name for c in robot.cameras},
        robot.control_dt_s, normalization, history_steps, horizon_steps,
    )  # fmt: skip


def convert(folder: Path, out: Path | None = None, dtype: str | None = None, contract: Contract | None = None) -> Manifest:
    """Check a folder and write manifest.json: in place, or into `out` together with everything that a loader reads.

    dtype: stored type of tensors of two or more dimensions; norms and biases keep theirs. A contract that is there already
    stays unless a new one is given. In place, a manifest that does not fit is refused rather than replaced.
    """
    if dtype is not None and dtype not in TYPES:
        raise ConfigError.asked("dtype", dtype, TYPES)
    if dtype is not None and out is None:
        raise ConfigError("a change of dtype needs --out: the original is not overwritten")
    checkpoint = open_checkpoint(folder, remember=False)
    contract = contract or checkpoint.contract
    source = checkpoint.manifest.source if checkpoint.manifest else {}
    if out is None:
        return write_manifest(folder, contract, source)
    if out.resolve() == folder.resolve() or (out / MANIFEST).exists() or (out / WEIGHTS).exists():
        raise CheckpointError(f"{out}: already holds weights; choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    target = TYPES[dtype] if dtype else None
    write_tensors(out / WEIGHTS, {name: _planned(checkpoint.tensors[name], target) for name in checkpoint.tensors}, checkpoint.metadata)
    kept = [CONFIG, STATS, "train_config.json", "tiny_config.json", *TOKENIZER_FILES, *(f"tokenizer/{n}" for n in TOKENIZER_FILES)]
    for name in kept:
        if name != INDEX and (folder / name).is_file():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, out / name)
    return write_manifest(out, contract, source)


def _planned(tensor: Tensor, target: torch.dtype | None) -> Planned:
    changes = target is not None and tensor.is_floating_point() and tensor.ndim >= 2
    return Planned(target if changes and target is not None else tensor.dtype, tuple(tensor.shape), lambda: tensor)
