"""Policies for evaluation and for demonstrations that a policy begins: built once in each process."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import RobotSpec, load_robot
from internvla_a1.core.types import ActionChunk, FloatArray, Observation
from internvla_a1.eval.ablation import restore
from internvla_a1.eval.observing import History, observe
from internvla_a1.model.checkpoint import open_checkpoint
from internvla_a1.policy.expert import ExpertPolicy
from internvla_a1.policy.network import NetworkPolicy
from internvla_a1.policy.protocol import Policy, PolicyRequest
from internvla_a1.policy.warming import warm_up
from internvla_a1.sim.cell import Cell


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


@dataclass(frozen=True)
class NetworkDriver:
    """Picklable; makes a driver for `train.demonstrations`: asks the policy every `execute` ticks and follows its chunk between.

    A chunk is followed from the tick after its observation on (or later, `delay`), as inference takes its time on a robot: the states
    that the policy brings itself into are those of its use.
    """

    weights: str
    robot_file: str
    execute: int = 2

    def fingerprint(self) -> str:
        """Digest of the weights: recordings driven by others are not mixed in."""
        path = find(self.weights) / "model.safetensors"
        if not path.is_file():
            raise ConfigError(f"{path}: no weights to drive with")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def __call__(self) -> _Driver:
        robot = load_robot(find(self.robot_file))
        return _Driver(load_policy(self.weights, robot), robot, self.execute)


class _Driver:
    def __init__(self, policy: Policy, robot: RobotSpec, execute: int) -> None:
        self._policy, self._robot, self._execute = policy, robot, execute
        self.delay = 1
        self._forget()
        self._last_s = float("inf")

    def _forget(self) -> None:
        self._policy.reset()
        self._history = History(self._policy.history_s)
        self._drop()

    def _drop(self) -> None:
        self._chunk: ActionChunk | None = None
        self._coming: ActionChunk | None = None
        self._age = self._coming_age = 0  # ticks since their observations

    def __call__(self, cell: Cell, instruction: str) -> ActionChunk:
        """The chunk to follow now: rows from this tick on. Without an instruction the arm stays where it is."""
        if cell.time_s < self._last_s:  # the cell was reset
            self._forget()
        self._last_s = cell.time_s
        seen = observe(cell, cameras_of(self._policy))
        self._history.add(seen)
        if not instruction:
            self._drop()
            return self._rest(seen, seen.positions[None].repeat(4, 0))
        self._age, self._coming_age = self._age + 1, self._coming_age + 1
        if self._coming is not None and self._coming_age >= self.delay:
            self._chunk, self._age, self._coming = self._coming, self._coming_age, None
        if self._coming is None and (self._chunk is None or self._age >= min(self._execute, self._chunk.steps - 2)):
            seed = (cell.stamp_ns // 1_000_000) % 2**31
            previous = self._history.previous(self._robot.control_dt_s)
            request = PolicyRequest(seen, self._history.past(), instruction, 1, scene=cell.scene(), previous=previous, seed=seed)
            self._coming, self._coming_age = self._policy.infer(request).chunk, 0
        if self._chunk is None:
            return self._rest(seen, seen.positions[None].repeat(4, 0))
        return self._rest(seen, self._chunk.positions[min(self._age, self._chunk.steps - 1) :])

    def _rest(self, seen: Observation, positions: FloatArray) -> ActionChunk:
        return ActionChunk(seen.stamp_ns, 1, seen.joint_names, self._robot.control_dt_s, positions)
