"""`internvla-a1 bench policy`: what a whole `NetworkPolicy.infer` takes, pictures and words to a chunk in robot units.

Made-up pictures; every chunk after the first follows the one before, as in a running robot: with real-time chunking its first steps are
given, which takes a gradient at every denoising step.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.policy.network import NetworkPolicy
from internvla_a1.policy.protocol import Committed, PolicyRequest
from internvla_a1.policy.warming import TASK, MadeUpCameras

WARM_UP = 3
FROZEN = 2  # steps of the chunk before that will have run when the new one arrives


def measure(policy: NetworkPolicy, cameras: MadeUpCameras, runs: int, task: str, chunked: bool, remembered: bool) -> list[float]:
    """Seconds of every inference. chunked: with real-time chunking. remembered: the past frame's latents are at hand."""
    policy.reset()
    seconds: list[float] = []
    past, committed, now = cameras.at(10.0), None, 10.0
    for i in range(WARM_UP + runs):
        now += policy.history_s
        seen = cameras.at(now)
        request = PolicyRequest(seen, past, task, i, committed, seed=i)
        start = time.perf_counter()
        chunk = policy.infer(request).chunk
        seconds.append(time.perf_counter() - start)
        past = seen if remembered else cameras.at(now + 0.01)
        committed = Committed(chunk.positions[1:], FROZEN) if chunked else None
    return seconds[WARM_UP:]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", default="model_weights/tiny")
    parser.add_argument("--robot", default="config/robots/demo_arm.yaml")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "int8"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--size", type=int, default=128, help="pixels of the pictures")
    parser.add_argument("--task", default=TASK)


def run(args: argparse.Namespace) -> int:
    """Measure every combination and print milliseconds."""
    if args.runs < 1 or args.size < 16:
        raise ConfigError("--runs must be at least 1, --size at least 16")
    robot = load_robot(find(args.robot))
    policy = NetworkPolicy(robot, find(args.weights), dtype=args.dtype, threads=args.threads)
    cameras = MadeUpCameras(robot, args.size)
    print(f"{'':<46} {'median':>9} {'95 %':>9} {'worst':>9}  ms, {args.threads} threads, {args.runs} chunks")
    for chunked in (False, True):
        for remembered in (True, False):
            times = sorted(measure(policy, cameras, args.runs, args.task, chunked, remembered))
            name = ("with" if chunked else "without") + " chunking, past " + ("at hand" if remembered else "to be encoded")
            p95 = times[min(len(times) - 1, int(0.95 * len(times)))]
            print(f"{name:<46} {1e3 * median(times):>9.1f} {1e3 * p95:>9.1f} {1e3 * times[-1]:>9.1f}")
    return 0
