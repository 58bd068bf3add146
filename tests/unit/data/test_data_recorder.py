"""Recording is a function of the attempt numbers: kills, restarts and processes change nothing."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from internvla_a1.core.errors import ConfigError, DataError
from internvla_a1.data.episode import Episode
from internvla_a1.data.features import Feature, camera_feature
from internvla_a1.data.reader import open_dataset
from internvla_a1.data.recorder import Plan, record

SIZE = 16


@dataclass(frozen=True)
class Build:
    """Attempts whose number is divisible by `bad_every` fail; attempt `breaks_at` raises, as a kill would end it."""

    bad_every: int = 4
    breaks_at: int = -1

    def __call__(self):
        return self.make

    def make(self, number: int) -> Episode | None:
        if number == self.breaks_at:
            raise KeyboardInterrupt
        if number % self.bad_every == 0:
            return None
        rng = np.random.default_rng(number)
        n = 3 + number % 3
        columns = {"observation.state": rng.normal(size=(n, 2)).astype(np.float32), "action": rng.normal(size=(n, 2)).astype(np.float32)}
        frames = rng.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)
        return Episode(columns, {"observation.images.overhead": frames}, f"attempt {number}")


FEATURES = (
    Feature("observation.state", "float32", (2,)),
    Feature("action", "float32", (2,)),
    camera_feature("observation.images.overhead", SIZE, SIZE, False),
)


def plan(out, build=None, episodes=6, **options):
    return Plan(out, episodes, build or Build(), options, FEATURES, 15, "demo_arm")


def content(root):
    data = open_dataset(root)
    numbers = [data.numbers(e, ("observation.state", "action")) for e in range(len(data.episodes))]
    pictures = [data.frames(e, "observation.images.overhead", range(data.episodes[e].length)) for e in range(len(data.episodes))]
    values = b"".join(n[k].tobytes() for n in numbers for k in n)
    return values, b"".join(p.tobytes() for p in pictures), [e.tasks for e in data.episodes]


def test_the_first_good_attempts_become_the_data_set(tmp_path):
    record(plan(tmp_path / "set"))
    assert content(tmp_path / "set")[2] == [(f"attempt {n}",) for n in (1, 2, 3, 5, 6, 7)]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_one_and_two_processes_write_the_same_bytes(tmp_path):
    record(plan(tmp_path / "one"))
    record(plan(tmp_path / "two"), processes=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_an_interrupted_recording_goes_on_and_ends_the_same(tmp_path):
    record(plan(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        record(plan(tmp_path / "cut", Build(breaks_at=5)))
    staging = tmp_path / ".cut.episodes"
    (staging / ".episode-000005.77").mkdir()  # what a kill in mid-write leaves
    played = []
    record(plan(tmp_path / "cut"), report=lambda good, tried: played.append(tried))
    assert played[0] == 6  # attempts 0 to 4 were not played again
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_finished_recording_is_not_repeated_and_more_episodes_extend_the_same_sequence(tmp_path):
    out = record(plan(tmp_path / "set", episodes=2))
    before = (out / "meta/info.json").stat().st_mtime_ns
    record(plan(tmp_path / "set", Build(breaks_at=0), episodes=2))
    assert (out / "meta/info.json").stat().st_mtime_ns == before
    record(plan(tmp_path / "set", episodes=3))
    assert json.loads((out / "meta/info.json").read_text())["total_episodes"] == 3


def test_episodes_of_another_plan_are_not_mixed_in(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        record(plan(tmp_path / "set", Build(breaks_at=3), seed=1))
    with pytest.raises(ConfigError, match="another plan"):
        record(plan(tmp_path / "set", seed=2))


def test_a_recording_that_hardly_ever_succeeds_gives_up_with_numbers(tmp_path):
    with pytest.raises(DataError, match="0 good demonstrations in 19 attempts"):
        record(plan(tmp_path / "set", Build(bad_every=1)))


@pytest.mark.parametrize(
    "columns, frames, message",
    [
        ({"action": np.full((2, 1), np.nan)}, np.zeros((2, 4, 4, 3), np.uint8), "NaN"),
        ({"action": np.zeros((2, 1))}, np.zeros((3, 4, 4, 3), np.uint8), "expected uint8"),
        ({"action": np.zeros((0, 1))}, np.zeros((0, 4, 4, 3), np.uint8), "at least one frame"),
    ],
)
def test_a_broken_episode_is_refused(columns, frames, message):
    with pytest.raises(DataError, match=message):
        Episode(columns, {"camera": frames}, "task").check()
