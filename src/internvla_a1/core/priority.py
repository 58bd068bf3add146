"""Who gives way on a busy machine."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

REALTIME = 50  # as ros2_control's loop
_NICE = 10
_RECEIVING = "dds."  # Fast DDS names its threads so


def step_aside() -> None:
    """The calling thread, and those it starts, give way to all others: films and pictures for people may lose frames, the arm may not."""
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has priorities of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def come_first(priority: int, also: tuple[int, ...] = ()) -> str:
    """The main thread, those that receive and `also` (native ids) run before every ordinary one, as ros2_control's loop does.

    priority: of SCHED_FIFO, 1 to 99; 0 is ordinary. Threads that start later are ordinary. Returns what it is
    now, for people: it takes a right that few users have.
    """
    try:
        policy = os.SCHED_FIFO if priority else os.SCHED_OTHER
        for thread in (*_main_and_receiving(), *also):
            os.sched_setscheduler(thread, policy | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except (OSError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not on this system"
        return f"ordinary: real-time priority {priority} was refused ({reason}); docs/real_robot.md says how to allow it"
    return f"real time, priority {priority}" if priority else "ordinary"


def _main_and_receiving() -> list[int]:
    found = [os.getpid()]
    for folder in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            if (folder / "comm").read_text().startswith(_RECEIVING):
                found.append(int(folder.name))
    return found
