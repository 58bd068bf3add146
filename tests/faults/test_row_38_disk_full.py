"""Row 38 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_system import row_38


def test_nothing_between_a_chunk_and_the_arm_touches_the_disk() -> None:
    figures = row_38(scale=1.0)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
