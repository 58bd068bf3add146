"""Flow matching (paper section 3): x_t = t * noise + (1 - t) * action, velocity noise - action, sampled from t = 1 to 0."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class VelocityField(Protocol):
    """Where a noisy chunk goes."""

    def __call__(self, x: Tensor, t: float, known: Tensor | None = None) -> Tensor:
        """x: (B, chunk, dims) at time t -> velocity, alike. known: (chunk,) true for steps that are actions already (time 0)."""
        ...


VelocityHook = Callable[[VelocityField, Tensor, float], Tensor]  # replaces the plain call at every step


class FixedHook(ABC):
    """A hook that does the same to whatever its tensors hold, so that it can be part of a CUDA graph."""

    differentiates = True  # calls the velocity field under autograd

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """What changes from chunk to chunk, of the same shapes; on any device."""

    @property
    @abstractmethod
    def key(self) -> tuple:
        """Everything else: hooks of one key differ in their tensors alone."""

    @abstractmethod
    def over(self, tensors: tuple[Tensor, ...]) -> FixedHook:
        """The same hook with other tensors."""

    @abstractmethod
    def __call__(self, velocity: VelocityField, x: Tensor, t: float) -> Tensor:
        """See VelocityHook."""


def time_steps(count: int) -> tuple[list[float], float]:
    """Times 1, 1 - 1/N, ... and the step -1/N, accumulated in float32 as published, so the last time is not exactly 1/N."""
    step = torch.tensor(-1.0 / count, dtype=torch.float32)
    time = torch.tensor(1.0, dtype=torch.float32)
    times = []
    while time >= -step / 2:
        times.append(float(time))
        time = time + step
    return times, float(step)


def time_embedding(time: Tensor, width: int, min_period: float, max_period: float) -> Tensor:
    """(...) -> (..., width) [sin | cos] of 2 pi t / period, width / 2 periods spaced evenly in the logarithm; angles in float64."""
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=time.device)
    period = min_period * (max_period / min_period) ** fraction
    angle = (2 * math.pi / period) * time.double().unsqueeze(-1)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).float()


def sample_time(count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> Tensor:
    """(count,) training times 0.999 * Beta(1.5, 1) + 0.001. Beta(1.5, 1) is the 1/1.5 power of a uniform number."""
    uniform = torch.rand(count, generator=generator, device=device)
    return 0.999 * uniform ** (1 / 1.5) + 0.001


def sample_prefix(chosen: Tensor, most: int) -> Tensor:
    """Uniform numbers in [0, 1) -> how many steps of a chunk are known already, 0 to `most`, short ones more often."""
    return ((most + 1) * chosen * chosen).floor().long()


def step_times(time: Tensor, prefix: Tensor, chunk: int) -> Tensor:
    """time, prefix: (...) -> (..., chunk) times of the steps: 0 for the first `prefix`, which are known, else the chunk's time."""
    known = torch.arange(chunk, device=time.device) < prefix[..., None]
    return torch.where(known, 0.0, time[..., None])


def noisy_actions(actions: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """actions, noise: (B, chunk, dims), time: (B,) or (B, chunk) -> x_t and the velocity to learn."""
    t = time.view(len(time), -1, 1)
    return t * noise + (1 - t) * actions, noise - actions


def integrate(velocity: VelocityField, x: Tensor, count: int, hook: VelocityHook | None = None) -> Tensor:
    """Euler from noise to actions, in place on x (B, chunk, dims), float32."""
    times, step = time_steps(count)
    for time in times:
        v = velocity(x, time) if hook is None else hook(velocity, x, time)
        x.add_(v.detach(), alpha=step)
    return x
