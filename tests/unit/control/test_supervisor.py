"""Every mode times every event, and what latches."""

from __future__ import annotations

import pytest

from internvla_a1.control.interface import Mode
from internvla_a1.control.supervisor import TABLE, Event, Supervisor
from internvla_a1.core.faults import Fault, Latch, Reason, Severity

HOLD_FAULT = Fault(Reason.CHUNK_LOST, Severity.HOLD, Latch.REARM, "silent")
STOP_FAULT = Fault(Reason.SECOND_COMMANDER, Severity.FAULT, Latch.RESET, "two")
ESTOP = Fault(Reason.ESTOP_PRESSED, Severity.ESTOP, Latch.RESET, "pressed")
PASSING = Fault(Reason.STALE, Severity.HOLD, Latch.SELF_CLEARING, "late")
ACTIVE = (Mode.TELEOP, Mode.POLICY)


def test_the_table_has_an_entry_for_every_mode_and_event() -> None:
    assert set(TABLE) == {(m, e) for m in Mode for e in Event}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("event", list(Event))
def test_no_event_but_a_request_by_name_or_a_takeover_starts_motion(mode: Mode, event: Event) -> None:
    after = TABLE[mode, event]
    if after in ACTIVE and after is not mode:
        assert event in (Event.ASK_POLICY, Event.ASK_TELEOP, Event.TAKEOVER)
    if event is Event.TAKEOVER and after is not mode:
        assert mode is Mode.POLICY and after is Mode.TELEOP


@pytest.mark.parametrize("mode", list(Mode))
def test_the_worst_fault_wins_from_every_mode(mode: Mode) -> None:
    assert TABLE[mode, Event.FAULT_ESTOP] is Mode.ESTOP
    assert TABLE[mode, Event.FAULT_FAULT] is (Mode.ESTOP if mode is Mode.ESTOP else Mode.FAULT)
    assert TABLE[mode, Event.FAULT_HOLD] in (Mode.HOLD, Mode.FAULT, Mode.ESTOP)
    for faults in ([HOLD_FAULT, STOP_FAULT, ESTOP], [ESTOP, HOLD_FAULT, STOP_FAULT]):
        supervisor = Supervisor()
        supervisor.mode = mode
        supervisor.update(faults)
        assert supervisor.mode is Mode.ESTOP
        assert supervisor.faults[0] is ESTOP


@pytest.mark.parametrize("mode", [Mode.FAULT, Mode.ESTOP])
def test_latched_modes_are_left_by_a_reset_only_and_into_hold(mode: Mode) -> None:
    for event in Event:
        after = TABLE[mode, event]
        assert after is (Mode.HOLD if event is Event.CLEAR else Mode.ESTOP if event is Event.FAULT_ESTOP else mode)


def in_mode(mode: Mode, fault: Fault | None) -> Supervisor:
    supervisor = Supervisor()
    supervisor.mode = mode
    if fault is not None:
        supervisor.update([fault])
    return supervisor


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("fault", [None, PASSING, HOLD_FAULT, STOP_FAULT, ESTOP])
@pytest.mark.parametrize("asked", ["hold", "teleop", "policy", "nonsense"])
def test_a_request_is_granted_only_where_nothing_stands_against_it(mode: Mode, fault: Fault | None, asked: str) -> None:
    supervisor = in_mode(mode, fault)
    before = supervisor.mode
    refusal = supervisor.ask(asked)
    free = before not in (Mode.FAULT, Mode.ESTOP) and asked != "nonsense" and (fault is None or asked == "hold")
    assert (refusal is None) == free
    assert supervisor.mode is ({"hold": Mode.HOLD, "teleop": Mode.TELEOP, "policy": Mode.POLICY}[asked] if free else before)


@pytest.mark.parametrize("fault", [HOLD_FAULT, STOP_FAULT, ESTOP])
def test_a_fault_ends_by_its_kind(fault: Fault) -> None:
    supervisor = in_mode(Mode.POLICY, fault)
    supervisor.update([])
    assert fault in supervisor.faults, "it latches"
    if fault.latch is Latch.REARM:
        assert supervisor.ask("policy") is None
    else:
        assert supervisor.ask("policy") is not None
        assert supervisor.clear() is None
        assert supervisor.mode is Mode.HOLD
    assert fault not in supervisor.faults


def test_a_self_clearing_fault_is_gone_with_its_cause_and_the_arm_stays_in_hold() -> None:
    supervisor = in_mode(Mode.POLICY, PASSING)
    supervisor.update([])
    assert supervisor.faults == ()
    assert supervisor.mode is Mode.HOLD


def test_a_reset_is_refused_while_the_cause_is_there() -> None:
    supervisor = in_mode(Mode.POLICY, STOP_FAULT)
    refusal = supervisor.clear()
    assert refusal is not None and "second_commander" in str(refusal)
    assert supervisor.mode is Mode.FAULT
