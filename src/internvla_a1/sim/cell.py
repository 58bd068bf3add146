"""The sorting cell: physics, belt, parcels, arm controller, cameras, orders and score behind one small interface. No ROS."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.core.scene import BINS, Order, Scene
from internvla_a1.core.types import FloatArray, ImageArray
from internvla_a1.sim.belt import ConveyorBelt
from internvla_a1.sim.cameras import CameraInfo, Cameras
from internvla_a1.sim.config import CellConfig
from internvla_a1.sim.controller import TrajectoryController
from internvla_a1.sim.kinematics import ArmGeometry, tool_down_joints, tool_position
from internvla_a1.sim.model_builder import build_spec
from internvla_a1.sim.monitor import LimitMonitor
from internvla_a1.sim.orders import OrderDesk
from internvla_a1.sim.parcels import ParcelPool
from internvla_a1.sim.randomise import Randomiser
from internvla_a1.sim.scoring import Event, Score, judge
from internvla_a1.sim.stream import ParcelStream, Passage
from internvla_a1.sim.urdf import expand_xacro, parse_urdf

WATCH_PERIOD_S = 0.02  # how often parcels, orders and the score are looked at


@dataclass(frozen=True)
class Episode:
    """How a reset differs from the plain one, for training and evaluation.

    belt_speed m/s, None: the configured one. prefill_y m: how far downstream the first parcel lies. spacing m: (low, high) between
    parcels. tool: start position (3,) m of the tool, None: the robot's home. speed_changes: (time s, speed m/s). randomise:
    strength 0..1, None: the configured one.
    """

    belt_speed: float | None = None
    prefill_y: float | None = None
    spacing: tuple[float, float] | None = None
    tool: tuple[float, float, float] | None = None
    speed_changes: tuple[tuple[float, float], ...] = ()
    randomise: float | None = None


class Cell:
    """Deterministic for (config, seed, calls). Times are seconds since construction or the last reset."""

    def __init__(self, config: CellConfig | None = None, seed: int = 0) -> None:
        self.config = config or CellConfig()
        self.robot = load_robot(find(self.config.robot))
        self.urdf_text = expand_xacro(find(self.config.urdf))
        urdf = parse_urdf(self.urdf_text)
        self.geometry = ArmGeometry.of(urdf)
        self.model = build_spec(urdf, self.config).compile()
        self.data = mujoco.MjData(self.model)
        mujoco.mj_kinematics(self.model, self.data)
        self._joint_names = self.robot.joint_names
        self._qpos = np.array([int(self.model.joint(n).qposadr[0]) for n in self._joint_names])
        self._dof = np.array([int(self.model.joint(n).dofadr[0]) for n in self._joint_names])
        self._ctrl = np.array([self.model.actuator(n).id for n in self._joint_names])
        self._mimic = [(int(self.model.joint(j.name).qposadr[0]), j.mimic) for j in urdf.joints if j.mimic]
        self.bins = {name: self.data.body(f"bin_{name}").xpos.copy() for name in BINS}
        belt_link = self.data.body("belt").xpos.copy()
        self.belt_top = float(belt_link[2])
        self.belt = ConveyorBelt(self.model, self.data, self.config.belt)
        place = (float(belt_link[0]), self.belt_top)
        self._pool = ParcelPool(self.model, self.data, self.config.parcels, self.config.look, place)
        self._stream = ParcelStream(self._pool, self.config.parcels, self.bins, self.belt_top)
        self._desk = OrderDesk(self.config.orders, place)
        self.cameras = Cameras(self.model, self.data, self.config)
        self._randomiser = Randomiser(self.model)
        self.controller = TrajectoryController(self._joint_names, self.robot.array("home"))
        self.monitor = LimitMonitor(self.robot)
        self.reset(seed)

    def reset(self, seed: int, episode: Episode | None = None) -> None:
        """A fresh, loaded belt and the arm at its start, all drawn from `seed`. Time restarts at 0."""
        episode = episode or Episode()
        streams = np.random.SeedSequence(seed).spawn(3)
        looks, parcels, orders = (np.random.default_rng(s) for s in streams)
        mujoco.mj_resetData(self.model, self.data)
        strength = self.config.randomise if episode.randomise is None else episode.randomise
        self._randomiser.apply(looks, strength)
        self._steps, self._owed_s, self._watch_s = 0, 0.0, 0.0
        self.score = Score()
        self.events: list[Event] = []
        self._landed: dict[str, Order | None] = {}
        self._changes = sorted(episode.speed_changes)
        start = self.robot.array("home")
        if episode.tool is not None:
            start[:6] = self._joints_at(np.array(episode.tool))
        self._place_arm(start)
        speed = self.config.belt.speed if episode.belt_speed is None else episode.belt_speed
        self.belt.set_speed(speed)
        self.belt.restart(speed)
        self._desk.restart(orders)
        prefill = self.config.parcels.prefill_y if episode.prefill_y is None else episode.prefill_y
        self._note(self._stream.restart(parcels, speed, prefill, episode.spacing))
        mujoco.mj_forward(self.model, self.data)
        self._watch()

    @property
    def time_s(self) -> float:
        return self._steps * self.config.physics.control_period_s

    @property
    def stamp_ns(self) -> int:
        """time_s in whole nanoseconds."""
        return round(self.time_s * 1e9)

    @property
    def order(self) -> Order | None:
        """What is asked for now; None while no parcel is coming."""
        return self._desk.order

    @property
    def violations(self) -> dict[str, int]:
        """The arm's own log of commanded references outside the limits, by kind."""
        return self.monitor.violations

    def advance(self, dt_s: float) -> None:
        """Run the physics for dt_s; what is less than a control period is kept for the next call."""
        period = self.config.physics.control_period_s
        substeps = round(period / self.config.physics.timestep_s)
        self._owed_s += dt_s
        while self._owed_s >= period - 1e-9:
            self._owed_s -= period
            reference = self.controller.update(self.time_s, self.data.qpos[self._qpos])
            self.monitor.watch(self.time_s, reference.positions)
            self.data.ctrl[self._ctrl] = reference.positions
            self.belt.update(period)
            mujoco.mj_step(self.model, self.data, substeps)
            self._steps += 1
            if self.time_s - self._watch_s >= WATCH_PERIOD_S - 1e-9:
                self._watch()

    def joint_state(self) -> tuple[tuple[str, ...], FloatArray, FloatArray, FloatArray]:
        """Names, positions, velocities, efforts: (joints,) each; rad or m, their derivative, N m or N."""
        d = self.data
        return self._joint_names, d.qpos[self._qpos].copy(), d.qvel[self._dof].copy(), d.qfrc_actuator[self._dof].copy()

    def scene(self) -> Scene:
        """Ground truth, for experts and scoring only."""
        objects = tuple(self._pool.observe(p) for p in self._pool.active)
        return Scene(self.stamp_ns, objects, self.bins, self.belt.speed)

    def render(self, camera: str) -> ImageArray:
        """(H, W, 3) uint8 RGB of one of `cameras.names`, or of "overview"."""
        return self.cameras.render(camera)

    def camera_info(self, camera: str) -> CameraInfo:
        return self.cameras.info(camera)

    def set_belt_speed(self, speed: float) -> None:
        """Ramps to `speed` m/s. Raises ConfigError outside 0 to max_speed."""
        self.belt.set_speed(speed)
        self._event("speed", detail=f"{speed:.3f} m/s")

    def set_instruction(self, text: str) -> None:
        """An order from outside, until the next one or an empty text. Raises ConfigError where it is not understood."""
        before = self._desk.order
        self._desk.instruct(text)
        if self._desk.order is not None and self._desk.order != before:
            self._event("ordered", detail="from outside")

    def tool_position(self) -> FloatArray:
        """Measured tool0 (3,) m, world."""
        return self.data.body("tool0").xpos.copy()

    def close(self) -> None:
        self.cameras.close()

    def _joints_at(self, tool: FloatArray) -> FloatArray:
        joints = tool_down_joints(self.geometry, tool, 0.0)
        if not np.allclose(tool_position(self.geometry, joints), tool, atol=1e-6):
            raise ConfigError(f"start of the tool {tool.tolist()} m is out of the arm's reach")
        return joints

    def _place_arm(self, start: FloatArray) -> None:
        if (start < self.robot.array("lower")).any() or (start > self.robot.array("upper")).any():
            raise ConfigError(f"start of the arm {np.round(start, 3).tolist()} is outside its limits")
        self.data.qpos[self._qpos] = start
        for address, followed in self._mimic:
            self.data.qpos[address] = start[self._joint_names.index(followed)]
        self.data.ctrl[self._ctrl] = start
        self.controller.reset(start)
        self.monitor.restart()

    def _watch(self) -> None:
        """Parcels, orders and score, every WATCH_PERIOD_S."""
        now = self.time_s
        while self._changes and self._changes[0][0] <= now:
            self.set_belt_speed(self._changes.pop(0)[1])
        self._note(self._stream.update(now, now - self._watch_s, self.belt.speed))
        self._watch_s = now
        scene = self.scene()
        if self._desk.passed(scene, {p.name for p in self._pool.active if p.bin}):
            self._miss()
        if self._desk.update(scene):
            self._event("ordered", self._desk.target)

    def _note(self, passages: list[Passage]) -> None:
        for passage in passages:
            name = passage.parcel.name
            if passage.kind == "landed":
                self._landed[name] = self._desk.order
                self._event("landed", name, passage.bin)
            elif passage.kind == "sorted":
                self._sorted(passage)
            else:
                self._event(passage.kind, name)
                if passage.kind in ("left", "fallen") and name == self._desk.target:
                    self._miss()
        self.score.spawned = self._pool.spawned

    def _sorted(self, passage: Passage) -> None:
        kind = judge(self._pool.observe(passage.parcel), passage.bin, self._landed.pop(passage.parcel.name, self._desk.order))
        self._event(kind, passage.parcel.name, passage.bin)
        if kind == "sorted_correct":
            self.score.sorted_correct += 1
            self._desk.finished()
        else:
            self.score.sorted_wrong += 1
            if passage.parcel.name == self._desk.target:
                self._desk.finished()

    def _miss(self) -> None:
        self.score.missed += 1
        self._event("missed", self._desk.target)
        self._desk.finished()

    def _event(self, kind: str, parcel: str = "", detail: str = "") -> None:
        self.events.append(Event(self.time_s, kind, parcel, self._desk.order.text if self._desk.order else "", detail))
