"""What a soak must have kept, judged on made-up books: each promise that is broken is said and counts."""

from __future__ import annotations

import numpy as np
import pytest

from internvla_a1.trials.resources import WARM_UP_S, Resources, Row
from internvla_a1.trials.soak import Event, Log
from internvla_a1.trials.soak_report import judge, plot

MINUTES = 30.0


def log(violations: int = 0, parcel_every_s: float = 10.0, minutes: float = MINUTES) -> Log:
    book = Log(seed=0, minutes=minutes, events=[Event(20.0, "kill", "policy", 3.0), Event(40.0, "pause", "executor")])
    for at in np.arange(0.0, 60 * minutes, 5.0):
        book.score.append((float(at), int(at // parcel_every_s), 0, 0))
        book.violations.append((float(at), 0, violations if at > 600 else 0, 0))
        book.load.append(1.0)
    return book


def books(
    mb_h: float = 0.0, descriptors: int = 0, threads: int = 0, resident_mb: float = 140.0, lives: int = 1, minutes: float = MINUTES,
    heap_mb_h: float = 0.0,
) -> Resources:
    """The executor, in so many lives; each begins at a level of its own and fills up while it warms up."""
    resources, rng = Resources(), np.random.default_rng(0)
    at, life_s = 0.0, 60 * minutes / lives
    while at < 60 * minutes:
        life, into = divmod(at, life_s)
        warming = 40.0 * min(into / WARM_UP_S, 1.0)
        private = 80 + 10 * life + warming + mb_h * into / 3600 + 0.02 * rng.normal()
        grown = into / life_s
        heap = 20 + 5 * life + heap_mb_h * into / 3600 - 10 * (rng.random() < 0.2)  # histories are cleared now and then
        held = 40 + round(descriptors * grown), 9 + round(threads * grown)
        row = Row(at, "executor", 100 + int(life), private, resident_mb, *held, heap)
        resources._rows.append(row)
        at += 5.0
    return resources


def test_a_flat_run_without_violations_is_kept_and_every_bar_is_said() -> None:
    verdict = judge(log(), books())
    text = "\n".join(verdict.lines)
    assert verdict.ok, text
    for said in ("own log   promised 0   measured 0", "MB/h (promised < 1", "descriptors +0, threads +0 (promised", "promised < 200 MB"):
        assert said in text


@pytest.mark.parametrize(
    ("book", "resources"),
    [
        (log(violations=1), books()),
        (log(parcel_every_s=200.0), books()),
        (log(), books(mb_h=2.0)),
        (log(), books(heap_mb_h=2.0)),
        (log(), books(descriptors=8)),
        (log(), books(threads=8)),
        (log(), books(resident_mb=250.0)),
    ],
    ids=["violation", "no parcels", "memory", "heap within what is spare", "descriptors", "threads", "large executor"],
)
def test_each_broken_promise_counts(book: Log, resources: Resources) -> None:
    assert not judge(book, resources).ok


@pytest.mark.parametrize("mb_h", [0.0, 3.0])
def test_the_slope_is_that_after_warm_up_whatever_level_each_life_begins_at(mb_h: float) -> None:
    growth = books(mb_h=mb_h, lives=3).growth("executor")
    assert growth.lives == 3
    assert growth.private_mb_h == pytest.approx(mb_h, abs=0.2)


def test_too_short_a_run_says_so_and_judges_no_slope() -> None:
    verdict = judge(log(minutes=2.0), books(mb_h=50.0, minutes=2.0))
    assert verdict.ok and any("too short for a slope" in line for line in verdict.lines)


def test_the_picture_is_drawn(tmp_path) -> None:
    plot(log(), books(), tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000
