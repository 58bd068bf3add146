"""The `node` action of a launch file."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import yaml

from internvla_a1.launcher.document import Entry
from internvla_a1.launcher.plan import NodePlan
from internvla_a1.launcher.substitutions import Scope, expand, is_true

CONDITIONS = ("if", "unless")
_KEYS = (
    "name", "namespace", "args", "param", "remap", "env", "output", "respawn", "respawn_delay", "launch-prefix", *CONDITIONS,
)  # fmt: skip
_OUTPUTS = ("screen", "both", "log")
_SCALARS = (bool, int, float, str)


def read_node(body: Entry, scope: Scope) -> NodePlan:
    """One `node` entry as a plan. Raises LaunchFileError."""
    keys = body.mapping("node", ["pkg", "exec"], _KEYS)

    def text(key: str, default: str = "") -> str:
        return expand(keys[key], scope, key) if key in keys else default

    output = text("output", "log")
    if output not in _OUTPUTS:
        raise keys["output"].refuse_choice("output", output, _OUTPUTS)
    environment = dict(scope.environment)
    for pair in _pairs(keys, "env", "name", "value"):
        environment[expand(pair["name"], scope)] = expand(pair["value"], scope)
    parameters: list[Path | dict[str, object]] = [dict(scope.parameters)] if scope.parameters else []
    parameters += [_parameter(entry, scope) for entry in (keys["param"].sequence("param") if "param" in keys else [])]
    return NodePlan(
        package=text("pkg"),
        executable=text("exec"),
        where=body.where,
        name=text("name"),
        namespace=join_namespace(scope.namespace, text("namespace")),
        arguments=tuple(shlex.split(text("args"))),
        prefix=tuple(shlex.split(text("launch-prefix"))),
        parameters=tuple(parameters),
        remaps=tuple((expand(p["from"], scope), expand(p["to"], scope)) for p in _pairs(keys, "remap", "from", "to")),
        environment=environment,
        respawn="respawn" in keys and is_true(text("respawn"), keys["respawn"]),
        respawn_delay_s=_delay(keys["respawn_delay"]) if "respawn_delay" in keys else 0.0,
        shown=output != "log",
    )


def join_namespace(outer: str, inner: str) -> str:
    """ROS namespaces: an absolute one replaces, a relative one is appended, an empty one changes nothing."""
    if not inner.strip("/"):
        return outer
    if inner.startswith("/"):
        return "/" + inner.strip("/")
    return f"{outer}/{inner.strip('/')}"


def _pairs(keys: dict[str, Entry], key: str, first: str, second: str) -> list[dict[str, Entry]]:
    entries = keys[key].sequence(key) if key in keys else []
    return [entry.mapping(key, [first, second]) for entry in entries]


def _delay(entry: Entry) -> float:
    # `ros2 launch` refuses an integer here.
    if not isinstance(entry.value, float) or entry.value < 0:
        raise entry.refuse(f"respawn_delay must be a decimal number of seconds, such as 2.0, not {entry.value!r}")
    return entry.value


def _parameter(entry: Entry, scope: Scope) -> Path | dict[str, object]:
    if isinstance(entry.value, dict) and "from" in entry.value:
        source = entry.mapping("param", ["from"])["from"]
        path = Path(expand(source, scope))
        if not path.is_file():
            raise source.refuse(f"parameter file {path} does not exist")
        return path
    keys = entry.mapping("param", ["name", "value"], ["type"])
    kind = keys["type"].text("type") if "type" in keys else None
    value = keys["value"]
    if isinstance(value.value, str):
        return {expand(keys["name"], scope): typed_value(expand(value, scope), kind, value)}
    return {expand(keys["name"], scope): _literal(value, kind)}


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _uniform(value: object) -> bool:
    """A list of one or more scalars of one type: what a ROS parameter can hold."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, _SCALARS) and type(v) is type(value[0]) for v in value)


_TYPES: dict[str, Callable[[str], object]] = {"str": str, "float": float, "int": int, "bool": _boolean}


def typed_value(text: str, kind: str | None, entry: Entry) -> object:
    """A parameter from text: of the type asked for, else of the type that YAML sees in it. Raises LaunchFileError."""
    if kind is not None:
        if kind not in _TYPES:
            raise entry.refuse_choice("type of a parameter", kind, _TYPES)
        try:
            return _TYPES[kind](text)
        except (ValueError, KeyError):
            raise entry.refuse(f"{text!r} is not of type {kind}") from None
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        raise entry.refuse(f"{text!r} is not YAML; add type: str if it is meant as text") from None
    if isinstance(value, _SCALARS) or _uniform(value):
        return value
    raise entry.refuse(f"{text!r} is neither a scalar nor a list of one kind; add type: str if it is meant as text")


def _literal(entry: Entry, kind: str | None) -> object:
    value = entry.value
    if isinstance(value, list):
        items = [item.value for item in value]
        if not _uniform(items):
            raise entry.refuse("a list parameter holds scalars of one kind and at least one of them")
        return items
    if value is None or isinstance(value, dict):
        raise entry.refuse("a parameter is a scalar or a list")
    if kind is not None and type(value).__name__ != kind:
        raise entry.refuse(f"{value!r} is not of type {kind}")
    return value
