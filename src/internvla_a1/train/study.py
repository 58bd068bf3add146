"""`internvla-a1 study`: arms of the model, several training seeds each, same data and budget, all scored alike.

Trainings run side by side, one thread each, which two cores do faster than one after the other on two threads. All goes on where it
stopped: a finished training is not begun again, an episode that was played is not played again. What a run did in its episodes is kept
in files small enough for a repository (`records`), so that seeds can be added on another day and another machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
from dataclasses import dataclass, fields
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from internvla_a1.core.errors import ConfigError, InternVLAError
from internvla_a1.core.resources import find
from internvla_a1.data.processes import leave_with_parent
from internvla_a1.eval.ablation import ABLATIONS
from internvla_a1.eval.campaign import OUTCOMES, Case, Result, evaluate, read_outcomes, weights_digest
from internvla_a1.eval.cli import read_cases
from internvla_a1.eval.comparison import draw_comparison
from internvla_a1.eval.gaps import Outcomes, gap, rate
from internvla_a1.eval.report import write_report
from internvla_a1.train.config import load_train_config
from internvla_a1.train.progress import counting

RUNS = "runs.json"
FIRST_SEED = 20_000_000  # of the episodes; neither recording nor the model card uses these
ONE_SEED = "One training seed only: the intervals are of its episodes; another seed may lie outside."


@dataclass(frozen=True)
class Study:
    """out: folder of all of it. arms: names of eval.ablation. seeds: of training. config: what every arm trains by; set: changes of it.

    cases: YAML list of protocols; episodes: of each, the same for every arm and seed. processes: trainings, and players, side by side.
    records: folder of what is known of runs and episodes, '' for `out`; runs whose every episode is in it need no weights any more.
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
    records: str = ""

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
    def kept(self) -> Path:
        """Where the records are."""
        return Path(self.records) if self.records else self.out

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
    study.kept.mkdir(parents=True, exist_ok=True)
    train_all(study)
    if args.train_only:
        return 0
    results = score(study)
    print(write_study(study, results))
    return 0


# ---- training ----


def train_all(study: Study) -> None:
    """Every run that is not finished, `processes` at a time. Raises InternVLAError with the end of its log where one fails."""
    waiting = [run for run in reversed(study.runs) if not _finished(study, *run)]
    running: dict[BaseProcess, tuple[str, int]] = {}
    done = len(study.runs) - len(waiting)
    with counting("trainings", len(study.runs), done) as report:
        try:
            while waiting or running:
                while waiting and len(running) < study.processes:
                    following = waiting.pop()
                    running[_begin(study, *following)] = following
                wait([process.sentinel for process in running])
                for ended in [process for process in running if not process.is_alive()]:
                    arm, seed = running.pop(ended)
                    if ended.exitcode:
                        log = (study.folder(arm, seed) / "train.log").read_text()[-2000:]
                        raise InternVLAError(f"training of {arm}, seed {seed} ended with {ended.exitcode}:\n{log}")
                    done += 1
                    report(done)
        finally:
            for process in running:
                process.terminate()
                process.join()


def _changes(study: Study, arm: str, seed: int) -> list[str]:
    return [*study.set, f"ablation={arm}", f"seed={seed}", f"out={study.folder(arm, seed)}", "threads=1"]


def _finished(study: Study, arm: str, seed: int) -> bool:
    """Whether the run's weights are there, or none are needed. ConfigError where they were trained by another configuration."""
    made = study.weights(arm, seed) / "train_config.json"
    if not (made.parent / "model.safetensors").is_file():
        return _recorded(study, arm, seed)
    wanted = load_train_config(study.config, _changes(study, arm, seed)).to_dict()
    if json.loads(made.read_text()) != json.loads(json.dumps(wanted)):
        raise ConfigError(f"{made.parent}: weights of another configuration than {study.config} now; choose another `out`")
    return True


def _recorded(study: Study, arm: str, seed: int) -> bool:
    """Whether the records hold every episode of a run that was trained as the study says now."""
    entry = _known_runs(study).get(f"{arm}-{seed}")
    if entry is None or entry["config"] != _config_digest(study, arm, seed):
        return False
    known = read_outcomes(study.kept / OUTCOMES)
    return all((case.key, n) in known for case in _cases(study, arm, seed, entry["weights"]) for n in _episodes(study))


def _known_runs(study: Study) -> dict[str, dict[str, str]]:
    """<arm>-<seed> -> digests of its configuration and of its weights."""
    path = study.kept / RUNS
    return json.loads(path.read_text()) if path.is_file() else {}


def _config_digest(study: Study, arm: str, seed: int) -> str:
    config = load_train_config(study.config, _changes(study, arm, seed)).to_dict()
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def note_runs(study: Study) -> dict[str, dict[str, str]]:
    """Bring the records up to the weights that are there; returns all that is known."""
    runs = _known_runs(study)
    for arm, seed in study.runs:
        if (study.weights(arm, seed) / "model.safetensors").is_file():
            weights = weights_digest(study.weights(arm, seed))
            runs[f"{arm}-{seed}"] = {"config": _config_digest(study, arm, seed), "weights": weights}
    partial = (study.kept / RUNS).with_suffix(".partial")
    partial.write_text(json.dumps(runs, indent=1, sort_keys=True) + "\n")
    os.replace(partial, study.kept / RUNS)
    return runs


def _begin(study: Study, arm: str, seed: int) -> BaseProcess:
    folder = study.folder(arm, seed)
    folder.mkdir(parents=True, exist_ok=True)
    given = (study.config, _changes(study, arm, seed), folder / "train.log")
    process = multiprocessing.get_context("spawn").Process(target=_train_one, args=given)
    process.start()
    return process


def _train_one(config: str, changes: list[str], log: Path) -> None:
    """In a process of its own, which ends with the study's: two trainings must never share a folder. Everything said goes to `log`."""
    leave_with_parent()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from internvla_a1.train.cli import run_training

    try:
        run_training(load_train_config(config, changes), cpu=True)
    except InternVLAError as error:
        print(f"internvla-a1: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


# ---- scoring ----


def score(study: Study) -> dict[tuple[str, int], list[Result]]:
    """(arm, seed) -> a Result for each protocol of the cases file."""
    known_runs = note_runs(study)
    cases = {(arm, seed): _cases(study, arm, seed, known_runs[f"{arm}-{seed}"]["weights"]) for arm, seed in study.runs}
    everything = [case for run in study.runs for case in cases[run]]
    with counting("episodes", len(everything) * study.episodes) as report:
        results = evaluate(everything, _episodes(study), study.kept, study.processes, lambda known, _: report(known))
    size = len(everything) // len(study.runs)
    return {run: results[i * size : (i + 1) * size] for i, run in enumerate(study.runs)}


def _cases(study: Study, arm: str, seed: int, digest: str) -> list[Case]:
    weights = str(study.weights(arm, seed))
    return [Case(weights, protocol, study.robot, label, digest) for label, protocol in read_cases(find(study.cases))]


def _episodes(study: Study) -> range:
    return range(FIRST_SEED, FIRST_SEED + study.episodes)


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
    """study.md (the tables), study.png (the picture) and study.json (the numbers) with the records, report.html (every run by itself).

    Returns the first.
    """
    rows = rows_of(study, results)
    first, others = study.arms[0], study.arms[1:]
    draw_comparison(rows, study.arms, study.kept / "study.png")
    lines = [
        "![rates of every arm under every protocol](study.png)",
        "",
        f"Training seeds of each arm: {', '.join(map(str, study.seeds))}. {study.episodes} episodes a cell and seed, the same for all. Per "
        "cent of episodes sorted, with the 95 % interval over training seeds and episodes (hierarchical bootstrap), then each seed alone.",
        *(["", ONE_SEED] if len(study.seeds) == 1 else []),
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
    path = study.kept / "study.md"
    path.write_text("\n".join(lines) + "\n")
    plain = [{k: v if isinstance(v, str) else {a: vars(e) for a, e in v.items()} for k, v in row.items()} for row in rows]
    (study.kept / "study.json").write_text(json.dumps(plain, indent=1) + "\n")
    flat = [result for run in study.runs for result in results[run]]
    write_report(study.out / "report.html", "The foresight study, run by run", flat, {}, [f"Weights: {study.out}/<arm>-<seed>."])
    return path


def _marked(estimate: Any) -> str:
    return f"**{estimate}**" if estimate.clear else str(estimate)
