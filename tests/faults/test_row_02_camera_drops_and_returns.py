"""Row 2 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_input import row_02


def test_a_camera_that_drops_out_is_stale_and_back_after_three_good_frames() -> None:
    figures = row_02(scale=0.05)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
