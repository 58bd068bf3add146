"""`internvla-a1 study`: arms of the model, several training seeds each, same data and budget, all scored alike.

Trainings run side by side, one thread each, which two cores do faster than one after the other on two threads. All goes on where it
stopped: a finished training is not begun again, an episode that was played is not played again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from internvla_a1.core.errors import ConfigError, InternVLAError
from internvla_a1.core.resources import find
from internvla_a1.eval.ablation import ABLATIONS
from internvla_a1.eval.campaign import Case, Result, evaluate
from internvla_a1.eval.cli import read_cases
from internvla_a1.eval.gaps import Outcomes, gap, rate
from internvla_a1.eval.report import write_report

FIRST_SEED = 20_000_000  # of the episodes; neither recording nor the model card uses these


@dataclass(frozen=True)
class Study:
    """out: folder of all of it. arms: names of eval.ablation. seeds: of training. config: what every arm trains by; set: changes of it.

    cases: YAML list of protocols; episodes: of each, the same for every arm and seed. processes: trainings, and players, side by side.
    """

    out: Path
    config: str
    cases: str
    arms: tuple[str, ...] = ABLATIONS
    seeds: tuple[int, ...] = (0, 1, 2)
    set: tuple[str, ...] = ()
    episodes: int = 200
    processes: int = 2
    robot: str = "config/robots/demo_arm.yaml"

    def __post_init__(self) -> None:
        for arm in self.arms:
            if arm not in ABLATIONS:
                raise ConfigError.asked("arms", arm, ABLATIONS)
        if not self.seeds or not self.arms or self.episodes < 1 or self.processes < 1:
            raise ConfigError("a study needs at least one arm, one seed, one episode and one process")

    def folder(self, arm: str, seed: int) -> Path:
        """Of one training run."""
        return self.out / f"{arm}-{seed}"

    def weights(self, arm: str, seed: int) -> Path:
        return self.folder(arm, seed) / "final"

    @property
    def runs(self) -> list[tuple[str, int]]:
        """All arms of the first seed, then all of the next: a study cut short compares like with like."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]


def load_study(path: str, overrides: list[str] | None = None) -> Study:
    """Read a study file; overrides are key=value of its top level. ConfigError names what is wrong."""
    found = find(path)
    try:
        raw = yaml.safe_load(found.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{found}: {error}") from error
    if not isinstance(raw, dict) or not {"out", "config", "cases"} <= set(raw):
        raise ConfigError(f"{found}: a study has `out`, `config` and `cases`")
    for override in overrides or []:
        key, _, text = override.partition("=")
        raw[key] = yaml.safe_load(text)
    known = sorted(f.name for f in fields(Study))
    for key in raw:
        if key not in known:
            raise ConfigError.asked(f"{found}: unknown key", key, known)
    lists = {k: tuple(v) for k, v in raw.items() if isinstance(v, list)}
    return Study(**{**raw, **lists, "out": Path(raw["out"])})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--config", default="config/train/study_foresight.yaml", help="what is compared (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one value: episodes=50")
    parser.add_argument("--train-only", action="store_true", help="leave the episodes for later")


def run(args: argparse.Namespace) -> int:
    """Train what is missing, play what is missing, write the report; 0 when all is there."""
    study = load_study(args.config, args.set)
    study.out.mkdir(parents=True, exist_ok=True)
    train_all(study)
    if args.train_only:
        return 0
    results = score(study)
    print(write_study(study, results))
    return 0


# ---- training ----


def train_all(study: Study) -> None:
    """Every run that is not finished, `processes` at a time. Raises InternVLAError with the end of its log where one fails."""
    waiting = [run for run in reversed(study.runs) if not (study.weights(*run) / "model.safetensors").is_file()]
    running: dict[subprocess.Popen[bytes], tuple[str, int]] = {}
    done = len(study.runs) - len(waiting)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("training", total=len(study.runs), completed=done)
        try:
            while waiting or running:
                while waiting and len(running) < study.processes:
                    following = waiting.pop()
                    running[_begin(study, *following)] = following
                ended = _first(running)
                following = running.pop(ended)
                if ended.returncode:
                    log = (study.folder(*following) / "train.log").read_text()[-2000:]
                    raise InternVLAError(f"training of {following[0]}, seed {following[1]} ended with {ended.returncode}:\n{log}")
                progress.advance(bar)
        finally:
            for process in running:
                process.terminate()


def _begin(study: Study, arm: str, seed: int) -> subprocess.Popen[bytes]:
    folder = study.folder(arm, seed)
    folder.mkdir(parents=True, exist_ok=True)
    changes = [*study.set, f"ablation={arm}", f"seed={seed}", f"out={folder}", "threads=1"]
    words = [sys.executable, "-m", "internvla_a1.cli", "train", "--cpu", "--config", study.config]
    for change in changes:
        words += ["--set", change]
    with (folder / "train.log").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _first(running: dict[subprocess.Popen[bytes], tuple[str, int]]) -> subprocess.Popen[bytes]:
    while True:
        for process in running:
            try:
                process.wait(1.0)
                return process
            except subprocess.TimeoutExpired:
                continue


# ---- scoring ----


def score(study: Study) -> dict[tuple[str, int], list[Result]]:
    """(arm, seed) -> a Result for each protocol of the cases file."""
    protocols = read_cases(find(study.cases))
    cases = {run: [Case(str(study.weights(*run)), protocol, study.robot, label) for label, protocol in protocols] for run in study.runs}
    everything = [case for run in study.runs for case in cases[run]]
    seeds = range(FIRST_SEED, FIRST_SEED + study.episodes)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("episodes", total=len(everything) * study.episodes)
        results = evaluate(everything, seeds, study.out, study.processes, lambda known, _: progress.update(bar, completed=known))
    size = len(protocols)
    return {run: results[i * size : (i + 1) * size] for i, run in enumerate(study.runs)}


def outcomes_of(study: Study, results: dict[tuple[str, int], list[Result]], arm: str, number: int) -> Outcomes:
    """(training seeds, episodes) of one arm under protocol `number`."""
    return np.array([[o.success for o in results[arm, seed][number].outcomes] for seed in study.seeds])


def rows_of(study: Study, results: dict[tuple[str, int], list[Result]]) -> list[dict[str, Any]]:
    """One row a protocol: rate of every arm, and how far the first arm is before each other one."""
    first = study.arms[0]
    rows = []
    for number, result in enumerate(results[first, study.seeds[0]]):
        measured = {arm: outcomes_of(study, results, arm, number) for arm in study.arms}
        rows.append(
            {
                "protocol": result.case.label or result.case.protocol.name,
                "rates": {arm: rate(o) for arm, o in measured.items()},
                "gaps": {arm: gap(measured[first], o) for arm, o in measured.items() if arm != first},
            }
        )
    return rows


def write_study(study: Study, results: dict[tuple[str, int], list[Result]]) -> Path:
    """study.md (the tables), study.json (the numbers), report.html (every run by itself). Returns the first."""
    rows = rows_of(study, results)
    first, others = study.arms[0], study.arms[1:]
    lines = [
        f"{len(study.seeds)} training seeds an arm, {study.episodes} episodes a cell and seed, the same for all. Per cent of episodes "
        "sorted, with the 95 % interval over training seeds and episodes (hierarchical bootstrap), then each seed alone.",
        "",
        "| protocol | " + " | ".join(study.arms) + " |",
        "|---|" + "---|" * len(study.arms),
        *(f"| {row['protocol']} | " + " | ".join(str(row["rates"][a]) for a in study.arms) + " |" for row in rows),
        "",
        f"Points that `{first}` is before another arm; **bold** where the interval leaves zero out.",
        "",
        "| protocol | " + " | ".join(others) + " |",
        "|---|" + "---|" * len(others),
        *(f"| {row['protocol']} | " + " | ".join(_marked(row["gaps"][a]) for a in others) + " |" for row in rows),
    ]
    path = study.out / "study.md"
    path.write_text("\n".join(lines) + "\n")
    plain = [{k: v if isinstance(v, str) else {a: vars(e) for a, e in v.items()} for k, v in row.items()} for row in rows]
    (study.out / "study.json").write_text(json.dumps(plain, indent=1) + "\n")
    flat = [result for run in study.runs for result in results[run]]
    write_report(study.out / "report.html", "The foresight study, run by run", flat, {}, [f"Weights: {study.out}/<arm>-<seed>."])
    return path


def _marked(estimate: Any) -> str:
    return f"**{estimate}**" if estimate.clear else str(estimate)
