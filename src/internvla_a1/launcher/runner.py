"""Runs the nodes of a plan: start, output, respawn, and an end that leaves no process and no shared-memory file behind."""

from __future__ import annotations

import os
import selectors
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from internvla_a1.core.memory import settle, steady_heap, tidy
from internvla_a1.launcher.commands import command, environment
from internvla_a1.launcher.display import Display, Row
from internvla_a1.launcher.guard import Guard
from internvla_a1.launcher.plan import NodePlan, Plan
from internvla_a1.launcher.process import Child
from internvla_a1.launcher.shared_memory import mapped

# Seconds after the request to stop: interrupt at once, then harder. All is over within 3 s.
_TERMINATE_S = 2.0
_KILL_S = 2.3
_REFRESH_S = 1.0
_SHM_SCAN_S = 1.0
_CLEAN_EXITS = (0, -signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT)


@dataclass
class _Slot:
    """One node of the plan and the process that plays it now."""

    plan: NodePlan
    name: str
    argv: list[str]
    child: Child | None = None
    restarts: int = 0
    exit_code: int | None = None
    start_at: float | None = 0.0  # steady time of the next start; None: not to be started again
    held_back: list[str] = field(default_factory=list)


class Runner:
    """Single-threaded: everything happens in run(), which returns when all nodes have ended.

    Call stop() from a signal handler or let run() install its own for SIGINT, SIGTERM and SIGHUP.
    """

    def __init__(self, plan: Plan, display: Display, names: list[str]) -> None:
        self._display = display
        self._guard = Guard()
        scratch = Path(tempfile.mkdtemp(prefix="internvla_a1_up_"))
        self._guard.tell("folder", scratch)
        try:
            self._slots = [
                _Slot(node, name, command(node, scratch, i)) for i, (node, name) in enumerate(zip(plan.nodes, names, strict=True))
            ]
        except BaseException:
            self._guard.finish()
            raise
        self._messages = plan.messages
        self._selector = selectors.DefaultSelector()
        self._stopping: float | None = None
        self._sent = 0
        self._shm: set[str] = set()
        self._next_refresh = 0.0
        self._next_scan = 0.0

    def stop(self) -> None:
        """Ask all nodes to end; asked a second time, kill them."""
        if self._stopping is None:
            self._stopping = time.monotonic()
        else:
            self._stopping = min(self._stopping, time.monotonic() - _KILL_S)

    def run(self) -> int:
        """0 when every node ended well or when asked to, 1 when one failed or had to be killed."""
        for message in self._messages:
            self._display.note(message)
        steady_heap()
        settle()
        with self._signals():
            try:
                while self._step():
                    pass
            finally:
                self._clean_up()
        return 1 if any(slot.exit_code not in _CLEAN_EXITS for slot in self._slots) else 0

    def _step(self) -> bool:
        now = time.monotonic()
        if self._stopping is not None:
            self._escalate(now - self._stopping)
        for slot in self._slots:
            self._reap(slot, now)
            if slot.child is None and slot.start_at is not None and now >= slot.start_at and self._stopping is None:
                self._start(slot)
        if now >= self._next_scan:
            self._note_shared_memory(now)
        if now >= self._next_refresh:
            self._display.rows([self._row(slot, now) for slot in self._slots])
            self._next_refresh = now + _REFRESH_S
            tidy()
        if not any(slot.child for slot in self._slots) and (self._stopping or all(s.start_at is None for s in self._slots)):
            return False
        for key, _ in self._selector.select(0.1 if self._stopping is not None else self._wait_s(now)):
            if isinstance(key.data, _Slot):
                self._show(key.data)
            else:
                os.read(key.fd, 4096)  # a signal came: its handler has run, the byte only woke us
        return True

    def _wait_s(self, now: float) -> float:
        starts = [s.start_at for s in self._slots if s.child is None and s.start_at is not None]
        return max(0.0, min([self._next_refresh, *starts]) - now)

    def _start(self, slot: _Slot) -> None:
        if slot.exit_code is not None:
            slot.restarts += 1
        slot.exit_code, slot.start_at = None, None
        slot.child = Child(slot.argv, environment(slot.plan))
        self._guard.tell("group", slot.child.pid)
        self._selector.register(slot.child.fd, selectors.EVENT_READ, slot)

    def _show(self, slot: _Slot, final: bool = False) -> None:
        if slot.child is None:
            return
        for line in slot.child.lines(final):
            if self._stopping is not None:
                slot.held_back.append(line)  # tracebacks of an interrupted start are noise, unless the node fails
            elif slot.plan.shown:
                self._display.line(slot.name, line)

    def _reap(self, slot: _Slot, now: float) -> None:
        child = slot.child
        if child is None or (code := child.poll()) is None:
            return
        self._show(slot, final=True)
        self._selector.unregister(child.fd)
        child.close()
        self._guard.tell("ended", child.pid)
        slot.child, slot.exit_code = None, code
        if self._stopping is not None:
            if code not in _CLEAN_EXITS:
                for line in slot.held_back:
                    self._display.line(slot.name, line)
                self._display.line(slot.name, f"ended with {describe_exit(code)}")
            return
        if slot.plan.respawn:
            slot.start_at = now + slot.plan.respawn_delay_s
            self._display.line(slot.name, f"ended with {describe_exit(code)}; starts again in {slot.plan.respawn_delay_s:g} s")
        else:
            self._display.line(slot.name, f"ended with {describe_exit(code)}")

    def _escalate(self, waited: float) -> None:
        stages = ((0.0, signal.SIGINT), (_TERMINATE_S, signal.SIGTERM), (_KILL_S, signal.SIGKILL))
        while self._sent < len(stages) and waited >= stages[self._sent][0]:
            if self._sent == 0:
                self._note_shared_memory(time.monotonic())
                self._display.note("stopping all nodes")
            for slot in self._slots:
                if slot.child is not None:
                    slot.child.signal(stages[self._sent][1])
            self._sent += 1

    def _row(self, slot: _Slot, now: float) -> Row:
        if slot.child is not None:
            state = "running" if self._stopping is None else "stopping"
            return Row(slot.name, slot.child.pid, state, slot.restarts, up_s=now - slot.child.started)
        if slot.start_at is not None:
            return Row(slot.name, 0, "waiting", slot.restarts, describe_exit(slot.exit_code) if slot.exit_code else "")
        clean = slot.exit_code in _CLEAN_EXITS
        return Row(slot.name, 0, "ended" if clean else "failed", slot.restarts, "" if clean else describe_exit(slot.exit_code or 0))

    def _note_shared_memory(self, now: float) -> None:
        for slot in self._slots:
            if slot.child is not None:
                for name in mapped(slot.child.pid) - self._shm:
                    self._shm.add(name)
                    self._guard.tell("shm", name)
        self._next_scan = now + (_SHM_SCAN_S if self._stopping is None else 0.1)

    def _clean_up(self) -> None:
        for slot in self._slots:
            if slot.child is not None:  # only after an error of the runner itself
                slot.child.signal(signal.SIGKILL)
        self._selector.close()
        self._guard.finish()
        self._display.rows([self._row(slot, time.monotonic()) for slot in self._slots])

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and a closed terminal all mean stop; SIGCHLD only wakes the loop."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        os.set_blocking(read_end, False)
        self._selector.register(read_end, selectors.EVENT_READ)
        previous_fd = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.signal(number, lambda *_: self.stop()) for number in ends}
        previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(previous_fd)
            os.close(read_end)
            os.close(write_end)


def describe_exit(code: int) -> str:
    """An exit code in words: 'code 1', 'SIGKILL'."""
    if code >= 0:
        return f"code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
