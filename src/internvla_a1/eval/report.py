"""The page of an evaluation: one HTML file with its plots and films inside."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from internvla_a1.core.errors import MissingDependencyError
from internvla_a1.eval.campaign import Result
from internvla_a1.eval.closed_loop import PHASES

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:left}"
    "img{max-width:100%}figure{display:inline-block;margin:.5em}video{width:22em}"
)


def pyplot() -> ModuleType:
    """matplotlib without a display."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "reports", "pip install matplotlib") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def to_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row a case: protocol, counts, interval, failures, latency."""
    rows = []
    for r in results:
        low, high = r.share.interval
        rows.append(
            {
                "label": r.case.label, "weights": r.case.weights, "name": r.case.protocol.name, "protocol": asdict(r.case.protocol),
                "successes": r.share.successes, "trials": r.share.trials, "rate": r.share.value, "low": low, "high": high,
                "failures": r.phases(), "inference_ms": 1e3 * float(np.median([o.inference_s for o in r.outcomes])),
                "reordered": sum(o.reordered for o in r.outcomes), "violations": sum(o.violations for o in r.outcomes),
            }
        )  # fmt: skip
    return rows


def write_report(
    path: Path, title: str, results: Sequence[Result], films: Mapping[tuple[int, int], Path], notes: Sequence[str] = ()
) -> None:
    """Write the page and, beside it, the same numbers as JSON."""
    rows = to_json(results)
    path.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    head = "".join(f"<th>{h}</th>" for h in ("", "protocol", "sorted", "rate", "95 % interval", "failures", "inference"))
    body = "".join(_row(row) for row in rows)
    pictures = _figure("success", _bars(rows)) + _figure("how failures end", _endings(rows))
    shown = "".join(_film(results, place, film) for place, film in films.items())
    said = "".join(f"<p>{html.escape(n)}</p>" for n in notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>{said}"
        f"<table><tr>{head}</tr>{body}</table>{pictures}<h2>Failures</h2>{shown or '<p>none filmed</p>'}"
    )


def _row(row: Mapping[str, Any]) -> str:
    failures = ", ".join(f"{k} {v}" for k, v in sorted(row["failures"].items())) or "none"
    cells = (
        row["label"], row["name"], f"{row['successes']} of {row['trials']}", f"{100 * row['rate']:.1f} %",
        f"{100 * row['low']:.1f} to {100 * row['high']:.1f} %", failures, f"{row['inference_ms']:.1f} ms",
    )  # fmt: skip
    return "<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in cells) + "</tr>"


def _bars(rows: Sequence[Mapping[str, Any]]) -> Any:
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(rows) + 1.5))
    rates = np.array([r["rate"] for r in rows])
    spread = np.array([[r["rate"] - r["low"], r["high"] - r["rate"]] for r in rows]).clip(0).T
    axes.barh(range(len(rows)), rates, xerr=spread, color="#4a90c0", ecolor="#222", capsize=3)
    axes.set_yticks(range(len(rows)), [f"{r['label']} {r['name']}".strip() for r in rows])
    axes.set_xlim(0, 1)
    axes.set_xlabel("share sorted right, Wilson 95 %")
    axes.invert_yaxis()
    figure.tight_layout()
    return figure


def _endings(rows: Sequence[Mapping[str, Any]]) -> Any:
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(rows) + 1.5))
    left = np.zeros(len(rows))
    for phase in PHASES[1:]:
        share = np.array([r["failures"].get(phase, 0) / max(1, r["trials"]) for r in rows])
        axes.barh(range(len(rows)), share, left=left, label=phase)
        left += share
    axes.set_yticks(range(len(rows)), [f"{r['label']} {r['name']}".strip() for r in rows])
    axes.set_xlabel("share of episodes")
    axes.legend(loc="lower right")
    axes.invert_yaxis()
    figure.tight_layout()
    return figure


def _figure(caption: str, figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    pyplot().close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<h2>{html.escape(caption)}</h2><img src='data:image/png;base64,{data}' alt='{html.escape(caption)}'>"


def _film(results: Sequence[Result], place: tuple[int, int], path: Path) -> str:
    result = results[place[0]]
    outcome = next(o for o in result.outcomes if o.seed == place[1])
    said = f"{outcome.phase} · {outcome.order} · {result.case.protocol.name} · seed {outcome.seed}"
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<figure><video controls muted src='data:video/mp4;base64,{data}'></video><figcaption>{html.escape(said)}</figcaption></figure>"
