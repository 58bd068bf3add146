"""Compare the transforms with a folder of reference vectors: transforms/ or image_processor/ of the golden set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from internvla_a1.core.errors import ConfigError
from internvla_a1.policy import embodiments
from internvla_a1.policy.statistics import FeatureStats
from internvla_a1.policy.transforms import (
    Chain,
    ConcatKeys,
    DeltaActions,
    Normalise,
    PadDims,
    RemapViews,
    normalise,
    resize_with_pad,
    unnormalise,
)
from internvla_a1.policy.transforms.qwen import QwenImageProcessor

Result = tuple[str, float]


def knows(folder: str | Path) -> bool:
    """Whether this folder holds vectors that `verify` reads."""
    return any((Path(folder) / name).is_file() for name in ("transforms.json", "processor.json"))


def verify(folder: str | Path) -> list[Result]:
    """(name, largest absolute error) of every vector in the folder. ConfigError if it is not of a known kind."""
    folder = Path(folder)
    if (folder / "transforms.json").is_file():
        spec, values = json.loads((folder / "transforms.json").read_text()), load_file(folder / "transforms.safetensors")
        return [*_resizes(spec, values), *_norms(values), *_remap(values), *_robots(spec, values)]
    if (folder / "processor.json").is_file():
        spec, values = json.loads((folder / "processor.json").read_text()), load_file(folder / "processor.safetensors")
        return list(_processor(spec, values))
    found = ", ".join(sorted(p.name for p in folder.glob("*.json")))
    raise ConfigError.asked(f"{folder}: kind of vectors", found, ("transforms.json", "processor.json"))


def _error(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    if not ours.numel():
        return 0.0
    return float((ours.double() - theirs.double()).abs().max())


def _resizes(spec: dict[str, Any], values: dict[str, Tensor]) -> Iterator[Result]:
    for case in spec.get("resize_with_pad", []):
        name = f"resize.{case['i']}"
        yield name, _error(resize_with_pad(values[f"{name}.in"], *case["target"]), values[f"{name}.out"])


def _norms(values: dict[str, Tensor]) -> Iterator[Result]:
    for name in sorted(k.removesuffix(".in") for k in values if k.startswith("norm.") and k.endswith(".in")):
        stats = FeatureStats(**{k: values[f"{name}.stats.{k}"] for k in ("mean", "std", "min", "max") if f"{name}.stats.{k}" in values})
        x = values[f"{name}.in"]
        for mode in ("mean_std", "min_max"):
            if f"{name}.{mode}.out" in values:
                yield f"{name}.{mode}", _error(normalise(x, stats, mode), values[f"{name}.{mode}.out"])
            if f"{name}.{mode}.unnorm_of_in" in values:
                yield f"{name}.{mode}.inverse", _error(unnormalise(x, stats, mode), values[f"{name}.{mode}.unnorm_of_in"])


def _remap(values: dict[str, Tensor]) -> Iterator[Result]:
    if "remap.in" not in values:
        return
    row = embodiments.embodiment("any other")
    ours = RemapViews(row.image_mapping)({row.cameras[0]: values["remap.in"]})
    for name in sorted(k for k in values if k.startswith("remap.out.")):
        yield name, _error(ours[name.removeprefix("remap.out.")], values[name])


def _robots(spec: dict[str, Any], values: dict[str, Tensor]) -> Iterator[Result]:
    for robot, row in spec.get("robots", {}).items():
        states, actions, mask = tuple(row["state_keys"]), tuple(row["action_keys"]), tuple(map(bool, row.get("delta_mask") or ()))
        yield f"robot.{robot}.table", _table_error(robot, row)
        prefix = f"robot.{robot}."
        sample: dict[str, Any] = {key: values[f"{prefix}in.{key}"] for key in (*states, *actions)}
        stats = {key: FeatureStats(mean=values[f"{prefix}mean.{key}"], std=values[f"{prefix}std.{key}"]) for key in (*states, *actions)}
        delta = DeltaActions(states, actions, mask)(sample) if mask else sample
        for key in actions if mask else ():
            yield f"{prefix}delta.{key}", _error(delta[key], values[f"{prefix}delta.{key}"])
        way_in = Chain((
            Normalise(stats), ConcatKeys(states, "state"), ConcatKeys(actions, "action"),
            PadDims("state", values[f"{prefix}out.state"].shape[-1]), PadDims("action", values[f"{prefix}out.action"].shape[-1]),
        ))  # fmt: skip
        result = way_in(delta)
        for key in ("state", "action"):
            yield f"{prefix}out.{key}", _error(result[key], values[f"{prefix}out.{key}"])


def _table_error(robot: str, row: dict[str, Any]) -> float:
    """0 if our table says the same of this robot type, infinity if not; unknown types are the file's own business."""
    if robot not in embodiments.KNOWN:
        return 0.0
    ours = embodiments.embodiment(robot)
    same = (
        ours.state_keys == tuple(row["state_keys"])
        and ours.action_keys == tuple(row["action_keys"])
        and ours.dims in ((), tuple(row["dims"]))
        and ours.delta_mask in (None, tuple(map(bool, row.get("delta_mask") or ())))
        and ours.image_mapping == row.get("image_mapping", ours.image_mapping)
    )
    return 0.0 if same else float("inf")


def _processor(spec: dict[str, Any], values: dict[str, Tensor]) -> Iterator[Result]:
    for case in spec["cases"]:
        settings, i = case.get("settings", spec.get("settings")), case["i"]
        size = settings["size"]
        processor = QwenImageProcessor(
            settings["patch_size"], settings["temporal_patch_size"], settings["merge_size"], size["shortest_edge"], size["longest_edge"],
            tuple(settings["image_mean"]), tuple(settings["image_std"]),
        )  # fmt: skip
        rows, grid = processor(values[f"{i}.image"])
        yield f"{i}.pixel_values", _error(rows, values[f"{i}.pixel_values"])
        yield f"{i}.image_grid_thw", _error(grid[None], values[f"{i}.image_grid_thw"])
