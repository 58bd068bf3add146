"""One process of a distributed step: python train_gradients_worker.py CONFIG_JSON OUT. Rank and world come from the environment."""

import json
import sys

import torch
from safetensors.torch import save_file

from internvla_a1.train.cli import make_task
from internvla_a1.train.config import TrainConfig, build
from internvla_a1.train.loop import _Run, make_accelerator


def main(config_file: str, out: str) -> None:
    torch.set_num_threads(1)
    with open(config_file) as file:
        config = build(TrainConfig, json.load(file), "test")
    torch.manual_seed(config.seed)
    accelerator = make_accelerator(config, cpu=True)
    with accelerator.main_process_first():
        task = make_task(config)
    run = _Run(config, task, accelerator)
    run._step(0)
    if accelerator.is_main_process:
        plain = accelerator.unwrap_model(run.module)
        save_file({n: p.grad.contiguous() for n, p in plain.named_parameters() if p.grad is not None}, out)
    run.ahead.close()
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
