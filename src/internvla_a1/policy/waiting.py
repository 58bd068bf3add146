"""What the arm does while there is nothing to do: it ends the plan it is in and stays there."""

from __future__ import annotations

import math

import numpy as np

from internvla_a1.core.types import ActionChunk, Observation
from internvla_a1.policy.protocol import Committed

LENGTH_S = 1.0


def wait_chunk(seen: Observation, committed: Committed | None, dt_s: float, chunk_id: int) -> ActionChunk:
    """A chunk that follows the committed steps and then rests on the last, or rests where the arm is if nothing is committed.

    Resting on the plan and not on the measured positions keeps a gripper closed that holds something.
    """
    rows = seen.positions[None] if committed is None else committed.positions
    steps = max(len(rows), math.ceil(LENGTH_S / dt_s))
    positions = rows[np.minimum(np.arange(steps), len(rows) - 1)]
    frozen = 0 if committed is None else min(committed.frozen, steps)
    return ActionChunk(seen.stamp_ns, chunk_id, seen.joint_names, dt_s, positions, frozen_steps=frozen)
