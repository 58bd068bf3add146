"""Demonstrations from the cell: repeatable, clean labels, instructions that belong to what happens."""

from dataclasses import replace

import numpy as np
import pytest

from internvla_a1.core.scene import parse_order
from internvla_a1.core.types import ActionChunk
from internvla_a1.eval.drivers import _Driver
from internvla_a1.policy.protocol import PolicyResult
from internvla_a1.sim.cell import Episode as Start
from internvla_a1.train.demonstrations import ACTION_KEY, LABEL_KEY, STATE_KEY, TARGET_KEY, Demonstrator, DemoOptions

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


def test_frames_before_a_take_over_are_kept_for_the_history_and_carry_no_label(demonstrator):
    class Holds:
        """A driver that stays where it is."""

        delay = 1

        def __call__(self, cell, text):
            names, joints, _, _ = cell.joint_state()
            return ActionChunk(cell.stamp_ns, 0, names, cell.robot.control_dt_s, np.tile(joints, (4, 1)))

    led = Demonstrator(OPTIONS, Holds())
    episode = next(e for e in (led(n) for n in range(6)) if e is not None)
    valid = episode.columns[LABEL_KEY][:, 0]
    lead = int((valid == 0).sum())
    assert 1 <= lead <= OPTIONS.lead_frames and (valid[:lead] == 0).all() and (valid[lead:] == 1).all()


class Counts:
    """A policy whose n-th chunk has 100 n + k in row k."""

    history_s = 0.4

    def __init__(self, robot):
        self.robot, self.asked = robot, 0

    def reset(self):
        self.asked = 0

    def infer(self, request):
        self.asked += 1
        rows = np.repeat(100.0 * self.asked + np.arange(16.0)[:, None], len(self.robot.joint_names), 1)
        observation = request.observation
        chunk = ActionChunk(observation.stamp_ns, request.chunk_id, observation.joint_names, self.robot.control_dt_s, rows)
        return PolicyResult(chunk)


@pytest.mark.parametrize(
    "delay, rows",
    [
        (1, [None, 101, 102, 201, 202, 301, 302, 401]),  # asked at every second tick, followed from the next one on
        (3, [None, None, None, 103, 104, 105, 203, 204]),  # row k is for k ticks after the observation, however late it comes
    ],
)
def test_a_driver_follows_a_chunk_from_the_row_that_is_due_when_it_arrives(demonstrator, delay, rows):
    cell = demonstrator.cell
    cell.reset(0, Start(belt_speed=0.0))
    driver = _Driver(Counts(cell.robot), cell.robot, execute=2)
    driver.delay = delay
    followed = []
    for _ in rows:
        first = driver(cell, "put the red box in the left bin").positions[0, 0]
        followed.append(float(first) if first >= 100 else None)
        cell.advance(cell.robot.control_dt_s)
    assert followed == rows


def test_every_attempt_draws_how_long_its_driver_takes(demonstrator):
    drawn = []

    class Notes:
        delay = 1

        def __call__(self, cell, text):
            drawn.append(self.delay)
            _, joints, _, _ = cell.joint_state()
            return ActionChunk(cell.stamp_ns, 0, cell.robot.joint_names, cell.robot.control_dt_s, np.tile(joints, (4, 1)))

    options = replace(OPTIONS, takeover_s=(0.1, 0.1), driver_delays=(1, 6), limit_s=0.2)
    led = Demonstrator(options, Notes())
    for number in range(6):
        led(number)
    assert set(drawn) == {1, 6}
