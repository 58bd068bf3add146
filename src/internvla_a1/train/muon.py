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
def orthogonal(matrices: Tensor) -> Tensor:
    """(N, rows, columns) -> float32 of the same shape: singular values near 1, the same singular vectors; zero stays zero."""
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.bfloat16() if has_bfloat16(x.device) else x.float()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).float()


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
        ahead: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}  # by shape: many small products as one are twice as fast
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state.update(step=torch.tensor(0.0), momentum=torch.zeros_like(parameter))  # AdamW looks for `step` in what it loads
            state["step"] += 1
            state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
            nesterov = parameter.grad.lerp(state["momentum"], MOMENTUM).flatten(1)
            ahead.setdefault((nesterov.shape[0], nesterov.shape[1]), []).append((parameter, nesterov))
        for (rows, columns), pairs in ahead.items():
            moves = orthogonal(torch.stack([nesterov for _, nesterov in pairs]))
            size = group["lr"] * max(1.0, rows / columns) ** 0.5
            for (parameter, _), move in zip(pairs, moves, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(move.view_as(parameter), alpha=-size)
