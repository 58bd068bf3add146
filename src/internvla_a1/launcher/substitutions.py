"""Substitutions of the launch front ends: $(var x), $(find-pkg-share pkg), $(env NAME default), $(dirname), and the logical ones.

Grammar and meaning are those of `ros2 launch` (Jazzy). $(eval ...) and $(command ...) run code and are refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import share_dir
from internvla_a1.launcher.document import Entry

PACKAGE = "internvla_a1"


@dataclass
class Scope:
    """What substitutions see, and what actions change. A group works on a copy."""

    variables: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    namespace: str = ""
    parameters: dict[str, object] = field(default_factory=dict)

    def copy(self) -> Scope:
        return Scope(dict(self.variables), dict(self.environment), self.namespace, dict(self.parameters))


def expand(entry: Entry, scope: Scope, what: str = "value") -> str:
    """The text of an entry with every $(...) performed. Raises LaunchFileError at the entry."""
    return _expand(entry.text(what), entry, scope)


def is_true(text: str, entry: Entry) -> bool:
    """A condition, as `ros2 launch` reads it: true, 1, false or 0. Raises LaunchFileError."""
    word = text.strip().lower()
    if word in ("true", "1"):
        return True
    if word in ("false", "0"):
        return False
    raise entry.refuse_choice("condition", text, ("true", "1", "false", "0"))


def _expand(text: str, entry: Entry, scope: Scope) -> str:
    out, at = [], 0
    while (start := text.find("$(", at)) >= 0:
        if start and text[start - 1] == "\\":
            out.append(text[at : start - 1] + "$(")
            at = start + 2
            continue
        end = _closing(text, start, entry)
        out.append(text[at:start])
        out.append(_perform(text[start + 2 : end], entry, scope))
        at = end + 1
    return "".join(out) + text[at:]


def _closing(text: str, start: int, entry: Entry) -> int:
    """Index of the bracket that closes the one of the `$(` at `start`."""
    depth, quote = 0, ""
    for i in range(start + 1, len(text)):
        c = text[i]
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"" and text[i - 1] in " (":
            quote = c
        elif c == "(":
            depth += 1
        elif c == ")":
            depth -= 1
            if depth == 0:
                return i
    raise entry.refuse(f"{text[start:]!r} is not closed")


def _split(text: str, entry: Entry) -> list[str]:
    """Arguments of a substitution: separated by blanks outside quotes and inner substitutions; quotes at the ends removed."""
    words: list[str] = []
    at = 0
    while at < len(text):
        if text[at] == " ":
            at += 1
            continue
        if text[at] in "'\"":
            end = text.find(text[at], at + 1)
            if end < 0:
                raise entry.refuse(f"{text[at:]!r}: the quote is not closed")
            words.append(text[at + 1 : end])
            at = end + 1
            continue
        start = at
        while at < len(text) and text[at] != " ":
            at = _closing(text, at, entry) + 1 if text.startswith("$(", at) else at + 1
        words.append(text[start:at])
    return words


def _perform(body: str, entry: Entry, scope: Scope) -> str:
    words = _split(body, entry)
    if not words or words[0] not in _KNOWN:
        raise entry.refuse_choice("substitution", f"$({body})", [f"$({name} ...)" for name in _KNOWN])
    function, least, most = _KNOWN[words[0]]
    arguments = [_expand(word, entry, scope) for word in words[1:]]
    if not least <= len(arguments) <= most:
        raise entry.refuse(f"$({body}): {words[0]} takes {least if least == most else f'{least} to {most}'} arguments")
    return function(arguments, entry, scope)


def _var(arguments: list[str], entry: Entry, scope: Scope) -> str:
    name = arguments[0]
    if name in scope.variables:
        return scope.variables[name]
    if len(arguments) == 2:
        return arguments[1]
    raise entry.refuse_choice("launch argument", name, sorted(scope.variables))


def _env(arguments: list[str], entry: Entry, scope: Scope) -> str:
    name = arguments[0]
    if name in scope.environment:
        return scope.environment[name]
    if len(arguments) == 2:
        return arguments[1]
    raise entry.refuse(f"environment variable {name} is not set; $(env {name} default) gives a default")


def package_share(package: str) -> Path | None:
    """share/<package> of a package: the ament index, or the checkout for this package itself. None where there is none."""
    if package == PACKAGE:
        try:
            return share_dir()
        except ConfigError:
            return None
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":"):
        share = Path(prefix) / "share" / package
        if prefix and share.is_dir():
            return share
    return None


def _find_pkg_share(arguments: list[str], entry: Entry, scope: Scope) -> str:
    share = package_share(arguments[0])
    if share is None:
        raise entry.refuse(f"package {arguments[0]} is not in AMENT_PREFIX_PATH; source the workspace or install that has it")
    return str(share)


def _truth(word: str, entry: Entry) -> bool:
    return is_true(word, entry)


def _text(value: bool) -> str:
    return "true" if value else "false"


_Function = Callable[[list[str], Entry, Scope], str]
_KNOWN: dict[str, tuple[_Function, int, int]] = {
    "var": (_var, 1, 2),
    "env": (_env, 1, 2),
    "find-pkg-share": (_find_pkg_share, 1, 1),
    "dirname": (lambda a, e, s: str(e.path.parent), 0, 0),
    "not": (lambda a, e, s: _text(not _truth(a[0], e)), 1, 1),
    "and": (lambda a, e, s: _text(_truth(a[0], e) and _truth(a[1], e)), 2, 2),
    "or": (lambda a, e, s: _text(_truth(a[0], e) or _truth(a[1], e)), 2, 2),
    "equals": (lambda a, e, s: _text(a[0] == a[1]), 2, 2),
    "not-equals": (lambda a, e, s: _text(a[0] != a[1]), 2, 2),
}
