"""The Triton kernels in Triton's interpreter, on this CPU, against the plain layers: run by test_cuda_kernels.py in its own process."""

from __future__ import annotations

import pytest
import torch
from model_helpers import small_model

from internvla_a1.model.cache import KVCache
from internvla_a1.model.config import QwenVisionConfig
from internvla_a1.model.example import example_batch
from internvla_a1.model.inputs import read_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", ["3b", "2b", "tiny"])
def test_the_experts_phases(variant: str, dtype: torch.dtype) -> None:
    from internvla_a1.model.cuda.experts import CudaExpertKernels

    model = small_model(variant)
    mixture, config = model.mixture.to(dtype), model.config
    mixture.kernels = None
    kernels = CudaExpertKernels(mixture, config.heads)
    layout = model.inference_layout(read_batch(config, example_batch(config), CPU))
    parts = (
        (mixture.und, len(layout.prefix), False), (mixture.gen, len(layout.middle), True), (mixture.act, 1, False),
        (mixture.act, config.chunk, True),
    )  # fmt: skip
    found = []
    with torch.no_grad():
        for fast in (False, True):
            cache = KVCache(config.layers, 1, config.kv_heads, layout.length, config.head_dim, CPU, dtype)
            random, at, outs = torch.Generator().manual_seed(0), 0, []
            for expert, count, tail in parts:
                x = torch.randn(1, count, expert.norm.weight.shape[0], generator=random).to(dtype)
                cos, sin = (t.to(dtype) for t in layout.rope(at, count))
                run = kernels.phase if fast else mixture.phase
                outs.append(run(expert, x, (cos, sin), cache, at, tail=tail))
                at += count
            assert [o is None for o in outs] == [True, False, True, False]
            found.append([*(o for o in outs if o is not None), cache.keys, cache.values])
    for plain, fast in zip(*found, strict=True):
        assert torch.allclose(plain.float(), fast.float(), atol=1e-5 if dtype == torch.float32 else 0.15)


@pytest.mark.parametrize("variant", ["3b", "2b"])
def test_the_blocks_of_a_vision_tower(variant: str) -> None:
    from internvla_a1.model.cuda.vision import CudaVisionKernels

    model = small_model(variant)
    tower, config = model.vision, model.config.vision
    qwen = isinstance(config, QwenVisionConfig)
    x = torch.randn(2, 64, config.hidden, generator=torch.Generator().manual_seed(0))
    rope = tower.rotary((8, 8), CPU, torch.float32) if qwen else None
    with torch.no_grad():
        plain = x
        for block in tower.stack:
            plain = block(plain, rope, tower.attend) if qwen else block(plain, tower.attend)
        fast = CudaVisionKernels(config.heads, "tanh" if qwen else "none", eps=1e-6).run(tower, x, rope)
    assert torch.allclose(plain, fast, atol=1e-5)
