"""Row 31 of docs/safety.md, the core figures; `internvla-a1 bench safety` runs the full number of trials."""

from __future__ import annotations

from internvla_a1.eval.safety_rows_system import row_31


def test_a_second_publisher_on_the_command_topic_stops_the_arm() -> None:
    figures = row_31(scale=1.0)
    assert figures
    for figure in figures:
        assert figure.ok, f"{figure.what}: promised {figure.promised}, measured {figure.measured}"
