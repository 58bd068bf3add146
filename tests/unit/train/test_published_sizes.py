"""The training pass of the published architectures in bfloat16, as fine-tuning runs it: at the smallest sizes, with made-up batches."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model"))
from model_helpers import small_config

from internvla_a1.model import new_model
from internvla_a1.model.example import example_batch
from internvla_a1.model.inputs import read_batch
from internvla_a1.train.batches import IS_PAD, NOISE, TIME
from internvla_a1.train.config import TrainConfig
from internvla_a1.train.objective import Scaled
from internvla_a1.train.policy_task import PolicyObjective


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("variant", ["3b", "2b"])
def test_losses_fall_under_autocast(variant: str, checkpointing: bool) -> None:
    torch.manual_seed(0)
    model = new_model(small_config(variant))
    model.codec.requires_grad_(False)
    config, size = model.config, 2
    objective = PolicyObjective(model, TrainConfig(out="", gradient_checkpointing=checkpointing), None).train()
    batch = example_batch(config, batch=size, frames=3)
    batch |= {
        "action": torch.randn(size, config.chunk, config.action_dim), NOISE: torch.randn(size, 1, config.chunk, config.action_dim),
        TIME: torch.rand(size, 1), IS_PAD: torch.zeros(size, config.chunk, dtype=torch.bool),
    }  # fmt: skip
    scaled, adam, totals = Scaled({"action": 1.0, "gen": 0.1}), torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(8):
        adam.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            parts = objective(batch)
        total, _ = scaled(parts, {name: count.float() for name, (_, count) in parts.items()}, 1)
        total.backward()
        adam.step()
        totals.append(float(total))
    assert totals[-1] < 0.9 * totals[0]
    assert model.vision.recompute == checkpointing
    assert all(p.grad is not None for p in model.vision.parameters() if p.requires_grad and p.ndim == 2)


@pytest.mark.parametrize("variant", ["3b", "2b"])
def test_a_vision_tower_runs_again_instead_of_keeping_its_activations(variant: str) -> None:
    torch.manual_seed(0)
    model = new_model(small_config(variant))
    batch, runs, gradients = example_batch(model.config, batch=2, frames=3), [0], []
    inputs = read_batch(model.config, batch, model.device)
    layout = model.layout(inputs, published=False)
    model.vision.stack[0].register_forward_pre_hook(lambda *_: runs.append(runs.pop() + 1))
    for model.vision.recompute in (False, True):
        model.zero_grad()
        model.view_features(inputs, layout).square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in model.vision.named_parameters() if p.grad is not None})
    assert runs == [3] and len(gradients[0]) > 10
    assert gradients[0].keys() == gradients[1].keys() and all(torch.equal(g, gradients[1][n]) for n, g in gradients[0].items())
