"""`internvla-a1`: one command; each subcommand is a module with add_arguments(parser) and run(args) -> exit code."""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import internvla_a1
from internvla_a1.core.errors import InternVLAError


@dataclass(frozen=True)
class Subcommand:
    """words: what the user types. The module is imported only when it is asked for."""

    words: tuple[str, ...]
    module: str
    help: str


SUBCOMMANDS = (
    Subcommand(("demo",), "internvla_a1.demo.command", "sort parcels from a moving belt, then write a report"),
    Subcommand(("up",), "internvla_a1.launcher.up", "run a launch file: up FILE name:=value ..."),
    Subcommand(("doctor",), "internvla_a1.doctor", "what of this environment works"),
    Subcommand(("weights",), "internvla_a1.model.checkpoint.cli", "fetch, convert and check model weights"),
    Subcommand(("record",), "internvla_a1.train.record_cli", "record demonstrations of the scripted expert, without ROS"),
    Subcommand(("convert",), "internvla_a1.data.convert_cli", "turn recordings of the recorder node into a data set"),
    Subcommand(("train",), "internvla_a1.train.cli", "train the model, the image tokenizer, or fine-tune"),
    Subcommand(("eval",), "internvla_a1.eval.cli", "score a policy, in closed loop without ROS or against recorded actions"),
    Subcommand(("study",), "internvla_a1.train.study", "train and score arms of the model side by side: what foresight brings"),
    Subcommand(("verify", "vectors"), "internvla_a1.model.verify", "compare the model with the golden vectors"),
    Subcommand(("bench", "model"), "internvla_a1.eval.bench_model", "time the model on this machine"),
    Subcommand(("bench", "load"), "internvla_a1.eval.bench_load", "time the loading of full-size weights, and its memory"),
    Subcommand(("bench", "policy"), "internvla_a1.eval.bench_policy", "time a policy, from pictures to a chunk"),
    Subcommand(("bench", "safety"), "internvla_a1.eval.bench_safety", "measure the fault table: promised beside measured"),
    Subcommand(("bench", "collision"), "internvla_a1.eval.bench_collision", "the collision gate on a dual arm, judged by MuJoCo"),
    Subcommand(("bench", "latency"), "internvla_a1.demo.latency_bench", "time a picture's way to the arm, count what arrives"),
    Subcommand(("bench", "soak"), "internvla_a1.trials.soak", "the conveyor demo for half an hour with a random fault every 5 to 15 s"),
    Subcommand(("bench", "faults"), "internvla_a1.trials.faults", "the fault table on real processes: promised beside measured"),
    Subcommand(("bench", "kills"), "internvla_a1.trials.kills", "kill each node in the middle of a pick"),
)


def available() -> list[Subcommand]:
    """The subcommands whose modules are installed."""
    return [c for c in SUBCOMMANDS if _exists(c.module)]


def _exists(module: str) -> bool:
    """Looks at files only: find_spec would import the parent packages, and with them torch."""
    path = Path(internvla_a1.__file__).parent.joinpath(*module.split(".")[1:])
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def parse(argv: list[str]) -> tuple[Subcommand, argparse.Namespace]:
    """The subcommand and its arguments; only its module is imported."""
    commands = available()
    parser = argparse.ArgumentParser(prog="internvla-a1", description="InternVLA-A1 on ROS 2")
    level = parser.add_subparsers(metavar="COMMAND", required=True)
    groups: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}
    for command in commands:
        holder = level
        if len(command.words) == 2:
            first = command.words[0]
            if first not in groups:
                members = [c.words[1] for c in commands if c.words[0] == first]
                group = level.add_parser(first, help=f"{first} {' | '.join(members)}")
                groups[first] = group.add_subparsers(metavar="WHAT", required=True)
            holder = groups[first]
        sub = holder.add_parser(command.words[-1], help=command.help, description=command.help)
        sub.set_defaults(subcommand=command)
        if tuple(argv[: len(command.words)]) == command.words:
            importlib.import_module(command.module).add_arguments(sub)
    args = parser.parse_args(argv)
    return args.subcommand, args


def main() -> int:
    try:
        command, args = parse(sys.argv[1:])
        return int(importlib.import_module(command.module).run(args))
    except InternVLAError as error:
        print(f"internvla-a1: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
