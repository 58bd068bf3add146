"""`internvla-a1 bench load`: how long a full-size weights folder takes to load, beside plainly reading its file, and what memory it takes.

The folder holds random weights in the published layout, with the manifest that `weights convert` writes. Every measurement is a process of
its own, and the system forgets the file before it (posix_fadvise), so all of them read from the disk.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from internvla_a1.core.errors import ConfigError
from internvla_a1.eval.bench_model import random_model
from internvla_a1.model.checkpoint.convert import convert
from internvla_a1.model.checkpoint.folder import CONFIG, WEIGHTS
from internvla_a1.model.checkpoint.integrity import forget_verified
from internvla_a1.model.checkpoint.stream import plan, write_tensors
from internvla_a1.model.checkpoint.write import write_json
from internvla_a1.model.config import ModelConfig, config_2b, config_3b
from internvla_a1.model.example import example_batch
from internvla_a1.model.loading import load_model, published_tensors
from internvla_a1.model.names import TYPES

CONFIGS = {"3b": config_3b, "2b": config_2b}
BLOCK = 16 << 20


def write_folder(config: ModelConfig, folder: Path) -> None:
    """A published folder of random bfloat16 weights (norms and biases float32), and its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, plan(published_tensors(random_model(config, torch.bfloat16, torch.device("cpu")))))
    features = {"output_features": {"action": {"shape": [config.used_action_dim]}}}
    write_json(folder / CONFIG, {"type": TYPES[config.variant], "chunk_size": config.chunk, **features})
    convert(folder)


def forget(path: Path) -> None:
    """Ask the system to drop the file from its memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_plainly(folder: Path) -> None:
    """All bytes, a block at a time."""
    with (folder / WEIGHTS).open("rb", buffering=0) as file:
        block = bytearray(BLOCK)
        while file.readinto(block):
            pass


def load_first(folder: Path) -> None:
    """As after a download: every byte is compared with the manifest. All weights are in memory afterwards."""
    forget_verified(folder / WEIGHTS)
    load_again(folder)


def load_again(folder: Path) -> None:
    """A file that was verified before and has not been written since is not hashed again. Ends with every weight in memory."""
    model = load_model(folder, dtype="bfloat16")
    flat = (p.detach().as_strided((p.numel(),), (1,)) for p in model.parameters())
    touched = sum(float(values[:: 2048 // values.itemsize].sum()) for values in flat)
    assert touched == touched


def load_and_predict(folder: Path) -> None:
    """To the first chunk."""
    model = load_model(folder, dtype="bfloat16")
    model.predict(example_batch(model.config), torch.zeros(1, model.config.chunk, model.config.action_dim))


def measured(task: Callable[[Path], None], folder: Path) -> tuple[float, float]:
    """(seconds, GiB that the task added to its process at most); in a process of its own."""
    forget(folder / WEIGHTS)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(task, folder, theirs))
    child.start()
    theirs.close()
    try:
        seconds, memory = ours.recv()
    except EOFError as error:
        raise ConfigError(f"{task.__name__} failed; its message is above") from error
    finally:
        child.join()
    return seconds, memory


def _child(task: Callable[[Path], None], folder: Path, answer: Any) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    task(folder)
    seconds = time.perf_counter() - start
    answer.send((seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", choices=[*CONFIGS], default="3b")
    parser.add_argument("--folder", type=Path, help="weights folder to load (default: a random one, removed afterwards)")


def run(args: argparse.Namespace) -> int:
    """Write the folder where none is named, measure, print a table."""
    if args.folder is not None:
        _table(args.folder)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="internvla_a1_load_"))
    try:
        writer = multiprocessing.get_context("spawn").Process(target=write_folder, args=(CONFIGS[args.config](), folder))
        writer.start()
        writer.join()
        _table(folder)
    finally:
        shutil.rmtree(folder)
    return 0


def _table(folder: Path) -> None:
    size = (folder / WEIGHTS).stat().st_size / 2**30
    plain, _ = measured(read_plainly, folder)
    print(f"{'':<38} {'s':>7} {'of reading':>11} {'GiB':>7} {'of the file':>12}   file {size:.2f} GiB")
    print(f"{'reading the file':<38} {plain:>7.2f} {1:>11.2f}")
    tasks = {"first load, every byte verified": load_first, "later load": load_again, "later load and one chunk": load_and_predict}
    for name, task in tasks.items():
        seconds, memory = measured(task, folder)
        print(f"{name:<38} {seconds:>7.2f} {seconds / plain:>11.2f} {memory:>7.2f} {memory / size:>12.2f}")
