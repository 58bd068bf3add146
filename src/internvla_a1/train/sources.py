"""Data sets opened for one model: which features feed it, how actions are relative, statistics per robot type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import RobotSpec, load_robot
from internvla_a1.data.reader import Dataset, open_dataset
from internvla_a1.data.samples import Layout, Samples, Window
from internvla_a1.data.statistics import RunningStatistics, chunk_statistics
from internvla_a1.model.checkpoint import Contract
from internvla_a1.policy.embodiments import KNOWN, embodiment
from internvla_a1.train.config import DataConfig, Source

Statistics = dict[str, dict[str, Any]]  # robot type -> feature key -> min, max, mean, std, count


@dataclass(frozen=True)
class OpenSource:
    """delta_mask: one flag per action value, all false for absolute actions. joint_names: '' where the data do not name them."""

    samples: Samples
    robot_type: str
    dims: tuple[int, ...]
    delta_mask: tuple[bool, ...]
    joint_names: tuple[str, ...]
    robot: RobotSpec | None

    @property
    def dataset(self) -> Dataset:
        return self.samples.dataset

    @property
    def layout(self) -> Layout:
        return self.samples.layout

    @property
    def size(self) -> int:
        """Number of state values."""
        return sum(self.dims)


def open_source(source: Source, data: DataConfig, views: int, horizon: int) -> OpenSource:
    """Open one data set by the table of model.md section 9, or by its robot file. Raises ConfigError or DataError."""
    dataset = open_dataset(find(source.path))
    kind = source.embodiment or dataset.info.robot_type
    row, robot = embodiment(kind), None
    slots = [f"image{v}" for v in range(views)]
    mask = row.delta_mask
    if kind in KNOWN and not source.robot:
        cameras = dict(zip(slots, row.cameras, strict=False))
    else:
        robot = load_robot(find(source.robot or f"config/robots/{kind}.yaml"))
        cameras = {c.view: f"observation.images.{c.name}" for c in sorted(robot.cameras, key=lambda c: c.view) if c.view in slots}
        mask = tuple(bool(d) for d in robot.delta_mask)
    present = {slot: key for slot, key in cameras.items() if key in dataset.info.features}
    if slots[0] not in present:
        raise ConfigError.asked(f"{source.path}: main camera of {kind}", cameras.get(slots[0], slots[0]), dataset.info.cameras)
    layout = Layout(row.state_keys, row.action_keys, present)
    samples = Samples(dataset, layout, Window(data.frame_offsets, horizon))
    dims = tuple(dataset.info.features[k].width for k in row.state_keys)
    size = sum(dims)
    if not data.delta or mask is None:
        if data.delta and mask is None and kind in KNOWN:
            raise ConfigError(f"{source.path}: robot type {kind!r} has no delta mask; set data.delta: false")
        mask = (False,) * size
    if len(mask) != size:
        raise ConfigError(f"{source.path}: {size} state values, the delta mask of {kind!r} has {len(mask)}")
    names = robot.joint_names if robot else _names(dataset, row.state_keys)
    return OpenSource(samples, kind, dims, mask, names, robot)


def _names(dataset: Dataset, keys: tuple[str, ...]) -> tuple[str, ...]:
    names: list[str] = []
    for key in keys:
        feature = dataset.info.features[key]
        names += feature.names if feature.names and len(feature.names) == feature.width else [f"{key}[{i}]" for i in range(feature.width)]
    return tuple(names)


def compute_statistics(sources: Sequence[OpenSource], horizon: int, data: DataConfig) -> Statistics:
    """Statistics of states and (relative) action chunks, per robot type over all its data sets, with the floor on std."""
    result: Statistics = {}
    for kind in dict.fromkeys(s.robot_type for s in sources):
        same = [s for s in sources if s.robot_type == kind]
        if len({(s.layout.state_keys, s.dims, s.delta_mask) for s in same}) > 1:
            raise ConfigError(f"data sets of robot type {kind!r} disagree in features or sizes")
        result[kind] = _of_one_kind(same, horizon, data)
    return result


def _of_one_kind(sources: Sequence[OpenSource], horizon: int, data: DataConfig) -> dict[str, Any]:
    layout, dims = sources[0].layout, sources[0].dims
    features: dict[str, Any] = {}
    start = 0
    for state_key, action_key, width in zip(layout.state_keys, layout.action_keys, dims, strict=True):
        mask = np.array(sources[0].delta_mask[start : start + width])
        start += width
        states = RunningStatistics()
        episodes = []
        for source in sources:
            for e in range(len(source.dataset.episodes)):
                numbers = source.dataset.numbers(e, (state_key, action_key))
                states.add(numbers[state_key])
                episodes.append((numbers[state_key], numbers[action_key]))
        actions = chunk_statistics(episodes, horizon, mask if mask.any() else None, data.per_step_statistics)
        features[state_key] = _floored(states.to_json(), data.std_floor)
        features[action_key] = _floored(actions.to_json(), data.std_floor)
    return features


def _floored(stats: dict[str, Any], floor: float) -> dict[str, Any]:
    return {**stats, "std": np.maximum(np.asarray(stats["std"]), floor).tolist()}


def contract_of(source: OpenSource, data: DataConfig) -> Contract:
    """What the finished checkpoint expects of a robot like this one."""
    views = {slot: key.rsplit(".", 1)[-1] for slot, key in source.layout.views.items()}
    return Contract(
        embodiment=source.robot_type,
        joint_names=source.joint_names,
        delta=source.delta_mask,
        views=views,
        control_dt_s=source.robot.control_dt_s if source.robot else 1.0 / source.dataset.info.fps,
        normalization=data.normalization,
        history_steps=-min(data.frame_offsets),
        horizon_steps=max(data.frame_offsets),
    )
