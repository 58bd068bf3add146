"""What a closed-loop evaluation does to the policy: one frozen description, its name, and how an episode of it starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.scene import BINS, Order, SceneObject
from internvla_a1.policy.network import MOST_NOISE
from internvla_a1.sim.cell import Cell, Episode
from internvla_a1.sim.config import CellConfig, load_cell_config

MODES = ("asynchronous", "blocking")
UNSEEN: dict[str, Any] = {"red": (0.75, 0.05, 0.30), "green": (0.30, 0.62, 0.08), "blue": (0.05, 0.45, 0.80)}  # crimson, olive, azure


@dataclass(frozen=True)
class Protocol:
    """speed m/s. change: the belt takes another speed (0.6 to 1.4 times, at least 0.02 apart) between 0.5 and 4 s.

    execute: steps of a chunk that run before the next inference is started (0: all). delay_s: time from observation to chunk,
    negative: as measured. mode: the old chunk runs on meanwhile (asynchronous), or the arm holds and the chunk starts when it
    arrives (blocking, the published deployment). rtc: real-time chunking. drop: camera that goes dark drop_at_s into the
    episode. light: factor on all lamps at 2 s. randomise: strength of the training variation. history: false shows the
    present as the past. reorder: the instruction changes before the grasp. name_shape: every order names the shape too, and a
    parcel of the other shape is a wrong one. steps: Euler steps, 0: the checkpoint's. noise_scale: of the noise that the flow
    starts from; 0 gives the same chunk for the same observation. executor: chunks go through the executor's core (tracker, limits,
    collision gate, watchdogs), as on a robot. orders: so many in a row, all of which have to be sorted.
    limit_s: for each order.
    """

    speed: float = 0.08
    change: bool = False
    execute: int = 2
    delay_s: float = 0.0
    mode: str = "asynchronous"
    rtc: bool = True
    drop: str = ""
    drop_at_s: float = 1.0
    light: float = 1.0
    randomise: float = 0.0
    unseen_colors: bool = False
    reorder: bool = False
    name_shape: bool = False
    history: bool = True
    steps: int = 0
    noise_scale: float = 0.0
    executor: bool = False
    orders: int = 1
    limit_s: float = 16.0
    image_size: int = 224

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError.asked("mode", self.mode, MODES)
        if self.execute < 0 or not 0.0 <= self.speed <= 0.25 or self.delay_s > 2.0:
            raise ConfigError("execute must not be negative, speed lies in 0 to 0.25 m/s, delay_s at most 2")
        if self.orders < 1 or not 0.0 <= self.noise_scale <= MOST_NOISE:
            raise ConfigError(f"orders must be at least 1, noise_scale lies in 0 to {MOST_NOISE:g}")
        if self.executor and self.mode == "blocking":
            raise ConfigError("the executor runs chunks by time: blocking needs executor: false")

    @property
    def name(self) -> str:
        """What differs from the default, in short."""
        plain = Protocol()
        changed = {k: v for k, v in asdict(self).items() if v != getattr(plain, k)}
        if self.delay_s < 0:
            changed["delay_s"] = "measured"
        return " ".join(f"{k}={v}" for k, v in changed.items()) or "default"

    def cell_config(self) -> CellConfig:
        """The cell of this protocol."""
        config = replace(load_cell_config(), image_size=self.image_size, randomise=self.randomise)
        if self.name_shape:
            config = replace(config, orders=replace(config.orders, any_shape=0.0))
        return replace(config, look=replace(config.look, **UNSEEN)) if self.unseen_colors else config


def within_reach(cell: Cell, margin_s: float = 1.2) -> list[SceneObject]:
    """Parcels on the belt that the arm can still meet if they are ordered now."""
    scene = cell.scene()
    furthest = 0.22 - margin_s * scene.belt_speed
    return [o for o in scene.objects if -0.36 - 2.5 * scene.belt_speed < o.position[1] < furthest and o.position[2] > cell.belt_top]


def order_something(cell: Cell, rng: np.random.Generator, other_than: Order | None = None) -> bool:
    """Order one parcel within reach, whatever the desk would have announced. False if there is none (of another kind).

    As at the desk, a share `any_shape` of the orders names the colour alone.
    """
    near = [o for o in within_reach(cell) if other_than is None or not other_than.matches(o)]
    if not near:
        return False
    parcel = near[int(rng.integers(len(near)))]
    shape = "parcel" if rng.random() < cell.config.orders.any_shape else parcel.shape
    cell.set_instruction(Order(parcel.color, shape, BINS[int(rng.integers(len(BINS)))]).text)
    return True


def start(cell: Cell, protocol: Protocol, seed: int) -> np.random.Generator:
    """Reset the cell for one episode. A standing or slow belt gets its order at once; otherwise the desk announces it."""
    rng = np.random.default_rng((seed, 0xE7A1))
    changes: tuple[tuple[float, float], ...] = ()
    if protocol.change:
        factor = float(rng.uniform(0.6, 1.4))
        other = float(np.clip(protocol.speed * factor, 0.0, 0.25))
        if abs(other - protocol.speed) < 0.02:
            other = protocol.speed + (0.02 if factor > 1 else -0.02)
        changes = ((float(rng.uniform(0.5, 4.0)), float(np.clip(other, 0.0, 0.25))),)
    at_once = protocol.speed < 0.03 or protocol.reorder  # a change of mind needs several parcels within reach
    prefill = float(rng.uniform(-0.25, 0.05)) if at_once else float(rng.uniform(-0.45, -0.25))
    episode = Episode(belt_speed=protocol.speed, prefill_y=prefill, speed_changes=changes, randomise=protocol.randomise)
    cell.reset(int(rng.integers(2**31)), episode)
    if at_once:
        order_something(cell, rng)
    return rng
