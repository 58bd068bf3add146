"""`internvla-a1 eval`: closed loop in the cell without ROS, or open loop against recorded actions."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, fields
from itertools import product
from pathlib import Path

import yaml

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.data.features import TARGET_KEY
from internvla_a1.data.reader import open_dataset
from internvla_a1.eval.campaign import Case, evaluate
from internvla_a1.eval.films import failure_films
from internvla_a1.eval.foresight import Belt, foresight_score
from internvla_a1.eval.open_loop import open_loop
from internvla_a1.eval.policies import load_policy
from internvla_a1.eval.protocol import MODES, Protocol
from internvla_a1.eval.report import write_report
from internvla_a1.policy.network import NetworkPolicy
from internvla_a1.sim.cell import Cell
from internvla_a1.sim.config import load_cell_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command. Options that take several values make one case of every combination."""
    parser.add_argument("--weights", nargs="+", default=["model_weights/tiny"], help="weights folders, or `expert`")
    parser.add_argument("--robot", default="config/robots/demo_arm.yaml")
    parser.add_argument("--out", type=Path, default=Path("runs/eval"), help="results and report.html; an interrupted evaluation goes on")
    parser.add_argument("--episodes", type=int, default=50, help="per case")
    parser.add_argument("--seed", type=int, default=100_000, help="first seed; training uses others")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--films", type=int, default=6, help="failures to film")
    parser.add_argument("--cases", type=Path, help="YAML list of protocols (fields of Protocol, `label`) instead of the options below")
    parser.add_argument("--speed", type=float, nargs="+", default=[0.08], help="belt, m/s")
    parser.add_argument("--change", action="store_true", help="the belt changes speed in mid-episode")
    parser.add_argument("--execute", type=int, nargs="+", default=[2], help="steps run per chunk, 0: all")
    parser.add_argument("--delay-ms", type=float, nargs="+", default=[0.0], help="observation to chunk; negative: as measured")
    parser.add_argument("--mode", nargs="+", choices=MODES, default=[MODES[0]])
    parser.add_argument("--no-rtc", action="store_true", help="without real-time chunking")
    parser.add_argument("--drop", default="", help="camera that goes dark after 1 s")
    parser.add_argument("--light", type=float, default=1.0, help="factor on the light at 2 s")
    parser.add_argument("--randomise", type=float, default=0.0, help="light, colour and camera variation of training, 0 to 1")
    parser.add_argument("--unseen-colors", action="store_true")
    parser.add_argument("--reorder", action="store_true", help="the instruction changes before the grasp")
    parser.add_argument("--name-shape", action="store_true", help="orders name the shape as well as the colour")
    parser.add_argument("--no-history", action="store_true", help="show the present as the past")
    parser.add_argument("--steps", type=int, default=0, help="Euler steps, 0: the checkpoint's")
    parser.add_argument("--noise-scale", type=float, default=0.0, help="of the flow's noise; 1: as published")
    parser.add_argument("--executor", action="store_true", help="through the executor's core: tracker, limits, collision gate")
    parser.add_argument("--orders", type=int, default=1, help="so many in a row, all of which have to be sorted")
    parser.add_argument("--size", type=int, default=Protocol().image_size, help="pixels of the cameras")
    parser.add_argument("--open-loop", type=Path, metavar="DATASET", help="compare with recorded actions instead")
    parser.add_argument("--foresight", type=Path, metavar="DATASET", help="compare predicted pictures with what came")
    parser.add_argument("--samples", type=int, default=200, help="open loop, foresight: how many frames")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write report.html and report.json."""
    if args.episodes < 1 or args.samples < 1 or args.processes < 1:
        raise ConfigError("--episodes, --samples and --processes must be at least 1")
    if args.foresight:
        return _foresight(args)
    return _open(args) if args.open_loop else _closed(args)


def protocols(args: argparse.Namespace) -> list[tuple[str, Protocol]]:
    """(label, protocol) of every case, from --cases or from the options."""
    if args.cases:
        return read_cases(args.cases)
    shared = {
        "change": args.change, "rtc": not args.no_rtc, "drop": args.drop, "light": args.light, "randomise": args.randomise,
        "unseen_colors": args.unseen_colors, "reorder": args.reorder, "name_shape": args.name_shape, "history": not args.no_history,
        "steps": args.steps, "noise_scale": args.noise_scale, "executor": args.executor, "orders": args.orders, "image_size": args.size,
    }  # fmt: skip
    grid = product(args.speed, args.execute, args.delay_ms, args.mode)
    return [("", Protocol(speed=v, execute=n, delay_s=d / 1e3, mode=m, **shared)) for v, n, d, m in grid]


def read_cases(path: Path) -> list[tuple[str, Protocol]]:
    """A YAML list of mappings. ConfigError on an unknown field."""
    found = find(str(path))
    raw = yaml.safe_load(found.read_text())
    if not isinstance(raw, list):
        raise ConfigError(f"{found}: expected a list of protocols")
    known = {f.name for f in fields(Protocol)}
    cases = []
    for i, entry in enumerate(raw):
        values = dict(entry)
        label = str(values.pop("label", ""))
        unknown = [k for k in values if k not in known]
        if unknown:
            raise ConfigError.asked(f"{found}[{i}]: unknown field", unknown[0], sorted(known | {"label"}))
        cases.append((label, Protocol(**values)))
    return cases


def _closed(args: argparse.Namespace) -> int:
    names = [_short(w) if len(args.weights) > 1 else "" for w in args.weights]
    cases = [
        Case(w, protocol, args.robot, f"{name} {label}".strip())
        for w, name in zip(args.weights, names, strict=True)
        for label, protocol in protocols(args)
    ]
    seeds = range(args.seed, args.seed + args.episodes)
    total = len(cases) * args.episodes
    played = 0

    def tell(known: int, _: int) -> None:
        nonlocal played
        played += 1
        if played % max(1, total // 20) == 0:
            print(f"{played} played, {known} known", flush=True)

    results = evaluate(cases, seeds, args.out, args.processes, tell)
    for result in results:
        print(f"{result.case.label} {result.case.protocol.name}: {result.share} {result.phases() or ''}".strip())
    films = failure_films(results, args.out / "films", args.films)
    notes = [f"Seeds {seeds.start} to {seeds.stop - 1} in every case. Weights: {', '.join(args.weights)}."]
    write_report(args.out / "report.html", "Sorting from a moving belt, closed loop without ROS", results, films, notes)
    print(f"report: {args.out / 'report.html'}")
    return 0


def _foresight(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    dataset, rows = open_dataset(find(str(args.foresight))), []
    cell = Cell(load_cell_config()) if TARGET_KEY in dataset.info.features else None
    belt = Belt(cell.cameras.project, cell.belt_top) if cell is not None else None
    for weights in args.weights:
        policy = load_policy(weights, load_robot(find(args.robot)), args.steps)
        if not isinstance(policy, NetworkPolicy):
            raise ConfigError(f"{weights} foresees nothing; name a weights folder")
        sheet = args.out / f"foresight-{_short(weights)}.png"
        score = foresight_score(policy, dataset, args.samples, args.seed, sheet, belt)
        print(
            f"{weights}: {score.frames} frames; centroid {100 * score.centroid_error:.2f} % of the width (copying "
            f"{100 * score.copying_centroid_error:.2f} %), within 3 %: {100 * score.within_3_percent:.0f} %, lost {score.lost}; "
            f"latent error {score.latent_ratio:.3f} of copying's; "
            + (f"{score.carried} of parcels in the hand: {100 * score.carried_error:.2f} %; " if score.carried_error is not None else "")
            + str(sheet)
        )
        rows.append({"weights": weights, **asdict(score), "latent_ratio": score.latent_ratio})
    (args.out / "foresight.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _short(weights: str) -> str:
    """runs/a/final is `a`, model_weights/tiny is `tiny`."""
    path = Path(weights)
    return path.parent.name if path.name == "final" else path.name


def _open(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for weights in args.weights:
        policy = load_policy(weights, load_robot(find(args.robot)), args.steps)
        score = open_loop(policy, open_dataset(find(str(args.open_loop))), args.samples, args.seed)
        print(f"{weights}: {score.samples} chunks, mse {score.mse:.6f}, mae {score.mae:.5f}")
        for group, (mse, mae) in score.by_group.items():
            print(f"  {group}: mse {mse:.6f}, mae {mae:.5f}")
        rows.append(
            {"weights": weights, "samples": score.samples, "mse": score.mse, "mae": score.mae, "groups": score.by_group,
             "mae_by_step": score.mae_by_step.tolist()}
        )  # fmt: skip
    (args.out / "open_loop.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 0
