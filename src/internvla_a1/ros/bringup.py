"""Which lifecycle node to move next: ordered start, retries, what to do about a silent or crashed one. Pure: time is an argument.

Nodes are configured in order, then activated in order. A node that refuses does not hold up the others: it is retried, and
after too many refusals or crashes it is left alone, or everything is brought down where that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from internvla_a1.ros.heartbeat import Beat

UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = "unconfigured", "inactive", "active", "finalized"


_LOST_REQUEST_S = 0.3  # a node that beats in its old state this long after a request has not heard it; in a transition it does not beat


class Step(str, Enum):
    """A lifecycle transition, or the end of a process that hangs."""

    CONFIGURE = "configure"
    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    CLEANUP = "cleanup"
    KILL = "kill"


_GOALS = {Step.CONFIGURE: INACTIVE, Step.ACTIVATE: ACTIVE, Step.DEACTIVATE: INACTIVE, Step.CLEANUP: UNCONFIGURED}
_STARTS = {Step.CONFIGURE: UNCONFIGURED, Step.ACTIVATE: INACTIVE, Step.DEACTIVATE: ACTIVE, Step.CLEANUP: INACTIVE}


@dataclass(frozen=True)
class Action:
    """Do `step` to `node`; pid is of the process that was heard last."""

    node: str
    step: Step
    pid: int = 0


@dataclass(frozen=True)
class BringupConfig:
    """Times in s. appear_s: how long the first start waits for a node before it goes on without. kill_silent_s 0: never.

    deaf_s: a node that beats but answers no transition for so long is killed like a silent one: DDS has not connected its services.
    """

    nodes: tuple[str, ...]
    heartbeat_s: float = 1.0
    transition_s: float = 120.0
    retry_s: float = 2.0
    appear_s: float = 10.0
    max_failures: int = 5
    window_s: float = 60.0
    kill_silent_s: float = 5.0
    deaf_s: float = 8.0
    bring_down: bool = False


@dataclass
class _Record:
    state: str = ""  # "" while unheard of
    pid: int = 0
    heard_s: float = 0.0
    lost: bool = False
    killed: bool = False
    pending: Step | None = None
    pending_s: float = 0.0
    asked_s: float | None = None  # since when a transition is asked for in vain
    again: bool = False  # whether the pending request repeats one that may have been heard after all
    failures: list[float] = field(default_factory=list)
    not_before_s: float = 0.0
    given_up: bool = False


class Bringup:
    """Feed beats and answers, call tick; `notes` are log lines since the last `take_notes`."""

    def __init__(self, config: BringupConfig) -> None:
        self.config = config
        self.wanted_up = True
        self.complete = False  # every node that was not given up is active
        self._begun_s: float | None = None
        self._records = {name: _Record() for name in config.nodes}
        self._notes: list[tuple[bool, str]] = []

    def state(self, node: str) -> str:
        """What is known of a node, in a word."""
        r = self._records[node]
        if r.given_up:
            return "given up"
        return "lost" if r.lost else r.state or "not seen"

    def take_notes(self) -> list[tuple[bool, str]]:
        """(whether it is a problem, text) of what happened."""
        notes, self._notes = self._notes, []
        return notes

    def ask(self, up: bool) -> None:
        """Bring everything up or down. Up forgives earlier failures."""
        self.wanted_up = up
        if up:
            for r in self._records.values():
                r.given_up = False
                r.failures.clear()

    def on_beat(self, beat: Beat, now_s: float) -> None:
        """A sign of life."""
        r = self._records.get(beat.node)
        if r is None:
            return
        if r.pid and beat.pid != r.pid:
            self._note(True, f"{beat.node} is back as process {beat.pid}")
            self._failed(beat.node, r, now_s, "crashed or was restarted")
            r.not_before_s = now_s  # whoever started it again has waited already
        elif r.lost:
            self._note(False, f"{beat.node} is heard again")
        if beat.pid != r.pid:
            r.pending, r.killed, r.asked_s = None, False, None
        elif r.pending is not None and beat.state == _GOALS[r.pending]:
            r.pending, r.asked_s = None, None  # it got there, even if its answer was lost on the way
        elif r.pending is not None and beat.state == _STARTS[r.pending] and now_s - r.pending_s > _LOST_REQUEST_S:
            r.pending = None
        r.state, r.pid, r.heard_s, r.lost = beat.state, beat.pid, now_s, False

    def on_answer(self, node: str, step: Step, success: bool, now_s: float) -> None:
        """What a node answered to a transition."""
        r = self._records[node]
        if r.pending is not step:
            return
        r.pending, r.asked_s, r.heard_s = None, None, now_s
        if success:
            r.state = _GOALS[step]
        elif not r.again:  # else the first request may have done it: the next beat says so
            self._failed(node, r, now_s, f"refused to {step.value}; its log says why")

    def postpone(self, node: str) -> None:
        """The node's services are not there yet: ask again at the next tick."""
        self._records[node].pending = None

    def tick(self, now_s: float) -> list[Action]:
        """What to do now; call it a few times a second."""
        if self._begun_s is None:
            self._begun_s = now_s
        actions = [a for name in self.config.nodes for a in self._watch(name, now_s)]
        actions += self._upward(now_s) if self.wanted_up else self._downward(now_s)
        self._check_complete()
        return actions

    def _watch(self, name: str, now_s: float) -> list[Action]:
        r = self._records[name]
        if not r.state:
            return []
        silent = now_s - r.heard_s
        if r.pending is not None:
            if now_s - r.pending_s <= self.config.transition_s:
                return []  # a node that loads a model does not beat
            step, r.pending = r.pending, None
            self._failed(name, r, now_s, f"did not finish to {step.value} within {self.config.transition_s:g} s")
        if silent > self.config.heartbeat_s and not r.lost:
            r.lost = True
            self._note(True, f"{name} is silent for {silent:.1f} s; last heard {r.state}, process {r.pid}")
        if not r.lost and not r.killed and self.config.kill_silent_s and r.asked_s is not None and now_s - r.asked_s > self.config.deaf_s:
            r.killed = True
            self._note(True, f"{name} is heard but has answered nothing for {self.config.deaf_s:g} s")
            return [Action(name, Step.KILL, r.pid)]
        if r.lost and not r.killed and 0 < self.config.kill_silent_s < silent:
            r.killed = True
            return [Action(name, Step.KILL, r.pid)]
        return []

    def _upward(self, now_s: float) -> list[Action]:
        """At most one transition at a time, so that the order holds."""
        records = [(n, self._records[n]) for n in self.config.nodes]
        if any(r.pending is not None for _, r in records):
            return []
        stuck = [n for n, r in records if self._out(r) or r.not_before_s > now_s]
        for wanted, step in ((UNCONFIGURED, Step.CONFIGURE), (INACTIVE, Step.ACTIVATE)):
            for name, r in records:
                if name in stuck:
                    continue
                if not r.state and now_s - (self._begun_s or now_s) < self.config.appear_s:
                    return []  # wait for the next in order to appear
                if r.state == wanted:
                    return [self._start(name, r, step, now_s)]
        return []

    def _downward(self, now_s: float) -> list[Action]:
        for wanted, step in ((ACTIVE, Step.DEACTIVATE), (INACTIVE, Step.CLEANUP)):
            for name in reversed(self.config.nodes):
                r = self._records[name]
                if r.pending is not None:
                    return []
                if r.state == wanted and not r.lost and r.not_before_s <= now_s:
                    return [self._start(name, r, step, now_s)]
        return []

    def _start(self, name: str, r: _Record, step: Step, now_s: float) -> Action:
        r.pending, r.pending_s = step, now_s
        r.again = r.asked_s is not None
        r.asked_s = now_s if r.asked_s is None else r.asked_s
        return Action(name, step, r.pid)

    def _out(self, r: _Record) -> bool:
        """Nothing can be done with it now."""
        return r.lost or r.given_up or r.state == FINALIZED

    def _failed(self, name: str, r: _Record, now_s: float, why: str) -> None:
        r.failures = [t for t in r.failures if now_s - t < self.config.window_s] + [now_s]
        r.not_before_s = now_s + (self.config.retry_s if len(r.failures) > 1 else 0.0)
        self._note(True, f"{name} {why} ({len(r.failures)} of {self.config.max_failures} failures allowed in {self.config.window_s:g} s)")
        if len(r.failures) > self.config.max_failures and not r.given_up:
            r.given_up = True
            self._note(True, f"{name} is given up; bring_up tries again")
            if self.config.bring_down:
                self.wanted_up = False
                self._note(True, "bringing everything down")

    def _check_complete(self) -> None:
        usable = [r for r in self._records.values() if not r.given_up]
        complete = bool(usable) and all(r.state == ACTIVE and not r.lost for r in usable)
        if complete and not self.complete:
            self._note(False, f"up: {', '.join(n for n, r in self._records.items() if not r.given_up)}")
        self.complete = complete

    def _note(self, problem: bool, text: str) -> None:
        self._notes.append((problem, text))


def resolve(nodes: Sequence[str], namespace: str) -> tuple[str, ...]:
    """Full names of nodes given relative to a namespace; empty ones are dropped."""
    return tuple(n if n.startswith("/") else f"{namespace.rstrip('/')}/{n}" for n in nodes if n)
