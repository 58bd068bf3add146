"""Row 1 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_input import row_01


def test_a_camera_that_repeats_itself_is_frozen_and_noise_is_not() -> None:
    figures = row_01(scale=0.02)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
