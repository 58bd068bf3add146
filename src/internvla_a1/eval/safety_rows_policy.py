"""Rows 10 to 17 of the fault table: seams, delays, a policy that dies, an executor that dies or pauses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from internvla_a1.control.config import CHUNK_MODES, ExecutorConfig
from internvla_a1.control.interface import Mode
from internvla_a1.core.clock import NS, nanoseconds
from internvla_a1.eval.safety_figures import Figure, at_most, exactly, trials
from internvla_a1.eval.safety_rig import TICK_S, Rig, middle, worst_of


def _still(rig: Rig, offset: float = 0.0) -> dict[str, Any]:
    target = middle(rig.robot) + np.where(rig.robot.gripper_mask, 0.0, offset)
    return {"path": lambda t: np.tile(target, (len(t), 1))}


def row_10(scale: float) -> list[Figure]:
    """A jump at the chunk boundary."""
    figures, worst_a = [], 0.0
    for mode in CHUNK_MODES:  # an ensemble is a mean of old and new by design: for it the limits are what counts
        rig = Rig(config=ExecutorConfig(chunk_mode=mode))
        rig.give_policy()
        rig.run_policy(1.0, **_still(rig))
        rig.send_chunk(**_still(rig, 0.05))
        off = np.zeros(7)
        for _ in range(30):
            off = rig.step().status.commanded - (middle(rig.robot) + np.where(rig.robot.gripper_mask, 0.0, 0.05))
        if mode != "ensemble":
            figures.append(at_most(10, f"{mode}: of an offset of 0.05 rad, left after 0.3 s", 0.001, float(np.abs(off).max()), "rad"))
        rng = np.random.default_rng(10)
        rig.log.segments.clear()
        for _ in range(trials(100, scale, 10)):
            rig.run_policy(0.2, offset=float(rng.choice([-0.3, -0.05, 0.05, 0.3])))
        worst_a = max(worst_a, worst_of(rig.log.segments, rig.executor).acceleration)
    figures.append(at_most(10, "largest |a| / a_max at seams of 0.05 to 0.6 rad, all modes", 1.0, round(worst_a, 6)))
    return figures


def row_11(scale: float) -> list[Figure]:
    """Slow inference: a chunk is late by its delay, the old one is followed by time."""
    rng, stops, tried = np.random.default_rng(11), 0, 0
    steps = 30
    for _ in range(trials(200, scale, 6)):
        rig = Rig(record=False)
        horizon = steps * rig.robot.control_dt_s
        slowest = horizon - 0.1 - 0.02
        rig.give_policy()
        waiting: list[tuple[int, object]] = []
        due = 0
        usual = slowest if tried % 2 == 0 else float(rng.uniform(0.1, slowest))
        for i in range(round((usual + 3.0) / TICK_S)):
            if i >= due:  # requests overlap: one starts every 0.3 to 0.4 s, and takes its time
                delay = usual - float(rng.uniform(0.0, 0.08))
                waiting.append((i + round(delay / TICK_S), rig.make_chunk(delay_s=0.0, steps=steps)))
                due = i + int(rng.integers(30, 40))
            for at, chunk in list(waiting):
                if i >= at:
                    rig.executor.on_chunk(chunk, rig.now)  # type: ignore[arg-type]
                    waiting.remove((at, chunk))
            started = rig.executor.supervisor.mode is Mode.POLICY
            rig.step()
            stops += started and rig.mode is not Mode.POLICY
        tried += 1
    alone = 0
    for factor in (2, 5):
        rig = Rig(record=False)
        rig.give_policy()
        rig.run_policy(20.0 * scale + 2.0, every_s=0.09 * factor, delay_s=0.09 * factor)
        alone += rig.mode is not Mode.POLICY
    return [
        exactly(11, f"stops in {tried} runs with delays up to horizon - 0.1 s, a chunk at least every 0.5 s", 0, stops),
        exactly(11, "stops at x2 and x5 of 90 ms, one request at a time", 0, alone),
    ]


def row_12(scale: float) -> list[Figure]:
    """Late chunks, chunks out of order, a policy that was stopped for 2 s and goes on."""
    rig, rng = Rig().moving(0.5), np.random.default_rng(12)
    older = past = 0
    newest = 0
    for i in range(trials(3000, scale, 200)):
        if i % 5 == 0:
            chunk = rig.make_chunk(delay_s=float(rng.uniform(0.0, 2.5)))
            refusal = rig.executor.on_chunk(chunk, rig.now)
            if refusal is None:
                older += chunk.stamp_ns <= newest
                past += chunk.end_stamp_ns - rig.now.stamp_ns < nanoseconds(0.1)
                newest = chunk.stamp_ns
        status = rig.step().status
        if newest:
            due = newest + nanoseconds((status.step + 1) * rig.robot.control_dt_s)
            past += due < rig.now.stamp_ns - 1000 and status.step < 29  # 1 us: dt in whole ns
    rig = Rig().moving(1.0)
    held = [rig.make_chunk(delay_s=0.05)]
    rig.step(200)
    stale = rig.executor.on_chunk(held[0], rig.now)
    return [
        exactly(12, "older observations that replaced a newer one", 0, older),
        exactly(12, "steps run whose time had passed", 0, past),
        exactly(12, "after a stop of 2 s, the chunk from before it", "not_active_source", stale.reason.value if stale else "run"),
    ]


def row_13(scale: float) -> list[Figure]:
    """The policy is killed, spins or is stopped: for the executor it is silent, and its plan brakes before it says so."""
    rng, latest, brake, restarted, over = np.random.default_rng(13), 0.0, set(), 0, 0
    room = np.inf
    for _ in range(trials(50, scale, 3)):
        rig = Rig()
        rig.give_policy()
        rig.run_policy(1.0 + float(rng.uniform(0.0, 1.0)))
        rig.send_chunk()
        heard, full = rig.now.steady_ns, 0.0
        while rig.mode is Mode.POLICY and rig.now.steady_ns < heard + NS:
            full = max(full, rig.braking_time())
            rig.step()
        brake.add(round((rig.now.steady_ns - heard) / NS, 6))
        promised = rig.braking_time()
        rest = rig.until_rest()
        over += rest > promised
        latest = max(latest, rest)
        room = min(room, 0.5 + full - (rig.now.steady_ns - heard) / NS)
        for _ in range(50):
            rig.send_chunk()
            restarted += rig.step().status.moving
        rig.give_policy()
        rig.run_policy(0.3)
        restarted += not rig.out.status.moving
    return [
        exactly(13, "open loop after the newest chunk, s", {0.5}, brake),
        exactly(13, f"rests later than T_b after that (longest {latest:.2f} s)", 0, over),
        at_most(13, "at rest after the newest chunk, less 0.5 s and T_b of before: room for a servo's lag", -0.04, -room, "s"),
        exactly(13, "motion before it was armed again, or none after", 0, restarted),
    ]


def row_14(scale: float) -> list[Figure]:
    """Wrong horizon, dt, joint names, shape, source."""
    rig = Rig().moving(0.5)
    good = rig.make_chunk(delay_s=0.0)
    q, names = good.positions, good.joint_names
    bad = {
        "1 step": replace(good, positions=q[:1]),
        "1000 steps": replace(good, positions=np.tile(q[:1], (1000, 1))),
        "no steps": replace(good, positions=q[:0]),
        "dt doubled": replace(good, dt_s=2 * good.dt_s),
        "dt 0": replace(good, dt_s=0.0),
        "dt negative": replace(good, dt_s=-good.dt_s),
        "dt nan": replace(good, dt_s=float("nan")),
        "joint missing": replace(good, joint_names=names[:-1], positions=q[:, :-1]),
        "joint unknown": replace(good, joint_names=(*names[:-1], "who")),
        "joint extra": replace(good, joint_names=(*names, "who"), positions=np.hstack([q, q[:, :1]])),
        "joint doubled": replace(good, joint_names=(*names[:-1], names[0])),
        "flat": replace(good, positions=q.ravel()),
        "column short": replace(good, positions=q[:, :-1]),
        "stamp ahead": replace(good, stamp_ns=good.stamp_ns + nanoseconds(0.06)),
        "other source": replace(good, source="someone"),
    }
    let_in = []
    for kind, chunk in bad.items():
        rig = Rig().moving(0.5)
        shift = rig.now.stamp_ns - good.stamp_ns
        if rig.executor.on_chunk(replace(chunk, stamp_ns=chunk.stamp_ns + shift), rig.now) is None:
            let_in.append(kind)
    rig = Rig().moving(0.5)
    rig.step(2)
    permuted = rig.make_chunk(delay_s=0.0)
    permuted = replace(permuted, joint_names=permuted.joint_names[::-1], positions=permuted.positions[:, ::-1])
    fine = rig.executor.on_chunk(permuted, rig.now)
    return [exactly(14, f"let in, of {len(bad)} kinds", [], let_in), exactly(14, "a permuted chunk is fine", None, fine)]


def row_15(scale: float) -> list[Figure]:
    """Foresight or recorder killed or slow: the executor has no input from them, and the same inputs give the same output."""
    runs = []
    for _ in range(2):
        rig = Rig()
        rig.give_policy()
        rig.run_policy(2.0)
        runs.append(rig.log)
    same = all(
        np.array_equal(x.positions, y.positions) and np.array_equal(x.times_s, y.times_s)
        for x, y in zip(runs[0].segments, runs[1].segments, strict=True)
    )
    return [exactly(15, f"two runs of {len(runs[0].segments)} segments, bit for bit the same", True, same)]


def row_16(scale: float) -> list[Figure]:
    """The executor is killed in mid-motion, and starts again."""
    rng, late, moved, not_hold = np.random.default_rng(16), 0, 0, 0
    rig = Rig()
    for _ in range(trials(50, scale, 3)):
        rig = Rig()
        rig.give_policy()
        rig.run_policy(1.0 + float(rng.uniform(0.0, 1.0)))
        end = rig.log.segments[-1]
        _, v, _ = end.sample(np.array([rig.executor.config.cover_s]))
        braking = float(np.max(np.abs(v[0]) / rig.executor.limits.stop + 3 * rig.executor.limits.stop / rig.executor.limits.jerk)) + 0.06
        late += end.times_s[-1] > 0.2 + braking
        again = Rig(start=end.positions[-1])
        for _ in range(200):
            moved += again.step().segment is not None
        not_hold += again.mode is not Mode.HOLD
    ends = worst_of(rig.log.segments, rig.executor).not_at_rest
    return [
        exactly(16, f"of {len(rig.log.segments)} segments, not ending at rest", 0, ends),
        exactly(16, "segments longer than 0.2 s + T_b", 0, late),
        exactly(16, "segments sent by a restarted executor in 2 s", 0, moved),
        exactly(16, "restarted executors not in HOLD", 0, not_hold),
    ]


def row_17(scale: float) -> list[Figure]:
    """The executor's process pauses."""
    rng, step, stops, unheld, rest_missing = np.random.default_rng(17), 0.0, 0, 0, 0
    limits = Rig().executor.limits
    for trial in range(trials(40, scale, 4)):
        rig = Rig().moving(1.0)
        low, high = ((0.02, 0.19), (0.22, 0.27), (0.02, 0.19), (0.3, 1.0))[trial % 4]
        pause = float(rng.uniform(low, high))
        told, before = rig.out.status.commanded, rig.arm.at(rig.now.stamp_ns)[0]
        for _ in range(round(pause / TICK_S)):
            rig.clock.advance(TICK_S)
            if trial % 4:  # else what was said meanwhile is heard after the first tick only
                rig.send_state()
            if pause < 0.2:
                rig.send_chunk()
        before = rig.arm.at(rig.now.stamp_ns)[0]
        told = rig.tick().status.commanded
        step = max(step, float((np.abs(told - before) / limits.velocity).max()))
        if pause < 0.2:
            stops += rig.mode is not Mode.POLICY
        else:
            unheld += rig.mode is not Mode.HOLD
            rest_missing += rig.until_rest() == float("inf")
    return [
        at_most(17, "step of the command after a pause, in units of v_max", 1e-6, step, "s"),
        exactly(17, "pauses up to 0.19 s that stopped the arm", 0, stops),
        exactly(17, "longer pauses that did not end in HOLD, at rest", 0, unheld + rest_missing),
    ]
