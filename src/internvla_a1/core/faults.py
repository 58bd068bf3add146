"""Faults and refusals as values, ordered by weight. The law book is docs/safety.md.

A refusal is about one message: it is counted and nothing moves. A fault is about the state of the system: it brakes the
arm and latches by kind. The worst fault wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class Latch(Enum):
    """How a fault ends. Motion never restarts by itself, whatever the kind."""

    SELF_CLEARING = "self_clearing"  # ends with its cause; the arm is in HOLD
    REARM = "rearm"  # ends with the cause and a request for a mode
    RESET = "reset"  # ends with executor/clear_fault only


class Severity(IntEnum):
    """The larger wins."""

    NONE = 0
    HOLD = 1
    FAULT = 2
    ESTOP = 3


class Reason(str, Enum):
    """Names of refusals and faults, as they appear on executor/status and /diagnostics."""

    # refusals of a message
    NON_FINITE = "non_finite"
    WRONG_JOINTS = "wrong_joints"
    WRONG_SHAPE = "wrong_shape"
    WRONG_HORIZON = "wrong_horizon"
    BAD_ENCODING = "bad_encoding"
    STAMP_OLD = "stamp_old"
    STAMP_FUTURE = "stamp_future"
    STAMP_REPEATED = "stamp_repeated"
    TOO_LATE = "too_late"
    BEFORE_GIVE_BACK = "before_give_back"
    NOT_ACTIVE_SOURCE = "not_active_source"
    IMPLAUSIBLE_SPEED = "implausible_speed"
    FIRST_COMMAND_JUMP = "first_command_jump"
    COLLISION = "collision"
    FLOODED = "flooded"
    NOT_ALLOWED = "not_allowed"  # a request that the present mode or an active fault forbids
    PLAN_REFUSED = "plan_refused"  # the last gate found a plan outside the limits; the plan before it goes on
    # states of an input
    FROZEN = "frozen"
    STALE = "stale"
    OUT_OF_STEP = "out_of_step"
    # faults of the system
    JOINT_STATE_LOST = "joint_state_lost"
    CHUNK_LOST = "chunk_lost"
    TELEOP_LOST = "teleop_lost"
    POLICY_NONSENSE = "policy_nonsense"
    ENCODER_FAULT = "encoder_fault"
    CONTROLLER_FAULT = "controller_fault"
    SECOND_COMMANDER = "second_commander"
    CLOCK_JUMP = "clock_jump"
    CLOCK_STOPPED = "clock_stopped"
    EXECUTOR_PAUSED = "executor_paused"
    ESTOP_PRESSED = "estop_pressed"
    ESTOP_SILENT = "estop_silent"


@dataclass(frozen=True)
class Refusal:
    """Why a message was refused, with the number that tripped it."""

    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


@dataclass(frozen=True)
class Fault:
    """Why the arm brakes, how hard it counts and how it ends."""

    reason: Reason
    severity: Severity
    latch: Latch
    detail: str

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"
