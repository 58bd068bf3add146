"""Writing an episode beside the callbacks: a queue bounded in bytes, one thread, and an orderly end when the disk is full."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from internvla_a1.ros.recording import EpisodeWriter

Action = Callable[[EpisodeWriter], None]
_CHECK_EVERY_S = 1.0


class EpisodeThread:
    """Owns an EpisodeWriter. `offer` never blocks: what does not fit is dropped and counted.

    When the disk has less than `min_free_bytes` left, the episode is closed in order; when a write fails all the same, its file is
    left as it is. Either way `failure` says why, everything after it is dropped, and `on_failure` is called once, from the thread.
    """

    def __init__(self, writer: EpisodeWriter, queue_bytes: int, min_free_bytes: int, on_failure: Callable[[str], None]) -> None:
        self.failure = ""
        self.dropped = 0
        self.summary: dict[str, Any] | None = None
        self._writer, self._limit, self._min_free, self._on_failure = writer, queue_bytes, min_free_bytes, on_failure
        self._queue: queue.SimpleQueue[tuple[int, Action | None]] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._checked = float("-inf")
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def folder(self) -> Path:
        """Where the episode is."""
        return self._writer.folder

    def offer(self, size: int, action: Action) -> bool:
        """Queue an action of `size` bytes; False if it was dropped."""
        with self._lock:
            if self.failure or self._waiting + size > self._limit:
                self.dropped += 1
                return False
            self._waiting += size
        self._queue.put((size, action))
        return True

    def close(self, timeout_s: float) -> bool:
        """Write what is queued and end the episode. False if that took longer than the time given."""
        self._queue.put((0, None))
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            size, action = self._queue.get()
            if action is None:
                break
            with self._lock:
                self._waiting -= size
            if not self.failure:
                self._write(action)
        if not self.failure:
            self._end()

    def _write(self, action: Action) -> None:
        now = time.monotonic()
        try:
            if now - self._checked >= _CHECK_EVERY_S:
                self._checked = now
                free = shutil.disk_usage(self._writer.folder).free
                if free < self._min_free:
                    self._fail(f"the disk of {self._writer.folder} has {free / 1e6:.0f} MB left, less than {self._min_free / 1e6:.0f} MB")
                    self._end()
                    return
            action(self._writer)
        except OSError as error:
            self._fail(f"{self._writer.path}: {error.strerror}")
            self._writer.abandon()

    def _end(self) -> None:
        try:
            self.summary = self._writer.close(self.dropped)
        except OSError as error:
            self._fail(f"{self._writer.path}: {error.strerror}")
            self._writer.abandon()

    def _fail(self, why: str) -> None:
        if not self.failure:
            self.failure = why
            self._on_failure(why)
