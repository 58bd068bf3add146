import io
import re

import av
import numpy as np
import pytest

from internvla_a1.demo import page, plots
from internvla_a1.demo.collector import Recording
from internvla_a1.demo.film import Film
from internvla_a1.demo.summary import Outcome, Settings, build_report, judge

NAMES = ("joint_1", "gripper_joint")


def recording(correct: int = 9, wrong: int = 0, missed: int = 1) -> Recording:
    r = Recording(joint_names=NAMES)
    for k in range(400):
        t = 0.05 * k
        r.clock.add(round((1000 + t) * 1e9), round((5000 + t) * 1e9))
        row = [float(np.sin(t)), 0.02]
        r.commanded.append((1000 + t, row))
        r.measured.append((1000 + t, row))
        r.latency.observation(k, k * 10**9, k * 10**9 + 20_000_000)
    r.score = [(4999.0, 0, 0, 0), (5010.0, correct, wrong, missed)]
    r.instructions = [(4999.0, "put the red box in the left bin"), (5005.0, "<script>alert(1)</script>")]
    r.sheets = [(5001.0, np.full((30, 40, 3), 128, np.uint8))]
    return r


def outcome(**score: int) -> Outcome:
    return Outcome(recording(**score), b"film", 5000.0, 5020.0, 12.0, [(5007.0, "hold", "chunk_lost")], 42)


def report(policy: str = "expert", **score: int):
    return build_report(Settings(policy, "", 0.08, 10, 0), outcome(**score), 0.9)


def test_the_page_needs_nothing_beside_it() -> None:
    html = report().html
    assert not re.findall(r"""(?:src|href)=['"](?!data:|#)""", html)
    assert "@import" not in html and "url(http" not in html
    assert "data:video/mp4;base64," in html and "data:image/jpeg;base64," in html
    assert html.count("<svg") == 4


def test_what_came_over_the_wire_cannot_become_markup() -> None:
    html = report().html
    assert "<script>alert" not in html and "&lt;script&gt;alert(1)" in html


@pytest.mark.parametrize(
    ("score", "passed", "sentence"),
    [
        ((10, 0, 0), True, "10 of 10 parcels right"),
        ((9, 1, 0), True, "9 of 10 parcels right (1 in the wrong bin)"),
        ((8, 1, 1), False, "8 of 10 parcels right (1 in the wrong bin, 1 missed); at least 90% is asked for"),
        ((0, 0, 0), False, "0 of 0 parcels right; at least 90% is asked for"),
    ],
)
def test_nine_of_ten_have_to_be_right(score: tuple[int, int, int], passed: bool, sentence: str) -> None:
    assert judge(score, 0.9) == (passed, sentence)


def test_the_numbers_of_the_run_stand_on_the_page() -> None:
    written = report(correct=8, wrong=1, missed=1)
    assert not written.passed and "verdict bad" in written.html
    for text in ("camera → observation", "20.0", "12.0 s until the policy had the arm", "20.0 s at 1.00 × real time", "hold: chunk_lost"):
        assert text in written.html


def test_the_expert_s_page_does_not_promise_predictions() -> None:
    assert "predicts no pictures" in report("expert").html
    assert "beside what the policy expected to see next" in report("network").html


def test_a_run_without_any_message_still_gives_a_page() -> None:
    empty = Outcome(Recording(), b"", 5000.0, 5020.0, 12.0, [], 42)
    written = build_report(Settings("expert", "", 0.08, 10, 0), empty, 0.9)
    assert not written.passed and "No film" in written.html


def test_the_film_plays_at_the_pace_of_its_stamps() -> None:
    film = Film()
    for k in range(20):
        film.add(np.full((54, 97, 3), 10 * k, np.uint8), 7_000_000_000 + k * 100_000_000)
    film.add(np.zeros((54, 97, 3), np.uint8), 7_000_000_000)  # late: left out
    container = av.open(io.BytesIO(film.finish()))
    times = [frame.time for frame in container.decode(video=0)]
    assert film.frames == len(times) == 20
    assert times[-1] - times[0] == pytest.approx(1.9, abs=0.01)
    assert Film().finish() == b""


def test_plots_scale_with_the_page_and_name_their_joints() -> None:
    t = np.arange(0, 5, 0.05)
    rows = np.column_stack([np.sin(t), np.zeros_like(t)])
    svg = plots.joints(NAMES, t, rows, t, rows, ["rad", "m"])
    assert svg.startswith("<svg") and "joint_1" in svg
    assert not re.search(r"<svg[^>]*\swidth=", svg)


def test_pictures_are_embedded_not_linked() -> None:
    shown = page.render(page.Report("t", "l", True, "v", sheets=[("1 s", b"jpeg")]))
    assert "data:image/jpeg;base64,anBlZw==" in shown
