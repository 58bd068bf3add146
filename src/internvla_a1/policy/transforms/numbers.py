"""State and actions, in and out: delta, normalise, concatenate, pad; and the way back in reverse (model.md section 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from internvla_a1.core.errors import DataError
from internvla_a1.policy.statistics import FeatureStats
from internvla_a1.policy.transforms.chain import Sample

STATE, ACTION = "observation.state", "action"
EPS = 1e-6


def normalise(x: Tensor, stats: FeatureStats, mode: str = "mean_std") -> Tensor:
    """(..., dims) -> the same shape. min_max goes to [0, 1], not [-1, 1]. Statistics are cast to the type of x first."""
    offset, scale = stats.affine(mode, x)
    return (x - offset) / (scale + EPS)


def unnormalise(x: Tensor, stats: FeatureStats, mode: str = "mean_std") -> Tensor:
    """Inverse of normalise, with the same eps."""
    offset, scale = stats.affine(mode, x)
    return x * (scale + EPS) + offset


@dataclass(frozen=True)
class Normalise:
    """Every feature that has statistics; actions and states alike. statistics: feature key -> FeatureStats."""

    statistics: Mapping[str, FeatureStats]
    mode: str = "mean_std"

    def __call__(self, sample: Sample) -> Sample:
        return {k: normalise(v, self.statistics[k], self.mode) if k in self.statistics else v for k, v in sample.items()}


@dataclass(frozen=True)
class Unnormalise:
    """The way back of Normalise, for these keys only (by default every key with statistics)."""

    statistics: Mapping[str, FeatureStats]
    mode: str = "mean_std"

    def __call__(self, sample: Sample) -> Sample:
        return {k: unnormalise(v, self.statistics[k], self.mode) if k in self.statistics else v for k, v in sample.items()}


@dataclass(frozen=True)
class DeltaActions:
    """actions[t] -= state where the mask is true; before normalising, with the state in robot units.

    state_keys, action_keys: in step with each other. mask: (dims of all keys together,), false keeps the value absolute.
    """

    state_keys: tuple[str, ...]
    action_keys: tuple[str, ...]
    mask: tuple[bool, ...]
    sign: int = -1

    def __call__(self, sample: Sample) -> Sample:
        result, start = dict(sample), 0
        for state_key, action_key in zip(self.state_keys, self.action_keys, strict=True):
            state = sample[state_key]
            width = state.shape[-1]
            mask = torch.tensor(self.mask[start : start + width])
            start += width
            if action_key not in sample:
                continue
            action = sample[action_key]
            if action.shape[-1] != width or len(mask) != width:
                raise DataError(f"delta: {action_key} has {action.shape[-1]} values, {state_key} {width}, the mask {len(mask)}")
            now = state.unsqueeze(-2) if action.ndim > state.ndim else state
            moved = action - now if self.sign < 0 else action + now
            result[action_key] = torch.where(mask, moved, action)
        return result


def absolute_actions(state_keys: tuple[str, ...], action_keys: tuple[str, ...], mask: tuple[bool, ...]) -> DeltaActions:
    """The way back of DeltaActions; after unnormalising."""
    return DeltaActions(state_keys, action_keys, mask, sign=1)


@dataclass(frozen=True)
class ConcatKeys:
    """Several features into one, along the last axis, in this order."""

    keys: tuple[str, ...]
    into: str

    def __call__(self, sample: Sample) -> Sample:
        if self.keys == (self.into,) or not any(key in sample for key in self.keys):
            return sample
        missing = [key for key in self.keys if key not in sample]
        if missing:
            raise DataError(f"{self.into} needs {missing[0]}; the sample has {', '.join(sorted(sample))}")
        rest = {k: v for k, v in sample.items() if k not in self.keys}
        return {**rest, self.into: torch.cat([sample[key] for key in self.keys], dim=-1)}


@dataclass(frozen=True)
class SplitKeys:
    """The way back of ConcatKeys; what lies beyond the dims is padding and is dropped."""

    keys: tuple[str, ...]
    dims: tuple[int, ...]
    out_of: str

    def __call__(self, sample: Sample) -> Sample:
        whole = sample[self.out_of]
        if whole.shape[-1] < sum(self.dims):
            raise DataError(f"{self.out_of} has {whole.shape[-1]} values, {sum(self.dims)} are needed")
        rest = {k: v for k, v in sample.items() if k != self.out_of}
        parts = whole[..., : sum(self.dims)].split(list(self.dims), dim=-1)
        return {**rest, **dict(zip(self.keys, parts, strict=True))}


@dataclass(frozen=True)
class PadDims:
    """Zeros behind the last value, up to `width`; after normalising."""

    key: str
    width: int

    def __call__(self, sample: Sample) -> Sample:
        if self.key not in sample:
            return sample
        value = sample[self.key]
        if value.shape[-1] > self.width:
            raise DataError(f"{self.key} has {value.shape[-1]} values, the model takes at most {self.width}")
        return {**sample, self.key: torch.nn.functional.pad(value, (0, self.width - value.shape[-1]))}
