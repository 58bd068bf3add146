"""Flat memory for processes that run for weeks."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc

# mallopt's of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_PICTURES = 32 * 2**20  # the most that glibc takes
_KEPT = 256 * 2**20
SPARE_MB = 2


def steady_heap() -> None:
    """Called before threads begin. All buffers of up to 32 MB come from heaps, which keep what they have once needed.

    By default glibc learns the size of pictures as they pass: it maps and unmaps each at first, moves them into the heaps later, and trims
    those; so a process grows by megabytes minutes after its start. Each thread keeps a heap of its own: where one with real-time priority
    shared its heap, it would wait for the lock of it while an ordinary one that holds it is kept from running.
    """
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        libc = _libc()
        libc.mallopt(_M_MMAP_THRESHOLD, _PICTURES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def settle(spare_mb: int = SPARE_MB) -> None:
    """Called when everything that stays has been built: later collections leave it out, so they are short and can be frequent.

    spare_mb: heap made ready for bursts: peers that come and go, and in a node that takes pictures the dozen that wait for it after it
    slept for seconds. heap_in_use_mb() does not count it, so that it hides no leak.
    """
    gc.collect()
    gc.freeze()
    set_aside(spare_mb)


def set_aside(spare_mb: int) -> None:
    """Make heap of the calling thread ready, for what it needs now and then.

    Blocks that are taken, written to and given back stay with the heap (steady_heap), each below the size that it would map apart.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = _libc()
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
        blocks = [libc.malloc(2**20) for _ in range(spare_mb)]
        for block in filter(None, blocks):
            ctypes.memset(block, 0, 2**20)
        for block in blocks:
            libc.free(block)


def tidy() -> None:
    """Called every second or so after settle(): dead cycles, and the lists of freed tuples that Python keeps until a full collection.

    Each tuple() of a generator moves one from the list of one size to that of another, so that these fill up to megabytes over an hour.
    Takes 0.1 ms.
    """
    gc.collect()


def heap_in_use_mb() -> float | None:
    """MB that malloc has given out and not got back (Python's own small objects apart); None where the C library does not tell."""
    try:
        tell = _libc().mallinfo2
    except (OSError, AttributeError):  # glibc from 2.33 on
        return None
    tell.restype = _MallInfo2
    info = tell()
    return float(info.uordblks + info.hblkhd) / 1e6


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


class _MallInfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]
