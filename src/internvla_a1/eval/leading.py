"""A policy that drives the cell first, as it would on a robot, for demonstrations that the expert finishes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.eval.campaign import weights_digest
from internvla_a1.eval.closed_loop import Loop
from internvla_a1.eval.policies import load_policy
from internvla_a1.eval.protocol import Protocol
from internvla_a1.policy.protocol import Policy
from internvla_a1.sim.cell import Cell


class Leader:
    """Begins attempts in a cell that was reset by others: the evaluation's own loop, so that its states are those of its use."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def begin(self, cell: Cell, rng: np.random.Generator, delay_s: float, executor: bool) -> Callable[[], None]:
        """What moves the cell by one period of the policy. The collision gate is left out: it would take most of the time."""
        protocol = Protocol(delay_s=delay_s, executor=executor)
        return Loop(cell, self._policy, protocol, gated=False).begin(rng, int(rng.integers(2**31))).tick


@dataclass(frozen=True)
class LeaderBuild:
    """Picklable; makes the leader in the process where it drives."""

    weights: str
    robot_file: str

    def fingerprint(self) -> str:
        """Digest of the weights: recordings driven by others are not mixed in."""
        folder = find(self.weights)
        if not (folder / "model.safetensors").is_file():
            raise ConfigError(f"{folder / 'model.safetensors'}: no weights to drive with")
        return weights_digest(folder)

    def __call__(self) -> Leader:
        return Leader(load_policy(self.weights, load_robot(find(self.robot_file))))
