"""The report: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

from internvla_a1.demo.latency import Link

_CSS = """
:root { --ink:#1d2733; --muted:#66727f; --line:#e4e8ec; --blue:#2364aa; --good:#2f8f5b; --bad:#c0392b; --soft:#f6f8fa; }
* { box-sizing:border-box; }
body { margin:0; background:#fff; color:var(--ink); font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif; }
main { max-width:1060px; margin:0 auto; padding:40px 28px 72px; }
header { display:flex; justify-content:space-between; align-items:flex-end; gap:24px; flex-wrap:wrap; }
h1 { font-size:30px; line-height:1.15; margin:0 0 6px; letter-spacing:-.02em; }
h2 { font-size:20px; margin:48px 0 4px; letter-spacing:-.01em; }
p { margin:4px 0 14px; max-width:75ch; } .muted, figcaption { color:var(--muted); } figcaption { font-size:14px; margin-top:8px; }
.verdict { font-weight:600; padding:6px 14px; border-radius:999px; color:#fff; background:var(--good); white-space:nowrap; }
.verdict.bad { background:var(--bad); }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(170px,1fr)); gap:14px; margin:26px 0 30px; }
.tile { background:var(--soft); border:1px solid var(--line); border-radius:12px; padding:14px 18px; }
.tile b { display:block; font-size:30px; line-height:1.2; font-weight:650; letter-spacing:-.02em; font-variant-numeric:tabular-nums; }
.tile b small { font-size:16px; color:var(--muted); font-weight:500; }
.tile span { color:var(--muted); font-size:14px; }
figure { margin:14px 0; } video { width:100%; border-radius:12px; background:#0d1117; display:block; }
figure svg { width:100%; height:auto; display:block; }
table { border-collapse:collapse; width:100%; font-size:15px; font-variant-numeric:tabular-nums; }
th,td { text-align:left; padding:8px 10px; border-bottom:1px solid var(--line); vertical-align:top; }
th { color:var(--muted); font-weight:500; font-size:13px; } td.n, th.n { text-align:right; white-space:nowrap; }
.sheets { display:grid; grid-template-columns:repeat(auto-fill,minmax(300px,1fr)); gap:14px; }
.sheets figure { margin:0; } .sheets img { width:100%; border-radius:8px; display:block; border:1px solid var(--line); }
.orders { columns:2; column-gap:40px; font-size:15px; padding-left:22px; margin:6px 0; }
code { font:13.5px ui-monospace,SFMono-Regular,Menlo,monospace; background:var(--soft); padding:2px 6px; border-radius:5px; }
footer { margin-top:56px; padding-top:18px; border-top:1px solid var(--line); color:var(--muted); font-size:14px; }
@media (max-width:640px) { .orders { columns:1; } }
"""


@dataclass(frozen=True)
class Tile:
    """One number at the top of the page."""

    value: str
    unit: str
    label: str


@dataclass
class Report:
    """What the page shows. Plots are SVG text; pictures are JPEG bytes; film is an MP4, empty where there is none."""

    title: str
    lead: str
    passed: bool
    verdict: str
    tiles: list[Tile] = field(default_factory=list)
    film: bytes = b""
    score_svg: str = ""
    orders: list[str] = field(default_factory=list)
    latency_svg: str = ""
    links: list[Link] = field(default_factory=list)
    sheets: list[tuple[str, bytes]] = field(default_factory=list)
    predicts: bool = True
    joints_svg: str = ""
    tracking_svg: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)


def render(report: Report) -> str:
    """The whole page."""
    e = html.escape
    parts = [
        "<header><div>",
        f"<h1>{e(report.title)}</h1><div class=muted>{e(report.lead)}</div></div>",
        f"<div class='verdict{'' if report.passed else ' bad'}'>{e(report.verdict)}</div></header>",
        "<div class=tiles>",
        *(f"<div class=tile><b>{e(t.value)} <small>{e(t.unit)}</small></b><span>{e(t.label)}</span></div>" for t in report.tiles),
        "</div>",
        _film(report.film),
        _score(report),
        _latency(report),
        _sheets(report),
        _joints(report),
        _facts(report.facts),
    ]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{e(report.title)}</title><style>{_CSS}</style></head><body><main>{''.join(parts)}</main></body></html>"
    )


def _embed(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _film(film: bytes) -> str:
    if not film:
        return "<p class=muted>No film: the overview camera sent no pictures.</p>"
    return f"<figure><video controls muted loop autoplay playsinline src='{_embed('video/mp4', film)}'></video></figure>"


def _score(report: Report) -> str:
    if not report.score_svg:
        return ""
    orders = "".join(f"<li>{html.escape(o)}</li>" for o in report.orders)
    listed = f"<p>The order desk changed the instruction {len(report.orders)} times:</p><ol class=orders>{orders}</ol>" if orders else ""
    return f"<h2>Score</h2><figure>{report.score_svg}</figure>{listed}"


def _latency(report: Report) -> str:
    if not report.links:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(k.name.strip())}<br><span class=muted>{html.escape(k.meaning)}</span></td>"
        f"<td class=n>{k.p50_ms:.1f}</td><td class=n>{k.p95_ms:.1f}</td><td class=n>{k.worst_ms:.1f}</td><td class=n>{k.count}</td></tr>"
        for k in report.links
    )
    return (
        "<h2>Latency of every link</h2><p>Measured by a node outside the stack, from the stamps in the messages and "
        "the moments they arrived. "
        "One clock; transport to the measuring node is included.</p>"
        f"<figure>{report.latency_svg}</figure>"
        "<table><tr><th>link<th class=n>median, ms<th class=n>95 %, ms<th class=n>worst, ms<th class=n>samples</tr>"
        f"{rows}</table>"
    )


def _sheets(report: Report) -> str:
    sheets = report.sheets
    shown = "".join(
        f"<figure><img src='{_embed('image/jpeg', data)}' alt='now beside predicted'><figcaption>{html.escape(label)}</figcaption></figure>"
        for label, data in sheets
    )
    if report.predicts:
        lead = "<p>What the cameras saw, beside what the policy expected to see next.</p>"
    else:
        lead = (
            "<p>What the cameras saw. The scripted expert predicts no pictures: "
            "with <code>--policy network</code> they stand here, each beside what came.</p>"
        )
    return f"<h2>Foresight</h2>{lead}<div class=sheets>{shown}</div>"


def _joints(report: Report) -> str:
    if not report.joints_svg:
        return ""
    return (
        "<h2>Joints</h2><p>What the executor commanded and what the arm did. While the gripper holds a parcel it is commanded tighter "
        "than it can close: that is the grip.</p>"
        f"<figure>{report.joints_svg}</figure>"
        f"<figure>{report.tracking_svg}<figcaption>The busiest seconds of the joint that moves most.</figcaption></figure>"
    )


def _facts(facts: list[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><td class=muted>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in facts)
    footer = "Written by <code>internvla-a1 demo</code>. Simulated cell, real ROS 2 processes."
    return f"<h2>This run</h2><table>{rows}</table><footer>{footer}</footer>"


def machine() -> str:
    """This computer in a line."""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model or platform.machine()}, {cores} cores, {platform.system()}, Python {platform.python_version()}"
