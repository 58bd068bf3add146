"""Row 22 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_people import row_22


def test_a_takeover_is_active_at_the_next_tick_and_nothing_steps() -> None:
    figures = row_22(scale=0.005)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
