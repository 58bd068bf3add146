"""From what was recorded to the report."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import dataclass

import numpy as np

from internvla_a1.demo import page, plots
from internvla_a1.demo.collector import Recording
from internvla_a1.demo.latency import Link, servo_lag

_SHEETS = 6
Stop = tuple[float, str, str]  # wall time s, mode, reason: the executor stopped and nobody had asked


@dataclass(frozen=True)
class Settings:
    """What was asked for. belt_speed in m/s. real_time_factor: None leaves it to the machine."""

    policy: str
    checkpoint: str
    belt_speed: float
    parcels: int
    seed: int
    real_time_factor: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What happened. Times: started_s, ended_s by the wall clock; start_up_s long."""

    recording: Recording
    film: bytes
    started_s: float
    ended_s: float
    start_up_s: float
    stops: list[Stop]
    domain: int
    pace: float = 1.0  # of the cell's clock, found or asked for

    @property
    def sorting_s(self) -> float:
        return self.ended_s - self.started_s

    @property
    def score(self) -> tuple[int, int, int]:
        """(right, wrong, missed)"""
        return self.recording.score[-1][1:] if self.recording.score else (0, 0, 0)

    @property
    def real_time_factor(self) -> float:
        """Simulated seconds per second while sorting; nan where /clock was not heard."""
        clock = self.recording.clock
        first, last = clock.simulated_ns(round(self.started_s * 1e9)), clock.simulated_ns(round(self.ended_s * 1e9))
        return (last - first) / 1e9 / self.sorting_s if first is not None and last is not None else float("nan")

    @property
    def joint_rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """command times (n,), commanded (n, joints), measured times (m,), measured (m, joints); simulated s since the start."""
        began = (self.recording.clock.simulated_ns(round(self.started_s * 1e9)) or 0) / 1e9
        command = np.array([t for t, _ in self.recording.commanded]) - began
        measure = np.array([t for t, _ in self.recording.measured]) - began
        joints = len(self.recording.joint_names)
        commanded = np.array([row for _, row in self.recording.commanded], dtype=float).reshape(len(command), joints)
        measured = np.array([row for _, row in self.recording.measured], dtype=float).reshape(len(measure), joints)
        c, m = command >= 0, measure >= 0
        return command[c], commanded[c], measure[m], measured[m]

    def links(self) -> list[Link]:
        command_s, commanded, measured_s, measured = self.joint_rows
        return self.recording.latency.links(servo_lag(command_s, commanded, measured_s, measured))


@dataclass(frozen=True)
class Written:
    """The page and its verdict."""

    html: str
    passed: bool
    verdict: str


def table_rows(outcome: Outcome) -> list[tuple[str, str, str, str]]:
    """The latency table for the terminal."""
    return [(k.name, f"{k.p50_ms:.1f}", f"{k.p95_ms:.1f}", str(k.count)) for k in outcome.links()]


def judge(score: tuple[int, int, int], pass_share: float) -> tuple[bool, str]:
    """Whether enough parcels went where the instruction said, and the sentence about it."""
    right, wrong, missed = score
    decided = right + wrong + missed
    passed = decided > 0 and right >= pass_share * decided - 1e-9
    why = [f"{wrong} in the wrong bin"] * bool(wrong) + [f"{missed} missed"] * bool(missed)
    sentence = f"{right} of {decided} parcels right" + (f" ({', '.join(why)})" if why else "")
    return passed, sentence if passed else f"{sentence}; at least {pass_share:.0%} is asked for"


def build_report(settings: Settings, outcome: Outcome, pass_share: float) -> Written:
    """The whole report as one HTML page."""
    passed, verdict = judge(outcome.score, pass_share)
    links = outcome.links()
    when = time.strftime("%d %B %Y, %H:%M", time.localtime(outcome.started_s))
    report = page.Report(
        title="InternVLA-A1 sorts from a moving belt",
        lead=f"{_driver(settings)}, belt at {settings.belt_speed:g} m/s, over real ROS 2 · {when}",
        passed=passed,
        verdict=verdict,
        tiles=_tiles(settings, outcome, links),
        film=outcome.film,
        orders=[text for _, text in _orders(outcome) if text],
        score_svg=_score_plot(outcome),
        latency_svg=plots.latency(links) if links else "",
        links=links,
        sheets=_sheets(outcome, predicts=settings.policy == "network"),
        predicts=settings.policy == "network",
        facts=_facts(settings, outcome),
    )
    command_s, commanded, measured_s, measured = outcome.joint_rows
    if len(command_s) > 10 and len(measured_s) > 10:
        names = outcome.recording.joint_names
        units = ["m" if float(np.abs(measured[:, j]).max()) < 0.1 and "gripper" in name else "rad" for j, name in enumerate(names)]
        report.joints_svg = plots.joints(names, command_s, commanded, measured_s, measured, units)
        report.tracking_svg = plots.tracking(names, command_s, commanded, measured_s, measured)
    return Written(page.render(report), passed, verdict)


def _driver(settings: Settings) -> str:
    return "Scripted expert (ground truth of the cell)" if settings.policy == "expert" else f"Network policy {settings.checkpoint}"


def _tiles(settings: Settings, outcome: Outcome, links: list[Link]) -> list[page.Tile]:
    right, wrong, missed = outcome.score
    by_name = {k.name: k for k in links}
    tiles = [page.Tile(f"{right}", f"of {right + wrong + missed}", "parcels where the instruction said")]
    if (whole := by_name.get("camera → command")) is not None:
        tiles.append(page.Tile(f"{whole.p50_ms:.0f}", "ms", "camera to arm command, median"))
    if (path := by_name.get("camera → command without the policy")) is not None:
        tiles.append(page.Tile(f"{path.p95_ms:.0f}", "ms", "the same without the policy, 95 %"))
    tiles.append(page.Tile(f"{60 * right / outcome.sorting_s:.1f}", "per min", "parcels sorted right"))
    tiles.append(page.Tile(f"{outcome.recording.counts.get('perception/observation', 0)}", "", "observations, three cameras each"))
    return tiles


def _orders(outcome: Outcome) -> list[tuple[float, str]]:
    return [(t - outcome.started_s, text) for t, text in outcome.recording.instructions if t <= outcome.ended_s]


def _score_plot(outcome: Outcome) -> str:
    rows = np.array([(t - outcome.started_s, *counts) for t, *counts in outcome.recording.score], dtype=float)
    if not len(rows):
        return ""
    rows[:, 0] = rows[:, 0].clip(min=0.0)
    orders = [(t, text) for t, text in _orders(outcome) if t > 0 and text]
    return plots.score(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3], orders, outcome.sorting_s)


def _sheets(outcome: Outcome, predicts: bool) -> list[tuple[str, bytes]]:
    """Pictures evenly over the run; without predictions only the left half of each sheet, which shows what is."""
    import cv2

    sheets = outcome.recording.sheets
    chosen = [sheets[i] for i in np.unique(np.linspace(0, len(sheets) - 1, min(_SHEETS, len(sheets))).astype(int))] if sheets else []
    shown = []
    for t, sheet in chosen:
        image = sheet if predicts else sheet[:, : sheet.shape[1] // 2]
        done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
        if done:
            shown.append((f"{t - outcome.started_s:.1f} s", data.tobytes()))
    return shown


def _facts(settings: Settings, outcome: Outcome) -> list[tuple[str, str]]:
    r = outcome.recording
    counts = r.counts
    command = ["internvla-a1", "demo", "--policy", settings.policy, "--belt-speed", f"{settings.belt_speed:g}"]
    command += ["--parcels", str(settings.parcels), "--seed", str(settings.seed)]
    command += ["--real-time-factor", f"{settings.real_time_factor:g}"] if settings.real_time_factor is not None else []
    command += ["--checkpoint", settings.checkpoint] if settings.policy == "network" else []
    seconds = outcome.sorting_s
    slower = " (this machine does not keep up with 1)" if settings.real_time_factor is None and outcome.pace < 1 else ""
    return [
        ("command", shlex.join(command)),
        ("start-up", f"{outcome.start_up_s:.1f} s until the policy had the arm"),
        ("sorting", f"{seconds:.1f} s at {outcome.real_time_factor:.2f} × real time" + slower),
        ("machine", f"{page.machine()}, load average {os.getloadavg()[0]:.1f} at the end"),
        ("ROS domain", f"{outcome.domain}, this machine only"),
        (
            "messages heard",
            ", ".join(
                f"{topic} {counts.get(topic, 0) / (seconds + 1e-9):.1f} Hz"
                for topic in ("joint_states", "perception/observation", "policy/action_chunk", "arm_controller/joint_trajectory")
            ),
        ),
        (
            "chunks",
            f"{counts.get('chunks accepted', 0)} accepted, {counts.get('chunks rejected', 0)} refused"
            + (f" (last: {r.last_rejection})" if r.last_rejection else ""),
        ),
        ("executor", f"{counts.get('limits applied', 0)} ticks at a limit, {len(outcome.stops)} unplanned stops"),
        *((f"stop at {t - outcome.started_s:.1f} s", f"{mode}: {reason}; armed again by the demo") for t, mode, reason in outcome.stops),
    ]
