"""The policy node around a small policy whose mood is its instruction: 'sweep', 'slow', 'fail', 'nan'. Run as a process."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from samples import CAMERAS, ROBOT, chunk, picture

from internvla_a1.core.clock import nanoseconds, seconds
from internvla_a1.core.types import Foresight
from internvla_a1.nodes.policy import PolicyNode
from internvla_a1.policy.protocol import PolicyRequest, PolicyResult
from internvla_a1.ros.run import run_node


class MoodyPolicy:
    """The chunk tells what the policy was asked: last row, joint 0: age of the past, s; joint 1: resets; first rows: what is frozen."""

    robot, history_s, horizon_s, needs_scene = ROBOT, 0.5, 0.5, False

    def __init__(self) -> None:
        self.resets = 0

    def infer(self, request: PolicyRequest) -> PolicyResult:
        if "slow" in request.instruction:
            time.sleep(0.5)
        if "fail" in request.instruction:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        seen = request.observation
        plan = chunk(seen.stamp_ns, request.chunk_id)
        rows, frozen = plan.positions.copy(), 0
        if request.committed is not None:
            frozen = min(request.committed.frozen, len(request.committed.positions))
            rows[:frozen] = request.committed.positions[:frozen]
        rows[-1, :2] = seconds(seen.stamp_ns - request.past.stamp_ns), self.resets
        future = Foresight(seen.stamp_ns, request.chunk_id, self.horizon_s, CAMERAS, np.full((3, 4, 2, 2), 0.5, np.float32))
        return PolicyResult(replace(plan, positions=rows, frozen_steps=frozen), future)

    def decode(self, foresight: Foresight) -> Foresight:
        ahead = picture(foresight.stamp_ns + nanoseconds(foresight.horizon_s))
        return replace(foresight, images=dict.fromkeys(foresight.cameras, ahead))

    def reset(self) -> None:
        self.resets += 1


def make(kind: str, robot: Any, **options: Any) -> MoodyPolicy:
    return MoodyPolicy()


if __name__ == "__main__":
    sys.exit(run_node(lambda: PolicyNode(make)))
