"""The picture of a study: rates of every arm under every protocol, with their intervals and each training seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from internvla_a1.eval.report import pyplot

COLOURS = ("#1b3a5c", "#4a90c0", "#c0392b", "#e39c3a", "#7f8c8d")
SPREAD = 0.7  # of a protocol's band that its arms fill


def draw_comparison(rows: Sequence[Mapping[str, Any]], arms: Sequence[str], path: Path) -> None:
    """rows: `protocol` and `rates`, arm -> eval.gaps.Estimate. Writes a PNG; MissingDependencyError without matplotlib."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 0.12 * len(rows) * (len(arms) + 1) + 1.4))
    for place, arm in enumerate(arms):
        colour = COLOURS[place % len(COLOURS)]
        offset = SPREAD * ((place + 0.5) / len(arms) - 0.5)
        for band, row in enumerate(rows):
            found = row["rates"][arm]
            axes.plot([100 * found.low, 100 * found.high], [band + offset] * 2, color=colour, linewidth=1.2)
            axes.plot(100 * found.value, band + offset, "o", color=colour, markersize=4.5, label=None if band else arm.replace("_", " "))
            if len(found.seeds) > 1:
                axes.plot([100 * s for s in found.seeds], [band + offset] * len(found.seeds), "|", color=colour, markersize=5)
    for band in range(len(rows) - 1):
        axes.axhline(band + 0.5, color="#ddd", linewidth=0.6)
    axes.set_yticks(range(len(rows)), [row["protocol"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("per cent sorted right; lines: 95 % over training seeds and episodes; ticks: each training seed")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=len(arms), fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
