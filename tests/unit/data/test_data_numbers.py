"""Statistics, relative actions and mixtures: arithmetic that a plain computation must confirm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvla_a1.core.errors import ConfigError, DataError
from internvla_a1.data.mixture import Mixture, share_of
from internvla_a1.data.statistics import RunningStatistics, chunk_statistics, image_statistics, relative_actions


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_statistics_in_pieces_equal_statistics_at_once(pieces, seed):
    x = np.random.default_rng(seed).normal(3.0, 2.0, (sum(pieces), 4))
    running, merged = RunningStatistics(), RunningStatistics()
    for part in np.split(x, np.cumsum(pieces)[:-1]):
        running.add(part)
        other = RunningStatistics()
        other.add(part)
        merged.merge(RunningStatistics.from_json(other.to_json()))
    for result in (running.to_json(), merged.to_json()):
        assert result["count"] == [len(x)]
        for name, expected in (("mean", x.mean(0)), ("std", x.std(0)), ("min", x.min(0)), ("max", x.max(0))):
            assert result[name] == pytest.approx(expected, abs=1e-9)


def test_a_nan_is_refused_and_nothing_gives_no_statistics():
    with pytest.raises(DataError, match="NaN"):
        RunningStatistics().add(np.array([[np.nan]]))
    with pytest.raises(DataError, match="no frame"):
        RunningStatistics().to_json()


def test_image_statistics_have_one_number_a_channel():
    frames = np.zeros((5, 4, 4, 3), np.uint8)
    frames[..., 2] = 255
    stats = image_statistics(frames).to_json()
    assert np.shape(stats["mean"]) == (3, 1, 1)
    assert np.ravel(stats["max"]).tolist() == [0.0, 0.0, 1.0]


def test_relative_actions_leave_the_gripper_and_the_input_alone():
    actions = np.ones((2, 3), np.float32)
    result = relative_actions(actions, np.array([0.25, 0.5, 9.0], np.float32), np.array([True, True, False]))
    assert result.tolist() == [[0.75, 0.5, 1.0]] * 2
    assert (actions == 1).all()


def test_chunk_statistics_equal_those_of_all_chunks_written_out():
    rng = np.random.default_rng(0)
    episodes = [(rng.normal(size=(n, 3)), rng.normal(size=(n, 3))) for n in (6, 2)]
    mask = np.array([True, False, True])
    horizon = 4
    written = [[] for _ in range(horizon)]
    for state, actions in episodes:
        for t in range(len(actions)):
            for k in range(horizon):
                if t + k < len(actions):
                    written[k].append(actions[t + k] - np.where(mask, state[t], 0))
    flat = np.concatenate([np.array(w) for w in written])
    total = chunk_statistics(episodes, horizon, mask).to_json()
    assert total["mean"] == pytest.approx(flat.mean(0)) and total["std"] == pytest.approx(flat.std(0))
    steps = chunk_statistics(episodes, horizon, mask, per_step=True).to_json()
    assert np.array(steps["mean"]) == pytest.approx(np.array([np.mean(w, 0) for w in written]))
    assert np.array(steps["std"]) == pytest.approx(np.array([np.std(w, 0) for w in written]))


def test_a_mixture_keeps_its_shares_and_repeats_itself():
    mixture = Mixture((10, 1000), weights=(3.0, 1.0), seed=4)
    drawn = [pair for n in range(200) for pair in mixture.batch(n, 32)]
    assert np.mean([s == 0 for s, _ in drawn]) == pytest.approx(0.75, abs=0.02)
    assert all(i < (10, 1000)[s] for s, i in drawn)
    assert mixture.batch(17, 32) == Mixture((10, 1000), (3.0, 1.0), 4).batch(17, 32) != mixture.batch(18, 32)


def test_the_processes_of_a_run_share_one_batch_without_overlap():
    batch = Mixture((50,)).batch(0, 8)
    assert [*share_of(0, 2, batch), *share_of(1, 2, batch)] == batch
    with pytest.raises(ConfigError, match="does not divide"):
        share_of(0, 3, batch)


@pytest.mark.parametrize("weights", [(1.0,), (0.0, 0.0), (1.0, -1.0)])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ConfigError, match="weights"):
        Mixture((1, 1), weights)
