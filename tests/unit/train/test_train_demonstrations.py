"""Demonstrations from the cell: repeatable, clean labels, instructions that belong to what happens."""

from dataclasses import replace

import numpy as np
import pytest

from internvla_a1.core.scene import parse_order
from internvla_a1.core.types import ActionChunk
from internvla_a1.sim.expert import Expert
from internvla_a1.sim.runner import to_trajectory
from internvla_a1.train.demonstrations import ACTION_KEY, LABEL_KEY, PLAN_KEY, STATE_KEY, TARGET_KEY, Demonstrator, DemoOptions

OPTIONS = DemoOptions(seed=3, image_size=32, speed=(0.06, 0.12), still_share=0.0, wide_share=1.0, pulse_rates=(0.06,), reorder_share=0.0)


@pytest.fixture(scope="module")
def demonstrator():
    return Demonstrator(OPTIONS)


@pytest.fixture(scope="module")
def attempt(demonstrator):
    for number in range(6):
        episode = demonstrator(number)
        if episode is not None:
            return number, episode
    raise AssertionError("six attempts in a row failed")


def test_an_attempt_depends_on_its_number_only(demonstrator, attempt):
    number, episode = attempt
    demonstrator(number + 1)
    again = demonstrator(number)
    for key in episode.columns:
        assert (episode.columns[key] == again.columns[key]).all(), key
    for key in episode.cameras:
        assert (episode.cameras[key] == again.cameras[key]).all(), key
    assert episode.tasks == again.tasks


def test_a_slow_share_holds_the_belt_back(demonstrator, monkeypatch):
    starts = []

    def reset(_, start):
        starts.append(start)
        raise InterruptedError  # how it starts is all that is asked

    monkeypatch.setattr(demonstrator.cell, "reset", reset)
    for options in (OPTIONS, replace(OPTIONS, slow_share=1.0)):
        monkeypatch.setattr(demonstrator, "options", options)
        for number in range(20):
            with pytest.raises(InterruptedError):
                demonstrator(number)
    usual, slow = [s.belt_speed for s in starts[:20]], [s.belt_speed for s in starts[20:]]
    assert min(usual) >= 0.06 > max(slow) and len(set(slow)) == 20


def test_a_demonstration_has_every_view_and_follows_one_instruction(attempt):
    _, episode = attempt
    episode.check()
    assert set(episode.cameras) == {f"observation.images.{c}" for c in ("overhead", "side", "wrist")}
    assert len(set(episode.tasks)) == 1 and parse_order(episode.tasks[0])
    assert episode.columns[LABEL_KEY].min() == 1.0


def test_the_arm_reaches_what_the_labels_ask_for_and_lifts_the_parcel(attempt):
    _, episode = attempt
    state, action = episode.columns[STATE_KEY], episode.columns[ACTION_KEY]
    error = np.abs(state[1:, :6] - action[:-1, :6]).max(1)
    assert np.median(error) < 0.05  # pulses push it away for a few frames, not for most
    height = episode.columns[TARGET_KEY][:, 2]
    assert height.max() > height[0] + 0.05


class Holds:
    """A leader that stays where it is, remembering what it was begun with."""

    def __init__(self):
        self.begun = []

    def begin(self, cell, rng, delay_s, executor):
        self.begun.append((delay_s, executor))
        return lambda: cell.advance(cell.robot.control_dt_s)


def test_of_frames_before_a_take_over_the_expert_says_what_it_would_do():
    led = Demonstrator(replace(OPTIONS, takeover_s=(0.5, 0.5)), Holds())
    episode = next(e for e in (led(n) for n in range(6)) if e is not None)
    plans = episode.columns[PLAN_KEY].reshape(-1, OPTIONS.plan_steps, 7)
    planned = plans.any((1, 2))
    lead = int(planned.sum())
    assert 7 <= lead <= 9 and planned[:lead].all() and (episode.columns[LABEL_KEY] == 1).all()
    state = episode.columns[STATE_KEY]
    assert np.abs(plans[:lead, 0, :6] - state[:lead, :6]).max() < 0.1 < np.abs(plans[0, -1, :6] - state[0, :6]).max()
    assert np.abs(np.diff(plans[:lead], axis=1)).max() < 0.25
    np.testing.assert_allclose(plans[lead - 1, :3], episode.columns[ACTION_KEY][lead : lead + 3], atol=0.02)  # and does when it takes over


def test_what_a_leader_brings_to_its_end_is_kept_good_or_bad():
    class Ends(Holds):
        def __init__(self, what):
            super().__init__()
            self.what = what

        def begin(self, cell, rng, delay_s, executor):
            def move():
                cell.advance(cell.robot.control_dt_s)
                setattr(cell.score, self.what, int(cell.time_s > 0.4))

            return move

    for what in ("sorted_correct", "missed"):
        episode = Demonstrator(replace(OPTIONS, orders=1, takeover_s=(1.0, 1.0)), Ends(what))(0)
        assert 6 <= len(episode.tasks) <= 8 and episode.columns[PLAN_KEY].any(1).all()


class Turns(Holds):
    """A leader that turns the base by 0.02 rad a period."""

    def begin(self, cell, rng, delay_s, executor):
        _, start, _, _ = cell.joint_state()
        self.told = [start]
        turn = np.eye(len(start))[0] * 0.02

        def move():
            self.told.append(self.told[-1] + turn)
            positions = self.told[-1] + np.arange(4)[:, None] * turn
            chunk = ActionChunk(cell.stamp_ns, len(self.told), cell.robot.joint_names, cell.robot.control_dt_s, positions)
            cell.controller.accept(to_trajectory(chunk), cell.time_s)
            cell.advance(cell.robot.control_dt_s)

        return move


def test_frames_before_a_take_over_hold_what_the_arm_was_told():
    leader = Turns()
    led = Demonstrator(replace(OPTIONS, takeover_s=(0.5, 0.5)), leader)
    episode = next(e for e in (led(n) for n in range(6)) if e is not None)
    lead = int(episode.columns[PLAN_KEY].any(1).sum())
    assert lead >= 7
    np.testing.assert_allclose(episode.columns[ACTION_KEY][:lead], np.array(leader.told)[-lead:], atol=1e-3)


@pytest.mark.parametrize(("options", "leader"), [({"pulse_rates": (0.0,)}, Turns()), ({"pulse_rates": (0.3,)}, None)])
def test_the_expert_goes_on_from_how_the_arm_moves_when_somebody_else_moved_it(monkeypatch, options, leader):
    """From rest it would let a moving arm stop first, and so would a policy that learned it, for ever if it is asked again that soon."""
    asked = []
    plan = Expert.plan

    def note(self, scene, joints, order, memory, stamp_ns):
        asked.append((memory, stamp_ns))
        return plan(self, scene, joints, order, memory, stamp_ns)

    monkeypatch.setattr(Expert, "plan", note)
    demonstrator = Demonstrator(replace(OPTIONS, limit_s=1.0, takeover_s=(0.5, 0.5), **options), leader)
    demonstrator(0)
    told = [m for m, stamp in asked if m.stamp_ns == stamp and len(m.path) == 1]
    if leader is None:
        assert 4 <= len(told) < len(asked) and max(float(np.abs(m.path[0].velocity).max()) for m in told) > 0.2
        return
    lead = len(leader.told) - 1
    assert [m for m, _ in asked[: lead + 1]] == told and lead > 4  # while it looks on, and when it takes over
    (state,) = told[-1].path
    yaw_rate = 0.02 / demonstrator.robot.control_dt_s  # of the base, with which the fingers turn
    assert state.velocity[3] == pytest.approx(yaw_rate, rel=0.05)
    assert np.hypot(*state.velocity[:2]) == pytest.approx(yaw_rate * np.hypot(*state.position[:2]), rel=0.05)


def test_a_leader_may_go_on_to_the_next_order_and_the_expert_finishes_that():
    class Sorts(Holds):
        """Stays where it is, and is given the credit for a first parcel."""

        def begin(self, cell, rng, delay_s, executor):
            def move():
                cell.advance(cell.robot.control_dt_s)
                cell.score.sorted_correct = max(cell.score.sorted_correct, 1)

            return move

    leader = Sorts()
    led = Demonstrator(replace(OPTIONS, wide_share=0.0, orders=2, takeover_s=(1.0, 1.0)), leader)
    episode = next(e for e in (led(n) for n in range(8)) if e is not None)
    assert episode.extra["sorted"] == 2


def test_every_attempt_draws_how_long_its_leader_takes_and_by_which_way_it_moves_the_arm():
    leader = Holds()
    led = Demonstrator(replace(OPTIONS, takeover_s=(0.1, 0.1), lead_delays_s=(0.03, 0.4), executor_share=0.5, limit_s=0.2), leader)
    for number in range(12):
        led(number)
    assert set(leader.begun) == {(d, e) for d in (0.03, 0.4) for e in (False, True)}
