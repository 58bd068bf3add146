"""Takeover and give-back at random moments: how long until the person, or the policy, has the arm, and what moves meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from internvla_a1.control.interface import Mode
from internvla_a1.core.clock import NS
from internvla_a1.eval.safety_figures import Figure, at_most, exactly
from internvla_a1.eval.safety_rig import TICK_S, Rig

MOMENTS = 200
_AUTHORITY_MS = 50.0


@dataclass
class _Seen:
    """takeover_ms, give_back_ms: from the command, or the arrival of the first chunk observed after the request, to the first segment
    of the new source. step, jolt: largest |dq| / (v dt) and |dv| / (a dt). old_steps: ticks on which an older chunk ran."""

    takeover_ms: list[float] = field(default_factory=list)
    give_back_ms: list[float] = field(default_factory=list)
    step: float = 0.0
    jolt: float = 0.0
    old_steps: int = 0
    old_accepted: int = 0


def handover_figures(moments: int = MOMENTS, seed: int = 7) -> list[Figure]:
    """The person's command and the request come at any instant between two ticks; chunks go on arriving all the time."""
    rig, rng, seen = Rig(record=False).moving(1.0), np.random.default_rng(seed), _Seen()
    for _ in range(moments):
        rig.run_policy(float(rng.uniform(0.1, 0.4)), every_s=0.1, offset=float(rng.uniform(-0.1, 0.1)))
        _takeover(rig, rng, seen)
        _give_back(rig, rng, seen)
    return [
        at_most(22, f"{moments} takeovers at random moments: to authority, p99", _AUTHORITY_MS, _p99(seen.takeover_ms), "ms"),
        at_most(24, f"{moments} give-backs: from the first chunk after it to authority, p99", _AUTHORITY_MS, _p99(seen.give_back_ms), "ms"),
        at_most(22, "largest |dq| / (v dt) on the way", 1.0, round(seen.step, 6)),
        at_most(22, "largest |dv| / (a dt) on the way", 1.0, round(seen.jolt, 6)),
        exactly(24, "chunks observed before the give-back that were accepted after it", 0, seen.old_accepted),
        exactly(24, "ticks after the give-back on which an older chunk ran", 0, seen.old_steps),
    ]


def _takeover(rig: Rig, rng: np.random.Generator, seen: _Seen) -> None:
    leader = rng.uniform(-3.0, 3.0, len(rig.robot.joints))
    part = float(rng.uniform(0.0, 1.0))
    rig.clock.advance(part * TICK_S)
    rig.teleop(leader)
    asked = rig.now.steady_ns
    _period(rig, seen, 1.0 - part)
    for tick in range(30):
        if len(seen.takeover_ms) == len(seen.give_back_ms) and _has(rig, Mode.TELEOP):
            seen.takeover_ms.append((rig.now.steady_ns - asked) / 1e6)
        rig.teleop(leader + 0.004 * tick)
        if tick % 5 == 0:
            rig.send_chunk()
        _period(rig, seen)
    if len(seen.takeover_ms) == len(seen.give_back_ms):
        seen.takeover_ms.append(float("inf"))


def _give_back(rig: Rig, rng: np.random.Generator, seen: _Seen) -> None:
    part = float(rng.uniform(0.0, 1.0))
    held = rig.make_chunk(delay_s=float(rng.uniform(0.0, 0.3)))
    rig.clock.advance(part * TICK_S)
    rig.give_policy()
    given, fresh = rig.now.stamp_ns, 0
    _period(rig, seen, 1.0 - part)
    for tick in range(30):
        late = rig.make_chunk(delay_s=(rig.now.stamp_ns - given) / NS + float(rng.uniform(0.001, 0.2)))
        for old in (held, late):
            seen.old_accepted += rig.executor.on_chunk(old, rig.now) is None
        if tick == 10:
            arrived = rig.now.steady_ns
            rig.send_chunk(delay_s=(rig.now.stamp_ns - given) / NS - 0.01)
            fresh = rig.chunk_id
        _period(rig, seen)
        seen.old_steps += rig.out.handover.chunk_id not in (0, fresh)
        if tick >= 10 and len(seen.give_back_ms) < len(seen.takeover_ms) and rig.out.handover.chunk_id and _has(rig, Mode.POLICY):
            seen.give_back_ms.append((rig.now.steady_ns - arrived) / 1e6)
    if len(seen.give_back_ms) < len(seen.takeover_ms):
        seen.give_back_ms.append(float("inf"))


def _has(rig: Rig, mode: Mode) -> bool:
    """Whether the last tick sent a segment of this source."""
    return rig.out.handover.mode is mode and rig.out.segment is not None


def _period(rig: Rig, seen: _Seen, share: float = 1.0) -> None:
    """To the next tick, or what is left of the way to it; the arm's command is compared over the same time."""
    limits = rig.executor.limits
    rig.clock.advance(share * TICK_S)
    now = rig.now.stamp_ns
    q1, v1, _ = rig.arm.at(now)
    q0, v0, _ = rig.arm.at(now - round(TICK_S * NS))
    rig.send_state()
    rig.tick()
    q2, v2, _ = rig.arm.at(now)  # the new segment at the same instant: a takeover must not step
    for q, v in ((q1 - q0, v1 - v0), (q2 - q1, v2 - v1)):
        seen.step = max(seen.step, float((np.abs(q) / (limits.velocity * TICK_S)).max()))
        seen.jolt = max(seen.jolt, float((np.abs(v) / (limits.acceleration * TICK_S)).max()))


def _p99(values: list[float]) -> float:
    return float(np.percentile(values, 99, method="higher"))
