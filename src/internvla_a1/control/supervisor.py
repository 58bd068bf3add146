"""Who has the arm, as a table: every mode times every event. The worst fault wins; faults latch by kind.

No entry leads from HOLD, FAULT or ESTOP to motion but a request by name: motion never restarts by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from internvla_a1.control.interface import Mode
from internvla_a1.core.faults import Fault, Latch, Reason, Refusal, Severity


class Event(Enum):
    """What can happen to the supervisor."""

    ASK_HOLD = "hold"
    ASK_TELEOP = "teleop"
    ASK_POLICY = "policy"
    TAKEOVER = "takeover"  # a person's device commands, deadman pressed
    LET_GO = "deadman released"
    FAULT_HOLD = "fault: hold"
    FAULT_FAULT = "fault"
    FAULT_ESTOP = "emergency stop"
    CLEAR = "clear fault"


H, T, P, F, E = Mode.HOLD, Mode.TELEOP, Mode.POLICY, Mode.FAULT, Mode.ESTOP

# fmt: off
TABLE: dict[tuple[Mode, Event], Mode] = {
    (m, e): next_mode
    for e, row in {               # from  HOLD TELEOP POLICY FAULT ESTOP
        Event.ASK_HOLD:                  (H,   H,     H,     F,    E),
        Event.ASK_TELEOP:                (T,   T,     T,     F,    E),
        Event.ASK_POLICY:                (P,   P,     P,     F,    E),
        Event.TAKEOVER:                  (H,   T,     T,     F,    E),
        Event.LET_GO:                    (H,   H,     P,     F,    E),
        Event.FAULT_HOLD:                (H,   H,     H,     F,    E),
        Event.FAULT_FAULT:               (F,   F,     F,     F,    E),
        Event.FAULT_ESTOP:               (E,   E,     E,     E,    E),
        Event.CLEAR:                     (H,   T,     P,     H,    H),
    }.items()
    for m, next_mode in zip(Mode, row, strict=True)
}
# fmt: on

_BY_SEVERITY = {Severity.HOLD: Event.FAULT_HOLD, Severity.FAULT: Event.FAULT_FAULT, Severity.ESTOP: Event.FAULT_ESTOP}
_ASKS = {"hold": Event.ASK_HOLD, "teleop": Event.ASK_TELEOP, "policy": Event.ASK_POLICY}


class Supervisor:
    """The mode, and the faults that are present or latched."""

    def __init__(self) -> None:
        self.mode = Mode.HOLD
        self.reason = "started"
        self._latched: dict[Reason, Fault] = {}
        self._present: set[Reason] = set()

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Present or latched, worst first."""
        return tuple(sorted(self._latched.values(), key=lambda f: -f.severity))

    def update(self, present: Iterable[Fault]) -> bool:
        """Take this tick's faults. Returns whether the mode changed."""
        before = self.mode
        self._present = set()
        for fault in present:
            self._present.add(fault.reason)
            self._latched[fault.reason] = fault
        for reason, fault in list(self._latched.items()):
            if fault.latch is Latch.SELF_CLEARING and reason not in self._present:
                del self._latched[reason]
        worst = next((f for f in self.faults if f.reason in self._present), None)
        if worst is not None:
            self._go(_BY_SEVERITY[worst.severity], str(worst))
        return self.mode is not before

    def ask(self, mode: str) -> Refusal | None:
        """A request for a mode by name; None when it is granted."""
        event = _ASKS.get(mode)
        if event is None:
            return Refusal(Reason.NOT_ALLOWED, f"no mode {mode[:32]!r}; there are {', '.join(_ASKS)}")
        if self.mode in (Mode.FAULT, Mode.ESTOP):
            return Refusal(Reason.NOT_ALLOWED, f"{self.mode.name} is latched ({self.reason}); clear the fault first")
        if event is not Event.ASK_HOLD:
            blocking = self.blocking()
            if blocking is not None:
                return Refusal(Reason.NOT_ALLOWED, f"{mode} is refused while {blocking}")
            self._latched = {r: f for r, f in self._latched.items() if f.latch is Latch.RESET}
        self._go(event, f"{mode} asked for")
        return None

    def blocking(self) -> Fault | None:
        """The worst fault whose cause is still there, or that needs a reset."""
        for fault in self.faults:
            if fault.reason in self._present or fault.latch is Latch.RESET:
                return fault
        return None

    def clear(self) -> Refusal | None:
        """A reset: back to HOLD, if the causes of all latched stops are gone."""
        for fault in self.faults:
            if fault.latch is Latch.RESET and fault.reason in self._present:
                return Refusal(Reason.NOT_ALLOWED, f"reset is refused while {fault}")
        self._latched = {r: f for r, f in self._latched.items() if r in self._present}
        if self.mode in (Mode.FAULT, Mode.ESTOP):
            self._go(Event.CLEAR, "fault cleared")
        return None

    def takeover(self) -> bool:
        """A person's device commands with the deadman pressed. Returns whether it took the arm just now."""
        if self.mode is Mode.POLICY and self.blocking() is None:
            self._go(Event.TAKEOVER, "taken over by a person")
            return True
        return False

    def let_go(self) -> None:
        """The person released the deadman."""
        if self.mode is Mode.TELEOP:
            self._go(Event.LET_GO, "deadman released")

    def _go(self, event: Event, reason: str) -> None:
        after = TABLE[self.mode, event]
        if after is not self.mode or event in _BY_SEVERITY.values():
            self.reason = reason
        self.mode = after
