"""One thread that always works on the newest job, and leaves a policy that fails alone for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Job = TypeVar("Job")


class NewestJobThread(Generic[Job]):
    """`offer` never blocks: a waiting job is replaced by a newer one. `work` runs in the thread, one job at a time.

    After an exception out of `work`, `failed` is told and jobs are turned down for `retry_s`.
    """

    def __init__(self, work: Callable[[Job], None], failed: Callable[[Exception], None], retry_s: float = 1.0) -> None:
        self._work, self._failed, self._retry_s = work, failed, retry_s
        self._wake = threading.Condition()
        self._job: Job | None = None
        self._open = True
        self._resume = float("-inf")
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self._thread.start()

    def offer(self, job: Job) -> bool:
        """Hand over a job; False while failing or closed."""
        with self._wake:
            if not self._open or time.monotonic() < self._resume:
                return False
            self._job = job
            self._wake.notify()
            return True

    def close(self, timeout_s: float) -> bool:
        """End the thread after the job in work. False if it takes longer than the time given."""
        with self._wake:
            self._open, self._job = False, None
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._job is not None or not self._open)
                job, self._job = self._job, None
            if job is None:
                return
            try:
                self._work(job)
            except Exception as error:  # out of memory, a driver that went away: the node outlives them
                with self._wake:
                    self._job = None
                    self._resume = time.monotonic() + self._retry_s
                self._failed(error)
