"""Where a network policy computes, and with how many threads."""

from __future__ import annotations

from internvla_a1.core.errors import ConfigError, MissingDependencyError


def prepare_device(asked: str, threads: int = 0) -> str:
    """The device for torch: 'auto' takes CUDA where it works. threads: for the CPU, 0 leaves torch's own choice.

    Raises ConfigError for a device that is not there, MissingDependencyError without torch.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("torch", "the network policy", "pip install torch") from error
    if threads > 0:
        torch.set_num_threads(threads)
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ConfigError.asked("device", asked, ("auto", "cpu", "cuda", "cuda:0")) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError.asked("device", asked, ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
    return asked
