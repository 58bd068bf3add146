"""Parameters: declared once, described, and refused with what was asked and what is allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import rclpy
from rclpy.parameter import Parameter

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.nodes.cell import CellParams
from internvla_a1.nodes.executor_node import ExecutorParams
from internvla_a1.nodes.lifecycle_manager import ManagerParams
from internvla_a1.nodes.teleop import TeleopParams
from internvla_a1.ros import params
from internvla_a1.ros.params import Parameters, flag, integer, number, numbers, specs, text, texts, yaml_text

NODES = {"cell_node": CellParams, "executor": ExecutorParams, "teleop": TeleopParams, "lifecycle_manager": ManagerParams}


@dataclass(frozen=True)
class Sample:
    speed: float = number(1.0, "m/s", 0.0, 2.0, "Speed")
    count: int = integer(3, "", 1, 9, "Count")
    mode: str = text("a", "Mode", choices=("a", "b"))
    enabled: bool = flag(True, "On")
    gains: tuple[float, ...] = numbers((1.0, 2.0), "", 0.0, 5.0, "Gains")
    names: tuple[str, ...] = texts((), "Names")
    folder: str = text("here", "Folder", required=True)
    rate: float = number(1.0, "Hz", 0.0, 2.0, "Rate", live=True)


@pytest.fixture
def make_node():
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=39)
    nodes = []

    def make(**overrides):
        given = [Parameter(name, value=value) for name, value in overrides.items()]
        nodes.append(rclpy.create_node("sample", context=context, parameter_overrides=given, enable_rosout=False))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


def test_defaults_and_overrides_arrive_as_the_dataclass(make_node):
    node = make_node(speed=2, names=["x"])
    got = Parameters(node, Sample).load()
    assert got == Sample(speed=2.0, names=("x",)) and isinstance(got.speed, float)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"speed": 2.5}, ["speed", "2.5", "[0, 2] m/s"]),
        ({"speed": math.nan}, ["speed", "nan"]),
        ({"speed": math.inf}, ["speed", "inf"]),
        ({"speed": "fast"}, ["speed", "'fast'", "float"]),
        ({"count": 0}, ["count", "[1, 9]"]),
        ({"count": True}, ["count", "True", "int"]),
        ({"count": 1.0}, ["count", "int"]),
        ({"mode": "c"}, ["mode", "'c'", "a, b"]),
        ({"enabled": 1}, ["enabled", "bool"]),
        ({"gains": [1.0, 9.0]}, ["gains", "9.0"]),
        ({"gains": [1.0, math.nan]}, ["gains", "nan"]),
        ({"folder": ""}, ["folder", "must be set"]),
        ({"sped": 1.0}, ["'sped'", "speed", "unknown"]),
    ],
)
def test_a_mistake_is_refused_with_what_was_asked_and_what_is_allowed(make_node, overrides, words):
    parameters = Parameters(make_node(**overrides), Sample)
    with pytest.raises(ConfigError) as caught:
        parameters.load()
    for word in words:
        assert word in str(caught.value)


def test_all_mistakes_are_named_at_once(make_node):
    with pytest.raises(ConfigError, match=r"speed.*mode"):
        Parameters(make_node(speed=-1.0, mode="z"), Sample).load()


def test_a_mended_parameter_is_accepted(make_node):
    node = make_node(speed=9.0)
    parameters = Parameters(node, Sample)
    assert node.set_parameters([Parameter("speed", value=1.5)])[0].successful
    assert parameters.load().speed == 1.5


def test_a_parameter_in_use_changes_only_where_it_is_live(make_node):
    node = make_node()
    parameters = Parameters(node, Sample)
    parameters.load()
    refused = node.set_parameters([Parameter("speed", value=0.5)])[0]
    assert not refused.successful and "configured" in refused.reason
    assert node.set_parameters([Parameter("rate", value=0.5)])[0].successful
    refused = node.set_parameters([Parameter("rate", value=math.nan)])[0]
    assert not refused.successful and "2.0" in refused.reason
    parameters.unlock()
    assert node.set_parameters([Parameter("speed", value=0.5)])[0].successful


def test_describe_shows_description_unit_and_range(make_node):
    node = make_node()
    Parameters(node, Sample)
    shown = node.describe_parameter("speed")
    assert shown.description == "Speed [m/s]" and "[0, 2] m/s" in shown.additional_constraints
    assert shown.floating_point_range[0].to_value == 2.0
    assert node.describe_parameter("count").integer_range[0].from_value == 1


@pytest.mark.parametrize(("node", "kind"), NODES.items())
def test_every_parameter_of_a_node_refuses_five_kinds_of_mistake(node, kind):
    for name, spec in specs(kind).items():
        assert spec.description, f"{node}.{name} has no description"
        wrong = [object(), {"a": 1}, None]
        wrong.append(["x", 1])
        wrong.append("word" if spec.kind is not str else 3.5)
        if spec.kind is float:
            wrong += [math.nan, math.inf]
        if spec.low is not None:
            wrong += [spec.low - 1, spec.high + 1]
        for value in wrong:
            asked = [value] if spec.array and not isinstance(value, list) else value
            if spec.array:
                with pytest.raises(ConfigError, match=name):
                    spec.check(name, 7)
            with pytest.raises(ConfigError, match=name):
                spec.check(name, asked)


@pytest.mark.parametrize(("node", "kind"), NODES.items())
def test_the_parameter_file_of_a_node_says_what_its_declarations_say(node, kind):
    shown = find(f"config/{node}.yaml").read_text().split("\n", 1)[1]
    assert shown == yaml_text(kind, "").split("\n", 1)[1], f"write config/{node}.yaml anew with ros.params.yaml_text"


def test_the_parameter_file_is_read_back_as_the_defaults():
    import yaml

    values = yaml.safe_load(yaml_text(Sample, "title"))["/**"]["ros__parameters"]
    assert values["names"] == [""]  # ROS has no empty list in a file
    checked = {name: spec.check(name, values[name]) for name, spec in specs(Sample).items()}
    assert checked == {name: (("",) if name == "names" else spec.default) for name, spec in specs(Sample).items()}


def test_the_table_for_the_documentation_has_a_row_per_parameter():
    assert params.markdown(Sample).count("\n| `") == len(specs(Sample))
