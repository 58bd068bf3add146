"""The training loop: any task, any number of processes, resumable to the bit on one device."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.model.precision import has_bfloat16
from internvla_a1.train import checkpoints
from internvla_a1.train.config import TrainConfig
from internvla_a1.train.folder_batches import Ahead, Batches
from internvla_a1.train.logs import RunLog
from internvla_a1.train.objective import Parts, Scaled
from internvla_a1.train.progress import TrainingProgress
from internvla_a1.train.schedule import MovingAverage, optimizer, rate


class Task(Protocol):
    """What a kind of training brings: a module whose forward takes a batch and gives Parts, batches by number, loss weights."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def batches(self) -> Batches: ...

    @property
    def weights(self) -> Mapping[str, float]: ...

    def export(self, module: nn.Module, folder: Path) -> None:
        """Write what others use, from a module with the final (averaged) weights."""
        ...


def make_accelerator(config: TrainConfig, cpu: bool = False) -> Any:
    """accelerate's view of the machine: processes, device, precision, sharding (config/train/accelerate_fsdp.yaml)."""
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError as error:
        raise MissingDependencyError("accelerate", "training", "pip install accelerate") from error
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    # not by a measurement, which may come out otherwise when the run is resumed
    narrow = config.precision == "bfloat16" or (config.precision == "auto" and has_bfloat16(device))
    mixed = "bf16" if narrow else "no"
    AcceleratorState._reset_state()  # it is global: an earlier run in this process may have had another precision
    # of a policy, the last und layer only gives keys and values: the rest of it never gets a gradient
    loose = DistributedDataParallelKwargs(find_unused_parameters=config.kind == "policy")
    return Accelerator(mixed_precision=mixed, cpu=cpu, step_scheduler_with_optimizer=False, kwargs_handlers=[loose])


def train(config: TrainConfig, task: Task, accelerator: Any, stop_after: int | None = None, quiet: bool = False) -> Path:
    """Train to the last step (or the time budget) and export to <out>/final. Returns that folder.

    Goes on from the newest checkpoint in <out>/checkpoints. stop_after: leave after this many steps of this call, as a
    kill would (tests). Raises ConfigError if the checkpoints are of another configuration.
    """
    out, world = Path(config.out), accelerator.num_processes
    if config.batch_size % (world * config.accumulate):
        raise ConfigError(f"batch_size {config.batch_size} does not divide by {world} processes x {config.accumulate} accumulated parts")
    run = _Run(config, task, accelerator)
    start, used_s = run.resume(out / "checkpoints")
    log = RunLog(out, config.to_dict(), start) if accelerator.is_main_process else None
    with TrainingProgress(out.name, config.steps, start, 1) if accelerator.is_main_process and not quiet else _Silent() as progress:
        run.work(start, used_s, log, progress, stop_after)
    if log is not None:
        log.close()
    if run.finished:
        run.export(out / "final")
    accelerator.wait_for_everyone()
    return out / "final"


class _Silent:
    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, *_: object) -> None: ...


class _Run:
    """One call of `train`."""

    def __init__(self, config: TrainConfig, task: Task, accelerator: Any) -> None:
        self.config, self.task, self.accelerator = config, task, accelerator
        if config.optim.muon and accelerator.distributed_type == "FSDP":
            raise ConfigError("optim.muon needs whole matrices on every process: set it to 0, or train without FSDP")
        plain_optimizer = optimizer(task.module.named_parameters(), config.optim)
        self.average = MovingAverage(task.module, config.ema) if config.ema else None
        self.module, self.optimizer = accelerator.prepare(task.module, plain_optimizer)
        self.scaled = Scaled(task.weights)
        micro = config.batch_size // config.accumulate
        each = micro // accelerator.num_processes
        part = slice(accelerator.process_index * each, (accelerator.process_index + 1) * each)
        self.ahead = Ahead(task.batches, micro, part)
        self.finished = False

    # ---- state ----

    def resume(self, folder: Path) -> tuple[int, float]:
        """(steps done, seconds used) after loading the newest checkpoint, (0, 0) without one."""
        found = checkpoints.latest(folder)
        if found is None:
            return 0, 0.0
        theirs, ours = found.notes.get("config"), _identity(self.config)
        if theirs != ours:
            changed = sorted(k for k in ours if theirs is None or theirs.get(k) != ours[k])
            raise ConfigError(f"{folder}: checkpoints of another configuration (changed: {', '.join(changed)}); choose another `out`")
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=False)
        plain = self.optimizer.optimizer
        set_model_state_dict(self.module, dict(found.model), options=options)
        groups = self._optimizer_state(everywhere=True)["param_groups"]
        set_optimizer_state_dict(self.module, plain, checkpoints.optimizer_state(found.optimizer, groups), options=options)
        if self.average is not None:
            self.average.shadow = {k: v.to(self.accelerator.device) for k, v in found.average.items()}
            self.average.count = int(found.notes["average_count"])
        return found.step, float(found.notes["used_s"])

    def _optimizer_state(self, everywhere: bool = False) -> dict[str, Any]:
        """Gathered to the first process, empty for the others; `everywhere`: to all."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=not everywhere)
        return get_optimizer_state_dict(self.module, self.optimizer.optimizer, options=options)

    def save(self, step: int, used_s: float) -> None:
        """A checkpoint after `step` steps; every process takes part in gathering, the first one writes."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        model = get_model_state_dict(self.module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        gathered = self._optimizer_state()
        if self.accelerator.is_main_process:
            moments = checkpoints.optimizer_tensors(gathered)
            shadow = self.average.shadow if self.average is not None else {}
            count = self.average.count if self.average is not None else 0
            notes = {"config": _identity(self.config), "used_s": used_s, "average_count": count}
            snapshot = checkpoints.Snapshot(step, cast("dict[str, Tensor]", model), shadow, moments, notes)
            checkpoints.save(Path(self.config.out) / "checkpoints", snapshot, self.config.keep)
        self.accelerator.wait_for_everyone()

    def export(self, folder: Path) -> None:
        """The averaged weights (or the last ones) as the task's own kind of folder."""
        plain = self.accelerator.unwrap_model(self.module)
        if self.average is not None:
            self.average.copy_to(plain)
        if self.accelerator.is_main_process:
            plain.eval()
            self.task.export(plain, folder)

    # ---- work ----

    def work(self, start: int, used_s: float, log: RunLog | None, progress: Any, stop_after: int | None) -> None:
        config, began = self.config, time.monotonic()
        self.module.train()
        for step in range(start, config.steps):
            numbers = self._step(step)
            done = step + 1
            spent = used_s + time.monotonic() - began
            over = bool(config.budget_s and self._agree(spent > config.budget_s))
            if done % config.log_every == 0 or done == config.steps:
                self._show(done, done - start, time.monotonic() - began, numbers, log, progress)
            last = done == config.steps or over
            if done % config.save_every == 0 or last:
                self.save(done, spent)
            self.finished = last
            if last or (stop_after is not None and done - start >= stop_after):
                break
        else:
            self.finished = True  # nothing was left to do
        self.ahead.close()

    def _agree(self, yes: bool) -> bool:
        """Whether any process says yes: all must leave the loop at the same step."""
        if self.accelerator.num_processes == 1:
            return yes
        flag = torch.tensor([float(yes)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item() > 0)

    def _step(self, step: int) -> dict[str, Tensor]:
        config, accelerator = self.config, self.accelerator
        lr = rate(step, config.optim, config.decay_steps)
        for group in self.optimizer.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for micro in range(config.accumulate):
            batch = self.ahead.get(step * config.accumulate + micro)
            batch = {k: v.to(accelerator.device, non_blocking=True) for k, v in batch.items()}
            last = micro + 1 == config.accumulate
            with _quiet_unless(last, accelerator, self.module):
                parts: Parts = self.module(batch)
                counts = self._global_counts(parts)
                total, means = self.scaled(parts, counts, accelerator.num_processes)
                accelerator.backward(total / config.accumulate)
            for name, mean in means.items():
                sums[name] = sums.get(name, 0.0) + mean / config.accumulate
        norm = accelerator.clip_grad_norm_(self.module.parameters(), config.optim.clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(accelerator.unwrap_model(self.module))
        return {**sums, "grad_norm": torch.as_tensor(norm).detach(), "lr": torch.tensor(lr)}

    def _global_counts(self, parts: Parts) -> dict[str, Tensor]:
        counts = {name: count.detach().float() for name, (_, count) in parts.items()}
        if self.accelerator.num_processes == 1:
            return counts
        summed = self.accelerator.reduce(torch.stack(list(counts.values())), "sum")
        return dict(zip(counts, summed.unbind(), strict=True))

    def _show(self, done: int, here: int, seconds: float, numbers: dict[str, Tensor], log: RunLog | None, progress: Any) -> None:
        values = {name: float(self._mean(name, value)) for name, value in numbers.items()}
        speed = here / max(seconds, 1e-9)
        if log is not None:
            log.write(done, values)
        progress.update(done, values, speed * self.config.batch_size, (self.config.steps - done) / max(speed, 1e-9))

    def _mean(self, name: str, value: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1 or name in ("lr", "grad_norm"):
            return value
        return self.accelerator.reduce(value.to(self.accelerator.device), "mean")


def _quiet_unless(last: bool, accelerator: Any, module: nn.Module) -> Any:
    """Gradients travel between processes with the last part of a batch only."""

    return contextlib.nullcontext() if last else accelerator.no_sync(module)


def _identity(config: TrainConfig) -> dict[str, Any]:
    """What must not change between a checkpoint and the run that goes on from it."""
    free = {"out", "save_every", "keep", "log_every", "budget_s", "threads"}
    return json.loads(json.dumps({k: v for k, v in config.to_dict().items() if k not in free}))
