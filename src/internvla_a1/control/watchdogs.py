"""Who is silent, and what that means. Ages are steady seconds at reception: a stamp never proves that its sender is alive."""

from __future__ import annotations

from internvla_a1.control.config import ExecutorConfig
from internvla_a1.core.faults import Fault, Latch, Reason, Severity


def _hold(reason: Reason, detail: str) -> Fault:
    return Fault(reason, Severity.HOLD, Latch.REARM, detail)


def _stop(reason: Reason, detail: str) -> Fault:
    return Fault(reason, Severity.FAULT, Latch.RESET, detail)


def joint_state_silent(age_s: float, config: ExecutorConfig) -> Fault | None:
    """No usable joint state for too long, or none yet (age infinite)."""
    if age_s < config.joint_state_age_s:
        return None
    since = "none received yet" if age_s == float("inf") else f"none usable for {age_s:.3f} s"
    return _hold(Reason.JOINT_STATE_LOST, f"{since}, at most {config.joint_state_age_s} s")


def teleop_silent(age_s: float, config: ExecutorConfig) -> Fault | None:
    """The person's device has the arm and is silent."""
    if age_s < config.teleop_age_s:
        return None
    return _hold(Reason.TELEOP_LOST, f"silent for {age_s:.3f} s, at most {config.teleop_age_s} s")


def chunk_silent(age_s: float, first: bool, config: ExecutorConfig) -> Fault | None:
    """The policy has the arm and sends nothing. first: none came yet since it was given the arm, which is at rest."""
    allowed = config.first_chunk_s if first else config.max_open_loop_s
    if age_s < allowed:
        return None
    return _hold(Reason.CHUNK_LOST, f"no {'first' if first else 'new'} chunk for {age_s:.3f} s, at most {allowed} s")


def estop_silent(age_s: float, config: ExecutorConfig) -> Fault | None:
    """The emergency-stop source is configured to have a heartbeat and is silent: a protective stop."""
    if config.estop_heartbeat_s <= 0 or age_s < config.estop_heartbeat_s:
        return None
    return _stop(Reason.ESTOP_SILENT, f"no emergency-stop message for {age_s:.3f} s, at most {config.estop_heartbeat_s} s")


def estop_pressed(pressed: bool, clear_s: float, config: ExecutorConfig) -> Fault | None:
    """Pressed, or not clear for long enough yet."""
    if pressed:
        return Fault(Reason.ESTOP_PRESSED, Severity.ESTOP, Latch.RESET, "the emergency stop is pressed")
    if clear_s < config.estop_release_s:
        detail = f"the emergency stop is clear for {clear_s:.3f} s, reset from {config.estop_release_s} s on"
        return Fault(Reason.ESTOP_PRESSED, Severity.ESTOP, Latch.RESET, detail)
    return None


def clock_stopped(standing_s: float, config: ExecutorConfig) -> Fault | None:
    """Simulated time stands still."""
    if standing_s < config.clock_stopped_s:
        return None
    return _hold(Reason.CLOCK_STOPPED, f"simulated time stands still for {standing_s:.3f} s, at most {config.clock_stopped_s} s")


def clock_jumped(jump_s: float | None, config: ExecutorConfig) -> Fault | None:
    """Simulated time went back, or forward by more than the tick before explains."""
    if jump_s is None:
        return None
    return _hold(Reason.CLOCK_JUMP, f"simulated time jumped by {jump_s:+.3f} s, more than {config.clock_jump_s} s is a jump")


def paused(gap_s: float, config: ExecutorConfig) -> Fault | None:
    """This process did not run: the arm has ended its segment, or is about to."""
    if gap_s <= config.pause_s:
        return None
    return _hold(Reason.EXECUTOR_PAUSED, f"{gap_s:.3f} s between ticks, at most {config.pause_s} s")


def second_commander(publishers: int) -> Fault | None:
    """Somebody else publishes on the arm's command topic."""
    if publishers <= 1:
        return None
    return _stop(Reason.SECOND_COMMANDER, f"{publishers} publishers on the arm's command topic, allowed: this one")


def too_many_in_a_row(reason: Reason, count: int, last: str, config: ExecutorConfig) -> Fault | None:
    """A sender that keeps sending nonsense (POLICY_NONSENSE, ENCODER_FAULT)."""
    if count < config.faults_in_a_row:
        return None
    return _stop(reason, f"{count} in a row refused, the last: {last}")


def controller_failed(detail: str, since_s: float, config: ExecutorConfig) -> Fault | None:
    """The controller refused or aborted; present until it may be tried again."""
    if since_s >= config.controller_retry_s:
        return None
    return _hold(Reason.CONTROLLER_FAULT, f"{detail}; next attempt {config.controller_retry_s} s after it")


def moved_by_hand(joint: str, distance: float, config: ExecutorConfig) -> Fault:
    """The arm is not where the first command of a motion would have it."""
    return _hold(Reason.FIRST_COMMAND_JUMP, f"{joint} is {distance:.4f} from the command, at most {config.start_tolerance}")
