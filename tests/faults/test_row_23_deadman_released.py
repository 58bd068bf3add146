"""Row 23 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_people import row_23


def test_letting_go_or_losing_the_link_brakes_and_never_returns_to_the_policy() -> None:
    figures = row_23(scale=0.1)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
