"""Row 20 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_people import row_20


def test_the_emergency_stop_wins_within_a_tick_and_is_latched() -> None:
    figures = row_20(scale=0.1)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
