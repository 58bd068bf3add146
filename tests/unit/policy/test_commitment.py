import numpy as np
import pytest

from internvla_a1.core.clock import nanoseconds
from internvla_a1.core.types import ActionChunk
from internvla_a1.policy.commitment import Commitments

DT = 0.1


def chunk(stamp_s, chunk_id, steps=10, offset=0.0):
    """Joint value = time of the step, s, so that the right rows are easy to tell."""
    times = stamp_s + DT * (np.arange(steps) + 1)
    return ActionChunk(nanoseconds(stamp_s), chunk_id, ("j",), DT, (times + offset)[:, None])


def test_committed_rows_are_the_old_plan_on_the_new_chunks_grid():
    c = Commitments(margin_s=0.0)
    c.sent(chunk(10.0, 1), nanoseconds(10.25))
    c.executing(1)
    got = c.steps(nanoseconds(10.35), DT)
    np.testing.assert_allclose(got.positions[:, 0], 10.35 + DT * np.arange(1, 7))
    assert got.frozen == 2, "a delay of 0.25 s covers two whole steps"


@pytest.mark.parametrize("delay_s, frozen", [(0.0, 0), (0.04, 0), (0.06, 1), (0.1, 1), (0.15, 1), (0.16, 2), (0.24, 2), (0.26, 3)])
def test_a_step_less_than_half_a_step_after_the_takeover_is_committed_too(delay_s, frozen):
    c = Commitments(margin_s=0.0)
    c.sent(chunk(10.0, 1), nanoseconds(10.0 + delay_s))
    c.executing(1)
    assert c.steps(nanoseconds(10.1), DT).frozen == frozen


@pytest.mark.parametrize(
    "fade_s, delay_s, shown", [(0.0, 0.0, 1), (0.0, 0.1, 1), (0.0, 0.11, 2), (0.05, 0.04, 1), (0.05, 0.06, 2), (0, 9, 9)]
)
def test_a_prefix_reaches_to_the_step_after_the_fade_and_is_never_empty(fade_s, delay_s, shown):
    c = Commitments(margin_s=0.0, fade_s=fade_s)
    c.sent(chunk(10.0, 1), nanoseconds(10.0 + delay_s))
    c.executing(1)
    assert c.steps(nanoseconds(10.1), DT).shown == shown


def test_the_delay_expected_is_the_longest_of_the_last_ten_and_the_margin():
    c = Commitments(margin_s=0.02)
    for k in range(12):
        c.sent(chunk(k, k), nanoseconds(k + (0.9 if k == 0 else 0.3 if k == 5 else 0.1)))
    assert c.delay_s == pytest.approx(0.32)


def test_nothing_is_committed_before_the_executor_follows_a_chunk_or_after_its_end():
    c = Commitments()
    c.sent(chunk(10.0, 1), nanoseconds(10.1))
    assert c.steps(nanoseconds(10.2), DT) is None
    c.executing(1)
    assert c.steps(nanoseconds(10.2), DT) is not None
    assert c.steps(nanoseconds(10.95), DT) is None
    c.executing(77)
    assert c.steps(nanoseconds(10.2), DT) is None


def test_a_chunk_sent_since_the_last_report_counts_as_followed_and_a_refused_one_does_not():
    c = Commitments()
    c.sent(chunk(10.0, 1), nanoseconds(10.1))
    c.executing(1)
    c.sent(chunk(10.2, 2, offset=5.0), nanoseconds(10.3))
    assert c.steps(nanoseconds(10.4), DT).positions[0, 0] == pytest.approx(15.5)
    c.executing(1)
    assert c.steps(nanoseconds(10.4), DT).positions[0, 0] == pytest.approx(10.5)


def test_after_clear_nothing_is_committed():
    c = Commitments()
    c.sent(chunk(10.0, 1), nanoseconds(10.1))
    c.executing(1)
    c.clear()
    assert c.steps(nanoseconds(10.2), DT) is None


def reported(*at, off=0.0, gripper=False):
    """Of chunk 1, whose joint is at the time of day: the arm was told to be `off` from it at these instants."""
    c = Commitments(margin_s=0.0, gripper=gripper)
    c.sent(chunk(10.0, 1), nanoseconds(10.1))
    for t, o in zip(at, np.broadcast_to(off, len(at)), strict=True):
        c.executing(1, t - 10.0, np.array([t + o]))
    return c


def test_an_arm_that_is_off_its_chunk_is_committed_to_come_back_to_it():
    got = reported(10.2, 10.25, off=-0.3).steps(nanoseconds(10.3), DT)
    off = got.positions[:, 0] - (10.3 + DT * np.arange(1, 8))
    assert off[0] == pytest.approx(-0.25, abs=0.07) and (np.diff(off) >= 0).all()
    assert abs(off[4:]).max() < 1e-3, "half a second after the report it is back"


def test_a_report_of_the_chunk_before_tells_where_the_new_one_finds_the_arm():
    c = reported(10.2, 10.25)
    c.sent(chunk(10.2, 2, offset=0.2), nanoseconds(10.3))
    c.executing(1, 0.3, np.array([10.3]))
    c.executing(2, 0.15, np.array([10.35]))
    got = c.steps(nanoseconds(10.35), DT).positions[:, 0]
    assert got[0] < 10.45 + 0.19 and got[-1] == pytest.approx(10.35 + 0.2 + DT * len(got))


def test_an_arm_that_is_held_is_committed_to_nothing_until_it_moves_again():
    c = reported(10.2, 10.25, off=(0.0, -0.05 - 0.02))
    c.executing(1, 0.3, np.array([10.18]))
    assert c.steps(nanoseconds(10.3), DT) is None
    c.executing(1, 0.35, np.array([10.2]))
    assert c.steps(nanoseconds(10.4), DT) is not None


def test_an_arm_at_rest_where_its_chunk_is_follows_it():
    c = Commitments(margin_s=0.0)
    still = ActionChunk(nanoseconds(10.0), 1, ("j",), DT, np.full((10, 1), 0.7))
    c.sent(still, nanoseconds(10.1))
    for age in (0.2, 0.25):
        c.executing(1, age, np.array([0.7]))
    np.testing.assert_array_equal(c.steps(nanoseconds(10.3), DT).positions, np.full((7, 1), 0.7))


def test_a_gripper_is_always_off_and_holds_nothing_up():
    got = reported(10.2, 10.25, off=(-0.2, -0.25), gripper=np.array([True])).steps(nanoseconds(10.3), DT)
    np.testing.assert_allclose(got.positions[:, 0], 10.3 + DT * np.arange(1, 8))


def test_a_report_without_positions_or_of_another_robot_means_that_the_chunk_is_followed():
    for told in (None, np.zeros(0), np.zeros(3)):
        c = reported(10.2, 10.25, off=-0.3)
        c.executing(1, 0.3, told)
        np.testing.assert_allclose(c.steps(nanoseconds(10.3), DT).positions[0, 0], 10.4)


def test_an_old_report_says_nothing_of_the_arm_now():
    c = reported(10.2, 10.25, off=(0.0, -0.05 - 0.02))
    c.executing(1, 0.3, np.array([10.18]))
    np.testing.assert_allclose(c.steps(nanoseconds(10.81), DT).positions[:, 0], [10.91])


def test_a_report_from_before_the_first_step_of_a_chunk_is_not_held_against_it():
    got = reported(10.03, 10.06, off=-0.02).steps(nanoseconds(10.1), DT)
    np.testing.assert_allclose(got.positions[:, 0], 10.1 + DT * np.arange(1, 10))
