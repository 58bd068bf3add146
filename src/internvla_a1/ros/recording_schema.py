"""Message definitions as recordings carry them: the type's own text, then each type that it uses (MCAP encoding "ros2msg")."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path

from internvla_a1.core.errors import ConfigError

_SEPARATOR = "=" * 80
_FIELD = re.compile(r"^\s*([A-Za-z][\w/]*)(?:<=\d+)?(?:\[[^\]]*\])?\s+[a-z]\w*", re.MULTILINE)
_BUILT_IN = re.compile(r"bool|byte|char|w?string|float(32|64)|u?int(8|16|32|64)")


def message_class(type_name: str) -> type:
    """The class of 'package/msg/Type'. Raises ConfigError with what is wrong."""
    match = re.fullmatch(r"(\w+)/msg/(\w+)", type_name)
    if match is None:
        raise ConfigError(f"message type {type_name!r}: the form is package/msg/Type")
    package, name = match.groups()
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"message type {type_name}: {error}; is the package {package} installed and sourced?") from error


def type_name(kind: type) -> str:
    """'package/msg/Type' of a message class."""
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def definition(type_name: str) -> str:
    """The complete definition of a type, nested types included. Raises ConfigError where a .msg file is missing."""
    texts: dict[str, str] = {}
    _collect(_short(type_name), texts)
    (_, own), *others = texts.items()
    return own + "".join(f"\n{_SEPARATOR}\nMSG: {name}\n{text}" for name, text in others)


def _short(type_name: str) -> str:
    package, *_, name = type_name.split("/")
    return f"{package}/{name}"


def _collect(name: str, texts: dict[str, str]) -> None:
    if name in texts:
        return
    package, message = name.split("/")
    texts[name] = _find(package, message).read_text().rstrip()
    for used in _FIELD.findall(_without_comments(texts[name])):
        if _BUILT_IN.fullmatch(used):
            continue
        _collect("std_msgs/Header" if used == "Header" else used if "/" in used else f"{package}/{used}", texts)


def _without_comments(text: str) -> str:
    return re.sub(r"#.*", "", text)


def _find(package: str, message: str) -> Path:
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p] + [sys.prefix]
    for prefix in prefixes:
        path = Path(prefix) / "share" / package / "msg" / f"{message}.msg"
        if path.is_file():
            return path
    raise ConfigError(f"definition of {package}/msg/{message} not found; looked under share/ in {', '.join(prefixes)}")
