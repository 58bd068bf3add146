"""Flat memory for processes that run for weeks."""

from __future__ import annotations

import contextlib
import ctypes
import gc

# mallopt's of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_ARENAS = 2
_PICTURES = 32 * 2**20  # the most that glibc takes
_KEPT = 256 * 2**20


def steady_heap() -> None:
    """Called before threads begin. All buffers of up to 32 MB come from at most two heaps, which keep what they have once needed.

    By default each thread of the middleware opens a heap of its own, and glibc learns the size of pictures as they pass: it maps and
    unmaps each at first, moves them into the heaps later, and trims those; so a process grows by megabytes minutes after its start.
    """
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        libc.mallopt(_M_MMAP_THRESHOLD, _PICTURES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def settle() -> None:
    """Called when everything that stays has been built: later collections leave it out. They are short, and come often enough that dead
    cycles do not pile up to a quarter of all that lives (the rule by which Python puts off a full collection)."""
    gc.collect()
    gc.freeze()
