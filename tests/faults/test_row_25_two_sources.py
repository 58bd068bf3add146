"""Row 25 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_people import row_25


def test_exactly_one_source_is_heard_however_events_arrive() -> None:
    figures = row_25(scale=0.01)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
