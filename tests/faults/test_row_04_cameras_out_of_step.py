"""Row 4 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_input import row_04


def test_no_set_is_made_of_cameras_out_of_step_and_the_laggard_is_named() -> None:
    figures = row_04(scale=0.1)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
