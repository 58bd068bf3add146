"""`internvla-a1 record`: demonstrations of the scripted expert in the simulated cell, as a LeRobot v3.0 folder."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.data.recorder import Plan, record
from internvla_a1.train.demonstrations import DemoBuild, DemoOptions, demo_features
from internvla_a1.train.progress import counting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--source", choices=("sim",), default="sim", help="the simulated cell (for robots: recorder node, then `convert`)")
    parser.add_argument("--episodes", type=int, required=True, help="how many good demonstrations")
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set; an interrupted recording goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--size", type=int, default=DemoOptions().image_size, help="pictures of SIZE x SIZE pixels")
    parser.add_argument("--speed", type=float, nargs=2, default=(0.0, 0.25), metavar=("LOW", "HIGH"), help="belt, m/s")
    parser.add_argument("--randomise", type=float, default=1.0, help="strength of light, colour and camera variation, 0 to 1")
    parser.add_argument("--undisturbed", action="store_true", help="no pushes off the path: for measuring, rather than for training")
    parser.add_argument("--store", choices=("image", "video"), default="image", help="lossless pictures or H.264")
    parser.add_argument("--robot", default="config/robots/demo_arm.yaml")
    parser.add_argument("--dagger", type=Path, default=None, metavar="WEIGHTS", help="this policy drives first, the expert finishes")


def run(args: argparse.Namespace) -> int:
    """Record; 0 when the data set is complete."""
    if args.episodes < 1 or args.processes < 1:
        raise ConfigError("--episodes and --processes must be at least 1")
    options = DemoOptions(seed=args.seed, image_size=args.size, speed=tuple(args.speed), randomise=args.randomise)
    if args.undisturbed:
        options = replace(options, pulse_rates=(0.0,))
    record_demonstrations(args.out, args.episodes, options, args.processes, args.store == "video", args.robot, args.dagger)
    return 0


def record_demonstrations(
    out: Path, episodes: int, options: DemoOptions, processes: int, video: bool, robot_file: str, dagger: Path | None = None
) -> Path:
    """The command as a function, for the pipeline. One compute thread a process: the processes are the parallelism."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    robot = load_robot(find(robot_file))
    leader = None
    named = options.to_dict()
    if dagger is not None:
        from internvla_a1.eval.leading import LeaderBuild

        leader = LeaderBuild(str(dagger), robot_file)
        named["dagger"] = leader.fingerprint()
    features, fps = demo_features(robot, options, video, dagger is not None), round(1 / robot.control_dt_s, 6)
    plan = Plan(out, episodes, DemoBuild(options, leader), named, features, fps, robot.embodiment, video)
    with counting(f"recording {out.name}", episodes) as report:
        return record(plan, processes, report)
