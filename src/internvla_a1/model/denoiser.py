"""One denoising step and everything it needs, kept on the device and reused for every chunk of the same shape."""

from __future__ import annotations

import torch
from torch import Tensor

from internvla_a1.model.cache import KVCache
from internvla_a1.model.config import ModelConfig
from internvla_a1.model.cpu.kernels import ExpertKernels
from internvla_a1.model.flow import FixedHook, VelocityHook, integrate, time_embedding, time_steps
from internvla_a1.model.heads import ActionHead
from internvla_a1.model.layout import Layout
from internvla_a1.model.mixture import FRESH, Buffers, Mixture, Rope


class Denoiser:
    """Static state of one batch shape: cache, rotary rows of the action tokens, layer buffers.

    A step reads nothing on the host and, with buffers, allocates nothing on the device.
    """

    def __init__(
        self, config: ModelConfig, mixture: Mixture, head: ActionHead, layout: Layout, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config, self.mixture, self.head = config, mixture, head
        self.past, self.chunk, self.dtype, self.device = layout.past, layout.chunk, dtype, device
        self.batch = layout.batch
        self.cache = KVCache(config.layers, layout.batch, config.kv_heads, layout.length, config.head_dim, device, dtype)
        self.x = torch.empty(layout.batch, layout.chunk, config.action_dim, device=device)
        self.velocity_out = torch.empty_like(self.x)
        like = self.cache.keys
        self.buffers = FRESH
        if dtype == torch.float32 and device.type == "cpu":
            self.buffers = Buffers.allocate(config, config.act, layout.batch, layout.chunk, layout.length, like)
        self._layout: Layout | None = None
        self._biases: dict[tuple[int, bool], dict[float, Tensor]] = {}
        self._known_bias: Tensor | None = None
        self.cos = self.sin = like
        self._state: tuple[Tensor, Rope] | None = None  # taken, and still to be run
        self.mask: Tensor | None = None
        self.load(layout)

    def load(self, layout: Layout) -> None:
        """Take over the rotary rows and the key mask of a layout of this shape."""
        if layout is self._layout:
            return
        cos, sin = layout.rope(self.past + 1, self.chunk)
        mask = layout.key_mask(layout.length)
        if self._layout is None:
            self.cos, self.sin = cos.clone(), sin.clone()
            self.mask = None if mask is None else mask.clone()
        else:
            self.cos.copy_(cos)
            self.sin.copy_(sin)
            if (mask is None) != (self.mask is None):
                self.mask = None if mask is None else mask.clone()
            elif mask is not None and self.mask is not None:
                self.mask.copy_(mask)
        self._layout = layout

    def take_state(self, state: Tensor, rope: Rope) -> None:
        """The state token, (B, 1, hidden). Its keys and values are needed by the first step and kept for the others.

        The CPU kernels run it together with the first step, for it takes a reading of all weights of the expert by itself.
        """
        self._state = (state, rope)
        if not (isinstance(self.mixture.kernels, ExpertKernels) and self.mixture.kernels.takes(state, self.mask)):
            self.finish_state()

    def finish_state(self) -> None:
        """Fill the cache with what was taken."""
        if self._state is None:
            return
        (state, rope), self._state = self._state, None
        with torch.no_grad():
            mask = None if self.mask is None else self.mask[..., : self.past + 1]
            self.mixture.phase(self.mixture.act, state, rope, self.cache, self.past, mask, tail=False)

    def biases(self, count: int, rounded: bool) -> dict[float, Tensor]:
        """Time share of the action MLP at every step. `rounded` rounds t to bfloat16 first (Q5)."""
        if (count, rounded) not in self._biases:
            times, _ = time_steps(count)
            self._biases[count, rounded] = {t: self.time_bias(torch.tensor([t], device=self.device), rounded) for t in times}
        return self._biases[count, rounded]

    def time_bias(self, time: Tensor, rounded: bool) -> Tensor:
        """time: (B,) -> (B, 1, width)."""
        if rounded:
            time = time.bfloat16().float()
        embedding = time_embedding(time, self.config.act.hidden, self.config.min_period, self.config.max_period)
        return self.head.time_bias(embedding).unsqueeze(1)

    def forget_weights(self) -> None:
        """Drop what was computed from weights that may have changed."""
        self._biases.clear()
        self._known_bias = None

    def step(self, x: Tensor, time_bias: Tensor, buffers: Buffers = FRESH) -> Tensor:
        """x: (B, chunk, action_dim), time_bias: (1 or B, 1 or chunk, width) -> velocity, like x. Differentiable without buffers."""
        static = buffers.x is not None
        h = self.head.embed(x, time_bias, buffers.x, buffers.normed).to(self.dtype)
        kernels = self.mixture.kernels
        if self._state is not None and isinstance(kernels, ExpertKernels) and kernels.takes(h, self.mask):
            (state, rope), self._state = self._state, None
            both = torch.cat([state.to(h.dtype), h], 1)
            rope = (torch.cat([rope[0], self.cos], 2), torch.cat([rope[1], self.sin], 2))
            out = kernels.phase(self.mixture.act, both, rope, self.cache, self.past, tail=True, alone=1)
            assert out is not None
            out = out[:, 1:]
        else:
            self.finish_state()
            out = self.mixture.phase(self.mixture.act, h, (self.cos, self.sin), self.cache, self.past + 1, self.mask, b=buffers)
        assert out is not None
        return self.head.action_out_proj(out.float(), self.velocity_out if static else None)

    def run(self, x: Tensor, biases: list[Tensor], step: float, buffers: Buffers = FRESH) -> Tensor:
        """All steps, unrolled: what is compiled as one graph and captured as one."""
        for bias in biases:
            x = x.add_(self.step(x, bias, buffers), alpha=step) if buffers.x is not None else torch.add(x, self.step(x, bias), alpha=step)
        return x

    def sample(self, noise: Tensor, count: int, hook: VelocityHook | None = None, rounded: bool = False) -> Tensor:
        """noise: (B, chunk, action_dim) -> actions in a fresh tensor."""
        self.x.copy_(noise)
        biases = self.biases(count, rounded)
        if hook is not None:
            if not isinstance(hook, FixedHook) or hook.differentiates:
                self.finish_state()
                self.cache.unpack()

            def velocity(x: Tensor, t: float, known: Tensor | None = None) -> Tensor:
                bias = biases[t] if t in biases else self._bias_at(t, rounded)
                return self.step(x, bias if known is None else torch.where(known[:, None], self.known_bias(), bias))

            return integrate(velocity, self.x, count, hook).clone()
        _, step = time_steps(count)
        return self.run(self.x, list(biases.values()), step, self.buffers).clone()

    def known_bias(self) -> Tensor:
        """Of steps that are actions already: time 0."""
        if self._known_bias is None:
            self._known_bias = self._bias_at(0.0, False)
        return self._known_bias

    def _bias_at(self, time: float, rounded: bool) -> Tensor:
        return self.time_bias(torch.tensor([time], device=self.device), rounded)
