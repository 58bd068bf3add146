"""Row 29 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_system import row_29


def test_a_recording_played_near_a_real_arm_is_refused_by_its_stamps() -> None:
    figures = row_29(scale=1.0)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
