"""Row 37 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_system import row_37


def test_a_policy_that_fails_leaves_the_arm_in_hold_and_can_be_armed_again() -> None:
    figures = row_37(scale=1.0)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
