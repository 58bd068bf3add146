"""One episode of a policy in the cell, without ROS: chunks by time, with the delays that a real chain would have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from internvla_a1.control.config import ExecutorConfig
from internvla_a1.core.clock import nanoseconds
from internvla_a1.core.scene import Order
from internvla_a1.core.types import ActionChunk
from internvla_a1.eval.arms import LEAD_S, Arm, DirectArm, ExecutorArm, collision_gate
from internvla_a1.eval.observing import Glances, History, observe
from internvla_a1.eval.policies import cameras_of
from internvla_a1.eval.protocol import Protocol, order_something, start
from internvla_a1.policy.commitment import Commitments
from internvla_a1.policy.protocol import Policy, PolicyRequest
from internvla_a1.sim.cell import Cell

PHASES = ("sorted", "missed", "grasp lost", "wrong bin", "wrong parcel", "timeout")
LIFTED = 0.05  # m above its place on the belt


@dataclass(frozen=True)
class Outcome:
    """phase: 'sorted' or how it failed. grasp_s, end_s: seconds into the episode, grasp_s negative if it never held the parcel.

    violations: of the arm's limits. stops: how often the executor took the arm from the policy.
    """

    seed: int
    phase: str
    order: str
    grasp_s: float
    end_s: float
    inferences: int
    inference_s: float  # median
    reordered: bool
    violations: int
    stops: int = 0

    @property
    def success(self) -> bool:
        return self.phase == "sorted"


class Loop:
    """Runs episodes in one cell with one policy."""

    def __init__(self, cell: Cell, policy: Policy, protocol: Protocol, gated: bool = True) -> None:
        self.cell, self.policy, self.protocol = cell, policy, protocol
        self._gate = collision_gate(cell.robot) if protocol.executor and gated else None
        self._light = cell.model.light_diffuse.copy()

    def arm(self) -> Arm:
        """A new one, for an episode that begins."""
        return ExecutorArm(self.cell, self._gate) if self.protocol.executor else DirectArm(self.cell)

    def episode(self, seed: int, each_tick: Callable[[Cell], None] | None = None) -> Outcome:
        """A function of (weights, protocol, seed) unless the delay is the measured one. each_tick: for films."""
        cell, protocol = self.cell, self.protocol
        state = self.begin(start(cell, protocol, seed), seed, certain=protocol.orders == 1 and protocol.delay_s >= 0)
        while cell.time_s < protocol.limit_s * protocol.orders and not state.ended:
            state.tick()
            if each_tick is not None:
                each_tick(cell)
        return state.outcome()

    def begin(self, rng: np.random.Generator, seed: int, certain: bool = False) -> _State:
        """In the cell as it now is. rng: of what happens to the policy. seed: of its noise. certain: fixed delay, one order to the end."""
        self.policy.reset()
        return _State(self, rng, seed, certain)


class _State:
    """One episode under way. Time goes in ticks of the policy's period; pictures are taken at every tick that may be looked at."""

    def __init__(self, loop: Loop, rng: np.random.Generator, seed: int, certain: bool) -> None:
        self._cell, self._policy, self._protocol, self._rng, self._seed = loop.cell, loop.policy, loop.protocol, rng, seed
        self._arm = loop.arm()
        self._cameras = cameras_of(loop.policy)
        self._dt = loop.policy.robot.control_dt_s
        self._history = History(loop.policy.history_s)
        self._glances, self._certain, self._ticks = Glances(loop.policy.history_s, self._dt), certain, 0
        lead_s, fade_s = (LEAD_S, ExecutorConfig().blend_s) if loop.protocol.executor else (0.0, 0.0)
        self._commitments = Commitments(lead_s, fade_s, loop.policy.robot.gripper_mask)
        self._coming: tuple[float, ActionChunk] | None = None  # (arrival time, chunk)
        self._now_s = 0.0  # the cell's own time comes in whole control periods and may lag behind by one
        self._next_s, self._chunk_id = 0.0, 0
        self._order: Order | None = None
        self._grasp_s, self._observed_s, self._sorted = -1.0, 0.0, 0
        self._times: list[float] = []
        self._reorder_s = float(rng.uniform(0.4, 1.2)) if loop.protocol.reorder else np.inf
        self._ordered_s, self._reordered, self._dimmed = np.inf, False, False
        self._violations = sum(loop.cell.violations.values())

    @property
    def ended(self) -> bool:
        score = self._cell.score
        return bool(score.missed or score.sorted_wrong or score.finished >= self._protocol.orders)

    def tick(self) -> None:
        """One period: look, maybe think, act, watch."""
        cell = self._cell
        self._disturb()
        dark = frozenset({self._protocol.drop}) if self._protocol.drop and cell.time_s >= self._protocol.drop_at_s else frozenset()
        seen = observe(cell, self._cameras if self._glances.at(self._ticks) else (), dark)
        self._history.add(seen)
        if cell.order is not None:
            if self._order is None:
                self._ordered_s = cell.time_s
            self._order = cell.order
            if self._coming is None and self._now_s >= self._next_s - 1e-6:
                self._think(seen)
        self._advance()
        self._ticks += 1
        self._watch()

    def _disturb(self) -> None:
        cell = self._cell
        if self._protocol.light != 1.0 and not self._dimmed and cell.time_s >= 2.0:
            cell.model.light_diffuse[:] *= self._protocol.light
            cell.model.vis.headlight.diffuse[:] *= self._protocol.light
            self._dimmed = True
        due = cell.time_s >= self._ordered_s + self._reorder_s and self._grasp_s < 0
        if due and not self._reordered:
            self._reordered = order_something(cell, self._rng, self._order)

    def _think(self, seen) -> None:
        cell, protocol = self._cell, self._protocol
        self._chunk_id += 1
        committed = None
        if protocol.rtc and protocol.mode == "asynchronous":
            self._arm.report(self._commitments)
            committed = self._commitments.steps(seen.stamp_ns, self._dt)
        past = self._history.past() if protocol.history else seen
        if self._cameras and not (seen.images and past.images):
            raise RuntimeError(f"tick {self._ticks}: nobody had expected that this picture would be looked at")
        instruction = cell.order.text if cell.order is not None else ""
        noise = (self._seed * 1009 + self._chunk_id) % 2**31
        request = PolicyRequest(
            seen, past, instruction, self._chunk_id, committed, scene=cell.scene(), seed=noise,
            previous=self._history.previous(self._dt),
        )  # fmt: skip
        chunk = self._policy.infer(request).chunk
        self._times.append(chunk.inference_time_s)
        delay = protocol.delay_s if protocol.delay_s >= 0 else chunk.inference_time_s
        if protocol.mode == "blocking" and delay > 0:
            cell.controller.cancel(cell.time_s)
        self._coming, self._observed_s = (self._now_s + delay, chunk), self._now_s
        if self._certain:
            self._glances.know(self._ticks, self._period(chunk.steps))

    def _following_s(self, observed_s: float, arrival_s: float, steps: int) -> float:
        """When the chunk after one of so many steps may be thought of."""
        begun = arrival_s if self._protocol.mode == "blocking" else observed_s
        return max(begun + min(self._protocol.execute or steps, steps) * self._dt, arrival_s)

    def _period(self, steps: int) -> int:
        """Ticks from one chunk to the next: the first at whose beginning this one has arrived and has been run for long enough."""
        delay = self._protocol.delay_s
        due = max(self._following_s(0.0, delay, steps) - 1e-6, delay + 2e-6)
        return max(1, math.ceil(due / self._dt))

    def _advance(self) -> None:
        """To the end of the tick; a chunk that arrives on the way takes over at that moment."""
        end = self._now_s + self._dt
        if self._coming is not None and self._coming[0] < end - 1e-6:
            arrival, chunk = self._coming
            self._arm.advance(arrival - self._now_s)
            self._now_s, self._coming = arrival, None
            self._take_over(chunk)
        self._arm.advance(end - self._now_s)
        self._now_s = end

    def _take_over(self, chunk: ActionChunk) -> None:
        cell, protocol = self._cell, self._protocol
        now = nanoseconds(cell.time_s)
        if protocol.mode == "blocking":
            chunk = replace(chunk, stamp_ns=now)
        if self._arm.take(chunk):
            self._commitments.sent(chunk, now)
        self._next_s = self._following_s(self._observed_s, self._now_s, chunk.steps)

    def _watch(self) -> None:
        """Has the right parcel been lifted?"""
        cell = self._cell
        if self._sorted < cell.score.sorted_correct < self._protocol.orders:  # on to the next order
            self._sorted, self._grasp_s = cell.score.sorted_correct, -1.0
        for parcel in cell.scene().objects:
            high = parcel.position[2] - parcel.size[2] / 2 - cell.belt_top
            if self._order is not None and self._order.matches(parcel) and high > LIFTED and self._grasp_s < 0:
                self._grasp_s = cell.time_s

    def outcome(self) -> Outcome:
        """How it ended."""
        cell = self._cell
        text = self._order.text if self._order is not None else ""
        violations = sum(cell.violations.values()) - self._violations
        median = float(np.median(self._times)) if self._times else 0.0
        return Outcome(
            self._seed, self._phase(), text, self._grasp_s, cell.time_s, self._chunk_id, median, self._reordered, violations,
            self._arm.stops,
        )  # fmt: skip

    def _phase(self) -> str:
        score = self._cell.score
        if score.sorted_correct >= self._protocol.orders:
            return "sorted"
        if score.sorted_wrong:
            wrong = next(e for e in self._cell.events if e.kind == "sorted_wrong")
            parcel = next((p for p in self._cell.scene().objects if p.name == wrong.parcel), None)
            right = parcel is not None and self._order is not None and self._order.matches(parcel)
            return "wrong bin" if right else "wrong parcel"
        if self._grasp_s >= 0:
            return "grasp lost" if score.missed else "timeout"
        return "missed" if score.missed else "timeout"
