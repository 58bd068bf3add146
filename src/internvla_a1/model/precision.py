"""Which numbers a model is stored in and which it is computed in, chosen once when it is placed on a device."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from internvla_a1.core.errors import ConfigError, MissingDependencyError
from internvla_a1.model.config import InternVisionConfig, QwenVisionConfig
from internvla_a1.model.cosmos import Haar
from internvla_a1.model.cpu import codec, small
from internvla_a1.model.cpu.kernels import BFLOAT16, GELU_ERF, GELU_TANH, GRAIN, SINGLE, ExpertKernels, Kernels, VisionKernels, fits
from internvla_a1.model.cpu.library import AMX, instructions, library, small_codec_library, small_library
from internvla_a1.model.layers import Linear
from internvla_a1.model.network import InternVLAA1
from internvla_a1.model.vision_stem import StemVision

WIDE_SHARE = 0.15  # memory that may be spent on not converting again what is used at every step
MIN_KERNEL_WIDTH = 256  # below, calls of torch on small matrices are as fast
CHECKED_VALUES = 1 << 22  # looked at at once
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def wanted_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """ConfigError for what is neither float32 nor bfloat16 ("int8" is handled by the caller)."""
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    if dtype not in DTYPES.values():
        raise ConfigError.asked("dtype", dtype, [*DTYPES, "int8"])
    assert isinstance(dtype, torch.dtype)
    return dtype


def has_bfloat16(device: torch.device) -> bool:
    """Whether there are instructions for bfloat16: on a CPU AVX-512 BF16 or AMX; GPUs all have them."""
    return device.type != "cpu" or bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def bfloat16_is_native(device: torch.device) -> bool:
    """Does a bfloat16 product beat a float32 one here? Measured on a CPU (a few milliseconds, once)."""
    if device.type != "cpu":
        return True
    if not has_bfloat16(device):
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


def stored_dtypes(model: InternVLAA1, dtype: torch.dtype, native: bool, kernels: bool = False) -> dict[str, torch.dtype]:
    """Parameter name -> the dtype it is kept in.

    kernels: the CPU kernels will run the stacks. They want bfloat16 matrices for float32 too, where every value is one: nothing is lost.

    bfloat16: the large matrices are stored so; norms, biases, the action head and a convolutional stem stay float32: the published
    mixed layout without its gaps (model.md section 10). Where the CPU has no bfloat16 arithmetic, activations are float32 and each
    matrix is widened tile by tile as it is used. The tokenizer's convolutions, 2 % of the weights, are then kept wide; so is as much
    of the action expert as fits WIDE_SHARE of the model, because it is used once a denoising step and everything else once a chunk.
    """
    plan = {}
    kept_wide = ("action_head", "vision") if isinstance(model.vision, StemVision) else ("action_head",)
    for name, module in model.named_modules():
        in_codec = name.startswith("codec")
        matrix = isinstance(module, (Linear, nn.Embedding, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)) and not name.startswith(kept_wide)
        for key, parameter in module.named_parameters(recurse=False):
            narrow = native and not isinstance(module, Haar) if in_codec else matrix and parameter.ndim > 1
            if dtype == torch.float32:
                narrow = kernels and narrow and holds_bfloat16(parameter)
            plan[f"{name}.{key}".removeprefix(".")] = torch.bfloat16 if narrow else torch.float32
    if dtype == torch.float32 or native:
        return plan
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    narrow_total = dtype.itemsize * sum(sizes.values())
    spare = (1 + WIDE_SHARE) * narrow_total - sum(size * plan[name].itemsize for name, size in sizes.items())
    for name, size in sizes.items():
        if name.startswith("mixture.act.layers") and plan[name] == dtype and spare >= 2 * size:
            plan[name] = torch.float32
            spare -= 2 * size
    return plan


def holds_bfloat16(values: Tensor) -> bool:
    """Is every value exactly a bfloat16?"""
    return values.dtype == torch.bfloat16 or all(
        bool(torch.equal(part.bfloat16().to(part.dtype), part)) for part in values.detach().flatten().split(CHECKED_VALUES)
    )


def wants_kernels(model: InternVLAA1, device: torch.device, dtype: torch.dtype) -> bool:
    """Shall the CPU kernels run this model: instructions and a size with which they pay, and weights whose values bfloat16 can hold.

    Weights of published checkpoints are bfloat16 values whatever they are stored in (model.md section 10).
    """
    config = model.config
    if device.type != "cpu" or min(config.und.hidden, config.act.hidden) < MIN_KERNEL_WIDTH or isinstance(model.vision, StemVision):
        return False
    if config.head_dim % 32 or library() is None:
        return False
    layers = [m for part in (model.mixture, model.vision) for m in part.modules() if isinstance(m, Linear)]
    if any(m.weight.shape[1] % GRAIN or m.weight.shape[0] % 16 for m in layers):
        return False
    return dtype == torch.bfloat16 or (three_products_pay() and all(holds_bfloat16(m.weight) for m in layers))


def three_products_pay() -> bool:
    """Are three bfloat16 products quicker than one of float32? With AMX they are; on vectors bfloat16 is twice as fast, no more."""
    return instructions() == AMX


def use_kernels(model: InternVLAA1, precision: int) -> None:
    """Let the CPU kernels run the stacks of `model`, whose matrices are stored as they need them."""
    kernels = Kernels(precision)
    config = model.config
    model.mixture.kernels = ExpertKernels(kernels, config.heads, config.kv_heads, config.head_dim)
    vision = config.vision
    if isinstance(vision, (QwenVisionConfig, InternVisionConfig)):
        gelu = GELU_TANH if isinstance(vision, QwenVisionConfig) else GELU_ERF
        model.vision.kernels = VisionKernels(kernels, vision.heads, vision.hidden, vision.mlp, gelu, eps=1e-6)
    for module in model.modules():
        if isinstance(module, Linear) or hasattr(module, "row_scaled"):
            setattr(module, "kernels", kernels if fits(module) else None)  # noqa: B010 (two kinds of module, one attribute)


def use_small_kernels(model: InternVLAA1) -> None:
    """Let those for small float32 models run the parts of `model` that suit them."""
    if small.suits(model.config) and small_library() is not None:
        model.mixture.kernels = small.SmallExpertKernels(model.config)
    if codec.suits(model.config.codec) and small_codec_library() is not None:
        model.codec.kernels = codec.SmallEncoderKernels(model.config.codec)


def use_cuda(model: InternVLAA1) -> None:
    """Let fused kernels run the stacks, and one graph a whole prediction. MissingDependencyError without triton."""
    try:
        from internvla_a1.model.cuda.experts import CudaExpertKernels
        from internvla_a1.model.cuda.graphs import ChunkGraphs
        from internvla_a1.model.cuda.vision import CudaVisionKernels
    except ImportError as error:
        raise MissingDependencyError("triton", "inference on a CUDA device", "pip install triton, or load with kernels=False") from error
    config = model.config
    model.mixture.kernels, model.graphs = CudaExpertKernels(model.mixture, config.heads), ChunkGraphs(model)
    vision = config.vision
    if isinstance(vision, (QwenVisionConfig, InternVisionConfig)):
        model.vision.kernels = CudaVisionKernels(vision.heads, "tanh" if isinstance(vision, QwenVisionConfig) else "none", eps=1e-6)


def place(model: InternVLAA1, device: torch.device, dtype: torch.dtype, kernels: bool = True) -> InternVLAA1:
    """Move and convert in place, one tensor at a time; parameters that are right already are not touched.

    kernels: use what is faster here than torch alone: the CPU kernels, or on a CUDA device fused kernels and one graph a chunk.
    """
    native = dtype == torch.bfloat16 and bfloat16_is_native(device)
    plain_cpu = kernels and device.type == "cpu" and dtype == torch.float32
    on_cuda = kernels and device.type == "cuda"
    kernels = kernels and wants_kernels(model, device, dtype)
    model.compute_dtype = torch.bfloat16 if native and not kernels else torch.float32
    model.stored_dtype = dtype
    plan = stored_dtypes(model, dtype, native, kernels)
    for name, module in model.named_modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            wanted = plan[f"{name}.{key}".removeprefix(".")]
            if parameter.device != device or parameter.dtype != wanted:
                setattr(module, key, nn.Parameter(parameter.detach().to(device, wanted), requires_grad=False))
    if native:
        model.codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU in bfloat16, not in float32
    model.mixture.kernels = model.codec.kernels = model.graphs = None
    if not isinstance(model.vision, StemVision):
        model.vision.kernels = None
    if kernels:
        use_kernels(model, BFLOAT16 if dtype == torch.bfloat16 else SINGLE)
    elif plain_cpu:
        use_small_kernels(model)
    elif on_cuda:
        use_cuda(model)
    return model
