"""Rows 1 to 9 of the fault table: what cameras, joint states and chunks may do wrong."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np

from internvla_a1.control.interface import Mode
from internvla_a1.core.clock import NS, ManualClock, nanoseconds
from internvla_a1.core.faults import Reason, Refusal
from internvla_a1.core.types import ImageArray, Observation
from internvla_a1.eval.safety_figures import Figure, at_most, exactly, trials
from internvla_a1.eval.safety_fuzz import fuzz
from internvla_a1.eval.safety_rig import TICK_S, Rig, demo_robot, worst_of
from internvla_a1.perception.camera_buffer import CameraBuffer, CameraState
from internvla_a1.perception.config import PerceptionConfig
from internvla_a1.perception.decode import ENCODINGS, content_hash, decode_compressed, decode_image
from internvla_a1.perception.perception import Perception

_SMALL = PerceptionConfig(height=16, width=16)


def _noise(rng: np.random.Generator) -> ImageArray:
    return rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)


def row_01(scale: float) -> list[Figure]:
    """A camera sends the same bytes with fresh stamps."""
    rng, config, late = np.random.default_rng(1), PerceptionConfig(), 0.0
    for rate in (10, 15, 30, 60):
        clock, buffer, same = ManualClock(), CameraBuffer("c", config), _noise(rng)
        for _ in range(rate):
            buffer.push(clock.advance(1 / rate).stamp_ns, image := _noise(rng), content_hash(image), clock.now())
        buffer.push(clock.advance(1 / rate).stamp_ns, same, content_hash(same), clock.now())
        frozen_at = clock.now().steady_ns
        while buffer.state(clock.now()) is not CameraState.FROZEN and clock.now().steady_ns - frozen_at < 2 * NS:
            buffer.push(clock.advance(1 / rate).stamp_ns, same, content_hash(same), clock.now())
        late = max(late, (clock.now().steady_ns - frozen_at) / NS - 1 / rate)
    clock, buffer, false_alarms = ManualClock(), CameraBuffer("c", config), 0
    for _ in range(trials(100_000, scale)):
        image = _noise(rng)
        refusal = buffer.push(clock.advance(1 / 30).stamp_ns, image, content_hash(image), clock.now())
        false_alarms += refusal is not None
    return [
        at_most(1, "time to FROZEN less one frame, 10 to 60 Hz", config.frozen_s, round(late, 6), "s"),
        exactly(1, f"false alarms in {trials(100_000, scale)} noisy frames", 0, false_alarms),
    ]


class _Cameras:
    """Perception of the demo arm fed by simulated cameras at 30 Hz; silent: names that do not send."""

    def __init__(self, config: PerceptionConfig = _SMALL) -> None:
        self.perception = Perception(demo_robot(), config)
        self.clock = ManualClock(stamp_ns=1000 * NS)
        self.rng = np.random.default_rng(2)
        self.names = list(self.perception.cameras)

    def frame(
        self, silent: tuple[str, ...] = (), lag_s: dict[str, float] | None = None, period_s: float = 1 / 30
    ) -> Observation | Refusal | None:
        now = self.clock.advance(period_s)
        robot = self.perception.robot
        self.perception.on_joint_state(robot.joint_names, robot.array("home"), now.stamp_ns, now)
        for name in self.names:
            if name not in silent:
                stamp = now.stamp_ns - nanoseconds((lag_s or {}).get(name, 0.0))
                image = _noise(self.rng)
                self.perception.on_image(name, stamp, image, content_hash(image), now)
        return self.perception.build(now)


def row_02(scale: float) -> list[Figure]:
    """A camera drops out and returns."""
    cell, oldest, back = _Cameras(), 0.0, []
    for _ in range(trials(200, scale, 5)):
        for _ in range(10):
            seen = cell.frame()
            if isinstance(seen, Observation):
                oldest = max(oldest, (cell.clock.now().stamp_ns - seen.stamp_ns) / NS + max(seen.image_age_s.values()))
        for _ in range(int(cell.rng.integers(7, 40))):
            seen = cell.frame(silent=(cell.names[0],))
            if isinstance(seen, Observation):
                oldest = max(oldest, (cell.clock.now().stamp_ns - seen.stamp_ns) / NS + max(seen.image_age_s.values()))
        frames = 1
        while not isinstance(cell.frame(), Observation) and frames < 30:
            frames += 1
        back.append(frames)
    return [
        at_most(2, "oldest picture in an observation", 0.2, round(oldest, 6), "s"),
        exactly(2, "good frames until back", {3}, set(back)),
    ]


def row_03(scale: float) -> list[Figure]:
    """Stamps out of order, doubled, ahead."""
    cell, last, falls, ahead = _Cameras(), -1, 0, 0
    robot = cell.perception.robot
    image = _noise(cell.rng)
    for i in range(trials(100_000, scale)):
        now = cell.clock.advance(0.005)
        cell.perception.on_joint_state(robot.joint_names, robot.array("home"), now.stamp_ns, now)
        shift = cell.rng.choice([0.0, 0.0, 0.005, -0.02, -0.1, 0.04, 0.2])
        camera = cell.names[i % 3]
        refusal = cell.perception.on_image(camera, now.stamp_ns + nanoseconds(shift), image, i, now)
        ahead += shift > 0.05 and (refusal is None or refusal.reason is not Reason.STAMP_FUTURE)
        seen = cell.perception.build(now)
        if isinstance(seen, Observation):
            falls += seen.stamp_ns <= last
            last = seen.stamp_ns
    return [
        exactly(3, f"observations whose stamp did not rise, {trials(100_000, scale)} random stamps", 0, falls),
        exactly(3, "stamps more than 50 ms ahead let in", 0, ahead),
        exactly(3, "observations were made at all", True, last > 0),
    ]


def row_04(scale: float) -> list[Figure]:
    """Cameras out of step."""
    cell, widest = _Cameras(), 0.0
    for i in range(trials(3000, scale, 60)):
        lag = float(cell.rng.uniform(0.0, 0.06)) if i % 2 else 0.0
        name = cell.names[i % 3]
        seen = cell.frame(lag_s={name: lag})
        if isinstance(seen, Observation):
            widest = max(widest, max(seen.image_age_s.values()) - min(seen.image_age_s.values()))
    cell = _Cameras()
    for _ in range(10):
        seen = cell.frame(lag_s={"side": 0.05}, period_s=0.1)
    named = isinstance(seen, Refusal) and seen.reason is Reason.OUT_OF_STEP and "side" in seen.detail
    return [at_most(4, "spread inside an observation", 0.02, round(widest, 9), "s"), exactly(4, "the laggard is named", True, named)]


def row_05(scale: float) -> list[Figure]:
    """Wrong encoding, size, step, empty data; cut and changed JPEG and PNG."""
    rng, exceptions, answers = np.random.default_rng(5), 0, 0
    picture = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    files = [cv2.imencode(kind, picture)[1].tobytes() for kind in (".jpg", ".png")]
    names = [*ENCODINGS, "16UC1", "32FC1", "bayer_rggb8", "", "\x00"]
    n = trials(10_000, scale)
    for i in range(n):
        try:
            if i % 2:
                raw = bytearray(files[i // 2 % 2])
                for at in rng.integers(0, len(raw), rng.integers(0, 6)):
                    raw[at] = rng.integers(0, 256)
                answer = decode_compressed(bytes(raw[: rng.integers(0, len(raw) + 1)] if rng.random() < 0.5 else raw))
            else:
                height, width, step = (int(rng.choice([0, 1, 24, 32, -1, 10**9, x])) for x in (24, 32, 96))
                size = int(rng.choice([0, 1, 24 * 96, max(0, min(step * height, 10_000))]))
                answer = decode_image(names[rng.integers(len(names))], height, width, step, bytes(size))
            answers += isinstance(answer, Refusal) or (answer.ndim == 3 and answer.dtype == np.uint8)
        except Exception:
            exceptions += 1
    return [exactly(5, f"exceptions in {n} mutated images", 0, exceptions), exactly(5, "each is a picture or a refusal", n, answers)]


def row_06(scale: float) -> list[Figure]:
    """Joint states permuted, extra, missing, doubled, NaN, short."""
    rig = Rig(record=False)
    names, q = rig.robot.joint_names, rig.measured()
    different, orders = 0, list(itertools.permutations(range(len(names))))
    for order in orders[: trials(len(orders), scale, 200)]:
        now = rig.clock.advance(0.001)
        refusal = rig.executor.on_joint_state([names[i] for i in order] + ["extra"], [*q[list(order)], 9.0], now.stamp_ns, now)
        rig.executor.tick(now)
        different += refusal is not None or not np.array_equal(rig.executor.tick(now).status.commanded, q)
    bad: dict[str, tuple[Any, Any]] = {
        "missing": (names[:-1], q[:-1]),
        "doubled": ((*names, names[0]), np.append(q, q[0])),
        "nan": (names, np.where(np.arange(len(q)) == 2, np.nan, q)),
        "short": (names, q[:-1]),
        "text": (names, ["a"] * len(q)),
    }
    let_in = []
    for kind, (who, values) in bad.items():
        now = rig.clock.advance(0.001)
        if rig.executor.on_joint_state(who, values, now.stamp_ns, now) is None:
            let_in.append(kind)
    rig = Rig().moving(1.0)
    rig.state_alive, since = False, rig.now.steady_ns
    promised = 0.1 + rig.braking_time() + 2 * TICK_S
    rest = rig.until_rest()
    faulted = next(i for i, o in enumerate(reversed(rig.log.outputs)) if not o.faults)
    braked = (rig.now.steady_ns - since) / NS - faulted * TICK_S + TICK_S
    return [
        exactly(6, f"of {min(len(orders), trials(len(orders), scale, 200))} permutations with an extra joint, different", 0, different),
        exactly(6, "let in of missing, doubled, NaN, short, text", [], let_in),
        at_most(6, "joint states stop: brake after", 0.1, round(braked, 6), "s"),
        at_most(6, "joint states stop: at rest", round(promised, 4), rest, "s"),
    ]


def row_07(scale: float) -> list[Figure]:
    """An encoder glitch; three in a row."""
    rng, wrong, touched = np.random.default_rng(7), 0, 0
    rig, twin = Rig(), Rig()
    for r in (rig, twin):
        r.moving(0.5)
    for i in range(trials(2000, scale, 100)):
        if i % 20 == 0:
            rig.send_chunk()
            twin.send_chunk()
        if i % 5 == 0:
            rig.clock.advance(0.001)
            glitch = rig.measured() + rng.choice([-1, 1]) * rng.uniform(0.3, 3.0) * np.eye(7)[rng.integers(6)]
            refusal = rig.executor.on_joint_state(rig.robot.joint_names, glitch, rig.now.stamp_ns, rig.now)
            wrong += refusal is None or refusal.reason is not Reason.IMPLAUSIBLE_SPEED
            rig.clock.advance(-0.001)
        touched += not np.array_equal(rig.step().status.commanded, twin.step().status.commanded)
    rig = Rig().moving(0.5)
    for _ in range(3):
        rig.clock.advance(0.001)
        rig.executor.on_joint_state(rig.robot.joint_names, rig.measured() + 0.5, rig.now.stamp_ns, rig.now)
    rig.tick()
    return [
        exactly(7, "glitches let in", 0, wrong),
        exactly(7, "commands that differ from those without glitches", 0, touched),
        exactly(7, "three in a row", Mode.FAULT.name, rig.mode.name),
    ]


def row_08(scale: float) -> list[Figure]:
    """NaN or infinity in a chunk."""
    rig, twin, let_in, touched = Rig().moving(0.5), Rig().moving(0.5), 0, 0
    rng = np.random.default_rng(8)
    for i in range(trials(2000, scale, 100)):
        if i % 20 == 0:
            rig.send_chunk()
            twin.send_chunk()
        if i % 20 == 10:
            bad = rig.make_chunk()
            bad.positions[rng.integers(30), rng.integers(7)] = rng.choice([np.nan, np.inf, -np.inf])
            let_in += rig.executor.on_chunk(bad, rig.now) is None
        touched += not np.array_equal(rig.step().status.commanded, twin.step().status.commanded)
    for _ in range(3):
        bad = rig.make_chunk()
        bad.positions[0, 0] = np.nan
        rig.executor.on_chunk(bad, rig.now)
    rig.tick()
    result = fuzz(trials(1_000_000, scale), seed=8)
    return [
        exactly(8, "chunks with NaN or infinity let in", 0, let_in),
        exactly(8, "ticks on which the old chunk did not go on", 0, touched),
        exactly(8, "three in a row", Mode.FAULT.name, rig.mode.name),
        exactly(8, f"non-finite outputs in {result.ticks} random ticks", 0, result.worst.non_finite),
    ]


def row_09(scale: float) -> list[Figure]:
    """Actions beyond the limits."""
    result = fuzz(trials(1_000_000, scale), seed=9)
    rig = Rig()
    rig.give_policy()
    rig.run_policy(5.0, path=lambda t: np.full((len(t), 7), 100.0))
    worst = worst_of(rig.log.segments, rig.executor)
    reached = float((rig.executor.limits.upper - rig.log.q[-1]).max())
    w = result.worst
    return [
        exactly(9, f"limit violations (q, v, a) in {result.ticks} random ticks", 0, w.violations),
        at_most(9, "largest |v| / v_max and |a| / a_max of them", 1.0, round(max(w.velocity, w.acceleration), 6)),
        exactly(9, "a target of 100 rad: violations", 0, worst.violations),
        at_most(9, "a target of 100 rad: rests this far from the soft limit", 0.002, reached, "rad"),
    ]
