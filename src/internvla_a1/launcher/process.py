"""One child process in its own process group, with its output in a pipe."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_MAX_LINE = 65536


def die_with_parent(parent: int, sig: int = signal.SIGKILL) -> Callable[[], None]:
    """What a child does between fork and exec: default signals, and the kernel ends it with its parent, however that dies."""

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        _libc.prctl(_PR_SET_PDEATHSIG, sig, 0, 0, 0)
        if os.getppid() != parent:  # it died before prctl took effect
            os._exit(1)

    return prepare


class Child:
    """A running command. The owner's single thread reads `fd` when it is readable and calls poll()."""

    def __init__(self, argv: Sequence[str], env: dict[str, str]) -> None:
        self.started = time.monotonic()
        self._rest = b""
        # New session: Ctrl-C at the terminal reaches the runner only, which then stops everything in order.
        self._popen = subprocess.Popen(
            list(argv), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=die_with_parent(os.getpid()),
        )  # fmt: skip
        if self._popen.stdout is None:
            raise OSError("the child has no output pipe")
        self.pid = self._popen.pid
        self.fd = self._popen.stdout.fileno()
        os.set_blocking(self.fd, False)

    def lines(self, final: bool = False) -> list[str]:
        """Complete lines that have come; with final=True also the unfinished last one."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.fd, 65536):
                self._rest += piece
        *whole, self._rest = self._rest.split(b"\n")
        if self._rest and (final or len(self._rest) > _MAX_LINE):
            whole.append(self._rest)
            self._rest = b""
        return [line.decode(errors="replace").rstrip("\r") for line in whole]

    def poll(self) -> int | None:
        """Exit code (negative: the signal), or None while it runs. Whatever the process left in its group ends with it."""
        if self._popen.returncode is not None:
            return self._popen.returncode
        # WNOWAIT: the dead leader stays a zombie while its group is signalled, so the group id cannot be another's.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self.signal(signal.SIGKILL)
        return self._popen.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the whole group."""
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def close(self) -> None:
        """Release the pipe."""
        if self._popen.stdout is not None:
            self._popen.stdout.close()
