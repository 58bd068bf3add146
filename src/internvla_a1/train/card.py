"""The model card of a small policy, from what its pipeline measured."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from internvla_a1.core.scene import BINS, COLORS, SHAPES

TEXT = """# InternVLA-A1 tiny: sorting parcels from a moving belt

A small configuration of this repository's InternVLA-A1 (`config.json`, key `architecture`), trained by imitation of the scripted
expert in the simulated cell of this repository. It exists for the demo, for tests of the whole chain and for studies; it is no
general policy and has never seen a real camera.

- **In**: views {views}, joint positions, an instruction of the form "put the red box in the left bin" (colours {colors}; shapes
  {shapes}; bins {bins}). No ground truth of the simulator.
- **Out**: a chunk of absolute joint targets of the demo arm at 15 Hz, and a predicted future image per view.
- **Data**: {data}.
- **Command**: `make train-tiny` (seed {seed}); {minutes:.0f} minutes on {cores} CPU cores, per stage: {stages}.
- **Licence**: Apache-2.0, weights and data; made with this repository's own simulator.

## Scores

Closed loop without ROS; success: the right parcel in the right bin. Seeds that neither training nor selection used.
Intervals: Wilson, 95 %.

{table}

## Limits

Outside the belt speeds, parcel sizes and camera poses of the training it fails. Other colours, other objects, another arm: untrained.
It knows no obstacles and no people; what keeps the arm safe is the executor, not this policy.
"""


def write_card(
    path: Path, scores: Sequence[Mapping[str, Any]], recorded: Mapping[str, int], seconds: Mapping[str, float], seed: int
) -> None:
    """README.md of the weights folder. scores: rows of eval.report.to_json; recorded: record stage -> episodes."""
    rows = ["| protocol | sorted | rate | interval | failures |", "|---|---|---|---|---|"]
    for row in scores:
        failures = ", ".join(f"{k} {v}" for k, v in sorted(row["failures"].items())) or "none"
        interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f} %"
        counted = f"{row['successes']}/{row['trials']} | {100 * row['rate']:.1f} %"
        rows.append(f"| {row['label'] or row['name']} | {counted} | {interval} | {failures} |")
    text = TEXT.format(
        views="overhead and wrist",
        colors=", ".join(COLORS),
        shapes=", ".join((*SHAPES, "parcel")),
        bins=", ".join(BINS),
        data=", ".join(f"{n} episodes of stage {name}" for name, n in recorded.items()) or "none",
        seed=seed,
        minutes=sum(seconds.values()) / 60,
        cores=os.cpu_count() or 1,
        stages=", ".join(f"{name} {s / 60:.0f} min" for name, s in seconds.items()),
        table="\n".join(rows) if scores else "Not scored.",
    )
    path.write_text(text)
