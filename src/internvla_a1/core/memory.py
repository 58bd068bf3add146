"""Flat memory for processes that run for weeks."""

from __future__ import annotations

import contextlib
import ctypes
import gc

_M_ARENA_MAX = -8  # malloc.h of glibc
_ARENAS = 2


def few_arenas() -> None:
    """At most two heaps for malloc, called before threads begin. By default each thread of the middleware opens one of its own, and each
    grows to the size of the largest picture that passed through it: megabytes, minutes after the start."""
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def settle() -> None:
    """Called when everything that stays has been built: later collections leave it out. They are short, and come often enough that dead
    cycles do not pile up to a quarter of all that lives (the rule by which Python puts off a full collection)."""
    gc.collect()
    gc.freeze()
