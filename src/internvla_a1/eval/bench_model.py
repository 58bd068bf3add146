"""`internvla-a1 bench model`: full-size weights at random, time of every stage, and how much of the machine's matrix products it uses."""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from internvla_a1.core.errors import ConfigError
from internvla_a1.model.config import ModelConfig, config_2b, config_3b, tiny_config
from internvla_a1.model.cpu.kernels import ExpertKernels
from internvla_a1.model.cpu.library import instructions
from internvla_a1.model.cpu.small import SmallExpertKernels
from internvla_a1.model.example import example_batch
from internvla_a1.model.loading import prepare
from internvla_a1.model.network import InternVLAA1
from internvla_a1.model.precision import bfloat16_is_native
from internvla_a1.model.quantize import has_vnni, quantize_checked

CONFIGS = {"3b": config_3b, "2b": config_2b, "tiny": tiny_config}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.bfloat16}
RANDOM_VALUES = 1 << 20


@dataclass
class Report:
    """seconds: stage -> time of every run; flops: stage -> floating point operations; peak_gflops: measured matrix products."""

    config: str
    dtype: str
    threads: int
    weights_bytes: int
    peak_memory_bytes: int
    peak_gflops: float
    bfloat16_native: bool
    vnni: bool
    kernels: str  # AMX, AVX-512, small-model, CUDA, or empty: torch runs everything
    device: str = "cpu"
    seconds: dict[str, list[float]] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)

    def achieved(self, stage: str) -> float:
        """GFLOP/s at the median time."""
        return self.flops.get(stage, 0) / median(self.seconds[stage]) / 1e9


class Stopwatch:
    """Collects the time of each named stage of each run."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds.setdefault(stage, []).append(time.perf_counter() - start)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def random_model(config: ModelConfig, dtype: torch.dtype, device: torch.device, seed: int = 0) -> InternVLAA1:
    """A model of any size with random weights, placed as a published checkpoint would be: its matrices hold bfloat16 values."""
    with torch.device("meta"):
        model = InternVLAA1(config, "published")
    block = torch.randn(RANDOM_VALUES, generator=torch.Generator().manual_seed(seed))
    for module in model.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            full = torch.empty(parameter.shape, dtype=torch.bfloat16 if parameter.ndim > 1 else torch.float32)
            _fill(full, key, block)
            setattr(module, key, nn.Parameter(full, requires_grad=False))
    return prepare(model, device, dtype)


def _fill(values: Tensor, key: str, block: Tensor) -> None:
    """Matrices with variance 1 / inputs, each from another place of the block of random numbers."""
    if key == "wavelets":
        values.fill_(0.5**0.5)
    elif values.ndim < 2:
        values.fill_(0.0 if key == "bias" else 1.0)
    else:
        flat, scale = values.view(-1), 1.0 / values[0].numel() ** 0.5
        shift = values.numel() % 9973 * 101
        for start in range(-shift, flat.numel(), block.numel()):  # nothing is allocated on the way: holes in the heap would count as memory
            part = flat[max(start, 0) : start + block.numel()]
            first = max(start, 0) - start
            part.copy_(block[first : first + part.numel()]).mul_(scale)


def kernels_of(model: InternVLAA1) -> str:
    """Which of ours run its stacks of layers."""
    kernels = model.mixture.kernels
    if isinstance(kernels, ExpertKernels):
        return instructions()
    if isinstance(kernels, SmallExpertKernels):
        return "small-model"
    return "" if kernels is None else "CUDA"


def matrix_peak(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of the best square matrix product, measured now."""
    best = 0.0
    for size in (1024, 1536, 2048) if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        watch = Stopwatch(device)
        for _ in range(6):
            with watch("mm"):
                a @ b
        best = max(best, 2 * size**3 / min(watch.seconds["mm"]) / 1e9)
    return best


def measure(config: ModelConfig, dtype: str, threads: int, runs: int, words: int, device: torch.device) -> Report:
    """Steady state of a running robot: one sample, all views, past latents at hand, no image decoded."""
    torch.set_num_threads(threads)
    stored = DTYPES[dtype]
    model = random_model(config, stored, device)
    if dtype == "int8":
        quantize_checked(model)
    gc.collect()
    batch = example_batch(config, words=words, device=device)
    noise = torch.randn(1, config.chunk, config.action_dim, generator=torch.Generator().manual_seed(1)).to(device)
    past = model.predict(batch, noise).now_latents
    watch = Stopwatch(device)
    model.stage = watch
    for _ in range(runs):
        with watch("chunk" if model.graphs is None else "launched"):
            model.predict(batch, noise, past_latents=past)
    if model.graphs is not None:  # the stages were launched kernel by kernel, a robot replays one graph
        model.stage = nullcontext
        model.predict(batch, noise, past_latents=past)
        for _ in range(runs):
            with watch("chunk"):
                model.predict(batch, noise, past_latents=past)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    from internvla_a1.eval.model_flops import stage_flops  # only now: with it torch loads triton, whose memory inference does not take

    flops = stage_flops(config, batch)
    native = stored == torch.bfloat16 and bfloat16_is_native(device)
    peak = matrix_peak(torch.bfloat16 if native else torch.float32, device)
    weights = sum(t.numel() * t.itemsize for t in [*model.parameters(), *model.buffers()])
    kernels = kernels_of(model)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return Report(config.variant, dtype, threads, weights, memory, peak, native, has_vnni(), kernels, name, watch.seconds, flops)


def table(report: Report) -> str:
    """Stages by p50 and p95, with achieved GFLOP/s against the measured peak."""
    lines = [f"{'stage':<14} {'p50 s':>9} {'p95 s':>9} {'GFLOP':>9} {'GFLOP/s':>9} {'of peak':>8}"]
    for stage, times in report.seconds.items():
        p95 = sorted(times)[min(len(times) - 1, int(0.95 * len(times)))]
        rate = report.achieved(stage)
        gflop = report.flops.get(stage, 0) / 1e9
        lines.append(f"{stage:<14} {median(times):>9.4f} {p95:>9.4f} {gflop:>9.1f} {rate:>9.1f} {rate / report.peak_gflops:>8.0%}")
    weights, memory = report.weights_bytes / 2**30, report.peak_memory_bytes / 2**30
    where = f"{report.threads} threads" if report.device == "cpu" else report.device
    lines.append(f"matrix-product peak here and now: {report.peak_gflops:.0f} GFLOP/s on {where}")
    lines.append(f"weights {weights:.2f} GiB, peak memory of the process {memory:.2f} GiB ({memory / weights:.2f} x)")
    if report.device != "cpu":
        lines.append("the stages were launched kernel by kernel (all of them: launched); a robot replays the chunk as one CUDA graph")
        return "\n".join(lines)
    lines.append(f"stacks of layers run in the {report.kernels} kernels" if report.kernels else "torch runs everything: no kernels here")
    if report.dtype != "float32" and not report.bfloat16_native:
        lines.append("this CPU has no bfloat16 arithmetic: weights are widened to float32 tile by tile, activations are float32")
    if report.dtype == "int8" and not report.vnni:
        lines.append("this CPU has no VNNI: int8 saves memory here, not time")
    return "\n".join(lines)


def plot(report: Report, path: Path) -> None:
    """Time by stage, and the share of the matrix-product peak that each reaches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    stages = [s for s in report.seconds if s != "chunk"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
    left.barh(stages, [median(report.seconds[s]) for s in stages])
    left.set_xlabel("median time, s")
    right.barh(stages, [100 * report.achieved(s) / report.peak_gflops for s in stages])
    right.axvline(60, linestyle=":", color="black")
    right.set_xlabel("share of the matrix-product peak, %")
    for axes in (left, right):
        axes.invert_yaxis()
    figure.suptitle(f"{report.config} {report.dtype}, {report.threads} threads: {median(report.seconds['chunk']):.3g} s a chunk")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", choices=[*CONFIGS], default="tiny")
    parser.add_argument("--dtype", choices=[*DTYPES], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--words", type=int, default=10, help="valid text tokens of the instruction")
    parser.add_argument("--steps", type=int, default=None, help="denoising steps (default: the configuration's)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=None, help="folder for bench_model_*.json and .png")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write JSON and plot where --out says so."""
    if args.runs < 1:
        raise ConfigError(f"--runs {args.runs}: at least 1")
    config = CONFIGS[args.config]()
    if args.steps is not None:
        config = ModelConfig.from_dict({**config.to_dict(), "steps": args.steps})
    report = measure(config, args.dtype, args.threads, args.runs, args.words, torch.device(args.device))
    print(table(report))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        name = args.out / f"bench_model_{args.config}_{args.dtype}"
        name.with_suffix(".json").write_text(json.dumps(asdict(report), indent=1) + "\n")
        plot(report, name.with_suffix(".png"))
    return 0
