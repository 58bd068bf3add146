"""Row 3 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_input import row_03


def test_observation_stamps_strictly_rise_whatever_the_cameras_stamp() -> None:
    figures = row_03(scale=0.05)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
