"""What people see of a run: each node's output behind its name, and on a terminal a live table of the nodes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

import psutil
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

_COLORS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
_STATE_STYLE = {"running": "green", "waiting": "yellow", "stopping": "yellow", "ended": "dim", "failed": "bold red"}


@dataclass(frozen=True)
class Row:
    """One node at one instant. state: running, waiting (to be started again), stopping, ended or failed."""

    name: str
    pid: int
    state: str
    restarts: int
    note: str = ""
    up_s: float = 0.0


class Usage:
    """CPU share and resident memory of processes; CPU is what was used since the previous call."""

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}

    def of(self, pid: int) -> tuple[float, float] | None:
        """(percent of one core, MB), or None for a process that is gone."""
        try:
            process = self._known.setdefault(pid, psutil.Process(pid))
            with process.oneshot():
                return process.cpu_percent(), process.memory_info().rss / 1e6
        except psutil.Error:
            self._known.pop(pid, None)
            return None


class PlainDisplay:
    """Lines only: pipes, files and CI."""

    def __init__(self, names: Sequence[str], stream: TextIO | None = None) -> None:
        self._width = max((len(n) for n in names), default=0)
        self._stream = stream or sys.stdout

    def line(self, name: str, text: str) -> None:
        """One line that a node wrote."""
        self._stream.write(f"[{name:<{self._width}}] {text}\n")
        self._stream.flush()

    def note(self, text: str) -> None:
        """One line of the runner itself."""
        self.line("up", text)

    def rows(self, rows: Sequence[Row]) -> None:
        """The state of all nodes, about once a second."""

    def close(self) -> None:
        """The run is over."""


class TableDisplay:
    """Lines above, a table below that follows the nodes. Drawn from the caller's thread only."""

    def __init__(self, names: Sequence[str], title: str) -> None:
        self._console = Console()
        self._width = max((len(n) for n in [*names, "up"]), default=0)
        self._colors = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(names)}
        self._title = title
        self._usage = Usage()
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()

    def line(self, name: str, text: str) -> None:
        prefix = Text(f"{name:>{self._width}} │ ", style=self._colors.get(name, "bold"))
        self._console.print(prefix + Text.from_ansi(text), soft_wrap=True, highlight=False)

    def note(self, text: str) -> None:
        self.line("up", text)

    def rows(self, rows: Sequence[Row]) -> None:
        table = Table(title=self._title, title_justify="left", title_style="bold", expand=False)
        table.add_column("node")
        for heading in ("pid", "state", "up", "restarts", "CPU %", "memory MB"):
            table.add_column(heading, justify="left" if heading == "state" else "right")
        for row in rows:
            used = self._usage.of(row.pid) if row.state in ("running", "stopping") else None
            table.add_row(
                Text(row.name, style=self._colors.get(row.name, "")),
                str(row.pid) if used else "",
                Text(f"{row.state} {row.note}".strip(), style=_STATE_STYLE.get(row.state, "")),
                time.strftime("%H:%M:%S", time.gmtime(row.up_s)) if used else "",
                str(row.restarts),
                f"{used[0]:.0f}" if used else "",
                f"{used[1]:.0f}" if used else "",
            )
        self._live.update(table, refresh=True)

    def close(self) -> None:
        self._live.stop()


Display = PlainDisplay | TableDisplay
