"""The demo's cell runs in real time only where the machine keeps up with it."""

from __future__ import annotations

import pytest

from internvla_a1.demo.pace import SLOWEST, Pacer


def run(picture_ms: float, command_ms: float, stretches: int = 10) -> Pacer:
    """A machine on which work queues as it is asked to do more in a second."""
    pacer = Pacer()
    for _ in range(stretches):
        pacer.judge({"observation": [picture_ms * pacer.pace] * 30, "whole": [command_ms * pacer.pace] * 12})
    return pacer


def test_a_machine_that_keeps_up_runs_in_real_time() -> None:
    assert run(picture_ms=30.0, command_ms=120.0).pace == 1.0


@pytest.mark.parametrize(("picture_ms", "command_ms"), [(120.0, 100.0), (30.0, 420.0)])
def test_late_pictures_or_commands_slow_the_cell_down_until_they_are_in_time(picture_ms: float, command_ms: float) -> None:
    assert run(picture_ms, command_ms).pace == 0.64


def test_a_hopeless_machine_ends_at_the_slowest_pace() -> None:
    assert run(picture_ms=5000.0, command_ms=5000.0).pace == SLOWEST


def test_a_few_samples_are_no_judgement() -> None:
    pacer = Pacer()
    assert pacer.judge({"observation": [900.0] * 3}) is None
    assert pacer.judge({}) is None


def test_single_late_pictures_do_not_count() -> None:
    assert Pacer().judge({"observation": [25.0] * 28 + [400.0, 300.0]}) is None
