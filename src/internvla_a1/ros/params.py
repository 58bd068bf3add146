"""Node parameters, each declared once as a field of a frozen dataclass: type, unit, range, description.

    @dataclass(frozen=True)
    class TeleopParams:
        rate_hz: float = number(50.0, "Hz", 10.0, 200.0, "Rate of the jog commands")

`Parameters(node, TeleopParams)` declares them with descriptors (`ros2 param describe` shows them), `.load()` gives the
checked dataclass. rclpy ignores a misspelt override and lets NaN through a range; `load()` refuses both, with what was asked
and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, Generic, TypeVar, cast

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from internvla_a1.core.errors import ConfigError

T = TypeVar("T")

_TYPES: dict[type, Parameter.Type] = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
}
_ARRAYS: dict[type, Parameter.Type] = {
    float: Parameter.Type.DOUBLE_ARRAY,
    int: Parameter.Type.INTEGER_ARRAY,
    str: Parameter.Type.STRING_ARRAY,
}
_SIM_TIME = "use_sim_time"
_RCLPY_OWN = (_SIM_TIME, "qos_overrides.", "start_type_description_service")


@dataclass(frozen=True)
class Spec:
    """What is true of one parameter. `kind` is the element type; `array` says whether it is a list."""

    kind: type
    default: Any
    description: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    array: bool = False
    required: bool = False
    live: bool = False  # may change while the node is configured

    @property
    def allowed(self) -> str:
        """The values that are accepted, in words."""
        words = self.kind.__name__ + (" list" if self.array else "")
        if self.choices:
            words += " out of " + ", ".join(self.choices)
        if self.low is not None and self.high is not None:
            low, high = (f"{v}" if self.kind is int else f"{v:g}" for v in (self.low, self.high))
            words += f" in [{low}, {high}]" + (f" {self.unit}" if self.unit else "")
        return words

    def check(self, name: str, value: Any) -> Any:
        """The value in its declared type. Raises ConfigError with what was asked and what is allowed."""
        items = list(value) if self.array and _is_list(value) else [value]
        if self.array and not _is_list(value):
            raise self._refusal(name, value)
        checked = [self._check_one(name, value, item) for item in items]
        if self.required and (not checked or checked[0] == ""):
            raise ConfigError(f"parameter {name} must be set: {self.description} ({self.allowed})")
        return tuple(checked) if self.array else checked[0]

    def _check_one(self, name: str, whole: Any, value: Any) -> Any:
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)  # YAML writes 1 for 1.0
        if not isinstance(value, self.kind) or (self.kind is int and isinstance(value, bool)):
            raise self._refusal(name, whole)
        if isinstance(value, float) and not math.isfinite(value):
            raise self._refusal(name, whole)
        if self.low is not None and self.high is not None and not self.low <= cast(float, value) <= self.high:
            raise self._refusal(name, whole)
        if self.choices and value not in self.choices:
            raise self._refusal(name, whole)
        return value

    def _refusal(self, name: str, value: Any) -> ConfigError:
        return ConfigError(f"parameter {name}: asked for {value!r}, allowed: {self.allowed}")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def number(default: float, unit: str, low: float, high: float, description: str, live: bool = False) -> Any:
    """A float parameter within [low, high]."""
    return _field(Spec(float, float(default), description, unit, low, high, live=live))


def integer(default: int, unit: str, low: int, high: int, description: str, live: bool = False) -> Any:
    """An integer parameter within [low, high]."""
    return _field(Spec(int, default, description, unit, low, high, live=live))


def flag(default: bool, description: str, live: bool = False) -> Any:
    """A boolean parameter."""
    return _field(Spec(bool, default, description, live=live))


def text(default: str, description: str, choices: tuple[str, ...] = (), required: bool = False, live: bool = False) -> Any:
    """A string parameter; with `choices` one of them; `required` refuses the empty string."""
    return _field(Spec(str, default, description, choices=choices, required=required, live=live))


def numbers(default: Sequence[float], unit: str, low: float, high: float, description: str) -> Any:
    """A list of floats, each within [low, high]; the field's type is tuple[float, ...]."""
    return _field(Spec(float, tuple(default), description, unit, low, high, array=True))


def integers(default: Sequence[int], unit: str, low: int, high: int, description: str) -> Any:
    """A list of integers, each within [low, high]."""
    return _field(Spec(int, tuple(default), description, unit, low, high, array=True))


def texts(default: Sequence[str], description: str, choices: tuple[str, ...] = ()) -> Any:
    """A list of strings. ROS cannot write an empty list in YAML: [''] stands for it."""
    return _field(Spec(str, tuple(default), description, choices=choices, array=True))


def _field(spec: Spec) -> Any:
    return field(default=spec.default, metadata={"spec": spec})


def specs(kind: type) -> dict[str, Spec]:
    """Parameter name -> Spec of a parameter dataclass. use_sim_time is every node's own and is left out."""
    return {f.name: _spec(f) for f in fields(kind) if f.name != _SIM_TIME}


def _spec(f: Field) -> Spec:
    """Fields of the pure configurations (control/, perception/) carry unit, min, max, choices and description as plain metadata."""
    spec = f.metadata.get("spec")
    if isinstance(spec, Spec):
        return spec
    m = f.metadata
    if "description" not in m:
        raise TypeError(f"field {f.name} was not declared with number(), integer(), flag(), text(), ...")
    return Spec(type(f.default), f.default, m["description"], m.get("unit", ""), m.get("min"), m.get("max"), m.get("choices", ()))


class Parameters(Generic[T]):
    """The parameters of one node: declared at construction, checked by load(), guarded afterwards."""

    def __init__(self, node: Node, kind: type[T]) -> None:
        self._node = node
        self._kind = kind
        self._specs = specs(kind)
        self._mistakes: dict[str, str] = {}
        self._locked = False
        overrides = {name: p.value for name, p in node._parameter_overrides.items()}
        for name, spec in self._specs.items():
            self._declare(name, spec, overrides)
        unknown = [n for n in overrides if n not in self._specs and not n.startswith(_RCLPY_OWN)]
        for name in unknown:
            self._mistakes[name] = f"unknown parameter: asked for {name!r}, available: {', '.join(self._specs)}"
        node.add_on_set_parameters_callback(self._on_set)

    def load(self) -> T:
        """All values, checked. Raises ConfigError that lists every mistake. Values are locked until `unlock()`."""
        mistakes = list(self._mistakes.values())
        values = {}
        for name, spec in self._specs.items():
            if name in self._mistakes:
                continue
            try:
                values[name] = spec.check(name, self._value(name, spec))
            except ConfigError as error:
                mistakes.append(str(error))
        if mistakes:
            raise ConfigError("; ".join(mistakes))
        if any(f.name == _SIM_TIME for f in fields(self._kind)):  # type: ignore[arg-type]
            values[_SIM_TIME] = bool(self._node.get_parameter(_SIM_TIME).value)
        self._locked = True
        return self._kind(**values)

    def unlock(self) -> None:
        """Let every parameter be set again (after cleanup)."""
        self._locked = False

    def _declare(self, name: str, spec: Spec, overrides: dict[str, Any]) -> None:
        value = spec.default
        if name in overrides:
            try:
                asked = spec.check(name, overrides[name])
                value = asked
            except ConfigError as error:
                self._mistakes[name] = str(error)
        stored = list(value) if spec.array else value
        types = _ARRAYS if spec.array else _TYPES
        parameter = Parameter(name, types[spec.kind], stored)
        self._node.declare_parameter(name, parameter.value, descriptor(name, spec), ignore_override=True)

    def _value(self, name: str, spec: Spec) -> Any:
        value = self._node.get_parameter(name).value
        return () if value is None and spec.array else value

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        for p in parameters:
            spec = self._specs.get(p.name)
            if spec is None:
                continue
            if self._locked and not spec.live:
                reason = f"parameter {p.name} is read when the node is configured; clean it up first"
                return SetParametersResult(successful=False, reason=reason)
            try:
                spec.check(p.name, p.value)
            except ConfigError as error:
                return SetParametersResult(successful=False, reason=str(error))
        for p in parameters:
            self._mistakes.pop(p.name, None)
        return SetParametersResult(successful=True)


def descriptor(name: str, spec: Spec) -> ParameterDescriptor:
    """What `ros2 param describe` shows."""
    types = _ARRAYS if spec.array else _TYPES
    unit = f" [{spec.unit}]" if spec.unit else ""
    message = ParameterDescriptor(
        name=name,
        type=types[spec.kind].value,
        description=spec.description + unit,
        additional_constraints=spec.allowed,
    )
    if spec.low is not None and spec.high is not None and not spec.array:
        if spec.kind is float:
            message.floating_point_range = [FloatingPointRange(from_value=float(spec.low), to_value=float(spec.high), step=0.0)]
        else:
            message.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)]
    return message


def yaml_text(kind: type, title: str) -> str:
    """A parameter file with every parameter at its default, described in comments."""
    lines = [f"# {title}", "/**:", "  ros__parameters:"]
    for name, spec in specs(kind).items():
        lines.append(f"    {name}: {_yaml_value(spec)}   # {spec.description} ({spec.allowed})")
    return "\n".join(lines) + "\n"


def _yaml_value(spec: Spec) -> str:
    def one(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return f'"{value}"' if isinstance(value, str) else repr(value)

    if spec.array:
        return "[" + ", ".join(one(v) for v in (spec.default or ("",))) + "]"
    return one(spec.default)


def markdown(kind: type) -> str:
    """The same as a table for the documentation."""
    rows = ["| parameter | default | allowed | meaning |", "|---|---|---|---|"]
    for name, spec in specs(kind).items():
        rows.append(f"| `{name}` | `{_yaml_value(spec)}` | {spec.allowed} | {spec.description} |")
    return "\n".join(rows) + "\n"
