"""Who gives way on a busy machine."""

from __future__ import annotations

import contextlib
import os
import threading

_NICE = 10


def step_aside() -> None:
    """The calling thread, and those it starts, give way to all others: films and pictures for people may lose frames, the arm may not."""
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has priorities of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
