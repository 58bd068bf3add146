"""How close predicted chunks come to recorded actions: errors per joint group and step, on any LeRobot folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from internvla_a1.core.clock import nanoseconds
from internvla_a1.core.errors import ConfigError
from internvla_a1.core.types import FloatArray, Observation
from internvla_a1.data.reader import Dataset
from internvla_a1.data.samples import clamped
from internvla_a1.policy.embodiments import KNOWN, embodiment
from internvla_a1.policy.protocol import Policy, PolicyRequest


@dataclass(frozen=True)
class OpenLoopScore:
    """Errors in robot units over `samples` chunks; steps past the end of an episode do not count. by_group: name -> (mse, mae)."""

    samples: int
    mse: float
    mae: float
    by_group: dict[str, tuple[float, float]]
    mae_by_step: FloatArray


def joint_groups(names: tuple[str, ...], gripper: np.ndarray) -> dict[str, np.ndarray]:
    """Group -> (joints,) bool: left and right arms where the names say so, grippers apart."""
    groups: dict[str, np.ndarray] = {}
    for i, name in enumerate(names):
        side = next((s for s in ("left", "right") if s in name.lower()), "")
        kind = "gripper" if gripper[i] else "arm"
        group = f"{side} {kind}".strip()
        groups.setdefault(group, np.zeros(len(names), bool))[i] = True
    return groups


def open_loop(policy: Policy, dataset: Dataset, samples: int, seed: int = 0) -> OpenLoopScore:
    """Ask the policy at `samples` evenly drawn frames and compare its chunk with what was recorded from there on."""
    robot = policy.robot
    state_keys, action_keys, cameras = features_for(dataset, robot.embodiment, tuple(c.name for c in robot.cameras))
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *(e.length for e in dataset.episodes)])
    chosen = np.sort(rng.choice(starts[-1], size=min(samples, int(starts[-1])), replace=False))
    squared, absolute, counted = [], [], []
    back = round(policy.history_s * dataset.info.fps)
    for index in chosen:
        e = int(np.searchsorted(starts, index, "right")) - 1
        t, length = int(index - starts[e]), dataset.episodes[e].length
        numbers = dataset.numbers(e, (*state_keys, *action_keys))
        state = np.concatenate([numbers[k][t] for k in state_keys]).astype(np.float64)
        if len(state) != len(robot.joints):
            raise ConfigError(f"{dataset.root}: {len(state)} state values, robot {robot.name} has {len(robot.joints)} joints")
        seen, past = (observation_at(dataset, e, k, cameras, robot.joint_names, state) for k in (t, max(0, t - back)))
        before = np.concatenate([numbers[k][max(0, t - 1)] for k in state_keys]).astype(np.float64)
        policy.reset()
        request = PolicyRequest(
            seen, past, dataset.instruction(e, t), int(index), previous=replace(seen, positions=before), seed=int(index)
        )
        chunk = policy.infer(request).chunk
        ahead, is_pad = clamped(t, range(chunk.steps), length)
        recorded = np.concatenate([numbers[k][ahead] for k in action_keys], 1)
        error = chunk.positions - recorded
        squared.append(error**2)
        absolute.append(np.abs(error))
        counted.append(np.broadcast_to(~is_pad[:, None], error.shape))
    return _score(np.array(squared), np.array(absolute), np.array(counted), joint_groups(robot.joint_names, robot.gripper_mask))


def features_for(dataset: Dataset, kind: str, camera_names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]:
    """State keys, action keys, camera name -> feature key, by the table of model.md section 9 or LeRobot's plain names."""
    row = embodiment(kind)
    keys = row.cameras if kind in KNOWN else tuple(f"observation.images.{c}" for c in camera_names)
    cameras = {name: key for name, key in zip(camera_names, keys, strict=False) if key in dataset.info.features}
    if not cameras:
        raise ConfigError.asked(f"{dataset.root}: cameras of {kind}", ", ".join(keys), dataset.info.cameras)
    dataset.info.require((*row.state_keys, *row.action_keys), dataset.root)
    return row.state_keys, row.action_keys, cameras


def observation_at(
    dataset: Dataset, episode: int, frame: int, cameras: Mapping[str, str], joints: tuple[str, ...], state: FloatArray
) -> Observation:
    images = {name: dataset.frames(episode, key, [frame])[0] for name, key in cameras.items()}
    stamp = nanoseconds(1.0 + frame / dataset.info.fps)
    return Observation(stamp, images, dict.fromkeys(images, 0.0), joints, state)


def _score(squared: np.ndarray, absolute: np.ndarray, counted: np.ndarray, groups: Mapping[str, np.ndarray]) -> OpenLoopScore:
    def means(where: np.ndarray) -> tuple[float, float]:
        weight = counted & where
        total = max(1, int(weight.sum()))
        return float((squared * weight).sum() / total), float((absolute * weight).sum() / total)

    everything = np.ones(squared.shape[-1], bool)
    by_step = (absolute * counted).sum((0, 2)) / np.maximum(counted.sum((0, 2)), 1)
    mse, mae = means(everything)
    return OpenLoopScore(len(squared), mse, mae, {name: means(where) for name, where in groups.items()}, by_step)
