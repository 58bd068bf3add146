"""Row 7 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_input import row_07


def test_no_command_comes_from_an_encoder_glitch_and_three_in_a_row_are_a_fault() -> None:
    figures = row_07(scale=0.1)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
