"""Row 14 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_policy import row_14


def test_a_chunk_of_the_wrong_shape_time_or_robot_is_refused_at_the_gate() -> None:
    figures = row_14(scale=1.0)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
