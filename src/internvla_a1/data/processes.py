"""Worker processes that do not outlive their parent, even if it is killed."""

from __future__ import annotations

import os
import threading
import time

LOOK_EVERY_S = 1.0


def leave_with_parent() -> None:
    """Call once in a worker: it ends within LOOK_EVERY_S of its parent. A killed parent cannot tell its workers itself."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()
