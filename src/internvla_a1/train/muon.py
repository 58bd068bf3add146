"""Muon for matrices and kernels, AdamW for the rest, as one optimiser (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

A step changes a matrix by its momentum made orthogonal, so every direction is learned at the same rate. `torch.optim.Muon` takes
matrices only, not the kernels of convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from internvla_a1.model.precision import has_bfloat16

MOMENTUM, ITERATIONS = 0.95, 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # takes singular values in (0, 1] to 0.7 ... 1.2 in five iterations


@torch.no_grad()
def orthogonal(matrix: Tensor) -> Tensor:
    """(rows, columns) -> float32 of the same shape with singular values near 1 and the same singular vectors; zero stays zero."""
    x = matrix / (matrix.norm() + 1e-7)
    x = x.bfloat16() if has_bfloat16(x.device) else x.float()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if tall else x).float()


class Muon(torch.optim.AdamW):
    """Parameter groups with `muon: True` hold matrices and kernels (taken as out x everything else), the other groups are AdamW's.

    Whole tensors on every process: it does not go with sharded parameters (FSDP).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **adamw: Any) -> None:
        super().__init__([{"muon": False, **group} for group in groups], **adamw)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        everything = self.param_groups
        for group in everything:
            if group["muon"]:
                self._orthogonal_step(group)
        self.param_groups = [group for group in everything if not group["muon"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = everything

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state.update(step=torch.tensor(0.0), momentum=torch.zeros_like(parameter))  # AdamW looks for `step` in what it loads
            state["step"] += 1
            state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
            ahead = parameter.grad.lerp(state["momentum"], MOMENTUM).flatten(1)  # Nesterov
            size = max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(orthogonal(ahead).view_as(parameter), alpha=-group["lr"] * size)
