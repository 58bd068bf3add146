"""When parcels enter and leave: spacing along the belt, bins, the outfeed, the floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from internvla_a1.core.types import FloatArray
from internvla_a1.sim.config import Parcels
from internvla_a1.sim.parcels import Parcel, ParcelPool

BIN_HALF = 0.11  # inner half width of a bin, m
BIN_DEPTH = 0.09  # a parcel whose centre is below this height over the bin floor lies in it


@dataclass(frozen=True)
class Passage:
    """kind: entered, landed (touched a bin), sorted (settled there), left (outfeed) or fallen (floor). bin: for landed and sorted."""

    kind: str
    parcel: Parcel
    bin: str = ""


class ParcelStream:
    """Feeds the pool by belt travel and reports every passage once."""

    def __init__(self, pool: ParcelPool, settings: Parcels, bins: dict[str, FloatArray], belt_top: float) -> None:
        self._pool, self._settings, self._bins, self._belt_top = pool, settings, bins, belt_top
        self._rng = np.random.default_rng(0)
        self._spacing = settings.spacing
        self._gap = self._travelled = 0.0

    def restart(
        self, rng: np.random.Generator, speed: float, prefill_y: float, spacing: tuple[float, float] | None = None
    ) -> list[Passage]:
        """Empty everything, then load the belt from `prefill_y` upstream. spacing m: (low, high), None: the configured one."""
        self._rng = rng
        self._spacing = spacing or self._settings.spacing
        self._pool.clear()
        y, placed = prefill_y, []
        while y > self._settings.spawn_y:
            parcel = self._pool.spawn(rng, y, speed)
            if parcel is None:
                break
            placed.append(Passage("entered", parcel))
            y -= float(rng.uniform(*self._spacing))
        self._travelled, self._gap = 0.0, self._settings.spawn_y - y
        return placed

    def update(self, now_s: float, dt_s: float, speed: float) -> list[Passage]:
        """What happened in the last dt_s seconds."""
        passages = []
        self._travelled += max(speed, 0.0) * dt_s
        if self._travelled >= self._gap:
            parcel = self._pool.spawn(self._rng, self._settings.spawn_y, speed)
            if parcel is not None:
                passages.append(Passage("entered", parcel))
                self._travelled, self._gap = 0.0, float(self._rng.uniform(*self._spacing))
        for parcel in list(self._pool.active):
            passage = self._follow(parcel, now_s)
            if passage is not None:
                passages.append(passage)
        for name in self._bins:
            self._empty(name)
        return passages

    def _follow(self, parcel: Parcel, now_s: float) -> Passage | None:
        if parcel.bin:
            return None
        position = self._pool.position(parcel)
        if position[1] > self._settings.leave_y:
            self._pool.recycle(parcel)
            return Passage("left", parcel)
        name = self._bin_at(position)
        if name:
            if parcel.bin_since_s is None:
                parcel.bin_since_s = now_s
                return Passage("landed", parcel, name)
            if now_s - parcel.bin_since_s >= self._settings.settle_s:
                parcel.bin = name
                return Passage("sorted", parcel, name)
            return None
        parcel.bin_since_s = None
        if position[2] < self._belt_top - 0.10:
            self._pool.recycle(parcel)
            return Passage("fallen", parcel)
        return None

    def _bin_at(self, position: FloatArray) -> str:
        for name, floor in self._bins.items():
            if np.abs(position[:2] - floor[:2]).max() < BIN_HALF and -0.01 < position[2] - floor[2] < BIN_DEPTH:
                return name
        return ""

    def _empty(self, name: str) -> None:
        inside = [p for p in self._pool.active if p.bin == name]
        for parcel in inside[: max(0, len(inside) - self._settings.bin_keep)]:
            self._pool.recycle(parcel)
