"""The cell against the wall clock, without ROS."""

import time
from collections import Counter
from types import SimpleNamespace

from internvla_a1.nodes.cell_loop import CellLoop, Schedule

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


def test_what_is_put_off_is_due_at_the_next_call_and_the_grid_stays():
    schedule = Schedule(10.0)
    ms = 1_000_000
    assert schedule.due(0)
    assert not schedule.due(96 * ms)
    assert schedule.due(100 * ms)
    schedule.put_off()
    assert schedule.due(104 * ms)
    assert not schedule.due(108 * ms)
    assert schedule.due(200 * ms)
    schedule.put_off()
    assert schedule.due(304 * ms)  # the one put off and the next are one
    assert not schedule.due(308 * ms)
    assert schedule.due(400 * ms)
