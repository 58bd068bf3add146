"""Row 24 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_people import row_24


def test_after_a_give_back_only_chunks_observed_after_it_run() -> None:
    figures = row_24(scale=0.03)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
