"""`internvla-a1 bench faults`: the system figures of the fault table, on real processes, promised beside measured."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from internvla_a1.core.errors import ConfigError
from internvla_a1.eval.safety_figures import Figure, at_most, exactly, trials
from internvla_a1.trials.observer import Observer
from internvla_a1.trials.stage import running_cell
from internvla_a1.trials.system import FIGURES, Bench, SystemFigure, Trial

_VIOLATIONS, _ACCELERATION = "violations", "acceleration_share"  # of the simulator's own log, one line a run
_SPACING_S = 13.0  # between two kills of one node: the lifecycle manager gives up one that dies more than five times a minute


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of trials (1: 50 kills and more, about an hour)")
    parser.add_argument("--rows", default="", help="only these rows, e.g. 13,16")
    parser.add_argument("--minutes", type=float, default=float("inf"), metavar="M", help="stop after M minutes; a new run goes on there")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--belt-speed", type=float, default=0.08, metavar="M_PER_S")
    parser.add_argument("--out", type=Path, default=Path("outputs/faults"), metavar="FOLDER", help="trials.jsonl: a new run goes on there")


def run(args: argparse.Namespace) -> int:
    """0 if every figure is within its promise, else 1."""
    chosen = _chosen(args.rows)
    if not 0 < args.scale <= 1:
        raise ConfigError(f"--scale: {args.scale} is outside (0, 1]")
    args.out.mkdir(parents=True, exist_ok=True)
    console, path = Console(), args.out / "trials.jsonl"
    done = _read(path)
    wanted = {f.name: trials(f.trials, args.scale) for f in chosen}
    with running_cell(args.belt_speed, args.seed, args.out) as (observer, stack):
        bench = Bench(observer, stack, np.random.default_rng((args.seed, len(done))))
        _play(bench, chosen, wanted, done, path, console, time.monotonic() + 60.0 * args.minutes)
        with path.open("a") as file:
            for name, trial in _log_of_the_cell(observer, bench):
                done.append((name, trial))
                _write(file, name, trial)
    played = [(f, [t for name, t in done if name == f.name]) for f in chosen]
    figures = [_figure(f, own) for f, own in played if own] + _over_all(done)
    _print(console, figures)
    return 0 if all(f.ok for f in figures) else 1


def _log_of_the_cell(observer: Observer, bench: Bench) -> list[tuple[str, Trial]]:
    """What the simulator itself has logged in this run."""
    peak = float(observer.diagnostics.get("cell", {}).get("peak_acceleration_share", 0.0))
    return [(_VIOLATIONS, Trial(bench.violations(), 0)), (_ACCELERATION, Trial(peak, 1.05))]


def _over_all(done: list[tuple[str, Trial]]) -> list[Figure]:
    """The same over every run that played trials."""
    violations, peaks = ([t.measured for name, t in done if name == wanted] for wanted in (_VIOLATIONS, _ACCELERATION))
    return [
        exactly(9, "violations in the simulator's own log", 0, round(sum(violations))),
        at_most(10, "largest acceleration of the arm / a_max", 1.05, max(peaks, default=0.0)),
    ]


def _chosen(rows: str) -> list[SystemFigure]:
    try:
        wanted = {int(part) for part in rows.split(",") if part.strip()}
    except ValueError as error:
        raise ConfigError(f"--rows: expected numbers with commas, not {rows!r}") from error
    known = {f.row for f in FIGURES}
    if wanted - known:
        raise ConfigError.asked("--rows", min(wanted - known), sorted(known))
    return [f for f in FIGURES if not wanted or f.row in wanted]


def _groups(chosen: Sequence[SystemFigure]) -> list[list[SystemFigure]]:
    """Figures that are measured on one and the same event."""
    groups: list[list[SystemFigure]] = []
    for figure in chosen:
        if figure.follows:
            groups[-1].append(figure)
        else:
            groups.append([figure])
    return groups


def _play(
    bench: Bench,
    chosen: Sequence[SystemFigure],
    wanted: dict[str, int],
    done: list[tuple[str, Trial]],
    path: Path,
    console: Console,
    end: float,
) -> None:
    """In rounds, a trial of every figure that is short of some, so that a kill of one node is long past when it is killed again.

    end: steady s after which no trial begins.
    """
    killed, violations = dict.fromkeys((f.name for f in chosen), 0.0), 0
    counts = {f.name: sum(name == f.name for name, _ in done) for f in chosen}
    with path.open("a") as file, Progress(console=console) as progress:
        bar = progress.add_task("trials", total=sum(wanted.values()), completed=sum(min(counts[n], wanted[n]) for n in wanted))
        while any(counts[f.name] < wanted[f.name] for f in chosen) and time.monotonic() < end:
            for group in _groups(chosen):
                if all(counts[f.name] >= wanted[f.name] for f in group) or time.monotonic() > end:
                    continue
                progress.update(bar, description=group[0].what)
                if group[0].name.endswith("killed"):
                    time.sleep(max(0.0, killed[group[0].name] + _SPACING_S - time.monotonic()))
                    killed[group[0].name] = time.monotonic()
                bench.ready()
                for figure in group:
                    trial = figure.run(bench)
                    done.append((figure.name, trial))
                    counts[figure.name] += 1
                    _write(file, figure.name, trial)
                    progress.advance(bar)
                    if not trial.kept:
                        said = [f"{s.mode}: {s.reason}" for s in list(bench.o.said)[-3:]]
                        kept = path.parent / f"missed_{figure.name}_{counts[figure.name]}.npz"
                        bench.keep(kept)
                        progress.console.print(f"{figure.what}: {trial.measured:.3f}, allowed {trial.allowed:.3f}; {said}; {kept.name}")
                if bench.violations() > violations:
                    violations = bench.violations()
                    cell = bench.o.diagnostics.get("cell", {})
                    told = ", ".join(f"{k} {cell.get(k)}" for k in ("latest_trajectory_ms", "peak_acceleration_share", "time_lost_ms"))
                    progress.console.print(f"{violations} violations in the simulator's log after: {group[0].what}; {told}")


def _write(file: TextIO, name: str, trial: Trial) -> None:
    file.write(json.dumps({"figure": name, "measured": trial.measured, "allowed": trial.allowed}) + "\n")
    file.flush()


def _read(path: Path) -> list[tuple[str, Trial]]:
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the line that a kill cut short
        rows.append((row["figure"], Trial(row["measured"], row["allowed"])))
    return rows


def _figure(figure: SystemFigure, played: list[Trial]) -> Figure:
    worst = max(played, key=lambda t: t.measured - t.allowed)
    kept = sum(t.kept for t in played)
    measured = f"{kept} of {len(played)}, worst {worst.measured:.3g} of {worst.allowed:.3g}"
    return Figure(figure.row, figure.what, figure.promised, measured, figure.ok(played))


def _print(console: Console, figures: list[Figure]) -> None:
    table = Table("row", "figure", "promised", "measured", "")
    for f in sorted(figures, key=lambda f: f.row):
        table.add_row(str(f.row), f.what, f.promised, f.measured, "[green]kept[/]" if f.ok else "[red]MISSED[/]")
    console.print(table)
    console.print(f"{sum(f.ok for f in figures)} of {len(figures)} within their promise, load {os.getloadavg()[0]:.1f}")
