"""Many episodes of many protocols in many processes, each result kept as soon as it is known: a killed campaign goes on."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.data.processes import leave_with_parent
from internvla_a1.eval.closed_loop import Loop, Outcome
from internvla_a1.eval.intervals import Share
from internvla_a1.eval.policies import load_policy
from internvla_a1.eval.protocol import Protocol
from internvla_a1.sim.cell import Cell

OUTCOMES = "outcomes.jsonl"


@dataclass(frozen=True)
class Case:
    """One policy under one protocol. weights: a folder, or 'expert'. digest: `weights_digest` of the folder, '' to read it."""

    weights: str
    protocol: Protocol
    robot: str = "config/robots/demo_arm.yaml"
    label: str = ""
    digest: str = ""

    @property
    def key(self) -> str:
        """Digest of the weights' contents and the protocol: results of other weights are never mixed in."""
        content = self.weights if self.weights == "expert" else self.digest or weights_digest(find(self.weights))
        return hashlib.sha256(json.dumps([content, self.robot, asdict(self.protocol)], sort_keys=True).encode()).hexdigest()[:16]


def weights_digest(folder: Path) -> str:
    """sha256 of the weights file, by which results are known for those of these weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@dataclass(frozen=True)
class Result:
    """Outcomes of one case, by seed."""

    case: Case
    outcomes: tuple[Outcome, ...]

    @property
    def share(self) -> Share:
        return Share(sum(o.success for o in self.outcomes), len(self.outcomes))

    def phases(self) -> dict[str, int]:
        """How the failures ended."""
        counts: dict[str, int] = {}
        for o in self.outcomes:
            if not o.success:
                counts[o.phase] = counts.get(o.phase, 0) + 1
        return counts


def evaluate(
    cases: Sequence[Case], seeds: Sequence[int], out: Path, processes: int = 1, report: Callable[[int, int], None] | None = None
) -> list[Result]:
    """Play every case with every seed. outcomes.jsonl in `out` grows line by line; what is in it is not played again."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / OUTCOMES
    keys = [case.key for case in cases]
    known = read_outcomes(path)
    todo = [(case, seed) for case, key in zip(cases, keys, strict=True) for seed in seeds if (key, seed) not in known]
    _end_last_line(path)
    with path.open("a") as file:

        def keep(case: Case, outcome: Outcome) -> None:
            key = keys[cases.index(case)]
            known[key, outcome.seed] = outcome
            file.write(json.dumps({"key": key, "protocol": case.protocol.name, **asdict(outcome)}) + "\n")
            file.flush()
            if report is not None:
                report(len(known), len(known))

        if processes > 1 and len(todo) > 1:
            _play_in_processes(todo, processes, keep)
        else:
            for case, seed in todo:
                keep(case, _play(case, seed))
    return [Result(case, tuple(known[key, seed] for seed in seeds)) for case, key in zip(cases, keys, strict=True)]


def _end_last_line(path: Path) -> None:
    """A kill may have cut it short: what is appended must not be lost with it."""
    with path.open("ab+") as file:
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.write(b"\n")


def read_outcomes(path: Path) -> dict[tuple[str, int], Outcome]:
    """(Case.key, seed) -> what happened; empty where there is no file."""
    known = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the line that a kill cut short
        key = row.pop("key")
        row.pop("protocol")
        known[key, row["seed"]] = Outcome(**row)
    return known


_loops: dict[tuple[str, str, Protocol], Loop] = {}


def loop_of(case: Case) -> Loop:
    """The loop of a case in this process; the last one is kept, since cases come in runs."""
    place = (case.weights, case.robot, case.protocol)
    if place not in _loops:
        for loop in _loops.values():
            loop.cell.close()
        _loops.clear()
        robot = load_robot(find(case.robot))
        policy = load_policy(case.weights, robot, case.protocol.steps, case.protocol.noise_scale)
        _loops[place] = Loop(Cell(case.protocol.cell_config()), policy, case.protocol)
    return _loops[place]


def _play(case: Case, seed: int) -> Outcome:
    return loop_of(case).episode(seed)


def _play_in_processes(todo: list[tuple[Case, int]], processes: int, keep: Callable[[Case, Outcome], None]) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(todo))
    running: dict[Future[Outcome], Case] = {}
    with ProcessPoolExecutor(processes, context, leave_with_parent) as pool:
        while waiting or running:
            while waiting and len(running) < processes + 1:
                case, seed = waiting.pop()
                running[pool.submit(_play, case, seed)] = case
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                keep(running.pop(future), future.result())
