"""Live progress on the terminal: bars for counted work, one line of numbers for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def _columns(field: str) -> tuple[ProgressColumn, ...]:
    text = TextColumn(f"{{task.fields[{field}]}}")
    return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), text, TimeElapsedColumn(), TimeRemainingColumn()


@contextmanager
def counting(title: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """A bar for `total` good results; call the yielded function with (good) or (good, tried). On a file or pipe one plain line."""
    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"{title}: {total}", flush=True)
    with Progress(*_columns("tried"), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, completed=done, tried="")

        def report(good: int, tried: int | None = None) -> None:
            bar.update(task, completed=min(good, total), tried="" if tried is None else f"{tried} tried")

        yield report


class TrainingProgress:
    """Loss, samples a second and time left, redrawn in place; on a file or pipe one plain line every `every` updates."""

    def __init__(self, title: str, total: int, done: int = 0, every: int = 10) -> None:
        self._console = Console(stderr=True)
        self._every, self._count = every, 0
        self._bar = Progress(*_columns("numbers"), console=self._console, disable=not self._console.is_terminal)
        self._title, self._total = title, total
        self._task = self._bar.add_task(title, total=total, completed=done, numbers="")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, numbers: dict[str, float], samples_per_s: float, left_s: float) -> None:
        """Show the newest numbers."""
        text = " ".join(f"{k} {v:.4g}" for k, v in numbers.items()) + f" · {samples_per_s:.0f} samples/s"
        self._bar.update(self._task, completed=done, numbers=text)
        self._count += 1
        if not self._console.is_terminal and self._count % self._every == 1 % self._every:
            print(f"{self._title} {done}/{self._total} {text} · {left_s / 60:.1f} min left", flush=True)
