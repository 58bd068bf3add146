"""Static key/value cache: one allocation a shape, written in place, shared by the three experts layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys after rotary embedding and values, (layers, B, KV, length, head_dim) each; order prefix | middle | state | actions."""

    def __init__(
        self, layers: int, batch: int, kv_heads: int, length: int, head_dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (layers, batch, kv_heads, length, head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self._keys, self._values = self.keys.unbind(0), self.values.unbind(0)
        self.packed: Tensor | None = None  # the same in the order of the CPU kernels (cpu.kernels), where they fill the cache

    def slot(self, layer: int, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Where `count` tokens from `start` are kept: (B, KV, count, D) views."""
        return self._keys[layer].narrow(2, start, count), self._values[layer].narrow(2, start, count)

    def unpack(self) -> None:
        """Take over what the CPU kernels have written: for phases that they do not run."""
        if self.packed is None:
            return
        length, size = self.keys.shape[3:]
        keys, values = self.packed.float().sum(2)  # (layers, KV, capacity * D) each: the terms add up to the value
        self.keys[:, 0].copy_(keys.unflatten(-1, (-1, size))[:, :, :length])
        self.values[:, 0].copy_(values.unflatten(-1, (size, -1))[..., :length].transpose(-1, -2))

    def append(self, layer: int, start: int, k: Tensor, v: Tensor, k_stored: bool = False) -> tuple[Tensor, Tensor]:
        """Store k, v (B, KV, S, D) at `start` and return everything up to their end. k_stored: k is a view of its slot already.

        Where gradients flow through k (guided sampling) nothing is stored: a write would invalidate what other layers saved for their
        backward pass, so the new entries are joined to the old ones for this call only.
        """
        if torch.is_grad_enabled() and k.requires_grad:
            old_k, old_v = self.slot(layer, 0, start)
            return torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2)
        slot_k, slot_v = self.slot(layer, start, k.shape[2])
        if k_stored:
            slot_v.copy_(v)
        else:
            torch._foreach_copy_([slot_k, slot_v], [k, v])  # one kernel for both
        return self.slot(layer, 0, start + k.shape[2])
