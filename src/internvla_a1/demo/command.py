"""`internvla-a1 demo`: start the stack, let the policy sort, stop, report."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from internvla_a1.core.errors import ConfigError, InternVLAError
from internvla_a1.demo.collector import Collector
from internvla_a1.demo.domain import DomainLease
from internvla_a1.demo.film import Film
from internvla_a1.demo.pace import SLOWEST, WATCH_S, Pacer
from internvla_a1.demo.stack import Stack
from internvla_a1.demo.summary import Outcome, Settings, Stop, build_report, table_rows
from internvla_a1.demo.view import LiveView

NODES = ("executor", "perception", "policy", "foresight")
TOPICS = ("joint_states", "perception/observation", "overview/image_raw")
PASS_SHARE = 0.9
_START_LIMIT_S = 90.0
_ARM_LIMIT_S = 20.0
_REARMS = 20
_HELD_S = 0.5  # a stop this long gets the arm back; a shorter one is a mode on its way
_FILM_HZ = 10.0
_FILM_WIDTH = 560


class DemoError(InternVLAError):
    """The demo could not be run to its end: the reason, and what the nodes said last."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", choices=("network", "expert"), default="network", help="who drives the arm (default: network)")
    parser.add_argument("--checkpoint", default="", help="weights folder of the network policy (default: model_weights/tiny)")
    parser.add_argument("--belt-speed", type=_within(0.0, 0.25), default=0.08, metavar="M_PER_S", help="0 to 0.25 (default: 0.08)")
    parser.add_argument("--parcels", type=_count, default=10, metavar="N", help="how many to sort (default: 10)")
    parser.add_argument(
        "--real-time-factor",
        type=_within(0.1, 2.0),
        metavar="X",
        help="simulated seconds per second (default: 1, or what a slow or busy machine keeps up with)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of parcels and orders (default: 0)")
    parser.add_argument(
        "--view", nargs="?", const="page", choices=("page", "window"), help="watch: a page in the browser, or MuJoCo's window"
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="FOLDER", help="where report.html goes (default: demo)")


def _within(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value:g} is outside [{low:g}, {high:g}]")
        return value

    return number


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{value} is outside [1, 1000]")
    return value


def run(args: argparse.Namespace) -> int:
    if args.belt_speed == 0.0:
        raise ConfigError("--belt-speed 0: no parcel would arrive; choose up to 0.25 m/s")
    if args.view == "window":
        from internvla_a1.sim.viewer import require_display  # brings MuJoCo, which the demo's own process does not need

        require_display()
    checkpoint = args.checkpoint or ("model_weights/tiny" if args.policy == "network" else "")
    settings = Settings(args.policy, checkpoint, args.belt_speed, args.parcels, args.seed, args.real_time_factor)
    console = Console()
    with _terminate_like_ctrl_c():
        try:
            outcome = Demo(settings, args.out, args.view, console).play()
        except DemoError as error:
            print(f"internvla-a1 demo: {error}", file=sys.stderr)
            return 1
    report = build_report(settings, outcome, PASS_SHARE)
    path = args.out / "report.html"
    path.write_text(report.html)
    _print(console, outcome, report.passed, report.verdict, path)
    return 0 if report.passed else 1


def _print(console: Console, outcome: Outcome, passed: bool, verdict: str, path: Path) -> None:
    table = Table("link", "median, ms", "95 %, ms", "samples")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in table_rows(outcome):
        table.add_row(*row)
    console.print(table)
    pace = f"{outcome.sorting_s:.0f} s" + (f" at {outcome.pace:g} of real time" if outcome.pace < 1 else "")
    console.print(f"[bold {'green' if passed else 'red'}]{verdict}[/]  in {pace}, {len(outcome.stops)} unplanned stops")
    console.print(f"report: [link=file://{path.resolve()}]{path}[/link]", soft_wrap=True)


@contextmanager
def _terminate_like_ctrl_c() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGINT too: a shell may have started us with it ignored
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclass
class _Progress:
    bar: Progress
    task: object

    def say(self, text: str, done: int | None = None) -> None:
        self.bar.update(self.task, description=text, **({} if done is None else {"completed": done}))  # type: ignore[arg-type]


class Demo:
    """One run. Everything that is started is closed on the way out, whatever happens."""

    def __init__(self, settings: Settings, out: Path, view: str | None, console: Console) -> None:
        self._settings, self._out, self._view, self._console = settings, out, view, console
        self._film = Film()
        self._pacer = Pacer()
        self._pacer.pace = settings.real_time_factor or 1.0
        self._filming = threading.Event()

    def play(self) -> Outcome:
        """Run to the end. Raises DemoError where the stack does not come up or does not sort."""
        began = time.time()
        with ExitStack() as closing:
            progress = _Progress(bar := closing.enter_context(self._bar()), bar.add_task("starting", total=self._settings.parcels))
            lease = DomainLease()
            closing.callback(lease.close)
            live = LiveView() if self._view == "page" else None
            if live is not None:
                closing.callback(live.close)
                self._console.print(f"live view: {live.url}")
                live.open()

            def on_overview(image, stamp_ns):  # type: ignore[no-untyped-def]
                if self._filming.is_set():
                    self._film.add(image, stamp_ns)
                if live is not None:
                    live.show(image)

            asked = self._settings.real_time_factor
            collector = Collector(lease.domain, asked or 1.0, on_overview)
            closing.callback(collector.close)
            stack = Stack("conveyor_sorting", self._launch_arguments(), lease.domain, self._out / "nodes.log")
            closing.callback(stack.close)
            self._wait_until_up(stack, collector, progress)
            self._filming.set()
            collector.forget_latency()
            collector.set_belt_speed(self._settings.belt_speed)
            started = time.time()
            stops = self._sort(stack, collector, progress, live)
            sorted_at = time.time()
            progress.say("stopping")
            collector.request_mode("hold", 2.0)
            time.sleep(0.5)  # the arm brakes on film
            self._filming.clear()
            stack.close()
        return Outcome(collector.recording, self._film.finish(), started, sorted_at, started - began, stops, lease.domain, self._pacer.pace)

    def _bar(self) -> Progress:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self._console, transient=not sys.stdout.isatty())

    def _launch_arguments(self) -> dict[str, str]:
        s = self._settings
        return {
            "policy": s.policy,
            "checkpoint": s.checkpoint,
            "belt_speed": "0.0",  # parcels wait until the policy has the arm
            "seed": str(s.seed),
            "real_time_factor": f"{s.real_time_factor or 1.0}",
            "overview_rate": f"{_FILM_HZ}",
            "overview_width": f"{_FILM_WIDTH}",
            "viewer": "true" if self._view == "window" else "false",
        }

    def _wait_until_up(self, stack: Stack, collector: Collector, progress: _Progress) -> None:
        end = time.monotonic() + _START_LIMIT_S
        while missing := self._missing(collector):
            progress.say(f"starting: waiting for {', '.join(missing)}"[:70])
            self._check(stack, time.monotonic() < end, f"no sign of life from {', '.join(missing)} within {_START_LIMIT_S:g} s")
            time.sleep(0.1)
        progress.say("handing the arm to the policy")
        end = time.monotonic() + _ARM_LIMIT_S
        while refusal := collector.request_mode("policy"):
            self._check(stack, time.monotonic() < end, f"the executor does not give the arm to the policy: {refusal}")
            time.sleep(0.3)

    def _keep_pace(self, collector: Collector) -> None:
        """Let the cell's clock run slower where the machine does not keep up, unless its pace was asked for."""
        news = collector.news_ms()
        if self._settings.real_time_factor is None and (slower := self._pacer.judge(news)) is not None:
            collector.set_pace(slower)

    @staticmethod
    def _missing(collector: Collector) -> list[str]:
        """Nodes that are not active, then topics without a message."""
        with collector.lock:
            counts = dict(collector.recording.counts)
        return [n for n in NODES if collector.states.get(n) != "active"] or [t for t in TOPICS if not counts.get(t)]

    def _check(self, stack: Stack, going_well: bool, problem: str) -> None:
        if not stack.running:
            problem = "the stack ended"
        elif going_well:
            return
        raise DemoError(f"{problem}; the nodes' last lines ({stack.log}):\n{stack.tail()}")

    def _sort(self, stack: Stack, collector: Collector, progress: _Progress, live: LiveView | None) -> list[Stop]:
        """Until enough parcels are decided. Returns the stops that nobody asked for.

        Each time the belt waits, as a line does that is interlocked with its robot, and the arm is given back to the policy.
        """
        wanted = self._settings.parcels
        stops: list[Stop] = []
        slowest = SLOWEST if self._settings.real_time_factor is None else self._settings.real_time_factor
        end = time.monotonic() + (30.0 + wanted * 20.0) / min(1.0, slowest)
        held_since: float | None = None
        watched = time.monotonic()
        while True:
            with collector.lock:
                _, correct, wrong, missed = collector.recording.score[-1] if collector.recording.score else (0.0, 0, 0, 0)
                instruction = collector.recording.instructions[-1][1] if collector.recording.instructions else ""
            mode, reason = collector.mode
            decided = correct + wrong + missed
            progress.say(f"{correct} right · {instruction or 'waiting for a parcel'}"[:70].ljust(56), min(decided, wanted))
            if live is not None:
                live.state(correct=correct, wrong=wrong, missed=missed, wanted=wanted, instruction=instruction, mode=mode, reason=reason)
            if decided >= wanted:
                return stops
            if time.monotonic() - watched >= WATCH_S:
                self._keep_pace(collector)
                watched = time.monotonic()
            self._check(stack, time.monotonic() < end, f"only {decided} of {wanted} parcels decided in time (mode {mode}: {reason})")
            if mode == "policy":
                if held_since is not None:
                    collector.set_belt_speed(self._settings.belt_speed)
                held_since = None
            elif held_since is None:
                collector.set_belt_speed(0.0)
                held_since = time.monotonic()
            elif time.monotonic() - held_since > _HELD_S:
                stops.append((time.time(), mode, reason))
                advice = f"this machine is too busy, even with the cell's clock at --real-time-factor {self._pacer.pace:g}"
                self._check(stack, len(stops) <= _REARMS, f"the executor keeps stopping ({mode}: {reason}); {advice}")
                if mode == "fault":
                    collector.clear_fault()
                collector.request_mode("policy")
                held_since = time.monotonic()
            time.sleep(0.1)
