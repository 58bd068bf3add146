from pathlib import Path
from textwrap import dedent

import pytest

from internvla_a1.core.errors import ConfigError
from internvla_a1.launcher.document import LaunchFileError
from internvla_a1.launcher.plan import NodePlan
from internvla_a1.launcher.reader import parse_assignments, read_arguments, read_plan


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str, name: str = "a.launch.yaml") -> Path:
        path = tmp_path / name
        path.write_text(dedent(text))
        return path

    return write_file


def only_node(path: Path, **given: str) -> NodePlan:
    (node,) = read_plan(path, given).nodes
    return node


def test_a_node_carries_name_namespace_parameters_remaps_and_environment(write, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("/**: {ros__parameters: {a: 1}}")
    path = write("""\
        launch:
        - arg: {name: speed, default: "1"}
        - group:
          - push_ros_namespace: {namespace: line1}
          - node:
              pkg: p
              exec: e
              name: n
              args: -d '$(dirname)/a b.rviz'
              respawn: "true"
              respawn_delay: 0.5
              launch-prefix: nice -n 5
              output: screen
              param:
              - {from: $(dirname)/p.yaml}
              - {name: speed, value: $(var speed), type: float}
              - {name: count, value: $(var speed)}
              - {name: label, value: $(var speed), type: str}
              - {name: ports, value: [1, 2]}
              remap: [{from: image, to: overhead/image_raw}]
              env: [{name: KEY, value: $(var speed)}]
        """)
    node = only_node(path)
    assert node.prefix == ("nice", "-n", "5")
    assert (node.label, node.namespace, node.respawn, node.respawn_delay_s, node.shown) == ("n", "/line1", True, 0.5, True)
    assert node.arguments == ("-d", f"{tmp_path}/a b.rviz")
    assert node.parameters == (tmp_path / "p.yaml", {"speed": 1.0}, {"count": 1}, {"label": "1"}, {"ports": [1, 2]})
    assert [type(next(iter(p.values()))) for p in node.parameters[1:4] if isinstance(p, dict)] == [float, int, str]
    assert node.remaps == (("image", "overhead/image_raw"),)
    assert node.environment["KEY"] == "1"
    assert node.where == f"{path}:5"


def test_arguments_choose_which_nodes_run(write) -> None:
    path = write("""\
        launch:
        - arg: {name: rviz, default: "false"}
        - node: {pkg: p, exec: always}
        - node: {pkg: p, exec: shown, if: $(var rviz)}
        - group:
            unless: $(var rviz)
            children:
            - node: {pkg: p, exec: headless}
        """)
    assert [n.executable for n in read_plan(path, {}).nodes] == ["always", "headless"]
    assert [n.executable for n in read_plan(path, {"rviz": "true"}).nodes] == ["always", "shown"]


def test_a_group_keeps_its_settings_to_itself(write) -> None:
    path = write("""\
        launch:
        - group:
          - push_ros_namespace: {namespace: a}
          - set_parameter: {name: use_sim_time, value: "true"}
          - set_env: {name: COLOUR, value: red}
          - let: {name: x, value: inner}
          - group:
            - push_ros_namespace: {namespace: b}
            - node: {pkg: p, exec: inner}
        - node: {pkg: p, exec: outer}
        """)
    inner, outer = read_plan(path, {}).nodes
    assert (inner.namespace, inner.parameters, inner.environment["COLOUR"]) == ("/a/b", ({"use_sim_time": True},), "red")
    assert (outer.namespace, outer.parameters) == ("", ())
    assert outer.environment.get("COLOUR") != "red"


def test_an_included_file_gets_its_arguments(write) -> None:
    write(
        """\
        launch:
        - arg: {name: speed}
        - node: {pkg: p, exec: e, param: [{name: speed, value: $(var speed), type: float}]}
        """,
        "inner.launch.yaml",
    )
    path = write("""\
        launch:
        - include: {file: $(dirname)/inner.launch.yaml, arg: [{name: speed, value: "0.1"}]}
        """)
    assert only_node(path).parameters == ({"speed": 0.1},)


@pytest.mark.parametrize(
    ("body", "line", "told"),
    [
        ("- node: {pkg: p, exec: e}\n- executable: {cmd: ls}", 3, "action: asked for 'executable', available: arg, let"),
        ("- node:\n    pkg: p\n    exec: e\n    colour: red", 5, "unknown key of node: asked for 'colour'"),
        ("- node: {pkg: p}", 2, "node needs the key 'exec'"),
        ("- node:\n    pkg: p\n    exec: e\n    respawn: true", 5, "respawn must be text; put true in quotes"),
        ("- node:\n    pkg: p\n    exec: e\n    respawn_delay: 2", 5, "respawn_delay must be a decimal number"),
        ("- node:\n    pkg: p\n    exec: e\n    param:\n    - {from: /no/such.yaml}", 6, "parameter file /no/such.yaml does not exist"),
        ("- node:\n    pkg: p\n    exec: e\n    param:\n    - {name: v, value: fast, type: float}", 6, "'fast' is not of type float"),
        ("- node:\n    pkg: p\n    exec: e\n    if: maybe", 5, "condition: asked for 'maybe'"),
        ("- include: {file: /no/such.launch.yaml}", 2, "included file /no/such.launch.yaml does not exist"),
        ("- include: {file: $(dirname)/a.launch.yaml}", 1, "include each other"),
        ("- arg: {name: robot}", 2, "argument 'robot' is required"),
        ("- arg: {name: mode, default: c, choice: [{value: a}, {value: b}]}", 2, "value of argument mode: asked for 'c', available: a, b"),
        ("- let: {name: a, name: b, value: c}", 2, "key 'name' stands twice"),
        ("- node: [", 3, "not YAML"),
    ],
)
def test_what_is_not_understood_is_refused_with_file_and_line(write, body: str, line: int, told: str) -> None:
    path = write("launch:\n" + body + "\n")
    with pytest.raises(LaunchFileError) as refused:
        read_plan(path, {})
    assert str(refused.value).startswith(f"{path}:{line}: ")
    assert told in str(refused.value)


def test_an_argument_that_the_file_does_not_take_is_refused(write) -> None:
    path = write("launch:\n- arg: {name: speed, default: '1'}\n- node: {pkg: p, exec: e}\n")
    with pytest.raises(ConfigError, match="asked for 'sped', available: speed"):
        read_plan(path, {"sped": "2"})
    with pytest.raises(ConfigError, match="is not name:=value"):
        parse_assignments(["speed=2"])


def test_arguments_are_listed_even_where_one_is_required(write) -> None:
    path = write("launch:\n- arg: {name: robot, description: the robot file}\n- arg: {name: x, default: $(var robot)}\n")
    robot, x = read_arguments(path)
    assert (robot.name, robot.default, robot.description) == ("robot", None, "the robot file")
    assert x.default == "$(var robot)"
