"""Fast DDS files in /dev/shm: a killed process leaves its own behind. Ours are known because a child had them mapped."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

SHM = Path("/dev/shm")
_NAME = re.compile(r"/dev/shm/((?:fastrtps|fastdds|sem\.fastrtps|sem\.fastdds)_[\w.]+)")


def mapped(pid: int) -> set[str]:
    """Names of the Fast DDS files under /dev/shm that a process has mapped or open; empty where that cannot be read."""
    found: set[str] = set()
    try:
        with Path(f"/proc/{pid}/maps").open(errors="replace") as lines:  # much for a node: not all of it at once, every second
            for line in lines:
                found.update(_NAME.findall(line))
        for fd in os.listdir(f"/proc/{pid}/fd"):
            found.update(_NAME.findall(os.readlink(f"/proc/{pid}/fd/{fd}")))
    except OSError:
        pass
    return found


def recent_orphans(since_s: float) -> set[str]:
    """Fast DDS files of this user that changed after `since_s` (wall time) and that no process has mapped or open.

    For what a child made in the last moment of its life, after the last look at its maps.
    """
    recent = set()
    for path in SHM.glob("*fast*_*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if status.st_ctime >= since_s and status.st_uid == os.geteuid() and _NAME.fullmatch(str(path)):
            recent.add(path.name)
    if recent:
        for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
            recent -= mapped(int(pid))
    return recent


def remove_leftovers(names: Iterable[str]) -> list[str]:
    """Delete those of `names` that are ours and that no living process uses; returns what went."""
    removed = []
    for base in sorted({name.removeprefix("sem.").removesuffix("_mutex").removesuffix("_el") for name in names}):
        # The lock goes last: while it stands, whoever opens the segment or port finds out whether it is in use.
        family = [SHM / name for name in (f"sem.{base}_mutex", base, f"{base}_el")]
        with _unused(family[-1]) as free:
            if free:
                removed += [path.name for path in family if _remove(path)]
    return removed


@contextmanager
def _unused(lock: Path) -> Iterator[bool]:
    """Hold the lock that Fast DDS keeps on a segment or port in use. Gives False where somebody else holds it."""
    try:
        fd = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    except PermissionError:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)


def _remove(path: Path) -> bool:
    try:
        if path.stat().st_uid != os.geteuid():
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True
