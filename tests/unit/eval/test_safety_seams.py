"""The seam table: every mode within the limits, faster than blocking, nearer than plain replacement."""

from __future__ import annotations

import pytest

from internvla_a1.control.config import CHUNK_MODES
from internvla_a1.eval import safety_seams
from internvla_a1.eval.bench_safety import seam_figures
from internvla_a1.eval.safety_seams import Seam, seam_table


@pytest.fixture(scope="module")
def table() -> dict[str, Seam]:
    """The methods at a delay of 0.2 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safety_seams, "DELAYS_S", (0.2,))
        return {s.method: s for s in seam_table(seconds=5.0)}


def test_every_mode_is_in_the_table_and_keeps_the_promises(table: dict[str, Seam]) -> None:
    assert {f"ours, {mode}" for mode in CHUNK_MODES} < set(table)
    for figure in seam_figures(list(table.values())):
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"


def test_progress_is_what_waiting_leaves(table: dict[str, Seam]) -> None:
    """0.4 s of every 0.6 s where nothing limits the arm, less where it has to brake and start."""
    assert table["blocking, no limits"].progress == pytest.approx(0.4 / 0.6, rel=0.03)
    assert table["blocking, limited"].progress < table["blocking, no limits"].progress - 0.05
    assert table["ours, replace"].progress == pytest.approx(1.0, abs=0.03)


def test_what_has_no_splice_breaks_the_limits_and_what_does_not_compensate_lags(table: dict[str, Seam]) -> None:
    plain, ours = table["plain replacement"], table["ours, blend"]
    assert plain.acceleration > 10 and plain.jerk > 10
    assert plain.error > 2 * ours.error


def test_a_method_beyond_the_limits_or_slower_is_a_missed_figure(table: dict[str, Seam]) -> None:
    bad = [*table.values(), Seam(0.2, "ours, mad", 1.1, 1.1, 0.0, 0.3)]
    assert [f.ok for f in seam_figures(bad)] == [False, False, False]
