"""Demonstrations of the scripted expert in the cell, without ROS: what varies from one attempt to the next, and what is kept.

The bundle follows demo.md: wide starts, pulses of disturbance with clean labels (DART, arXiv 1703.09327), changing belt speeds
and instructions, and take-over from a policy that drives first (DAgger, arXiv 1011.0686).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Protocol

import numpy as np

from internvla_a1.core.robot import RobotSpec
from internvla_a1.core.scene import Order, Scene
from internvla_a1.core.types import ActionChunk, FloatArray
from internvla_a1.data.episode import Episode
from internvla_a1.data.features import PLAN_KEY, SPEED_KEY, TARGET_KEY, Feature, camera_feature
from internvla_a1.data.mcap_episode import ACTION_KEY, CAMERA_PREFIX, STATE_KEY
from internvla_a1.data.recorder import Maker
from internvla_a1.eval.protocol import order_something
from internvla_a1.sim.cell import Cell
from internvla_a1.sim.cell import Episode as Start
from internvla_a1.sim.config import load_cell_config
from internvla_a1.sim.expert import Expert, Memory
from internvla_a1.sim.expert_setup import make_expert
from internvla_a1.sim.runner import to_trajectory
from internvla_a1.sim.urdf import parse_urdf

LABEL_KEY = "label_valid"
SLOW = 0.06  # m/s: there is time enough to get stuck
PLANNED_STEPS = 4
LOOK_S = 0.01  # over which a motion's velocity is taken


class Leader(Protocol):
    """A policy that drives first."""

    def begin(self, cell: Cell, rng: np.random.Generator, delay_s: float, executor: bool) -> Callable[[], None]:
        """What moves the cell by one period. delay_s: from an observation to its chunk. executor: chunks go through the executor's core."""
        ...


@dataclass(frozen=True)
class DemoOptions:
    """Shares are probabilities per attempt. Lengths m, times s, speeds m/s; pulses in rad of the first five joints."""

    seed: int = 0
    image_size: int = 224  # as the cell's cameras publish; a model's own size is made by its way in
    cameras: tuple[str, ...] = ("overhead", "side", "wrist")
    speed: tuple[float, float] = (0.0, 0.25)
    still_share: float = 0.06
    slow_share: float = 0.0  # of attempts whose belt is held below SLOW
    change_share: float = 0.3
    wide_share: float = 0.5
    reorder_share: float = 0.12
    pulse_rates: tuple[float, ...] = (0.0, 0.03, 0.06)
    pulse_size: float = 0.07
    randomise: float = 1.0  # the most; each attempt draws its own strength below
    plain_share: float = 0.4  # of attempts in the cell as it is, without variation
    orders: int = 2
    any_shape: float = 0.6  # share of orders that name the colour alone
    limit_s: float = 24.0
    tail_s: float = 0.5
    takeover_s: tuple[float, float] = (0.2, 3.0)  # how long a leader drives before the expert finishes, times the number of orders
    lead_delays_s: tuple[float, ...] = (0.02, 0.03, 0.04, 0.06)  # of which every attempt draws one: what a leader's inference takes
    executor_share: float = 0.75  # of attempts whose leader moves the arm through the executor's core, as on a robot
    plan_steps: int = 16  # of the expert's plan for every frame in which a leader drives: what is learned of it

    def to_dict(self) -> dict:
        return asdict(self)


def demo_features(robot: RobotSpec, options: DemoOptions, video: bool, led: bool = False) -> tuple[Feature, ...]:
    """Columns of the data set. privileged.* and label_valid serve training and are never shown to a policy. led: by a leader at first."""
    joints = robot.joint_names
    numbers = [Feature(STATE_KEY, "float32", (len(joints),), joints), Feature(ACTION_KEY, "float32", (len(joints),), joints)]
    numbers += [Feature(TARGET_KEY, "float32", (3,), ("x", "y", "z"))]
    numbers += [Feature(key, "float32", (1,)) for key in (SPEED_KEY, LABEL_KEY)]
    if led:
        numbers.append(Feature(PLAN_KEY, "float32", (options.plan_steps * len(joints),)))
    size = options.image_size
    return (*numbers, *(camera_feature(CAMERA_PREFIX + c, size, size, video) for c in options.cameras))


@dataclass(frozen=True)
class DemoBuild:
    """Picklable: makes a `Demonstrator` in the process where it will work. leader: makes the policy that drives first, or None."""

    options: DemoOptions
    leader: Callable[[], Leader] | None = None

    def __call__(self) -> Maker:
        return Demonstrator(self.options, self.leader() if self.leader else None)


class Demonstrator:
    """Owns one cell and plays attempts in it. Attempt n depends on (options, n) only."""

    def __init__(self, options: DemoOptions, leader: Leader | None = None) -> None:
        self.options, self.leader = options, leader
        config = load_cell_config()
        self.cell = Cell(replace(config, image_size=options.image_size, orders=replace(config.orders, any_shape=options.any_shape)))
        self.robot = self.cell.robot
        expert = make_expert(parse_urdf(self.cell.urdf_text), self.robot)
        # it plans anew at every tick: the rest of a chunk would be thrown away, and is most of an episode's time
        self._expert: Expert = replace(expert, settings=replace(expert.settings, steps=expert.settings.committed + PLANNED_STEPS))
        self._teacher: Expert = replace(expert, settings=replace(expert.settings, steps=options.plan_steps))

    def __call__(self, number: int) -> Episode | None:
        """One attempt; None where the expert drove at the end and not everything that was ordered went into its bin."""
        o = self.options
        rng = np.random.default_rng((o.seed, number))
        wide = bool(rng.random() < o.wide_share)
        speed = 0.0 if rng.random() < o.still_share else float(rng.uniform(*o.speed))
        if o.slow_share and rng.random() < o.slow_share:
            speed = min(speed, float(rng.uniform(0.0, SLOW)))
        self.cell.reset(int(rng.integers(2**31)), self._start(rng, wide, speed))
        if wide or speed < 0.02:
            order_something(self.cell, rng)
        orders = 1 if wide or speed < 0.04 else o.orders
        attempt = _Attempt(self, rng, orders)
        if self.leader is not None:
            delay_s, executor = float(rng.choice(o.lead_delays_s)), bool(rng.random() < o.executor_share)
            attempt.lead(self.leader.begin(self.cell, rng, delay_s, executor), orders * float(rng.uniform(*o.takeover_s)))
        return attempt.finish(speed)

    def _start(self, rng: np.random.Generator, wide: bool, speed: float) -> Start:
        o = self.options
        changes: tuple[tuple[float, float], ...] = ()
        if rng.random() < o.change_share:
            changes = ((float(rng.uniform(0.5, 5.0)), float(rng.uniform(*o.speed))),)
        near = float(rng.uniform(-0.32, 0.10)) if wide or speed < 0.03 else float(rng.uniform(-0.55, -0.18))
        tool = None
        if wide:
            tool = (float(rng.uniform(0.30, 0.55)), float(rng.uniform(-0.30, 0.28)), float(rng.uniform(0.13, 0.32)))
        strength = 0.0 if rng.random() < o.plain_share else o.randomise * float(np.sqrt(rng.random()))
        return Start(belt_speed=speed, prefill_y=near, tool=tool, speed_changes=changes, randomise=strength)


class _Attempt:
    """The running state of one attempt."""

    def __init__(self, owner: Demonstrator, rng: np.random.Generator, orders: int) -> None:
        self._owner, self._rng, self._orders = owner, rng, orders
        self._cell, self._options, self._dt = owner.cell, owner.options, owner.robot.control_dt_s
        self._memory = Memory()
        self._taken_over = False
        self._rate = float(rng.choice(owner.options.pulse_rates))
        self._pulse, self._pulse_left = np.zeros(7), 0
        self._reorder_s = float(rng.uniform(0.3, 2.0)) if rng.random() < owner.options.reorder_share else np.inf
        led = (PLAN_KEY,) if owner.leader is not None else ()
        self._columns: dict[str, list] = {k: [] for k in (STATE_KEY, ACTION_KEY, TARGET_KEY, SPEED_KEY, LABEL_KEY, *led)}
        self._frames: dict[str, list] = {c: [] for c in owner.options.cameras}
        self._tasks: list[str] = []
        self._chunk_id = 0

    def lead(self, move: Callable[[], None], seconds: float) -> None:
        """Let the policy drive. Of every frame the expert says what it would do from there on; the action is what the arm was told."""
        cell = self._cell
        self._taken_over = True
        end = cell.time_s + seconds
        while cell.time_s < end and not self._decided:
            _, joints, _, _ = cell.joint_state()
            text, scene = self._text(), cell.scene()
            plan, after = self._owner._teacher.plan(scene, joints, cell.order, self._as_told(), cell.stamp_ns)
            self._memory = Memory(0, (), after.target)
            self._note(text, plan[0], scene, valid=bool(text), plan=plan)
            move()
            self._columns[ACTION_KEY][-1] = cell.controller.sample(cell.time_s).positions

    @property
    def _decided(self) -> bool:
        score = self._cell.score
        return bool(score.finished >= self._orders or score.missed or score.sorted_wrong)

    def finish(self, speed: float) -> Episode | None:
        """The expert works until the orders are decided. Raises nothing: a demonstration that fails is None.

        What a leader has brought to its end, good or bad, is left as it is: the expert has said of every frame what it would have done.
        """
        cell, options = self._cell, self._options
        if self._tasks and self._decided:
            return self._episode(len(self._tasks), speed)
        start, done_at, decided = cell.time_s, None, cell.score.finished
        while cell.time_s - start < options.limit_s:
            self._tick()
            if cell.score.finished > decided:
                decided, done_at = cell.score.finished, len(self._tasks)
            if cell.score.sorted_wrong or cell.score.missed:
                return None
            if decided >= self._orders and len(self._tasks) - (done_at or 0) >= options.tail_s / self._dt:
                break
        if done_at is None:
            return None
        return self._episode(min(len(self._tasks), done_at + round(options.tail_s / self._dt)), speed)

    def _episode(self, length: int, speed: float) -> Episode:
        columns = {k: np.array(v[:length], np.float32) for k, v in self._columns.items()}
        pictures = {CAMERA_PREFIX + c: np.stack(v[:length]) for c, v in self._frames.items()}
        return Episode(columns, pictures, tuple(self._tasks[:length]), {"belt_speed": speed, "sorted": self._cell.score.sorted_correct})

    def _tick(self) -> None:
        cell = self._cell
        if cell.time_s > self._reorder_s:
            self._reorder_s = np.inf
            order_something(cell, self._rng)
        text, scene = self._text(), cell.scene()
        _, joints, _, _ = cell.joint_state()
        memory = self._as_told() if self._pulse_left or self._taken_over else self._memory
        self._taken_over = False
        targets, self._memory = self._owner._expert.plan(scene, joints, cell.order, memory, cell.stamp_ns)
        self._note(text, targets[0], scene, valid=bool(text))  # without an order there is nothing to imitate
        self._send(targets + self._disturbance())

    def _as_told(self) -> Memory:
        """Of an arm that somebody else moves: the expert goes on from that motion at once.

        From rest it would let the arm stop first, and a policy that learned this from arms off their way, and asks anew before the
        stop is over, would never get on.
        """
        controller, now = self._cell.controller, self._cell.time_s
        before, after = (controller.sample(t).positions for t in (now, now + LOOK_S))
        return Memory(self._cell.stamp_ns, (self._owner._expert.told(before, after, LOOK_S),), self._memory.target)

    def _disturbance(self) -> FloatArray:
        """(7,) added to every target while a pulse lasts; the label stays what the expert wants from where the arm then is."""
        if self._pulse_left:
            self._pulse_left -= 1
        elif self._rng.random() < self._rate:
            self._pulse[:5] = self._rng.uniform(-1, 1, 5) * self._options.pulse_size * np.array([1.0, 0.7, 0.7, 0.7, 0.3])
            self._pulse_left = int(self._rng.integers(2, 7))
        return self._pulse if self._pulse_left else np.zeros(7)

    def _text(self) -> str:
        return self._cell.order.text if self._cell.order is not None else ""

    def _note(self, text: str, action: FloatArray, scene: Scene, valid: bool, plan: FloatArray | None = None) -> None:
        _, joints, _, _ = self._cell.joint_state()
        self._columns[STATE_KEY].append(joints)
        self._columns[ACTION_KEY].append(action)
        self._columns[TARGET_KEY].append(target_position(scene, self._cell.order, self._memory.target))
        self._columns[SPEED_KEY].append([scene.belt_speed])
        self._columns[LABEL_KEY].append([float(valid)])
        if PLAN_KEY in self._columns:
            self._columns[PLAN_KEY].append(np.zeros(self._options.plan_steps * len(joints)) if plan is None else plan.ravel())
        for camera, frames in self._frames.items():
            frames.append(self._cell.render(camera).copy())
        self._tasks.append(text)

    def _send(self, targets: FloatArray) -> None:
        robot, cell = self._owner.robot, self._cell
        self._chunk_id += 1
        held = np.clip(targets, robot.array("lower"), robot.array("upper"))
        chunk = ActionChunk(cell.stamp_ns, self._chunk_id, robot.joint_names, self._dt, held)
        cell.controller.accept(to_trajectory(chunk), cell.time_s)
        cell.advance(self._dt)


def target_position(scene: Scene, order: Order | None, name: str) -> FloatArray:
    """(3,) m: the parcel that the expert goes for, else the furthest one that the order means, else a place below the floor."""
    for parcel in scene.objects:
        if parcel.name == name:
            return parcel.position
    meant = [p for p in scene.objects if order is not None and order.matches(p)]
    return max(meant, key=lambda p: p.position[1]).position if meant else np.array([0.0, 0.0, -1.0])
