"""Faults to put on purpose into what the cell sends: small wrappers that take a frame or joint state and return what arrives.

Each keeps its own small state, is driven by the stamps of the data and draws from its own seeded generator. None is used
unless a test or a launch parameter asks for it. Rows refer to the fault table in docs/safety.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from internvla_a1.core.clock import nanoseconds
from internvla_a1.core.errors import ConfigError
from internvla_a1.core.types import CameraFrame, FloatArray


@dataclass(frozen=True)
class Window:
    """A fault is on from start_s to end_s of stamp time."""

    start_s: float
    end_s: float = float("inf")

    def covers(self, stamp_ns: int) -> bool:
        return nanoseconds(self.start_s) <= stamp_ns and stamp_ns * 1e-9 < self.end_s


@dataclass
class CameraFreeze:
    """Row 1: the same bytes under fresh stamps."""

    window: Window
    _held: dict[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, frame: CameraFrame) -> CameraFrame:
        if not self.window.covers(frame.stamp_ns):
            self._held.pop(frame.camera, None)
            return frame
        return replace(frame, image=self._held.setdefault(frame.camera, frame.image))


@dataclass(frozen=True)
class CameraDrop:
    """Row 2: no frames at all."""

    window: Window

    def __call__(self, frame: CameraFrame) -> CameraFrame | None:
        return None if self.window.covers(frame.stamp_ns) else frame


@dataclass
class CameraLoss:
    """Single frames are lost with this probability."""

    window: Window
    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def __call__(self, frame: CameraFrame) -> CameraFrame | None:
        lost = self._rng.random() < self.share
        return None if lost and self.window.covers(frame.stamp_ns) else frame


@dataclass(frozen=True)
class StampShift:
    """Rows 3 and 4: stamps off by offset_s, ahead or behind."""

    window: Window
    offset_s: float

    def __call__(self, frame: CameraFrame) -> CameraFrame:
        return replace(frame, stamp_ns=frame.stamp_ns + nanoseconds(self.offset_s)) if self.window.covers(frame.stamp_ns) else frame


@dataclass(frozen=True)
class JointSample:
    """A joint state as a driver would send it: names and positions need not fit each other once a fault has been at it."""

    stamp_ns: int
    names: tuple[str, ...]
    positions: FloatArray
    velocities: FloatArray


@dataclass
class JointPermutation:
    """Row 6: the same joints in a new order in every message. Harmless to whoever reads names."""

    window: Window
    seed: int = 0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def __call__(self, sample: JointSample) -> JointSample:
        order = [int(i) for i in self._rng.permutation(len(sample.names))]
        return _chosen(sample, order) if self.window.covers(sample.stamp_ns) else sample


@dataclass(frozen=True)
class JointDamage:
    """Row 6: kind extra, missing, duplicate, nan or short."""

    window: Window
    kind: str
    joint: int = 0

    KINDS = ("extra", "missing", "duplicate", "nan", "short")

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise ConfigError.asked("damage to a joint state", self.kind, self.KINDS)

    def __call__(self, sample: JointSample) -> JointSample:
        if not self.window.covers(sample.stamp_ns):
            return sample
        count, j = len(sample.names), self.joint
        if self.kind == "extra":
            return replace(
                sample,
                names=(*sample.names, "unknown_joint"),
                positions=np.append(sample.positions, 0.3),
                velocities=np.append(sample.velocities, 0.0),
            )
        if self.kind == "missing":
            return _chosen(sample, [i for i in range(count) if i != j])
        if self.kind == "duplicate":
            return _chosen(sample, [*range(count), j])
        if self.kind == "nan":
            return replace(sample, positions=np.where(np.arange(count) == j, np.nan, sample.positions))
        return replace(sample, positions=sample.positions[:-1])


def _chosen(sample: JointSample, joints: list[int]) -> JointSample:
    names = tuple(sample.names[i] for i in joints)
    return replace(sample, names=names, positions=sample.positions[joints], velocities=sample.velocities[joints])


@dataclass(frozen=True)
class EncoderGlitch:
    """Row 7: one joint reads off by `offset` rad or m while the window lasts."""

    window: Window
    joint: int
    offset: float

    def __call__(self, sample: JointSample) -> JointSample:
        if not self.window.covers(sample.stamp_ns):
            return sample
        positions = sample.positions.copy()
        positions[self.joint] += self.offset
        return replace(sample, positions=positions)


FrameFault = Callable[[CameraFrame], CameraFrame | None]
JointFault = Callable[[JointSample], JointSample | None]


def through(faults: tuple[FrameFault, ...], frame: CameraFrame) -> CameraFrame | None:
    """The frame after all faults in turn, None once one of them drops it."""
    passed: CameraFrame | None = frame
    for fault in faults:
        if passed is None:
            return None
        passed = fault(passed)
    return passed
