"""Row 13 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_policy import row_13


def test_a_silent_policy_has_half_a_second_and_motion_needs_a_new_request() -> None:
    figures = row_13(scale=0.1)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
