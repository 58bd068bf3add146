"""How trials become figures; the trials themselves need the running stack."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest

from internvla_a1.core.errors import ConfigError
from internvla_a1.trials.faults import _chosen, _figure, _groups, _over_all, _read
from internvla_a1.trials.observer import Measured, Told
from internvla_a1.trials.system import FIGURES, Bench, Trial


def figure(name):
    return next(f for f in FIGURES if f.name == name)


def test_a_promise_for_99_of_100_may_be_missed_once_in_200_and_one_for_all_never():
    good, bad = Trial(0.03, 0.05), Trial(0.2, 0.05)
    assert _figure(figure("takeover"), [good] * 199 + [bad]).ok
    assert not _figure(figure("takeover"), [good] * 195 + [bad] * 5).ok
    assert not _figure(figure("executor_killed"), [good] * 199 + [bad]).ok
    assert not figure("executor_killed").ok([])
    assert not _figure(figure("policy_stopped"), [Trial(float("inf"), 0.5)]).ok  # it moved again without being asked


def test_the_worst_trial_is_the_one_furthest_beyond_what_it_was_allowed():
    shown = _figure(figure("policy_killed"), [Trial(0.7, 0.9), Trial(0.65, 0.6)])
    assert shown.measured.startswith("1 of 2, worst 0.65 of 0.6") and not shown.ok


def test_a_run_goes_on_from_the_whole_lines_of_the_one_before(tmp_path):
    path = tmp_path / "trials.jsonl"
    assert _read(path) == []
    path.write_text(json.dumps({"figure": "takeover", "measured": 0.01, "allowed": 0.05}) + "\n" + '{"figure": "take')
    assert _read(path) == [("takeover", Trial(0.01, 0.05))]


def test_rows_are_chosen_by_number_and_a_row_without_a_system_figure_is_named():
    assert {f.row for f in _chosen("13,16")} == {13, 16} and _chosen("") == list(FIGURES)
    with pytest.raises(ConfigError, match="26"):
        _chosen("26")
    with pytest.raises(ConfigError, match="numbers"):
        _chosen("all")


def test_how_soon_the_executor_is_back_is_measured_on_the_kill_before_it():
    groups = _groups(FIGURES)
    assert [f.name for g in groups if len(g) > 1 for f in g] == ["executor_killed", "executor_back"]
    assert sum(len(g) for g in groups) == len(FIGURES)


def test_what_the_simulator_logged_counts_over_every_run():
    done = [("violations", Trial(0, 0)), ("acceleration_share", Trial(0.9, 1.05))]
    assert all(f.ok for f in _over_all(done))
    assert not _over_all([*done, ("violations", Trial(1, 0))])[0].ok
    assert not _over_all([*done, ("acceleration_share", Trial(1.1, 1.05))])[1].ok


def test_an_arm_that_a_parcel_pushes_was_told_nothing_and_a_gripper_does_not_count():
    robot = SimpleNamespace(gripper_mask=np.array([False, True]))
    measured = [Measured(t, 0, np.array([0.01 * t, t]), np.zeros(2)) for t in (1.0, 2.0, 3.0)]
    bench = Bench(SimpleNamespace(robot=robot, measured=measured, told=[Told(1.5, None)]), None, None)
    assert bench.drift(0.5) == pytest.approx(0.02) and bench.drift(1.5) == pytest.approx(0.01)
    assert (bench.told(1.0), bench.told(2.0)) == (1, 0)


def watched(speeds, told):
    """A bench that has watched one joint of these speeds at 100 Hz, after which the arm was still; told: when segments were heard, s."""
    robot, since = SimpleNamespace(gripper_mask=np.array([False])), time.monotonic() - 3.0
    speeds = np.array([*speeds, *[0.0] * (300 - len(speeds))])
    places = np.cumsum(speeds) * 0.01
    measured = [Measured(since + 0.01 * (i + 1), 0, places[i : i + 1], speeds[i : i + 1]) for i in range(300)]
    way = SimpleNamespace(positions=np.array([[0.0], [0.1]]))
    seen = SimpleNamespace(robot=robot, measured=measured, told=[Told(since + t, way) for t in told])
    return Bench(seen, None, None).rest(since)[0]


def test_an_arm_is_at_rest_before_a_parcel_pushes_it_but_not_before_what_it_was_told():
    braked, pushed = [1.0] * 30, [0.0] * 10 + [0.03] * 15
    assert watched(braked, [0.2]) == pytest.approx(0.30)
    assert watched(braked + pushed, [0.2]) == pytest.approx(0.30)
    assert watched(braked + pushed, [0.2, 0.42]) == pytest.approx(0.55)  # it was told to
    assert watched(braked + [0.0] * 10 + [0.5] * 15, [0.2]) == float("inf")  # no parcel gets it that far
    assert watched([], []) == 0.0
