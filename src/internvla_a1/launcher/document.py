"""A YAML launch file as a tree that knows file and line of each entry, so that every refusal can point at its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from internvla_a1.core.errors import ConfigError

Scalar = str | bool | int | float | None


class LaunchFileError(ConfigError):
    """A launch file, or a part of it, that cannot be run: starts with `file:line:`."""


@dataclass(frozen=True)
class Entry:
    """One value of the file: a scalar, a list of entries or a mapping of names to entries."""

    value: Scalar | list[Entry] | dict[str, Entry]
    path: Path
    line: int

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}"

    def refuse(self, message: str) -> LaunchFileError:
        """The error to raise about this entry."""
        return LaunchFileError(f"{self.where}: {message}")

    def refuse_choice(self, what: str, asked: object, available: Iterable[object]) -> LaunchFileError:
        """The error to raise where there is a list of what can be asked for."""
        return LaunchFileError(f"{self.where}: {ConfigError.asked(what, asked, available)}")

    def text(self, what: str) -> str:
        """The value as text. `ros2 launch` refuses unquoted true, 2 and the like where it wants text, so this does too."""
        if not isinstance(self.value, str):
            shown = "nothing" if self.value is None else repr(self.value).lower()
            raise self.refuse(f"{what} must be text; put {shown} in quotes")
        return self.value

    def mapping(self, what: str, required: Iterable[str] = (), optional: Iterable[str] = ()) -> dict[str, Entry]:
        """The value as a mapping that has all `required` keys and nothing beyond `required` and `optional`."""
        if not isinstance(self.value, dict):
            raise self.refuse(f"{what} must be a mapping")
        required, known = list(required), [*required, *optional]
        for key, entry in self.value.items():
            if key not in known:
                raise entry.refuse_choice(f"unknown key of {what}", key, known)
        for key in required:
            if key not in self.value:
                raise self.refuse(f"{what} needs the key {key!r}")
        return self.value

    def sequence(self, what: str) -> list[Entry]:
        """The value as a list."""
        if not isinstance(self.value, list):
            raise self.refuse(f"{what} must be a list")
        return self.value


def read_document(path: Path) -> list[Entry]:
    """The actions under the `launch` key of a file. Raises LaunchFileError."""
    try:
        loader = yaml.SafeLoader(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchFileError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        root = loader.get_single_node()
        if root is None:
            raise LaunchFileError(f"{path}:1: the file is empty")
        entry = _entry(root, path, loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise LaunchFileError(f"{path}:{line}: not YAML: {error.problem}") from error
    finally:
        loader.dispose()
    return entry.mapping("a launch file", required=["launch"])["launch"].sequence("launch")


def _entry(node: yaml.Node, path: Path, loader: yaml.SafeLoader) -> Entry:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        return Entry(loader.construct_object(node), path, line)
    if isinstance(node, yaml.SequenceNode):
        return Entry([_entry(child, path, loader) for child in node.value], path, line)
    children: dict[str, Entry] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node)
        child = _entry(value_node, path, loader)
        if not isinstance(key, str):
            raise child.refuse(f"key {key!r} must be text")
        if key in children:
            raise LaunchFileError(f"{path}:{key_node.start_mark.line + 1}: key {key!r} stands twice")
        # A block value starts one line below its key, and people look for the key.
        children[key] = Entry(child.value, path, key_node.start_mark.line + 1)
    return Entry(children, path, line)
