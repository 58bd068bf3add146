"""Row 17 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_policy import row_17


def test_a_short_pause_goes_unnoticed_and_a_long_one_ends_in_hold() -> None:
    figures = row_17(scale=0.3)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
