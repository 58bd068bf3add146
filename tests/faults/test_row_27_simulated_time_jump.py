"""Row 27 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_system import row_27


def test_a_jump_of_simulated_time_empties_the_buffers_and_brakes() -> None:
    figures = row_27(scale=0.2)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
