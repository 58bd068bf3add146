"""One episode on disk: a rosbag2 folder with one MCAP file (profile "ros2", messages as they were on the wire).

    <folder>/<episode>/metadata.yaml        as `ros2 bag info`, `ros2 bag play` and rosbags read it
    <folder>/<episode>/<episode>.mcap       messages; attachment episode.json; one metadata record per intervention

episode.json: {"start_ns", "end_ns", "instructions": [[stamp_ns, text], ...], "interventions": [[start_ns, end_ns], ...],
"messages": {topic: count}, "dropped": count}. Stamps are those of the recorder's clock.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from internvla_a1.core.errors import ConfigError, MissingDependencyError

COMPRESSIONS = ("zstd", "lz4", "none")


@dataclass(frozen=True)
class Channel:
    """One recorded topic. definition: complete message text (recording_schema); latched: transient local when replayed."""

    topic: str
    type_name: str
    definition: str
    reliable: bool = True
    latched: bool = False


@dataclass
class Spans:
    """Intervals in which something was true, from its changes."""

    closed: list[tuple[int, int]] = field(default_factory=list)
    _since: int | None = None

    def update(self, on: bool, stamp_ns: int) -> None:
        """Take the present truth in; repeating it changes nothing."""
        if on and self._since is None:
            self._since = stamp_ns
        elif not on and self._since is not None:
            self.closed.append((self._since, max(stamp_ns, self._since)))
            self._since = None

    def finish(self, stamp_ns: int) -> list[tuple[int, int]]:
        """All intervals, an open one closed here."""
        self.update(False, stamp_ns)
        return self.closed


class EpisodeWriter:
    """Writes one episode. Every method may raise OSError (a full disk). Not thread safe: one thread owns it."""

    def __init__(self, folder: Path, name: str, channels: list[Channel], start_ns: int, compression: str = "zstd") -> None:
        writer_class, compressions = _mcap()
        if compression not in compressions:
            raise ConfigError.asked("compression", compression, compressions)
        self.folder = _fresh(folder, name)
        self.path = self.folder / f"{self.folder.name}.mcap"
        self.start_ns, self.end_ns = start_ns, start_ns
        self.counts: Counter[str] = Counter()
        self.instructions: list[tuple[int, str]] = []
        self.interventions = Spans()
        self._channels = channels
        self._file = self.path.open("wb")
        self._writer = writer_class(self._file, chunk_size=1024 * 1024, compression=compressions[compression])
        self._writer.start(profile="ros2", library="internvla_a1 recorder")
        self._ids = {c.topic: self._register(c) for c in channels}

    def write(self, topic: str, data: bytes, stamp_ns: int) -> None:
        """One message, as it was on the wire (CDR)."""
        stamp_ns = max(stamp_ns, 0)
        self._writer.add_message(self._ids[topic], log_time=stamp_ns, publish_time=stamp_ns, data=data, sequence=self.counts[topic])
        self.counts[topic] += 1
        self.start_ns, self.end_ns = min(self.start_ns, stamp_ns), max(self.end_ns, stamp_ns)

    def close(self, dropped: int = 0) -> dict[str, Any]:
        """End the episode; the summary that episode.json holds. The file is closed even if writing fails."""
        spans = self.interventions.finish(self.end_ns)
        summary = {
            "start_ns": self.start_ns, "end_ns": self.end_ns, "instructions": self.instructions, "interventions": spans,
            "messages": dict(self.counts), "dropped": dropped,
        }
        try:
            for begin, end in spans:
                self._writer.add_metadata("intervention", {"mode": "teleop", "start_ns": str(begin), "end_ns": str(end)})
            self._writer.add_attachment(
                create_time=self.end_ns, log_time=self.end_ns, name="episode.json", media_type="application/json",
                data=json.dumps(summary).encode(),
            )
            self._writer.finish()
        finally:
            self._file.close()
        (self.folder / "metadata.yaml").write_text(self._bag_metadata())
        return summary

    def abandon(self) -> None:
        """Let go of the file after a failed write; what is on disk stays, without an index (`mcap recover` restores it)."""
        with contextlib.suppress(OSError):  # flushing the rest fails again; the descriptor is closed all the same
            self._file.close()

    def _register(self, channel: Channel) -> int:
        schema = self._writer.register_schema(channel.type_name, "ros2msg", channel.definition.encode())
        return self._writer.register_channel(channel.topic, "cdr", schema, {"offered_qos_profiles": _qos_text(channel)})

    def _bag_metadata(self) -> str:
        begin = {"nanoseconds_since_epoch": self.start_ns}
        length = {"nanoseconds": self.end_ns - self.start_ns}
        total = sum(self.counts.values())
        topics = [
            {
                "topic_metadata": {
                    "name": c.topic, "type": c.type_name, "serialization_format": "cdr", "offered_qos_profiles": _qos_text(c)
                },
                "message_count": self.counts[c.topic],
            }
            for c in self._channels
        ]
        return _yaml({"rosbag2_bagfile_information": {
            "version": 5, "storage_identifier": "mcap", "relative_file_paths": [self.path.name],
            "duration": length, "starting_time": begin, "message_count": total, "topics_with_message_count": topics,
            "compression_format": "", "compression_mode": "",
            "files": [{"path": self.path.name, "starting_time": begin, "duration": length, "message_count": total}],
        }})


def _mcap() -> tuple[Any, dict[str, Any]]:
    try:
        from mcap.writer import CompressionType, Writer
    except ImportError as error:
        raise MissingDependencyError("mcap", "recording", "pip install mcap") from error
    return Writer, {"zstd": CompressionType.ZSTD, "lz4": CompressionType.LZ4, "none": CompressionType.NONE}


def _fresh(folder: Path, name: str) -> Path:
    """A new folder of this name, numbered if there is one already."""
    for number in range(1, 1000):
        path = folder / (name if number == 1 else f"{name}_{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
    raise ConfigError(f"{folder}: no free name for an episode {name}")


def _qos_text(channel: Channel) -> str:
    """Offered quality of service as rosbag2 writes it: numbers of rmw, and its 'infinite' duration."""
    never = {"sec": 9223372036, "nsec": 854775807}
    return _yaml([{
        "history": 1, "depth": 1 if channel.latched else 10, "reliability": 1 if channel.reliable else 2,
        "durability": 1 if channel.latched else 2, "deadline": never, "lifespan": never, "liveliness": 1,
        "liveliness_lease_duration": never, "avoid_ros_namespace_conventions": False,
    }])


class _Plain(yaml.SafeDumper):
    """Without anchors: every value is written out, as rosbag2 does."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Plain, sort_keys=False)
