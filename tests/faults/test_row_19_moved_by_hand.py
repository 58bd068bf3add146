"""Row 19 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_people import row_19


def test_the_first_command_is_where_the_arm_is_or_is_refused_with_how_far() -> None:
    figures = row_19(scale=0.05)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
