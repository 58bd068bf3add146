"""How well the scripted expert sorts without ROS: python -m internvla_a1.sim.bench --parcels 100 --speeds 0.04 0.08."""

from __future__ import annotations

import argparse
import time

from internvla_a1.sim.cell import Cell, Episode
from internvla_a1.sim.config import load_cell_config
from internvla_a1.sim.expert_setup import ExpertSource
from internvla_a1.sim.runner import run_orders
from internvla_a1.sim.scoring import Score

EPISODE = 10  # parcels before the next seed


def sort_at(cell: Cell, speed: float, parcels: int, seed: int, latency_s: float) -> tuple[Score, float]:
    """Counts over fresh seeds, and simulated seconds. At speed 0 every parcel is an episode of its own."""
    total, simulated = Score(), 0.0
    each = EPISODE if speed > 0 else 1
    while total.finished < parcels:
        cell.reset(seed, Episode(belt_speed=speed, prefill_y=None if speed > 0 else -0.15))
        report = run_orders(ExpertSource(cell), cell, each, latency_s=latency_s, limit_s=60.0 * each)
        short = each - report.score.finished if speed == 0 else 0  # nothing leaves a standing belt: what is not sorted is missed
        total = Score(
            total.spawned + report.score.spawned,
            total.sorted_correct + report.score.sorted_correct,
            total.sorted_wrong + report.score.sorted_wrong,
            total.missed + report.score.missed + short,
        )
        simulated += report.time_s
        seed += 1
    return total, simulated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speeds", type=float, nargs="+", default=[0.0, 0.04, 0.08, 0.12, 0.15, 0.20, 0.25], help="m/s")
    parser.add_argument("--parcels", type=int, default=50, help="per speed")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.1, help="s from the scene to the controller")
    options = parser.parse_args()
    cell = Cell(load_cell_config())
    for speed in options.speeds:
        began = time.monotonic()
        score, simulated = sort_at(cell, speed, options.parcels, options.seed, options.latency)
        took = time.monotonic() - began
        print(
            f"{speed:.2f} m/s: right {score.sorted_correct}, wrong {score.sorted_wrong}, missed {score.missed} "
            f"({simulated:.0f} s simulated in {took:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
