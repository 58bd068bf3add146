"""Row 8 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_input import row_08


def test_a_chunk_with_nan_is_refused_whole_and_nothing_non_finite_comes_out() -> None:
    figures = row_08(scale=0.01)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
