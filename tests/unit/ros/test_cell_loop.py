"""The cell against the wall clock, without ROS."""

import time
from collections import Counter
from types import SimpleNamespace

from internvla_a1.nodes.cell_loop import CellLoop

PERIOD_S = 0.004


class SlowOnce:
    """A cell of which one step takes 40 ms, as on a machine that does something else."""

    def __init__(self):
        self.config = SimpleNamespace(physics=SimpleNamespace(control_period_s=PERIOD_S))
        self.stamp_ns, self.began = 0, []

    def advance(self, period):
        self.began.append(time.monotonic())
        self.stamp_ns += round(period * 1e9)
        if len(self.began) == 20:
            time.sleep(0.04)


def test_time_that_was_lost_is_caught_up_no_faster_than_a_command_can_follow():
    cell = SlowOnce()
    loop = CellLoop(cell, 1.0, False, Counter())
    loop.start()
    time.sleep(0.5)
    loop.stop()
    began = cell.began
    assert len(began) > 60
    for i in range(20, len(began)):
        since = began[i] - began[20]
        assert i - 20 <= since / (PERIOD_S / 2.0) + 1, "a burst of steps"
