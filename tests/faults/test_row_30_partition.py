"""Row 30 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_system import row_30


def test_after_a_partition_the_arm_holds_until_it_is_armed() -> None:
    figures = row_30(scale=1.0)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
