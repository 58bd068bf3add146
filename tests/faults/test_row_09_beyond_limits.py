"""Row 9 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_input import row_09


def test_an_action_beyond_the_limits_is_limited_at_the_soft_limit() -> None:
    figures = row_09(scale=0.01)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
