"""The last one out: a small process that cleans up after the runner, however that ended, SIGKILL included.

The runner writes what it makes to the guard's standard input, a line each: `group PID`, `shm NAME`, `folder PATH`, and
`ended PID` once a group is gone, for its number may come back as somebody else's. When the pipe closes, the guard kills
what is left of the groups and deletes the files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from internvla_a1.launcher.shared_memory import recent_orphans, remove_leftovers

_GONE_WITHIN_S = 2.0
_STOP_TAKES_S = 4.0  # a little more than the runner needs to stop its nodes


class Guard:
    """The runner's end of the pipe."""

    def __init__(self) -> None:
        source = Path(__file__).resolve().parents[2]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in (str(source), os.environ.get("PYTHONPATH", "")) if p)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, env=env, start_new_session=True, text=True, bufsize=1
        )

    def tell(self, kind: str, what: object) -> None:
        """Tell the guard about a process group, its end, a shared-memory file or a folder."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{kind} {what}\n")

    def finish(self) -> None:
        """Let the guard clean up, and wait for it."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()


def _alive(group: int) -> bool:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def clean_up(lines: Iterable[str]) -> None:
    """Undo what the lines name: kill, then delete."""
    watched: dict[str, set[str]] = {"group": set(), "shm": set(), "folder": set()}
    for line in lines:
        kind, _, what = line.rstrip("\n").partition(" ")
        if kind == "ended":
            watched["group"].discard(what)
        elif kind in watched and what:
            watched[kind].add(what)
    ended, end = time.time(), time.monotonic() + _GONE_WITHIN_S
    groups = [int(g) for g in watched["group"]]
    while (groups := [g for g in groups if _alive(g)]) and time.monotonic() < end:
        time.sleep(0.02)
    remove_leftovers(watched["shm"] | recent_orphans(ended - _STOP_TAKES_S))
    for folder in watched["folder"]:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    clean_up(sys.stdin)


if __name__ == "__main__":
    main()
