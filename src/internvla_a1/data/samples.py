"""One training sample: frames at offsets around an instant, the state, the actions ahead, clamped at the ends of the episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.types import ImageArray
from internvla_a1.data.reader import Dataset


@dataclass(frozen=True)
class Layout:
    """Which features feed the model. views: model slot ('image0'...) -> camera key; a slot without a camera is left out."""

    state_keys: tuple[str, ...]
    action_keys: tuple[str, ...]
    views: dict[str, str]


@dataclass(frozen=True)
class Window:
    """Frame offsets of the pictures (model.md section 8) and the number of action steps."""

    frame_offsets: tuple[int, ...] = (-15, 0, 15)
    horizon: int = 50

    def __post_init__(self) -> None:
        if 0 not in self.frame_offsets or list(self.frame_offsets) != sorted(set(self.frame_offsets)):
            raise ConfigError(f"frame offsets must rise and contain 0, not {self.frame_offsets}")
        if self.horizon < 1:
            raise ConfigError(f"horizon must be at least 1, not {self.horizon}")


@dataclass(frozen=True)
class Sample:
    """images: slot -> (T, H, W, 3) uint8; frame_is_pad (T,) and action_is_pad (horizon,): true where clamped at an end.

    state: feature key -> (dims,); actions: feature key -> (horizon, dims), absolute, as recorded. Row k of the actions
    is the target one period after frame + k.
    """

    images: dict[str, ImageArray]
    frame_is_pad: np.ndarray
    state: dict[str, np.ndarray]
    actions: dict[str, np.ndarray]
    action_is_pad: np.ndarray
    task: str
    robot_type: str


def clamped(frame: int, offsets: Sequence[int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices frame + offsets held inside [0, length), and which of them had to be."""
    wanted = frame + np.asarray(offsets)
    indices = np.clip(wanted, 0, length - 1)
    return indices, indices != wanted


class Samples:
    """All frames of a data set as samples, numbered in the order of the episodes."""

    def __init__(self, dataset: Dataset, layout: Layout, window: Window) -> None:
        dataset.info.require((*layout.state_keys, *layout.action_keys, *layout.views.values()), dataset.root)
        self.dataset, self.layout, self.window = dataset, layout, window
        self._starts = np.cumsum([0, *(e.length for e in dataset.episodes)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """(episode, frame) of a sample number."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        episode = int(np.searchsorted(self._starts, index, "right")) - 1
        return episode, int(index - self._starts[episode])

    def __getitem__(self, index: int) -> Sample:
        episode, frame = self.locate(index)
        data, layout = self.dataset, self.layout
        length = data.episodes[episode].length
        times, frame_is_pad = clamped(frame, self.window.frame_offsets, length)
        ahead, action_is_pad = clamped(frame, range(self.window.horizon), length)
        numbers = data.numbers(episode, (*layout.state_keys, *layout.action_keys))
        return Sample(
            images={slot: data.frames(episode, camera, times.tolist()) for slot, camera in layout.views.items()},
            frame_is_pad=frame_is_pad,
            state={k: numbers[k][frame] for k in layout.state_keys},
            actions={k: numbers[k][ahead] for k in layout.action_keys},
            action_is_pad=action_is_pad,
            task=data.instruction(episode, frame),
            robot_type=data.info.robot_type,
        )
