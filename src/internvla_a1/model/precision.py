"""Which numbers a model is stored in and which it is computed in, chosen once when it is placed on a device."""

from __future__ import annotations

import time

import torch
from torch import nn

from internvla_a1.core.errors import ConfigError
from internvla_a1.model.cosmos import Haar
from internvla_a1.model.layers import Linear
from internvla_a1.model.network import InternVLAA1

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def wanted_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """ConfigError for what is neither float32 nor bfloat16 ("int8" is handled by the caller)."""
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    if dtype not in DTYPES.values():
        raise ConfigError.asked("dtype", dtype, [*DTYPES, "int8"])
    assert isinstance(dtype, torch.dtype)
    return dtype


def bfloat16_is_native(device: torch.device) -> bool:
    """Does a bfloat16 product beat a float32 one here? Measured on a CPU (a few milliseconds, once); GPUs all have it."""
    if device.type != "cpu":
        return True
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False  # measuring would take long: without the instructions the fallback is hundreds of times slower
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(64, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        runs = []
        for _ in range(5):
            start = time.perf_counter()
            a @ b
            runs.append(time.perf_counter() - start)
        seconds[dtype] = min(runs)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def place(model: InternVLAA1, device: torch.device, dtype: torch.dtype) -> InternVLAA1:
    """Move and convert in place, one tensor at a time.

    bfloat16: the large matrices are stored so; norms, biases and the action head stay float32, the published mixed layout without its
    gaps (model.md section 10). Where the CPU has no bfloat16 arithmetic, activations are float32 and each matrix is widened tile by
    tile as it is used; the tokenizer's convolutions, 2 % of the weights, are then kept wide.
    """
    native = dtype == torch.bfloat16 and bfloat16_is_native(device)
    model.compute_dtype = torch.bfloat16 if native else torch.float32
    for name, module in model.named_modules():
        narrow = dtype == torch.bfloat16 and _is_matrix(module) and not name.startswith("action_head")
        if name.startswith("codec"):
            narrow = native and not isinstance(module, Haar)
        for key, parameter in module.named_parameters(recurse=False):
            stored = dtype if narrow and (parameter.ndim > 1 or name.startswith("codec")) else torch.float32
            _replace(module, key, parameter, device, stored)
    return model


def _is_matrix(module: nn.Module) -> bool:
    return isinstance(module, (Linear, nn.Embedding, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d))


def _replace(module: nn.Module, key: str, parameter: nn.Parameter, device: torch.device, dtype: torch.dtype) -> None:
    if parameter.device == device and parameter.dtype == dtype:
        return
    setattr(module, key, nn.Parameter(parameter.detach().to(device, dtype), requires_grad=False))
