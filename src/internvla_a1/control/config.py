"""Parameters of the executor: each declared once with unit, range and description. A value out of range never gets past here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from internvla_a1.core.errors import ConfigError

CHUNK_MODES = ("replace", "blend", "ensemble", "rtc")
TELEOP_MODES = ("relative", "absolute")


def _number(default: float, unit: str, low: float, high: float, description: str) -> Any:
    return field(default=default, metadata={"unit": unit, "min": low, "max": high, "description": description})


def _choice(default: str, choices: tuple[str, ...], description: str) -> Any:
    return field(default=default, metadata={"choices": choices, "description": description})


def _flag(default: bool, description: str) -> Any:
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True)
class ExecutorConfig:
    """Defaults of faults.md. `metadata` of each field holds unit, min, max or choices, and the description, for the node's parameters."""

    tick_s: float = _number(0.01, "s", 0.002, 0.05, "period of the control tick")
    publish_every: int = _number(2, "ticks", 1, 5, "a segment goes out every so many ticks, half as often from a chunk, at once on change")
    cover_s: float = _number(0.2, "s", 0.1, 0.4, "how far ahead a segment follows the reference before its braking tail")
    servo_lag_s: float = _number(0.04, "s", 0.0, 0.1, "how far the arm is behind what it is told: it brakes earlier to be at rest in time")
    soft_margin_rad: float = _number(0.05, "rad", 0.0, 0.5, "commands stay this far inside the position limits of revolute joints")
    soft_margin_m: float = _number(0.0, "m", 0.0, 0.05, "the same for prismatic joints and grippers")
    stop_acceleration_rad_s2: float = _number(4.0, "rad/s^2", 0.5, 50.0, "deceleration of an ordinary stop, revolute joints")
    stop_acceleration_m_s2: float = _number(2.0, "m/s^2", 0.1, 20.0, "deceleration of an ordinary stop, prismatic joints")
    joint_state_age_s: float = _number(0.1, "s", 0.01, 1.0, "silence of the joint states after which the arm brakes")
    teleop_age_s: float = _number(0.1, "s", 0.02, 0.5, "silence of the teleop source after which the arm brakes")
    max_open_loop_s: float = _number(0.5, "s", 0.1, 5.0, "silence after the newest chunk after which the arm is put on hold")
    brake_early_s: float = _number(0.08, "s", 0.0, 0.4, "so long before that the plan brakes; a chunk that comes is followed")
    first_chunk_s: float = _number(5.0, "s", 0.5, 60.0, "how long an armed executor waits, at rest, for the first chunk")
    min_ahead_s: float = _number(0.1, "s", 0.0, 1.0, "a chunk with less than this still ahead is refused")
    min_steps: int = _number(2, "steps", 2, 1000, "shortest horizon of a chunk")
    max_steps: int = _number(200, "steps", 2, 1000, "longest horizon of a chunk; more is refused, so that the work of a tick is bounded")
    chunk_dt_tolerance: float = _number(0.02, "", 0.0, 0.5, "relative deviation of a chunk's dt from the robot's control_dt_s")
    future_tolerance_s: float = _number(0.05, "s", 0.0, 0.5, "stamps further in the future are refused")
    max_stamp_age_s: float = _number(1.0, "s", 0.1, 60.0, "older joint states and teleop commands are refused unless use_sim_time")
    estop_heartbeat_s: float = _number(0.0, "s", 0.0, 5.0, "0: no heartbeat expected; else silence after which the arm stops (0.5 advised)")
    estop_release_s: float = _number(0.5, "s", 0.0, 10.0, "how long the stop must have been clear before a reset is accepted")
    clock_jump_s: float = _number(0.1, "s", 0.02, 1.0, "step of simulated time that empties the buffers and brakes")
    clock_stopped_s: float = _number(0.5, "s", 0.1, 5.0, "steady time without progress of simulated time after which the arm holds")
    pause_s: float = _number(0.2, "s", 0.05, 1.0, "longest gap between ticks that goes unnoticed")
    start_tolerance: float = _number(0.02, "rad or m", 0.001, 0.2, "largest difference of a first command from the measured position")
    glitch_factor: float = _number(2.0, "", 1.0, 10.0, "a joint state sample faster than this times max_velocity is refused")
    faults_in_a_row: int = _number(3, "", 1, 100, "so many refused chunks or joint states in a row are a fault")
    controller_retry_s: float = _number(1.0, "s", 0.1, 60.0, "least time between a controller's refusal and the next attempt")
    chunk_mode: str = _choice("blend", CHUNK_MODES, "how a new chunk takes over from the one before")
    blend_s: float = _number(0.05, "s", 0.0, 1.0, "duration of the cross-fade between chunks")
    ensemble_decay: float = _number(0.1, "", 0.0, 5.0, "ensemble mode: weight exp(-decay * rank), oldest first")
    teleop_mode: str = _choice("relative", TELEOP_MODES, "relative clutch (passive leader) or absolute with a ramp (active leader)")
    takeover_ramp_s: float = _number(1.0, "s", 0.0, 10.0, "absolute mode: time from the arm's position to the leader's")
    give_back_blend_s: float = _number(0.3, "s", 0.0, 5.0, "time over which the policy takes the arm after an arm request")
    auto_takeover: bool = _flag(True, "a teleop command with the deadman pressed takes the arm from the policy without a request")
    history_s: float = _number(0.0, "s", 0.0, 5.0, "after a give-back, only chunks observed this much after it are executed")
    use_sim_time: bool = _flag(False, "stamps are of a simulated clock, which may stop or jump")
    max_real_time_factor: float = _number(1.0, "", 0.01, 20.0, "fastest simulated clock that is not a jump")

    def __post_init__(self) -> None:
        for f in fields(self):
            value, meta = getattr(self, f.name), f.metadata
            if "choices" in meta:
                if value not in meta["choices"]:
                    raise ConfigError.asked(f.name, value, meta["choices"])
            elif isinstance(f.default, bool):
                if not isinstance(value, bool):
                    raise ConfigError(f"{f.name}: expected true or false, not {value!r}")
            else:
                _check_number(f.name, value, isinstance(f.default, int), meta)
        if self.min_steps > self.max_steps:
            raise ConfigError(f"min_steps {self.min_steps} is above max_steps {self.max_steps}")
        if self.brake_early_s >= self.max_open_loop_s:
            raise ConfigError(f"brake_early_s {self.brake_early_s} must be below max_open_loop_s {self.max_open_loop_s}")


def _check_number(name: str, value: Any, whole: bool, meta: Any) -> None:
    allowed = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed) or not math.isfinite(value):
        raise ConfigError(f"{name}: expected a finite {'whole ' if whole else ''}number, not {value!r}")
    if not meta["min"] <= value <= meta["max"]:
        raise ConfigError(f"{name}: {value} is outside [{meta['min']}, {meta['max']}] {meta['unit']}".rstrip())
