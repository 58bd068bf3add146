"""From nothing to a shipped policy: recording, preparation, training, take-over, training again, scoring, model card.

A sequence of named stages; each leaves a mark when it is complete, and inside a stage recording, caches, training and scoring go on
from where they stopped, so a kill at any moment costs minutes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  (with it triton's LLVM: loaded after Mesa's, at the first picture drawn here, it crashes)
import yaml

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.eval.campaign import Case, evaluate
from internvla_a1.eval.cli import read_cases
from internvla_a1.eval.films import failure_films
from internvla_a1.eval.report import to_json, write_report
from internvla_a1.model.checkpoint.manifest import read_manifest
from internvla_a1.model.checkpoint.write import write_manifest
from internvla_a1.train.card import write_card
from internvla_a1.train.cli import run_training
from internvla_a1.train.config import TrainConfig, load_train_config
from internvla_a1.train.demonstrations import DemoOptions
from internvla_a1.train.record_cli import record_demonstrations
from internvla_a1.train.several import train_in_processes


@dataclass(frozen=True)
class Stage:
    """name: folder under the pipeline's `out`. kind says which of the rest count.

    record: episodes, options (of DemoOptions), dagger (the stage whose policy drives first). train: config file, set (a.b=value),
    data (record stages; {name: weight}), codec, warm_start, init (stages whose weights are taken). score: weights (a stage), cases
    (YAML file), episodes. ship: weights, score (stages), to (folder).
    """

    name: str
    kind: str
    episodes: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    dagger: str = ""
    config: str = ""
    set: tuple[str, ...] = ()
    data: dict[str, float] = field(default_factory=dict)
    codec: str = ""
    warm_start: str = ""
    init: str = ""
    weights: str = ""
    cases: str = ""
    score: str = ""
    to: str = ""
    limit_mb: float = 20.0


@dataclass(frozen=True)
class Pipeline:
    """out: folder of everything in between. budget_s: what all stages together may take; more is reported, not enforced.

    until: the last stage that is wanted, '' for all.
    """

    out: Path
    stages: tuple[Stage, ...]
    seed: int = 0
    processes: int = 2
    robot: str = "config/robots/demo_arm.yaml"
    budget_s: float = 9000.0
    until: str = ""

    @property
    def wanted(self) -> tuple[Stage, ...]:
        """The stages to run."""
        names = [s.name for s in self.stages]
        return self.stages[: names.index(self.until) + 1] if self.until else self.stages


KINDS = ("record", "train", "score", "ship")
COUNT_EVERY_S = 5.0


def load_pipeline(path: str | Path, overrides: list[str] | None = None) -> Pipeline:
    """Read a pipeline file; overrides are key=value of the top level (out, seed, processes, until). ConfigError names what is wrong."""
    found = find(str(path))
    try:
        raw = yaml.safe_load(found.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{found}: {error}") from error
    if not isinstance(raw, dict) or "stages" not in raw or "out" not in raw:
        raise ConfigError(f"{found}: a pipeline has `out` and `stages`")
    for override in overrides or []:
        key, _, text = override.partition("=")
        raw[key] = yaml.safe_load(text)
    _known(Pipeline, raw, str(found))
    stages: list[Stage] = []
    for i, entry in enumerate(raw["stages"]):
        where = f"{found}: stages[{i}]"
        _known(Stage, entry, where)
        values = {**entry, "set": tuple(entry.get("set", ())), "data": _shares(entry.get("data", {}))}
        stage = Stage(**values)
        if stage.kind not in KINDS:
            raise ConfigError.asked(f"{where}: kind", stage.kind, KINDS)
        earlier = [s.name for s in stages]
        for name in (stage.dagger, stage.codec, stage.warm_start, stage.init, stage.weights, stage.score, *stage.data):
            if name and name not in earlier:
                raise ConfigError.asked(f"{where}: an earlier stage", name, earlier)
        stages.append(stage)
    names = [s.name for s in stages]
    if raw.get("until") and raw["until"] not in names:
        raise ConfigError.asked(f"{found}: until", raw["until"], names)
    return Pipeline(Path(raw["out"]), tuple(stages), **{k: v for k, v in raw.items() if k not in ("out", "stages")})


def _known(kind: type, raw: dict[str, Any], where: str) -> None:
    known = sorted(f.name for f in fields(kind))
    for key in raw:
        if key not in known:
            raise ConfigError.asked(f"{where}: unknown key", key, known)


def _shares(data: dict[str, float] | list[str]) -> dict[str, float]:
    return {name: 0.0 for name in data} if isinstance(data, list) else {k: float(v) for k, v in data.items()}


def run_pipeline(path: str, overrides: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Run the stages that are not complete. 0 at the end; raises InternVLAError where a stage cannot work."""
    pipeline = load_pipeline(path, overrides)
    runner = _Runner(pipeline, say)
    for number, stage in enumerate(pipeline.wanted, 1):
        runner.run(stage, f"[{number}/{len(pipeline.wanted)}] {stage.name}")
    used = runner.used_s()
    over = " (over)" if used > pipeline.budget_s else ""
    say(f"complete: {used / 60:.1f} min of {pipeline.budget_s / 60:.0f} min over all stages{over}")
    return 0


class _Runner:
    def __init__(self, pipeline: Pipeline, say: Callable[[str], None]) -> None:
        self.pipeline, self.say = pipeline, say
        self._clock = pipeline.out / "seconds.json"  # of every stage, interrupted attempts included

    def run(self, stage: Stage, title: str) -> None:
        """One stage, unless its mark says that it is complete as it is configured now."""
        folder = self.pipeline.out / stage.name
        mark = self.pipeline.out / "complete" / f"{stage.name}.json"
        wanted = self._recipe(stage)
        if mark.is_file() and json.loads(mark.read_text())["stage"] == wanted:
            self.say(f"{title}: complete already")
            return
        self.say(f"{title}: {stage.kind}")
        with self._counted(stage.name):
            getattr(self, f"_{stage.kind}")(stage, folder)
        mark.parent.mkdir(parents=True, exist_ok=True)
        partial = mark.with_suffix(".partial")
        partial.write_text(json.dumps({"stage": wanted}))
        os.replace(partial, mark)
        self.say(f"{title}: done, {self._seconds()[stage.name] / 60:.1f} min")

    def _recipe(self, stage: Stage) -> str:
        """Digest of all that decides what the stage makes: its own entry, the training file it names, and the stages it builds on."""
        parts: list[Any] = [repr(stage), self.pipeline.seed, self.pipeline.robot]
        if stage.kind == "train":
            parts.append(self._config(stage, self.pipeline.out / stage.name).to_dict())
        names = (stage.dagger, stage.codec, stage.warm_start, stage.init, stage.weights, stage.score, *stage.data)
        parts += [self._recipe(s) for s in self.pipeline.stages if s.name in names]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def used_s(self) -> float:
        """Seconds of all stages so far."""
        return sum(self._seconds().values())

    @contextlib.contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        """Adds the time of what runs in it to the stage's, every few seconds: a killed attempt has been counted as well."""
        over = threading.Event()

        def tick() -> None:
            began = time.monotonic()
            while not over.wait(COUNT_EVERY_S):
                now = time.monotonic()
                self._count(name, now - began)
                began = now
            self._count(name, time.monotonic() - began)

        thread = threading.Thread(target=tick)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _seconds(self) -> dict[str, float]:
        return json.loads(self._clock.read_text()) if self._clock.is_file() else {}

    def _count(self, name: str, seconds: float) -> None:
        known = self._seconds()
        known[name] = known.get(name, 0.0) + seconds
        self.pipeline.out.mkdir(parents=True, exist_ok=True)
        partial = self._clock.with_suffix(".partial")
        partial.write_text(json.dumps(known))
        os.replace(partial, self._clock)

    def _weights(self, name: str) -> Path:
        return self.pipeline.out / name / "final"

    # ---- kinds ----

    def _record(self, stage: Stage, folder: Path) -> None:
        order = [s.name for s in self.pipeline.stages].index(stage.name)
        known = {f.name for f in fields(DemoOptions)}
        unknown = [k for k in stage.options if k not in known]
        if unknown:
            raise ConfigError.asked(f"stage {stage.name}: option", unknown[0], sorted(known))
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stage.options.items()}
        options = replace(DemoOptions(), **({"seed": 1000 * self.pipeline.seed + order} | values))
        dagger = self._weights(stage.dagger) if stage.dagger else None
        record_demonstrations(folder, stage.episodes, options, self.pipeline.processes, False, self.pipeline.robot, dagger)

    def _train(self, stage: Stage, folder: Path) -> None:
        config = self._config(stage, folder)
        if self.pipeline.processes > 1 and config.batch_size % (self.pipeline.processes * config.accumulate) == 0:
            train_in_processes(config, self.pipeline.processes)
        else:
            run_training(config, cpu=True)

    def _config(self, stage: Stage, folder: Path) -> TrainConfig:
        """The training file with what the pipeline fills in."""
        out = self.pipeline.out
        sources = [{"path": str(out / name), "weight": weight} for name, weight in stage.data.items()]
        given = {"out": str(folder), "seed": self.pipeline.seed, "data.sources": sources, "data.cache": str(out / "cache")}
        taken = {"codec": "" if stage.init else stage.codec, "warm_start": stage.warm_start, "init": stage.init}
        given |= {f"model.{key}": str(self._weights(name)) if name else "" for key, name in taken.items()}
        changes = [f"{key}={json.dumps(value)}" for key, value in given.items()]
        if stage.init:
            changes.append("model.changes={}")
        return load_train_config(stage.config, [*changes, *stage.set])

    def _score(self, stage: Stage, folder: Path) -> None:
        weights = str(self._weights(stage.weights))
        cases = [Case(weights, protocol, self.pipeline.robot, label) for label, protocol in read_cases(Path(stage.cases))]
        first = 10_000_000 + 100_000 * self.pipeline.seed  # recording draws its own seeds; these are not among them
        results = evaluate(cases, range(first, first + stage.episodes), folder, self.pipeline.processes)
        for result in results:
            self.say(f"  {result.case.label or result.case.protocol.name}: {result.share}")
        films = failure_films(results, folder / "films", 6)
        write_report(folder / "report.html", f"Scores of {stage.weights}", results, films)
        (folder / "scores.json").write_text(json.dumps(to_json(results), indent=1) + "\n")

    def _ship(self, stage: Stage, folder: Path) -> None:
        source, target = self._weights(stage.weights), Path(stage.to) if stage.to else folder
        size = sum(p.stat().st_size for p in source.rglob("*") if p.is_file()) / 2**20
        if size > stage.limit_mb:
            raise ConfigError(f"{source}: {size:.1f} MB, the limit is {stage.limit_mb:g} MB")
        work = target.with_name(f".{target.name}.shipping")
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(source, work)
        self._forget_place(work)
        scores = json.loads((self.pipeline.out / stage.score / "scores.json").read_text()) if stage.score else []
        recorded = {s.name: s.episodes for s in self.pipeline.stages if s.kind == "record"}
        write_card(work / "README.md", scores, recorded, self._seconds(), self.pipeline.seed)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(work, target)

    def _forget_place(self, folder: Path) -> None:
        """Where the runs lay on this machine is no part of a shipped folder: its paths begin at the pipeline's own folder."""
        path, manifest = folder / "train_config.json", read_manifest(folder)
        path.write_text(path.read_text().replace(f'"{self.pipeline.out}/', f'"{self.pipeline.out.name}/'))
        write_manifest(folder, manifest.contract if manifest is not None else None)
