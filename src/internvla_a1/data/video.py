"""Video files through PyAV: encode an episode, join episodes without re-encoding, decode frames by number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np

from internvla_a1.core.errors import ConfigError, DataError, MissingDependencyError
from internvla_a1.core.types import ImageArray

KEYFRAME_EVERY = 2  # short groups: random access costs at most one extra frame (LeRobot's own setting)


def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError("av", "reading and writing video data sets", "pip install av") from error
    av.logging.set_level(av.logging.ERROR)
    return av


def encode(path: Path, frames: ImageArray, fps: float, codec: str = "libx264", crf: int = 18) -> None:
    """Write (n, H, W, 3) uint8 RGB as one MP4, 4:2:0. Frame k gets the time k / fps. H and W must be even."""
    av = _av()
    if codec not in av.codecs_available:
        raise ConfigError.asked("video codec", codec, [c for c in ("libx264", "libsvtav1", "mpeg4") if c in av.codecs_available])
    n, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ConfigError(f"{path.name}: 4:2:0 video needs an even size, not {width}x{height}; store images instead")
    rate = Fraction(fps).limit_denominator(1000)
    options = {"g": str(KEYFRAME_EVERY), "crf": str(crf), "bf": "0", "threads": "1"}
    if codec == "libx264":
        options["preset"] = "veryfast"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = 1 / rate
        for k in range(n):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames[k]), format="rgb24")
            frame.pts, frame.time_base = k, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def join(parts: Sequence[Path], out: Path, fps: float) -> None:
    """Concatenate MP4s of one codec and size into `out`, packet by packet; each part starts where the one before it ended."""
    av = _av()
    with av.open(str(out), "w", format="mp4") as target:
        stream, start = None, Fraction(0)
        for part in parts:
            with av.open(str(part)) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = target.add_stream_from_template(video)
                count = 0
                for packet in source.demux(video):
                    if packet.dts is None:
                        continue
                    shift = int(start / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    target.mux(packet)
                    count += 1
                start += Fraction(count) / Fraction(fps).limit_denominator(1000)


def decode(path: Path, numbers: Sequence[int], fps: float) -> ImageArray:
    """Frames `numbers` (any order, repeats allowed) as (n, H, W, 3) uint8 RGB.

    Frame k is the one whose time is nearest to k / fps. Raises DataError if the file cannot be read or ends before a frame.
    """
    av = _av()
    wanted = sorted(set(int(k) for k in numbers))
    found: dict[int, np.ndarray] = {}
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for run in _runs(wanted):
                _decode_run(container, stream, run, fps, found)
    except (OSError, av.error.FFmpegError) as error:
        raise DataError(f"{path}: {error}") from error
    missing = [k for k in wanted if k not in found]
    if missing:
        raise DataError(f"{path}: no frame {missing[0]} (at {missing[0] / fps:.3f} s)")
    return np.stack([found[int(k)] for k in numbers])


def _runs(wanted: list[int], gap: int = 8) -> list[list[int]]:
    """Split at holes: seeking is cheaper than decoding more than `gap` frames that nobody asked for."""
    runs: list[list[int]] = []
    for k in wanted:
        if runs and k - runs[-1][-1] <= gap:
            runs[-1].append(k)
        else:
            runs.append([k])
    return runs


def _decode_run(container, stream, run: list[int], fps: float, found: dict[int, np.ndarray]) -> None:
    container.seek(int(run[0] / fps / stream.time_base), stream=stream, backward=True)
    wanted = set(run)
    for frame in container.decode(stream):
        number = round(float(frame.pts * stream.time_base) * fps)
        if number in wanted:
            found[number] = frame.to_ndarray(format="rgb24")
        if number >= run[-1]:
            return
