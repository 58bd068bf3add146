"""The closed loop without ROS: a policy, the cell, and chunks executed by time through the cell's own controller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from internvla_a1.core.types import ActionChunk
from internvla_a1.sim.cell import Cell
from internvla_a1.sim.scoring import Event, Score
from internvla_a1.sim.trajectory import Trajectory

# What the runner asks several times a second: the chunk for what is observed now.
ChunkSource = Callable[[Cell], ActionChunk]


@dataclass(frozen=True)
class RunReport:
    """What happened: counts, events, simulated time, and the arm's own log of limit violations."""

    score: Score
    events: tuple[Event, ...]
    time_s: float
    violations: dict[str, int]
    peak_velocity: float
    peak_acceleration: float


def to_trajectory(chunk: ActionChunk) -> Trajectory:
    """The chunk as a smooth trajectory on its own time grid, at rest at its end; times already past are dropped by the controller."""
    times = np.arange(1.0, chunk.steps + 1.0, dtype=np.float64) * chunk.dt_s
    velocities = np.gradient(chunk.positions, chunk.dt_s, axis=0)
    velocities[-1] = 0.0
    return Trajectory(chunk.joint_names, times, chunk.positions, velocities, stamp_ns=max(chunk.stamp_ns, 1))


def run_orders(
    source: ChunkSource,
    cell: Cell,
    parcels: int,
    replan_period_s: float = 0.2,
    latency_s: float = 0.1,
    limit_s: float = 3600.0,
    each_step: Callable[[Cell], None] | None = None,
) -> RunReport:
    """Sort until `parcels` orders are decided or limit_s of simulated time is over.

    The source sees the present; its chunk reaches the controller latency_s later, while the old one runs on.
    """
    end_s = cell.time_s + limit_s
    while cell.score.finished < parcels and cell.time_s < end_s:
        chunk = source(cell)
        cell.advance(latency_s)
        cell.controller.accept(to_trajectory(chunk), cell.time_s)
        cell.advance(replan_period_s - latency_s)
        if each_step is not None:
            each_step(cell)
    monitor = cell.monitor
    return RunReport(
        replace(cell.score), tuple(cell.events), cell.time_s, dict(monitor.violations), monitor.peak_velocity, monitor.peak_acceleration
    )
