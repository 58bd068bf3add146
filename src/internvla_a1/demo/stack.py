"""The stack under the demo: `internvla-a1 up` in a process of its own, its output in a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from internvla_a1.launcher.process import die_with_parent

_STOP_LIMIT_S = 6.0


class Stack:
    """Starts on construction; close() stops every node. It also ends when this process dies, however."""

    def __init__(self, launch_file: str, arguments: dict[str, str], domain: int, log: Path) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        assignments = [f"{name}:={value}" for name, value in arguments.items()]
        env = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
        env.pop("ROS_AUTOMATIC_DISCOVERY_RANGE", None)  # a demo stays on this machine
        with log.open("w") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "internvla_a1.cli", "up", launch_file, *assignments],
                env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=die_with_parent(os.getpid(), signal.SIGTERM),
            )  # fmt: skip

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the runner."""
        return self._process.pid

    def tail(self, lines: int = 15) -> str:
        """The last lines that the nodes wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> int:
        """Stop everything. Returns the exit code of the runner."""
        if self.running:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            return self._process.wait()
