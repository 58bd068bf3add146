"""Pictures to an H.264 film in memory."""

from __future__ import annotations

import contextlib
import io
import queue
import threading
from fractions import Fraction

import av
import numpy as np

from internvla_a1.core.priority import step_aside
from internvla_a1.core.types import ImageArray

_TIME_BASE = Fraction(1, 1000)
_WAITING = 50  # pictures; more are left out


class Film:
    """Add pictures of one size with their times; `finish` gives the MP4.

    A thread of its own encodes as they come, so that memory stays small and whoever adds a picture does not wait.
    """

    def __init__(self, bitrate: int = 700_000) -> None:
        self._buffer = io.BytesIO()
        self._container = av.open(self._buffer, "w", format="mp4")
        self._stream: av.VideoStream | None = None
        self._bitrate = bitrate
        self._start_ns = 0
        self._last_ms = -1
        self.frames = 0
        self._waiting: queue.Queue[tuple[ImageArray, int] | None] = queue.Queue(_WAITING)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="film", daemon=True)
        self._thread.start()

    def add(self, image: ImageArray, stamp_ns: int) -> None:
        """image: (height, width, 3) uint8 RGB, not changed afterwards. Pictures not later than the one before are left out."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait((image, stamp_ns))

    def _run(self) -> None:
        step_aside()
        while (item := self._waiting.get()) is not None:
            if self._error is not None:
                continue  # taken from the queue all the same, or `finish` would wait for room in it
            try:
                self._encode(*item)
            except Exception as error:  # told by `finish`
                self._error = error

    def _encode(self, image: ImageArray, stamp_ns: int) -> None:
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        if self._stream is None:
            stream = self._container.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "27"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.time_base = _TIME_BASE
            stream.codec_context.time_base = _TIME_BASE
            stream.codec_context.thread_count = 1
            self._stream, self._start_ns = stream, stamp_ns
        at_ms = (stamp_ns - self._start_ns) // 1_000_000
        if at_ms <= self._last_ms:
            return
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        frame.pts, frame.time_base = int(at_ms), _TIME_BASE
        self._container.mux(self._stream.encode(frame))
        self._last_ms = int(at_ms)
        self.frames += 1

    def finish(self) -> bytes:
        """The film; empty where no picture was added. Raises what the encoder raised."""
        self._waiting.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._stream is None:
            return b""
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._buffer.getvalue()
