"""Policies for evaluation and for demonstrations that a policy begins: built once in each process."""

from __future__ import annotations

from pathlib import Path

import torch

from internvla_a1.core.resources import find
from internvla_a1.core.robot import RobotSpec
from internvla_a1.eval.ablation import restore
from internvla_a1.model.checkpoint import open_checkpoint
from internvla_a1.policy.expert import ExpertPolicy
from internvla_a1.policy.network import NetworkPolicy
from internvla_a1.policy.protocol import Policy
from internvla_a1.policy.warming import warm_up


def load_policy(weights: str, robot: RobotSpec, steps: int = 0, noise_scale: float = 0.0) -> Policy:
    """`expert`, or a weights folder; an arm of the foresight study becomes that arm. One torch thread a process."""
    torch.set_num_threads(1)
    if weights == "expert":
        return ExpertPolicy(robot)
    folder = find(weights)
    policy = NetworkPolicy(robot, folder, steps=steps or None, noise_scale=noise_scale, past_tolerance_s=0.02)
    arm = str(open_checkpoint(folder, verify=False).config.get("ablation", "full"))
    if arm != "full":
        restore(policy.model, arm, Path(folder).parent)
    warm_up(policy, guided=True)  # delays are measured, and the first chunk would be an outlier
    return policy


def cameras_of(policy: Policy) -> tuple[str, ...]:
    """The cameras that a policy looks at, so that no other is rendered; none for the expert."""
    if isinstance(policy, NetworkPolicy):
        return tuple(policy.agreement.views.values())
    return () if isinstance(policy, ExpertPolicy) else policy.robot.camera_names
