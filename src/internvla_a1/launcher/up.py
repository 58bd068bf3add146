"""`internvla-a1 up FILE name:=value ...`"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import share_dir
from internvla_a1.launcher.commands import require_real_launch
from internvla_a1.launcher.display import Display, PlainDisplay, TableDisplay
from internvla_a1.launcher.plan import Plan
from internvla_a1.launcher.reader import parse_assignments, read_arguments, read_plan
from internvla_a1.launcher.runner import Runner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a launch file, or the name of one under launch/ (conveyor_sorting, bringup, ...)")
    parser.add_argument("assignments", nargs="*", metavar="name:=value", help="launch arguments")
    parser.add_argument("-s", "--show-args", action="store_true", help="list the arguments of the file and end")
    parser.add_argument("--ros2-launch", action="store_true", help="hand the file to the real `ros2 launch`")
    parser.add_argument("--no-table", action="store_true", help="lines only, even on a terminal")


def run(args: argparse.Namespace) -> int:
    path = find_launch_file(args.file)
    if args.show_args:
        print_arguments(path)
        return 0
    if args.ros2_launch:
        argv = [*require_real_launch(), str(path), *args.assignments]
        os.execv(argv[0], argv)
    plan = read_plan(path, parse_assignments(args.assignments))
    if not plan.nodes:
        raise ConfigError(f"{path}: no node to run with these arguments")
    names = labels(plan)
    display: Display
    if sys.stdout.isatty() and not args.no_table:
        display = TableDisplay(names, f"{path.name} · Ctrl-C stops all")
    else:
        display = PlainDisplay(names)
    try:
        return Runner(plan, display, names).run()
    finally:
        display.close()


def find_launch_file(name: str) -> Path:
    """A path as given, or a file of the package's launch folder by its name. Raises ConfigError with what there is."""
    folder = share_dir() / "launch"
    for candidate in (Path(name), folder / name, folder / f"{name}.launch.yaml"):
        if candidate.is_file():
            return candidate
    raise ConfigError.asked("launch file", name, sorted(p.name.removesuffix(".launch.yaml") for p in folder.glob("*.launch.yaml")))


def labels(plan: Plan) -> list[str]:
    """One name a node, unique in the table."""
    counts: dict[str, int] = {}
    names = []
    for node in plan.nodes:
        base = f"{node.namespace}/{node.label}".strip("/")
        counts[base] = counts.get(base, 0) + 1
        names.append(base if counts[base] == 1 else f"{base}#{counts[base]}")
    return names


def print_arguments(path: Path) -> None:
    """The arguments of a launch file as `ros2 launch --show-args` lists them."""
    declared = read_arguments(path)
    if not declared:
        print(f"{path.name} takes no arguments")
    for argument in declared:
        print(f"    '{argument.name}':" + (f" one of {', '.join(argument.choices)}" if argument.choices else ""))
        print(f"        {argument.description or 'no description given'}")
        print("        (required)" if argument.default is None else f"        (default: '{argument.default}')")
