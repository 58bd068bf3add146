"""The conveyor cell with the scripted expert, on a ROS domain of its own, and an observer beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.demo.domain import DomainLease
from internvla_a1.demo.stack import Stack
from internvla_a1.trials.observer import Observer


@contextmanager
def running_cell(belt_speed: float, seed: int, out: Path) -> Iterator[tuple[Observer, Stack]]:
    """belt_speed: m/s. out: folder of nodes.log. Everything is stopped on the way out, whatever happens."""
    with ExitStack() as closing:
        lease = DomainLease()
        closing.callback(lease.close)
        observer = Observer(lease.domain, load_robot(find("config/robots/demo_arm.yaml")))
        closing.callback(observer.close)
        arguments = {"policy": "expert", "belt_speed": f"{belt_speed}", "seed": f"{seed}"}
        stack = Stack("conveyor_sorting", arguments, lease.domain, out / "nodes.log")
        closing.callback(stack.close)
        yield observer, stack
