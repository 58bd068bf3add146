"""Row 6 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_input import row_06


def test_joint_states_are_matched_by_name_and_the_arm_brakes_when_none_is_usable() -> None:
    figures = row_06(scale=0.1)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
