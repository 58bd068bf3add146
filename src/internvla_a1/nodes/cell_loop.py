"""The simulated cell against the wall clock: one thread steps the physics, one makes the pictures. No ROS in here.

The lock guards the cell. The physics thread never renders: it copies the state (0.1 ms) and goes on, so a command is taken in
within one control period whatever the renderer does.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import internvla_a1.sim  # noqa: F401 before mujoco: it chooses the OpenGL platform

# isort: split
import mujoco

from internvla_a1.core import memory
from internvla_a1.core.clock import NS, nanoseconds
from internvla_a1.core.scene import Scene
from internvla_a1.core.types import ImageArray
from internvla_a1.sim.cameras import OVERVIEW, Cameras
from internvla_a1.sim.cell import Cell

_OPENGL = threading.Lock()  # Mesa's software renderer (22.3) crashed once in a while where two contexts of a process drew at once
_GIVE_UP_S = 0.05  # simulated time: a longer backlog is not caught up, or the clock would seem to jump
_GIVE_UP_WALL_S = 0.5  # wall time: a shift of the stamps is a jump of the arm's trajectory, so it is the last resort
_CATCH_UP_RATE = 2.0  # of the usual: faster, and the arm would have moved on before a command that was sent in time is taken in
_DRIFT_NS = 50_000_000  # wall stamps lag the wall clock by no more than this, backlog apart
_STEP_BACK_NS = 1_000_000
_SPARE_MB = 4  # of heap for the thread that draws: it once took 1 MB more minutes after the start, probably a buffer of Mesa's

ImageSink = Callable[[str, int, ImageArray], None]


class Schedule:
    """True once per period of cell time; late calls do not pile up."""

    def __init__(self, rate_hz: float) -> None:
        self._period_ns = round(NS / rate_hz) if rate_hz > 0 else 0
        self._next_ns = 0
        self._owed = False

    def due(self, ns: int) -> bool:
        """Whether something is to be done at cell time `ns`."""
        if not self._period_ns or (ns < self._next_ns and not self._owed):
            return False
        self._owed = False
        if ns >= self._next_ns:
            self._next_ns = max(self._next_ns + self._period_ns, ns + 1)
        return True

    def put_off(self) -> None:
        """What was due could not be done: it is due at the next call. The instants after it stay as they were."""
        self._owed = True

    def restart(self) -> None:
        """Cell time begins at 0 again."""
        self._next_ns, self._owed = 0, False


class Darkroom:
    """Pictures of a copied state, in a thread of its own with its own GL context.

    sink(camera, stamp_ns, image) is called for each picture, from that thread. cameras: the overview, or others together.
    """

    def __init__(
        self, cell: Cell, cameras: tuple[str, ...], size: tuple[int, int], sink: ImageSink, counters: Counter[str]
    ) -> None:
        self._cell, self._names, self._size, self._sink, self._counters = cell, cameras, size, sink, counters
        self._data = mujoco.MjData(cell.model)
        self._wake = threading.Condition()
        self._stamp_ns: int | None = None
        self._busy = self._closed = False
        self.error = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"render {cameras[0]}", daemon=True)
        copy_state(cell, self._data)
        self._thread.start()
        self._ready.wait(10.0)

    def take(self, stamp_ns: int) -> bool:
        """Copy the state and have its pictures made; False where the last ones are not finished. Call with the cell locked."""
        with self._wake:
            if self._busy or self.error:
                self._counters["frames_put_off"] += 1
                return False
            copy_state(self._cell, self._data)
            self._stamp_ns, self._busy = stamp_ns, True
            self._wake.notify()
        return True

    def close(self) -> None:
        """End the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(1.0)

    def _run(self) -> None:
        # No shadows in real time: with software OpenGL they would take more than a core from the nodes.
        cameras = Cameras(self._cell.model, self._data, self._cell.config, self._size, overview_shadows=False)
        try:
            self._develop(cameras)  # the first pictures take half a second
            memory.set_aside(_SPARE_MB)
            self._ready.set()
            while True:
                with self._wake:
                    self._wake.wait_for(lambda: self._busy or self._closed)
                    if self._closed:
                        break
                    stamp = self._stamp_ns or 0
                for name, image in self._develop(cameras).items():
                    if self._closed:
                        break
                    self._sink(name, stamp, image)
                    self._counters[f"frames/{name}"] += 1
                self._busy = False
        except Exception as error:  # without OpenGL the cell goes on blind, and says so
            self.error = str(error)
            self._ready.set()
        cameras.close()

    def _develop(self, cameras: Cameras) -> dict[str, ImageArray]:
        with _OPENGL:
            if self._names == (OVERVIEW,):
                return {OVERVIEW: cameras.render(OVERVIEW)}
            return cameras.render_together(self._names)


def copy_state(cell: Cell, data: mujoco.MjData) -> None:
    """Copy the cell's state into `data`; call with the cell locked."""
    mujoco.mj_copyData(data, cell.model, cell.data)


class CellLoop:
    """Steps the cell at `factor` times real time and calls the sinks from its thread.

    stamp = cell time + an anchor. With wall=True the anchor follows the wall clock; else simulated time starts at the wall time
    of the start and only ever goes forward, across resets too.
    """

    def __init__(self, cell: Cell, factor: float, wall: bool, counters: Counter[str]) -> None:
        self.cell, self.lock, self.counters = cell, threading.Lock(), counters
        self.each_step: list[Callable[[int], None]] = []  # called with the stamp, cell unlocked
        self.locked_step: list[Callable[[int], None]] = []  # the same, cell locked: short work on the state
        self._factor, self._wall = factor, wall
        self._anchor_ns = time.time_ns()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="physics", daemon=True)

    def start(self) -> None:
        self._anchor_ns = time.time_ns() - self.cell.stamp_ns
        self._thread.start()

    @property
    def thread_id(self) -> int:
        """The system's number of the running thread."""
        return self._thread.native_id or 0

    def set_pace(self, factor: float) -> None:
        """Simulated seconds per second, from the next step on."""
        self._factor = factor

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    @property
    def stamp_ns(self) -> int:
        """The stamp of the present state."""
        return self._anchor_ns + self.cell.stamp_ns

    def cell_stamp_ns(self, stamp_ns: int) -> int:
        """A header stamp in the cell's own time; 0 stays 0 ("now")."""
        return max(stamp_ns - self._anchor_ns, 1) if stamp_ns else 0

    def reset(self, seed: int) -> None:
        """Restart the cell; stamps go on."""
        with self.lock:
            passed = self.cell.stamp_ns
            self.cell.reset(seed)
            self._anchor_ns += passed - self.cell.stamp_ns

    def _run(self) -> None:
        period = self.cell.config.physics.control_period_s
        due = time.monotonic()
        while not self._stop.is_set():
            began = time.monotonic()
            with self.lock:
                self.cell.advance(period)
                stamp = self.stamp_ns
                for work in self.locked_step:
                    work(stamp)
            for work in self.each_step:
                work(stamp)
            due += period / self._factor
            now = time.monotonic()
            ahead = due - now
            pause = max(due, began + period / self._factor / _CATCH_UP_RATE) - now
            time.sleep(max(pause, 0.0))
            if ahead < -(_GIVE_UP_WALL_S if self._wall else _GIVE_UP_S):
                self.counters["time_lost_ms"] += round(-ahead * 1000)
                due = time.monotonic()
            if self._wall:
                self._follow_wall(nanoseconds(min(ahead, 0.0)))

    def _follow_wall(self, backlog_ns: int) -> None:
        drift = time.time_ns() - self.stamp_ns - nanoseconds(self.cell.config.physics.control_period_s)
        if drift < 0:  # the next state must not be stamped ahead; a little at a time, so that stamps still rise
            self._anchor_ns += max(drift, -_STEP_BACK_NS)
        elif drift > _DRIFT_NS + abs(backlog_ns):
            self._anchor_ns += drift
            self.counters["stamps_moved"] += 1


def scene_of(cell: Cell, stamp_ns: int) -> Scene:
    """Ground truth under a header stamp."""
    scene = cell.scene()
    return Scene(stamp_ns, scene.objects, scene.bins, scene.belt_speed)


__all__ = ["OVERVIEW", "CellLoop", "Darkroom", "ImageSink", "Schedule", "scene_of"]
