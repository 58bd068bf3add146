"""One training run on several CPU cores: a process each, one thread each, one batch shared between them.

A small model's operations are too short for two threads to share; two processes of one thread train the tiny policy a third faster
than one process of two.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path

from internvla_a1.core.errors import InternVLAError
from internvla_a1.data.processes import leave_with_parent
from internvla_a1.train.config import TrainConfig


def train_in_processes(config: TrainConfig, count: int) -> Path:
    """Train to the end with `count` processes; returns <out>/final. Raises InternVLAError where one of them fails.

    Gradients are those of one process with the whole batch, but for rounding; batch_size has to divide by `count`.
    """
    context = multiprocessing.get_context("spawn")
    port = _free_port()
    workers = [context.Process(target=_work, args=(config, rank, count, port), name=f"rank {rank}") for rank in range(count)]
    for worker in workers:
        worker.start()
    try:
        while running := [w for w in workers if w.is_alive()]:
            wait([w.sentinel for w in running])
            failed = [w for w in workers if w.exitcode]
            if failed:
                raise InternVLAError(f"training in {config.out}: {failed[0].name} of {count} ended with {failed[0].exitcode}")
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    return Path(config.out) / "final"


def _work(config: TrainConfig, rank: int, world: int, port: int) -> None:
    leave_with_parent()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true")
    from internvla_a1.train.cli import run_training

    try:
        run_training(replace(config, threads=1), cpu=True, quiet=rank > 0)
    except InternVLAError as error:
        print(f"internvla-a1: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        import torch.distributed

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
