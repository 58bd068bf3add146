"""Row 12 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_policy import row_12


def test_no_step_of_the_past_is_run_and_no_older_observation_replaces_a_newer() -> None:
    figures = row_12(scale=0.1)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
