"""Fast DDS files in /dev/shm: a killed process leaves its own behind. Ours are known because a child had them mapped."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

SHM = Path("/dev/shm")
_NAME = re.compile(r"/dev/shm/((?:fastrtps|fastdds|sem\.fastrtps|sem\.fastdds)_[\w.]+)")


def mapped(pid: int) -> set[str]:
    """Names of the Fast DDS files under /dev/shm that a process has mapped or open; empty where that cannot be read."""
    found: set[str] = set()
    try:
        found.update(_NAME.findall(Path(f"/proc/{pid}/maps").read_text(errors="replace")))
        for fd in os.listdir(f"/proc/{pid}/fd"):
            found.update(_NAME.findall(os.readlink(f"/proc/{pid}/fd/{fd}")))
    except OSError:
        pass
    return found


def _family(name: str) -> tuple[str, ...]:
    """A segment or port, its lock file, and the port's semaphore, which no process keeps mapped."""
    base = name.removeprefix("sem.").removesuffix("_mutex").removesuffix("_el")
    return base, f"{base}_el", f"sem.{base}_mutex"


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def remove_leftovers(names: Iterable[str]) -> list[str]:
    """Delete those of `names` that are ours and that no living process uses; returns what went."""
    wanted = {relative for name in names for relative in _family(name) if (SHM / relative).exists()}
    if not wanted:
        return []
    in_use: set[str] = set()
    for pid in _processes():
        in_use.update(relative for name in mapped(pid) for relative in _family(name))
    removed = []
    for name in sorted(wanted - in_use):
        path = SHM / name
        try:
            if path.stat().st_uid == os.geteuid():
                path.unlink()
                removed.append(name)
        except FileNotFoundError:
            continue
    return removed
