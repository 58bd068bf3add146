"""`internvla-a1 train`: policy, image tokenizer or grounding, by configuration; resumes where it stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from internvla_a1.train.config import TrainConfig, load_train_config
from internvla_a1.train.loop import Task, make_accelerator, train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--config", required=True, help="e.g. config/train/tiny.yaml, config/train/finetune_3b.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value: optim.lr=1e-4")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU")
    parser.add_argument("--processes", type=int, default=1, help="CPU: so many processes of one thread share every batch")
    parser.add_argument("--pipeline", action="store_true", help="CONFIG lists the stages of the whole way from nothing")


def run(args: argparse.Namespace) -> int:
    """Train; 0 when the last step is done and the weights are written."""
    if args.pipeline:
        from internvla_a1.train.pipeline import run_pipeline

        return run_pipeline(args.config, args.set)
    config = load_train_config(args.config, args.set)
    if args.processes > 1:
        from internvla_a1.train.several import train_in_processes

        final = train_in_processes(config, args.processes)
    else:
        final = run_training(config, cpu=args.cpu)
    print(f"weights: {final}")
    return 0


def make_task(config: TrainConfig) -> Task:
    """The task of `kind`."""
    if config.kind == "policy":
        from internvla_a1.train.policy_task import PolicyTask

        return PolicyTask(config)
    if config.kind == "foresight":
        from internvla_a1.train.foresight_task import ForesightTask

        return ForesightTask(config)
    from internvla_a1.train.small_tasks import CodecTask, GroundingTask

    return CodecTask(config) if config.kind == "codec" else GroundingTask(config)


def run_training(config: TrainConfig, cpu: bool = False, stop_after: int | None = None, quiet: bool = False) -> Path:
    """Build the task and train it. Caches and statistics are made by the first process, the others wait."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)  # fresh weights; everything later draws by (seed, step)
    accelerator = make_accelerator(config, cpu)
    with accelerator.main_process_first():
        task = make_task(config)
    return train(config, task, accelerator, stop_after, quiet)
