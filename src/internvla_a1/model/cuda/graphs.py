"""A whole prediction as one CUDA graph: captured once per layout, replayed for every chunk after it.

Python and the launch of some thousand kernels take longer than the kernels themselves; a replayed graph needs neither.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from internvla_a1.model.flow import FixedHook
from internvla_a1.model.inputs import Inputs
from internvla_a1.model.layout import Layout

if TYPE_CHECKING:
    from internvla_a1.model.network import InternVLAA1, Outcome

KEPT_GRAPHS = 4
_WARM_UPS = 2


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    layout: Layout
    inputs: Inputs
    noise: Tensor
    past: Tensor | None
    hook: FixedHook | None
    mask: Tensor | None  # the denoiser's
    outcome: Outcome


class ChunkGraphs:
    """Graphs by layout, number of steps, and what is asked for; the last few are kept, and share their memory."""

    def __init__(self, model: InternVLAA1) -> None:
        self._model = model
        self._kept: OrderedDict[tuple, _Captured] = OrderedDict()
        self._aside: torch.cuda.Stream | None = None

    @contextmanager
    def beside(self) -> Iterator[None]:
        """A stream of its own for what needs nothing of what follows, up to `join`."""
        self._aside = self._aside or torch.cuda.Stream()
        self._aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._aside):
            yield

    def join(self) -> None:
        """Wait for it."""
        if self._aside is not None:
            torch.cuda.current_stream().wait_stream(self._aside)

    def clear(self) -> None:
        """Weights have changed or moved."""
        self._kept.clear()

    def run(
        self, inputs: Inputs, noise: Tensor, steps: int, foresight: bool, past: Tensor | None, hook: FixedHook | None = None
    ) -> Outcome:
        """As InternVLAA1.chunk, in fresh tensors."""
        layout = self._model.inference_layout(inputs)
        key = (id(layout), steps, foresight, past is None, tuple(inputs.images.shape), None if hook is None else hook.key)
        denoiser = self._model.denoiser(layout)  # whose rotary rows may be those of another layout of this shape
        if key in self._kept and self._kept[key].mask is not denoiser.mask:
            del self._kept[key]  # made over a mask that a layout without one has put away since
        if key not in self._kept:
            self._kept[key] = self._capture(layout, inputs, noise, steps, foresight, past, hook)
            if len(self._kept) > KEPT_GRAPHS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        captured = self._kept[key]
        for name in ("images", "state", "ids", "patches"):
            kept, given = getattr(captured.inputs, name), getattr(inputs, name)
            if kept is not None:
                kept.copy_(given)
        captured.noise.copy_(noise)
        if captured.past is not None and past is not None:
            captured.past.copy_(past)
        if captured.hook is not None and hook is not None:
            for kept, given in zip(captured.hook.tensors, hook.tensors, strict=True):
                kept.copy_(given)
        captured.graph.replay()
        actions, now, latents = captured.outcome
        return type(captured.outcome)(actions.clone(), now.clone(), None if latents is None else latents.clone())

    def _capture(
        self, layout: Layout, inputs: Inputs, noise: Tensor, steps: int, foresight: bool, past: Tensor | None, hook: FixedHook | None
    ) -> _Captured:
        patches = None if inputs.patches is None else inputs.patches.clone()
        static = replace(inputs, images=inputs.images.clone(), state=inputs.state.clone(), ids=inputs.ids.clone(), patches=patches)
        noise = noise.clone()
        past = None if past is None else past.to(self._model.device, torch.float32).clone()

        hook = None if hook is None else hook.over(tuple(t.to(self._model.device, copy=True) for t in hook.tensors))

        def chunk() -> Outcome:
            return self._model.chunk(static, noise, steps, foresight, past, hook)

        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                chunk()
        torch.cuda.current_stream().wait_stream(aside)
        pool = next(iter(self._kept.values())).graph.pool() if self._kept else None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            outcome = chunk()
        return _Captured(graph, layout, static, noise, past, hook, self._model.denoiser(layout).mask, outcome)
