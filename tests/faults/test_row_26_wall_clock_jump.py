"""Row 26 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_system import row_26


def test_a_step_of_wall_time_by_an_hour_changes_nothing() -> None:
    figures = row_26(scale=1.0)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
