"""Where numbers of a run go: a line of JSON each (always), TensorBoard and Weights & Biases where they are installed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class RunLog:
    """metrics.jsonl in the run's folder, TensorBoard events beside it. W&B only if WANDB_PROJECT says which project."""

    def __init__(self, folder: Path, config: dict[str, Any], start: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        self._cut(start)
        self._file = self._path.open("a")
        self._board = _tensorboard(folder / "tensorboard", start)
        self._wandb = _wandb(folder, config)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """Numbers after `step` steps; floats keep all their digits."""
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()
        for name, value in numbers.items():
            if self._board is not None:
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _cut(self, start: int) -> None:
        """Lines after the checkpoint that the run goes on from are written again."""
        if self._path.is_file():
            lines = [line for line in self._path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= start]
            self._path.write_text("".join(line + "\n" for line in lines))


def _tensorboard(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)


def _wandb(folder: Path, config: dict[str, Any]) -> Any:
    project = os.environ.get("WANDB_PROJECT")
    if not project:
        return None
    try:
        import wandb
    except ImportError:
        return None
    return wandb.init(project=project, dir=str(folder), config=config, resume="allow", id=folder.name)
