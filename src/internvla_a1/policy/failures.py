"""Errors of devices become one kind of ours, so that a node says what happened and goes on (faults.md row 37)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from internvla_a1.core.errors import InternVLAError


class InferenceError(InternVLAError):
    """A chunk that could not be computed, and why. The policy stays usable: the next request tries again."""


@contextmanager
def device_errors_named(device: torch.device, doing: str) -> Iterator[None]:
    """Turn memory, driver and numerical errors of `doing` into InferenceError; our own errors pass through."""
    try:
        yield
    except InternVLAError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise InferenceError(f"{doing}: out of memory on {device}: {_first_line(error)}") from error
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, OSError, ArithmeticError, AssertionError) as error:
        raise InferenceError(f"{doing} failed on {device}: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no details"
