"""From a launch file and name:=value arguments to a Plan.

The part of the ROS 2 YAML front end that is understood: arg, let, set_env, unset_env, group, push_ros_namespace,
set_parameter, include, log, node. Anything else is refused with file and line.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from internvla_a1.core.errors import ConfigError
from internvla_a1.launcher.document import Entry, LaunchFileError, read_document
from internvla_a1.launcher.nodes import CONDITIONS, join_namespace, read_node, typed_value
from internvla_a1.launcher.plan import Argument, Plan
from internvla_a1.launcher.substitutions import Scope, expand, is_true

_MAX_INCLUDES = 20


class Reader:
    """Evaluates actions in order; holds the plan while it grows."""

    def __init__(self, given: dict[str, str]) -> None:
        self.plan = Plan()
        self._given = given
        self._depth = 0
        self._actions: dict[str, Callable[[Entry, Scope], None]] = {
            "arg": self._arg,
            "let": self._let,
            "set_env": self._set_env,
            "unset_env": self._unset_env,
            "group": self._group,
            "push_ros_namespace": self._push_namespace,
            "push-ros-namespace": self._push_namespace,
            "set_parameter": self._set_parameter,
            "include": self._include,
            "log": self._log,
            "node": self._node,
        }

    def file(self, path: Path, scope: Scope) -> None:
        """Run all actions of one file."""
        self._depth += 1
        if self._depth > _MAX_INCLUDES:
            raise LaunchFileError(f"{path}:1: files include each other more than {_MAX_INCLUDES} deep")
        self._run(read_document(path), scope)
        self._depth -= 1

    def _run(self, actions: list[Entry], scope: Scope) -> None:
        for action in actions:
            if not isinstance(action.value, dict) or len(action.value) != 1:
                raise action.refuse("an action is a mapping with one key, its kind")
            kind, body = next(iter(action.value.items()))
            if kind not in self._actions:
                raise body.refuse_choice("action", kind, self._actions)
            if self._wanted(body, scope):
                self._actions[kind](body, scope)

    @staticmethod
    def _wanted(body: Entry, scope: Scope) -> bool:
        if not isinstance(body.value, dict):
            return True
        if "if" in body.value and "unless" in body.value:
            raise body.refuse("if and unless exclude each other")
        for key in CONDITIONS:
            if key in body.value:
                entry = body.value[key]
                return is_true(expand(entry, scope, key), entry) == (key == "if")
        return True

    def _arg(self, body: Entry, scope: Scope) -> None:
        argument = _declaration(body, lambda entry: expand(entry, scope, "default"))
        name = argument.name
        self.plan.arguments.setdefault(name, argument)
        if name not in scope.variables:
            if name in self._given:
                scope.variables[name] = self._given[name]
            elif argument.default is None:
                raise body.refuse(f"argument {name!r} is required ({argument.description or 'no description'}): give {name}:=value")
            else:
                scope.variables[name] = argument.default
        if argument.choices and scope.variables[name] not in argument.choices:
            raise body.refuse_choice(f"value of argument {name}", scope.variables[name], argument.choices)

    def _let(self, body: Entry, scope: Scope) -> None:
        keys = body.mapping("let", ["name", "value"], CONDITIONS)
        scope.variables[expand(keys["name"], scope)] = expand(keys["value"], scope)

    def _set_env(self, body: Entry, scope: Scope) -> None:
        keys = body.mapping("set_env", ["name", "value"], CONDITIONS)
        scope.environment[expand(keys["name"], scope)] = expand(keys["value"], scope)

    def _unset_env(self, body: Entry, scope: Scope) -> None:
        keys = body.mapping("unset_env", ["name"], CONDITIONS)
        scope.environment.pop(expand(keys["name"], scope), None)

    def _group(self, body: Entry, scope: Scope) -> None:
        if isinstance(body.value, list):
            return self._run(body.value, scope.copy())
        keys = body.mapping("group", ["children"], CONDITIONS)
        return self._run(keys["children"].sequence("children"), scope.copy())

    def _push_namespace(self, body: Entry, scope: Scope) -> None:
        keys = body.mapping("push_ros_namespace", ["namespace"], CONDITIONS)
        scope.namespace = join_namespace(scope.namespace, expand(keys["namespace"], scope))

    def _set_parameter(self, body: Entry, scope: Scope) -> None:
        keys = body.mapping("set_parameter", ["name", "value"], CONDITIONS)
        scope.parameters[expand(keys["name"], scope)] = typed_value(expand(keys["value"], scope), None, keys["value"])

    def _include(self, body: Entry, scope: Scope) -> None:
        keys = body.mapping("include", ["file"], ["arg", *CONDITIONS])
        for argument in keys["arg"].sequence("arg") if "arg" in keys else []:
            pair = argument.mapping("arg of include", ["name", "value"])
            scope.variables[expand(pair["name"], scope)] = expand(pair["value"], scope)
        path = Path(expand(keys["file"], scope))
        if not path.is_file():
            raise keys["file"].refuse(f"included file {path} does not exist")
        self.file(path, scope)

    def _log(self, body: Entry, scope: Scope) -> None:
        self.plan.messages.append(expand(body.mapping("log", ["message"], CONDITIONS)["message"], scope))

    def _node(self, body: Entry, scope: Scope) -> None:
        self.plan.nodes.append(read_node(body, scope))


def read_plan(path: Path, given: dict[str, str]) -> Plan:
    """Evaluate a launch file with the arguments `given`.

    Raises LaunchFileError for what the file has wrong, ConfigError for an argument that the file does not take.
    """
    reader = Reader(given)
    reader.file(path.resolve(), Scope())
    unknown = sorted(set(given) - set(reader.plan.arguments))
    if unknown:
        raise ConfigError.asked(f"argument of {path.name}", unknown[0], sorted(reader.plan.arguments))
    return reader.plan


def read_arguments(path: Path) -> list[Argument]:
    """The arguments that a file declares itself, without evaluating the rest: works where a required one is missing."""
    actions = [action.value for action in read_document(path.resolve()) if isinstance(action.value, dict)]
    return [_declaration(action["arg"], lambda entry: entry.text("default")) for action in actions if "arg" in action]


def _declaration(body: Entry, default: Callable[[Entry], str]) -> Argument:
    keys = body.mapping("arg", ["name"], ["default", "description", "choice", *CONDITIONS])
    choices = keys["choice"].sequence("choice") if "choice" in keys else []
    return Argument(
        keys["name"].text("name"),
        default(keys["default"]) if "default" in keys else None,
        keys["description"].text("description") if "description" in keys else "",
        tuple(choice.mapping("choice", ["value"])["value"].text("value") for choice in choices),
    )


def parse_assignments(words: list[str]) -> dict[str, str]:
    """name:=value words to a dictionary. Raises ConfigError."""
    given = {}
    for word in words:
        name, assigned, value = word.partition(":=")
        if not assigned or not name:
            raise ConfigError(f"{word!r} is not name:=value")
        given[name] = value
    return given


def dump_parameters(values: dict[str, object]) -> str:
    """A ROS parameter file that gives `values` to whatever node reads it."""
    return yaml.safe_dump({"/**": {"ros__parameters": values}}, default_flow_style=False, allow_unicode=True)
