"""Several linear layers of one input as one matrix product."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from internvla_a1.model.layers import Linear


def joined(parts: list[Linear]) -> tuple[Tensor, Tensor | None]:
    """The weights and biases of several linear layers in one tensor each; the layers go on with views of it: no second copy."""
    weight = torch.cat([p.weight.detach() for p in parts])
    bias = None if parts[0].bias is None else torch.cat([p.bias.detach() for p in parts]).to(weight.dtype)
    at = 0
    for part in parts:
        rows = part.weight.shape[0]
        part.weight = nn.Parameter(weight[at : at + rows], requires_grad=False)
        if bias is not None:
            part.bias = nn.Parameter(bias[at : at + rows], requires_grad=False)
        at += rows
    return weight, bias
