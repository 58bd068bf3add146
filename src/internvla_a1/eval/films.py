"""Short films of episodes, for the report: played again from the same seed, seen from the overview camera."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from internvla_a1.data.images import resized
from internvla_a1.data.video import encode
from internvla_a1.eval.campaign import Case, Result, loop_of
from internvla_a1.sim.cell import Cell


def film(case: Case, seed: int, path: Path, every: int = 2, width: int = 480) -> Path:
    """Play one episode again and write it as MP4 at real-time speed, one picture each `every` ticks."""
    loop = loop_of(case)
    frames: list[np.ndarray] = []
    ticks = 0

    def look(cell: Cell) -> None:
        nonlocal ticks
        if ticks % every == 0:
            picture = cell.render("overview")
            frames.append(resized(picture, 2 * round(picture.shape[0] * width / picture.shape[1] / 2), width))
        ticks += 1

    loop.episode(seed, look)
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(path, np.stack(frames), 1.0 / (every * loop.policy.robot.control_dt_s), crf=28)
    return path


def failure_films(results: Sequence[Result], out: Path, most: int) -> dict[tuple[int, int], Path]:
    """(number of the result, seed) -> film, of up to `most` failures, taken in turn from the cases."""
    failed = [[o.seed for o in r.outcomes if not o.success] for r in results]
    chosen: list[tuple[int, int]] = []
    for depth in range(max((len(f) for f in failed), default=0)):
        chosen += [(i, f[depth]) for i, f in enumerate(failed) if depth < len(f)]
    return {(i, seed): film(results[i].case, seed, out / f"case{i}-seed{seed}.mp4") for i, seed in sorted(chosen[:most])}
