"""Whether a soak kept its promises, and a picture of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from internvla_a1.trials.resources import Resources

if TYPE_CHECKING:
    from internvla_a1.trials.soak import Log

SLOPE_MB_H = 1.0
EXECUTOR_MB = 200.0
_FLAT = 2  # descriptors or threads: one connection more or less to a peer that was started again
_STUCK_S = 120.0  # without a parcel


@dataclass(frozen=True)
class Verdict:
    """lines: for people. ok: all of the promises were kept."""

    ok: bool
    lines: list[str]
    numbers: dict[str, float]


def judge(log: Log, resources: Resources) -> Verdict:
    """Promised beside measured. Slopes are only judged where a node was watched for a tenth of an hour after its warm-up."""
    _, right, wrong, missed = log.score[-1]
    broken = sum(log.violations[-1][1:])
    stuck = _longest_without_a_parcel(log)
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(e.kind for e in log.events).items()))
    back = [e.back_s for e in log.events if e.back_s is not None]
    lines = [
        f"{log.minutes:g} min, seed {log.seed}, mean load {np.mean(log.load):.1f}: {len(log.events)} faults ({kinds})",
        f"limit violations in the simulator's own log   promised 0   measured {broken}"
        f"   (peak velocity {log.peaks[0]:.3f}, acceleration {log.peaks[1]:.3f} of the limit)",
        f"parcels: {right} right, {wrong} wrong, {missed} missed; the policy had the arm {100 * log.armed_share:.0f} % of the time",
        f"longest time without a parcel   promised {_STUCK_S:g} s   measured {stuck:.0f} s",
        f"after {len(back)} stops the policy had the arm again within {max(back, default=0.0):.1f} s at most; re-armed {log.rearmed} times",
    ]
    ok = broken == 0 and stuck <= _STUCK_S
    numbers = {"violations": float(broken), "right": float(right), "stuck_s": stuck}
    if "executor" in resources.nodes():
        largest = float(resources.of("executor")[:, 3].max())
        numbers["executor_mb"] = largest
        ok &= largest < EXECUTOR_MB
        lines.append(f"resident memory of the executor   promised < {EXECUTOR_MB:g} MB   measured {largest:.0f} MB at most")
    for node in resources.nodes():
        g = resources.growth(node)
        numbers[f"{node}_mb_h"] = g.private_mb_h
        if g.hours < 0.1:
            lines.append(f"{node:<18} watched for {60 * g.hours:.0f} min after warm-up: too short for a slope")
            continue
        leaks = g.heap_mb_h >= SLOPE_MB_H  # not where it is not told
        kept = g.private_mb_h < SLOPE_MB_H and not leaks and max(g.descriptors, g.threads) <= _FLAT
        ok &= kept
        heap = "not told" if np.isnan(g.heap_mb_h) else f"{g.heap_mb_h:+.2f}"
        lines.append(
            f"{node:<18} memory {g.private_mb_h:+.2f} +- {g.error_mb_h:.2f} MB/h (promised < {SLOPE_MB_H:g}; with shared segments "
            f"{g.resident_mb_h:+.2f}; heap in use {heap}), descriptors {g.descriptors:+d}, threads {g.threads:+d} "
            f"(promised within {_FLAT}), {60 * g.hours:.0f} min of {g.lives} lives"
            f"{'' if kept else '  MISSED'}"
        )
    return Verdict(bool(ok), lines, numbers)


def _longest_without_a_parcel(log: Log) -> float:
    """Seconds between two parcels that were put into a bin."""
    times, last = [log.score[0][0]], 0
    for at, right, wrong, _ in log.score:
        if right + wrong > last:
            times.append(at)
            last = right + wrong
    return float(np.diff([*times, log.score[-1][0]]).max())


def plot(log: Log, resources: Resources, path: Path) -> None:
    """Parcels and violations above, memory of every process below; a line for each fault."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(11, 9), sharex=True)
    score = np.array(log.score)
    minutes = score[:, 0] / 60
    top.plot(minutes, score[:, 1], label="right")
    top.plot(minutes, score[:, 2] + score[:, 3], label="wrong or missed")
    top.plot(minutes, np.array(log.violations)[:, 1:].sum(axis=1), "k", label="limit violations")
    top.set_ylabel("count")
    for node in resources.nodes():
        rows = resources.of(node)
        middle.plot(rows[:, 0] / 60, rows[:, 2], ".", markersize=2, label=node)
        bottom.plot(rows[:, 0] / 60, rows[:, 4], ".", markersize=2, label=node)
    middle.set_ylabel("private memory, MB")
    bottom.set_ylabel("descriptors")
    bottom.set_xlabel("minutes")
    for axis in (top, middle, bottom):
        for event in log.events:
            axis.axvline(event.at_s / 60, color="red" if event.kind == "kill" else "0.85", linewidth=0.5, zorder=0)
        axis.legend(loc="upper left", fontsize=7, ncols=4)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
