"""Many episodes from many processes: resumable after a kill at any moment, and the same whatever the number of processes."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from internvla_a1.core.errors import ConfigError, DataError
from internvla_a1.data.episode import Episode, store_episode
from internvla_a1.data.features import Feature
from internvla_a1.data.processes import leave_with_parent
from internvla_a1.data.writer import write_dataset


class Maker(Protocol):
    """Plays attempt number `number`; None where it did not become a demonstration. A function of the number alone."""

    def __call__(self, number: int) -> Episode | None: ...


@dataclass(frozen=True)
class Plan:
    """What to record. build() runs once in each process and must be picklable; options identify the plan across restarts."""

    out: Path
    episodes: int
    build: Callable[[], Maker]
    options: dict[str, Any]
    features: tuple[Feature, ...]
    fps: float
    robot_type: str
    video: bool = False

    @property
    def staging(self) -> Path:
        return self.out.with_name(f".{self.out.name}.episodes")

    @property
    def fingerprint(self) -> str:
        """Digest of everything that decides what an attempt looks like; the number of episodes is not part of it."""
        text = json.dumps({"options": self.options, "features": [f.to_json() for f in self.features], "video": self.video}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def record(plan: Plan, processes: int = 1, report: Callable[[int, int], None] | None = None, attempts_limit: float = 3.0) -> Path:
    """Play attempts 0, 1, 2... until the first `episodes` good ones are known, then write the data set. Returns its folder.

    report(good, played) is called as attempts end. An interrupted run goes on where it was; a finished one returns at once.
    Raises DataError if fewer than one attempt in `attempts_limit` is good.
    """
    mark = plan.out / "meta" / "plan.json"
    if mark.is_file() and json.loads(mark.read_text()) == {"fingerprint": plan.fingerprint, "episodes": plan.episodes}:
        return plan.out
    _prepare(plan)
    outcome = _known(plan.staging)
    most = int(plan.episodes * attempts_limit) + processes
    if processes > 1:
        _play_in_processes(plan, processes, outcome, most, report)
    else:
        maker = plan.build()
        while (number := _next(outcome, set(), plan.episodes, most)) is not None:
            outcome[number] = _play(maker, plan, number)
            _tell(report, outcome)
    good = [n for n in sorted(outcome) if outcome[n]][: plan.episodes]
    if len(good) < plan.episodes:
        raise DataError(f"{plan.out}: {len(good)} good demonstrations in {len(outcome)} attempts, {plan.episodes} are needed")
    write_dataset(plan.out, [_shard(plan.staging, n) for n in good], plan.features, plan.fps, plan.robot_type)
    mark.write_text(json.dumps({"fingerprint": plan.fingerprint, "episodes": plan.episodes}))
    shutil.rmtree(plan.staging)
    return plan.out


def _prepare(plan: Plan) -> None:
    plan.staging.mkdir(parents=True, exist_ok=True)
    note = plan.staging / "plan.json"
    if note.is_file() and json.loads(note.read_text()).get("fingerprint") != plan.fingerprint:
        raise ConfigError(f"{plan.staging} holds episodes of another plan; remove it to start again")
    partial = note.with_suffix(".partial")
    partial.write_text(json.dumps({"fingerprint": plan.fingerprint, "options": plan.options}))
    os.replace(partial, note)


def _shard(staging: Path, number: int) -> Path:
    return staging / f"episode-{number:06d}"


def _known(staging: Path) -> dict[int, bool]:
    """Outcome of the attempts that an earlier run finished; what it left half-done is removed."""
    for leftover in staging.glob(".episode-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    good = {int(p.name[8:]): True for p in staging.glob("episode-*") if p.is_dir()}
    return good | {int(p.name[7:]): False for p in staging.glob("failed-*")}


def _play(maker: Maker, plan: Plan, number: int) -> bool:
    episode = maker(number)
    if episode is None:
        (plan.staging / f"failed-{number:06d}").touch()
        return False
    store_episode(_shard(plan.staging, number), episode, plan.fps, plan.video)
    return True


def _next(outcome: dict[int, bool], running: set[int], episodes: int, most: int) -> int | None:
    """The smallest attempt that may still be needed: stop once the attempts before it hold enough good ones."""
    good = 0
    for number in range(most):
        if good >= episodes:
            return None
        if number not in outcome and number not in running:
            return number
        good += outcome.get(number, True)
    return None


def _tell(report: Callable[[int, int], None] | None, outcome: dict[int, bool]) -> None:
    if report is not None:
        report(sum(outcome.values()), len(outcome))


_worker: tuple[Maker, Plan] | None = None


def _start_worker(plan: Plan) -> None:
    global _worker
    leave_with_parent()
    _worker = (plan.build(), plan)


def _work(number: int) -> bool:
    if _worker is None:
        raise DataError("a recording process was asked for work before it was set up")
    return _play(*_worker, number)


def _play_in_processes(
    plan: Plan, processes: int, outcome: dict[int, bool], most: int, report: Callable[[int, int], None] | None
) -> None:
    context = multiprocessing.get_context("spawn")  # a forked child would share the parent's GL and thread state
    running: dict[Future[bool], int] = {}
    with ProcessPoolExecutor(processes, context, _start_worker, (plan,)) as pool:
        while True:
            while len(running) < processes + 1:
                number = _next(outcome, set(running.values()), plan.episodes, most)
                if number is None:
                    break
                running[pool.submit(_work, number)] = number
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                outcome[running.pop(future)] = future.result()
                _tell(report, outcome)


