"""Row 11 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_policy import row_11


def test_slow_inference_never_stops_the_arm_while_a_chunk_has_time_left() -> None:
    figures = row_11(scale=0.02)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
