"""Episodes of the recorder (rosbag2 folders with one MCAP file) as frames on the observations' own time grid. Needs no ROS."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from internvla_a1.core.errors import ConfigError, DataError, MissingDependencyError
from internvla_a1.core.types import FloatArray, ImageArray
from internvla_a1.data.episode import Episode

OBSERVATION, STATUS, CHUNK, INSTRUCTION = "perception/observation", "executor/status", "policy/action_chunk", "instruction"
ACTION_SOURCES = ("command", "chunk")
STATE_KEY, ACTION_KEY, CAMERA_PREFIX = "observation.state", "action", "observation.images."


@dataclass
class Recording:
    """The messages of one episode that demonstrations are made of, in time order. Positions are in the robot's order."""

    joints: tuple[str, ...]
    stamps: list[int] = field(default_factory=list)
    images: list[dict[str, ImageArray | None]] = field(default_factory=list)
    states: list[FloatArray] = field(default_factory=list)
    commands: list[tuple[int, FloatArray]] = field(default_factory=list)
    chunks: dict[int, FloatArray] = field(default_factory=dict)
    instructions: list[tuple[int, str]] = field(default_factory=list)
    interventions: list[tuple[int, int]] = field(default_factory=list)


def read_recording(path: Path, joints: tuple[str, ...]) -> Recording:
    """Read an episode folder or MCAP file. Joint values are matched by name. Raises DataError with file and reason."""
    files = [path] if path.is_file() else sorted(path.glob("*.mcap"))
    if len(files) != 1:
        raise DataError(f"{path}: expected one .mcap file, found {len(files)}")
    recording = Recording(joints)
    for topic, stamp, message in _messages(files[0], recording):
        if topic.endswith(OBSERVATION):
            recording.stamps.append(_nanoseconds(message.header.stamp))
            recording.images.append(_pictures(message, files[0]))
            recording.states.append(_ordered(joints, message.joint_names, message.joint_positions, files[0], topic))
        elif topic.endswith(STATUS) and len(message.commanded):
            values = _ordered(joints, message.joint_names, message.commanded, files[0], topic)
            recording.commands.append((_nanoseconds(message.header.stamp), values))
        elif topic.endswith(CHUNK):
            first = np.asarray(message.positions, dtype=np.float64)[: len(message.joint_names)]
            recording.chunks[_nanoseconds(message.header.stamp)] = _ordered(joints, message.joint_names, first, files[0], topic)
        elif topic.rsplit("/", 1)[-1] == INSTRUCTION:
            recording.instructions.append((stamp, message.data))
    if not recording.stamps:
        raise DataError(f"{files[0]}: no message on {OBSERVATION}")
    return recording


def _messages(path: Path, recording: Recording) -> Iterator[tuple[str, int, Any]]:
    try:
        from mcap.exceptions import McapError
        from mcap.reader import make_reader
        from mcap_ros2.decoder import DecoderFactory
    except ImportError as error:
        raise MissingDependencyError("mcap-ros2-support", "reading recordings", "pip install mcap mcap-ros2-support") from error
    try:
        with path.open("rb") as file:
            reader = make_reader(file, decoder_factories=[DecoderFactory()])
            for attachment in reader.iter_attachments():
                if attachment.name == "episode.json":
                    note = json.loads(attachment.data)
                    recording.interventions = [(int(a), int(b)) for a, b in note.get("interventions", [])]
                    recording.instructions = [(int(s), str(t)) for s, t in note.get("instructions", [])]
            for _, channel, raw, decoded in reader.iter_decoded_messages(log_time_order=True):
                yield channel.topic, raw.log_time, decoded
    except (McapError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{path}: {type(error).__name__}: {error}") from error


def _nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _pictures(message: Any, path: Path) -> dict[str, ImageArray | None]:
    pictures: dict[str, ImageArray | None] = {}
    for camera, image, valid in zip(message.cameras, message.images, message.image_valid, strict=True):
        if not valid:
            pictures[camera] = None
            continue
        if image.encoding != "rgb8" or image.step != 3 * image.width or len(image.data) != image.step * image.height:
            raise DataError(f"{path}: camera {camera}: {image.encoding}, {image.width}x{image.height}, step {image.step}; expected rgb8")
        pictures[camera] = np.frombuffer(bytes(image.data), np.uint8).reshape(image.height, image.width, 3)
    return pictures


def _ordered(joints: tuple[str, ...], names: Any, values: Any, path: Path, topic: str) -> FloatArray:
    by_name = dict(zip(names, values, strict=True))
    missing = [j for j in joints if j not in by_name]
    if missing:
        raise DataError(f"{path}: {topic}: no joint {missing[0]!r}; it has {', '.join(names)}")
    return np.array([by_name[j] for j in joints], dtype=np.float64)


def episodes_of(recording: Recording, cameras: tuple[str, ...], dt_s: float, actions: str = "command", least: int = 8) -> list[Episode]:
    """Demonstrations of one recording: cut where a picture is missing, a period was skipped or no action is known.

    actions: 'command' takes what the executor really commanded, one period after the observation (linear between its
    reports); 'chunk' the first target of the chunk computed from the observation. Pieces under `least` frames are left out.
    """
    if actions not in ACTION_SOURCES:
        raise ConfigError.asked("action source", actions, ACTION_SOURCES)
    period = round(dt_s * 1e9)
    labels = [_label(recording, stamp, period, actions) for stamp in recording.stamps]
    pieces: list[list[int]] = [[]]
    for i, stamp in enumerate(recording.stamps):
        usable = labels[i] is not None and all(recording.images[i].get(c) is not None for c in cameras)
        previous = pieces[-1][-1] if pieces[-1] else None
        if previous is not None and (not usable or abs(stamp - recording.stamps[previous] - period) > period // 2):
            pieces.append([])
        if usable:
            pieces[-1].append(i)
    return [_episode(recording, piece, labels, cameras) for piece in pieces if len(piece) >= least]


def _label(recording: Recording, stamp: int, period: int, actions: str) -> FloatArray | None:
    if actions == "chunk":
        return recording.chunks.get(stamp)
    times = [t for t, _ in recording.commands]
    wanted = stamp + period
    after = bisect_right(times, wanted)
    if after == 0 or times[after - 1] < wanted - period:
        return None
    t0, before = recording.commands[after - 1]
    if t0 == wanted:
        return before
    if after == len(times) or times[after] > wanted + period:
        return None
    t1, later = recording.commands[after]
    return before + (later - before) * ((wanted - t0) / (t1 - t0))


def _episode(recording: Recording, piece: list[int], labels: list[FloatArray | None], cameras: tuple[str, ...]) -> Episode:
    stamps = [recording.stamps[i] for i in piece]
    taken_over = [[float(any(a <= s <= b for a, b in recording.interventions))] for s in stamps]
    columns = {
        STATE_KEY: np.array([recording.states[i] for i in piece], np.float32),
        ACTION_KEY: np.array([labels[i] for i in piece], np.float32),
        "intervention": np.array(taken_over, np.float32),
    }
    pictures = {CAMERA_PREFIX + c: np.stack([_present(recording.images[i][c]) for i in piece]) for c in cameras}
    return Episode(columns, pictures, tuple(_text(recording, s) for s in stamps), {"start_ns": stamps[0], "end_ns": stamps[-1]})


def _present(picture: ImageArray | None) -> ImageArray:
    if picture is None:
        raise DataError("a frame without its picture reached an episode")
    return picture


def _text(recording: Recording, stamp: int) -> str:
    text = ""
    for since, said in sorted(recording.instructions):
        if since <= stamp or not text:
            text = said
    return text
