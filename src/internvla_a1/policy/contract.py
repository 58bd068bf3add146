"""Does this checkpoint fit this robot? Checked once, at configure time; every mismatch says how to mend it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.robot import RobotSpec
from internvla_a1.model.checkpoint import Checkpoint, Contract
from internvla_a1.model.config import ModelConfig
from internvla_a1.policy.embodiments import KNOWN, Embodiment, embodiment
from internvla_a1.policy.statistics import FeatureStats, read_statistics

MENTION = "config/robots/<robot>.yaml"


@dataclass(frozen=True)
class Agreement:
    """What policy and robot agreed on.

    row: feature keys, with dims and cameras filled in. delta_mask: all false for absolute actions. statistics: one entry
    per state and action key. views: model slot index -> camera name of the robot.
    """

    row: Embodiment
    delta_mask: tuple[bool, ...]
    statistics: dict[str, FeatureStats]
    mode: str
    views: dict[int, str]
    history_s: float
    horizon_s: float

    @property
    def is_delta(self) -> bool:
        return any(self.delta_mask)


def agree(checkpoint: Checkpoint, model: ModelConfig, robot: RobotSpec, normalization: str = "mean_std") -> Agreement:
    """Compare sizes, joint order, delta or absolute, cameras, statistics and period. Raises ConfigError with a hint.

    A manifest with a contract decides. A folder as published has none: then the robot type's row of model.md section 9 and
    the shapes in config.json and stats.json are compared with the robot file, whose delta flags are taken as they are.
    """
    where, contract = str(checkpoint.path), checkpoint.contract
    row = embodiment(robot.embodiment)
    if contract is not None:
        _against_contract(where, contract, robot)
    else:
        _against_table(where, row, robot)
    size = len(robot.joints)
    if size > min(model.state_dim, model.action_dim):
        raise ConfigError(
            f"{where}: the model takes {model.state_dim} state and {model.action_dim} action values, robot {robot.name} has {size} joints; "
            f"leave joints out of {MENTION} or use another checkpoint"
        )
    if size > model.used_action_dim:
        raise ConfigError(
            f"{where}: the model gives {model.used_action_dim} action values, robot {robot.name} has {size} joints; use other weights"
        )
    if contract is None:
        _sizes(where, checkpoint.config, model, robot)
    dims = row.dims or (size,)
    if len(dims) != len(row.state_keys):
        raise ConfigError(f"{where}: robot type {row.name!r} splits its state into {', '.join(row.state_keys)}; their sizes are not known")
    mode = contract.normalization if contract else normalization
    keys = tuple(dict.fromkeys((*row.state_keys, *row.action_keys)))
    statistics = read_statistics(where, checkpoint.stats, robot.embodiment, keys, mode)
    _statistic_sizes(where, statistics, row, dims, mode, model.chunk)
    views = _views(where, contract, model, robot)
    history, horizon = (contract.history_steps, contract.horizon_steps) if contract else (15, 15)
    full_row = Embodiment(row.name, row.state_keys, row.action_keys, dims, row.delta_mask, row.cameras)
    mask = tuple(bool(d) for d in robot.delta_mask)
    return Agreement(full_row, mask, statistics, mode, views, history * robot.control_dt_s, horizon * robot.control_dt_s)


def _against_contract(where: str, contract: Contract, robot: RobotSpec) -> None:
    if contract.embodiment != robot.embodiment:
        raise ConfigError(
            f"{where}: trained for embodiment {contract.embodiment!r}, robot {robot.name} is {robot.embodiment!r}; "
            f"use weights trained on {robot.embodiment!r}, or set `embodiment: {contract.embodiment}` in {MENTION} if it is the same arm"
        )
    if contract.joint_names != robot.joint_names:
        same = sorted(contract.joint_names) == sorted(robot.joint_names)
        how = "list the joints in this order" if same else "use weights trained on these joints"
        raise ConfigError(
            f"{where}: joint order of the weights: {', '.join(contract.joint_names)}; of robot {robot.name}: "
            f"{', '.join(robot.joint_names)}; {how} in {MENTION}"
        )
    ours = tuple(bool(d) for d in robot.delta_mask)
    if contract.delta != ours:
        wrong = [n for n, a, b in zip(robot.joint_names, contract.delta, ours, strict=True) if a != b]
        kind = "relative to the state" if contract.delta[robot.joint_names.index(wrong[0])] else "absolute"
        raise ConfigError(
            f"{where}: actions of {', '.join(wrong)} are {kind} in the weights and not in the robot file; "
            f"set `delta:` of these joints in {MENTION}"
        )
    if abs(contract.control_dt_s - robot.control_dt_s) > 1e-3 * contract.control_dt_s:
        raise ConfigError(
            f"{where}: trained with steps of {contract.control_dt_s:.6g} s, robot {robot.name} has control_dt_s {robot.control_dt_s:.6g}; "
            f"set control_dt_s: {contract.control_dt_s:.6g} in {MENTION}"
        )


def _against_table(where: str, row: Embodiment, robot: RobotSpec) -> None:
    size, mask = len(robot.joints), tuple(bool(d) for d in robot.delta_mask)
    if row.dims and row.size != size:
        raise ConfigError(
            f"{where}: robot type {row.name!r} has {row.size} values ({' + '.join(map(str, row.dims))}), "
            f"robot {robot.name} has {size} joints; "
            f"list the joints in the order {', '.join(row.state_keys)} in {MENTION}"
        )
    if any(mask) and row.delta_mask is None and row.name in KNOWN:
        raise ConfigError(f"{where}: robot type {row.name!r} has no delta actions; set `delta: false` for every joint in {MENTION}")
    if any(mask) and row.delta_mask is not None and row.delta_mask != mask:
        raise ConfigError(
            f"{where}: robot type {row.name!r} has the delta mask {_flags(row.delta_mask)}, robot {robot.name} {_flags(mask)}; "
            f"set `delta:` of the joints in {MENTION} to match, or all false for weights trained on absolute actions"
        )


def _flags(mask: tuple[bool, ...]) -> str:
    return "".join("T" if flag else "F" for flag in mask)


def _sizes(where: str, config: Mapping[str, Any], model: ModelConfig, robot: RobotSpec) -> None:
    """Shapes in config.json: either the robot's own size, or the padded one."""
    size = len(robot.joints)
    asked = (("input_features", "observation.state", model.state_dim), ("output_features", "action", model.action_dim))
    for group, key, padded in asked:
        features = config.get(group)
        shape = features.get(key, {}).get("shape") if isinstance(features, Mapping) else None
        if not isinstance(shape, list) or len(shape) != 1 or not isinstance(shape[0], int):
            continue  # older files leave it out (Q15)
        if shape[0] not in (size, padded):
            raise ConfigError(
                f"{where}: config.json says {key} has {shape[0]} values, robot {robot.name} has {size} joints; "
                f"use the robot file that the weights were trained with, or other weights"
            )


def _statistic_sizes(
    where: str, statistics: Mapping[str, FeatureStats], row: Embodiment, dims: tuple[int, ...], mode: str, chunk: int
) -> None:
    for keys in (row.state_keys, row.action_keys):
        for key, size in zip(keys, dims, strict=True):
            stats = statistics[key]
            if stats.width(mode) != size:
                raise ConfigError(
                    f"{where}: stats.json has {stats.width(mode)} values for {key} of {row.name!r}, the robot has {size}; "
                    "the statistics are of another robot, or delta and absolute ones were mixed up"
                )
            rows = stats.affine(mode, next(v for v in (stats.mean, stats.min) if v is not None))[0]
            if rows.ndim == 2 and (keys is row.state_keys or len(rows) != chunk):
                said = "a state has one row only" if keys is row.state_keys else f"the chunk has {chunk} steps"
                raise ConfigError(f"{where}: stats.json has {len(rows)} rows for {key}; {said}; train again or mend stats.json")


def _views(where: str, contract: Contract | None, model: ModelConfig, robot: RobotSpec) -> dict[int, str]:
    """Slot index -> camera name. A camera that the weights never saw is left out; one that they need must be there."""
    ours = {c.view: c.name for c in robot.cameras}
    needed = contract.views if contract is not None else {"image0": "the main camera"}
    for slot, name in sorted(needed.items()):
        if slot not in ours:
            raise ConfigError(
                f"{where}: the weights see {name!r} as {slot}, no camera of robot {robot.name} fills it; "
                f"add `view: {slot}` to one in {MENTION}"
            )
        elsewhere = next((s for s, n in ours.items() if n == name and s != slot), None)
        if elsewhere is not None:
            raise ConfigError(f"{where}: the weights see {name!r} as {slot}, robot {robot.name} as {elsewhere}; swap `view:` in {MENTION}")
    slots = [f"image{i}" for i in range(model.views)]
    used = {slot: name for slot, name in ours.items() if slot in slots and (contract is None or slot in contract.views)}
    return {slots.index(slot): name for slot, name in sorted(used.items())}
