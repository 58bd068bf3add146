"""Plots of the report as SVG text, to be put into the page as they are."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from internvla_a1.core.types import FloatArray
from internvla_a1.demo.latency import Link

INK, MUTED, GRID = "#1d2733", "#66727f", "#e4e8ec"
BLUE, ORANGE, GREEN, RED = "#2364aa", "#e0812b", "#2f8f5b", "#c0392b"
_STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": ["system-ui", "DejaVu Sans"], "font.size": 10,
    "axes.edgecolor": GRID, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "text.color": INK,
    "axes.grid": True, "grid.color": GRID, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "figure.facecolor": "none", "axes.facecolor": "none", "svg.hashsalt": "internvla_a1",
}  # fmt: skip
_POINTS = 500
_LEAST_SPAN = 0.02  # rad or m


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element that scales with the page."""
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight", pad_inches=0.05, metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    head, body = text[text.index("<svg") :].split(">", 1)
    return re.sub(r'\s(?:width|height)="[^"]*"', "", head) + ">" + body


def _thin(times: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    step = max(1, len(times) // _POINTS)
    return times[::step], values[::step]


def joints(
    names: tuple[str, ...], command_s: FloatArray, commanded: FloatArray, measured_s: FloatArray, measured: FloatArray, units: list[str]
) -> str:
    """Commanded and measured joints over time, one row a joint. Times in s from the start; (n, joints) in `units`."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(len(names), 1, figsize=(10, 1.05 * len(names) + 0.5), sharex=True, squeeze=False)
        for j, (axis, name) in enumerate(zip(axes[:, 0], names, strict=True)):
            axis.plot(*_thin(command_s, commanded[:, j]), color=ORANGE, lw=2.2, alpha=0.85, label="commanded")
            axis.plot(*_thin(measured_s, measured[:, j]), color=BLUE, lw=1.0, label="measured")
            axis.set_ylabel(f"{name}\n{units[j]}", rotation=0, ha="right", va="center")
            axis.yaxis.set_major_locator(plt.MaxNLocator(3))
            low, high = axis.get_ylim()
            if high - low < _LEAST_SPAN:  # a joint at rest is a line, not its noise
                axis.set_ylim((low + high - _LEAST_SPAN) / 2, (low + high + _LEAST_SPAN) / 2)
        axes[0, 0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncol=2, frameon=False)
        axes[-1, 0].set_xlabel("time, s")
        return _svg(figure)


def tracking(
    names: tuple[str, ...], command_s: FloatArray, commanded: FloatArray, measured_s: FloatArray, measured: FloatArray, span_s: float = 8.0
) -> str:
    """A close look: the joint that moves most, where it moves most, with the difference below."""
    with plt.rc_context(_STYLE):
        at = np.interp
        j = int(np.argmax(np.ptp(measured, axis=0)))
        busiest = measured_s[int(np.argmax(np.abs(np.gradient(measured[:, j]))))]
        start = max(measured_s[0], busiest - span_s / 2)
        c, m = (command_s >= start) & (command_s < start + span_s), (measured_s >= start) & (measured_s < start + span_s)
        figure, (top, bottom) = plt.subplots(2, 1, figsize=(10, 3.4), sharex=True, height_ratios=(3, 1))
        top.plot(command_s[c], commanded[c, j], color=ORANGE, lw=2.4, alpha=0.85, label="commanded")
        top.plot(measured_s[m], measured[m, j], color=BLUE, lw=1.2, label="measured")
        top.set_ylabel(f"{names[j]}, rad")
        top.legend(loc="lower right", bbox_to_anchor=(1, 1), ncol=2, frameon=False)
        bottom.plot(measured_s[m], 1e3 * (at(measured_s[m], command_s, commanded[:, j]) - measured[m, j]), color=MUTED, lw=1)
        bottom.set_ylabel("difference\nmrad")
        bottom.set_xlabel("time, s")
        return _svg(figure)


def score(
    times: FloatArray, correct: FloatArray, wrong: FloatArray, missed: FloatArray, orders: list[tuple[float, str]], end_s: float
) -> str:
    """Parcels sorted right, wrong and missed over time (s from the start), with the moments of new instructions."""
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(10, 2.6))
        times = np.append(times, end_s)
        for values, color, label in ((correct, GREEN, "right"), (wrong, RED, "wrong"), (missed, MUTED, "missed")):
            values = np.append(values, values[-1])
            axis.step(times, values, where="post", color=color, lw=2.2 if label == "right" else 1.6, label=label)
        top = max(1.0, float(correct[-1]), float(wrong[-1]), float(missed[-1]))
        axis.set_ylim(-0.3, top * 1.08 + 0.3)
        for at, _ in orders:
            axis.axvline(at, color=ORANGE, lw=1.1, alpha=0.8, ls=":")
        axis.plot([], [], color=ORANGE, lw=1.1, ls=":", label="new instruction")
        axis.yaxis.set_major_locator(plt.MaxNLocator(integer=True))
        axis.set_xlim(0, end_s)
        axis.set_xlabel("time, s")
        axis.set_ylabel("parcels")
        axis.legend(loc="upper left", frameon=False)
        return _svg(figure)


def latency(links: list[Link]) -> str:
    """Median and 95th percentile of each link."""
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(10, 0.42 * len(links) + 0.6))
        rows = np.arange(len(links))[::-1]
        axis.barh(rows, [k.p95_ms for k in links], color="#b9cfe6", height=0.55, label="95th percentile")
        axis.barh(rows, [k.p50_ms for k in links], color=BLUE, height=0.55, label="median")
        for row, link in zip(rows, links, strict=True):
            axis.text(link.p95_ms, row, f"  {link.p50_ms:.1f} / {link.p95_ms:.1f} ms", va="center", color=INK, fontsize=9)
        axis.set_yticks(rows, [k.name.strip() for k in links], color=INK)
        axis.set_xlim(0, 1.18 * max(k.p95_ms for k in links))
        axis.set_xlabel("ms")
        axis.grid(axis="y", visible=False)
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncol=2, frameon=False)
        return _svg(figure)
