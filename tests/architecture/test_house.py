"""The house keeps its shape: imports point inward, files stay small, nothing dangerous is called."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "internvla_a1"

# room -> rooms that it may import from; a room may always import from itself
ARROWS = {
    "core": set(),
    "perception": {"core"},
    "control": {"core"},
    "foresight": {"core", "control"},
    "model": {"core"},
    "data": {"core"},
    "sim": {"core"},
    "policy": {"core", "model", "sim"},
    "train": {"core", "data", "eval", "model", "policy", "sim"},
    "eval": {"core", "control", "data", "model", "perception", "policy", "sim"},
    "ros": {"core"},
    "launcher": {"core"},
}
TORCH_ROOMS = {"model", "policy", "train", "eval"}
ROS_ROOMS = {"ros"}
ROS_PACKAGES = re.compile(r"^(rclpy|ament_index_python|rosidl_\w+|\w+_msgs|std_srvs|lifecycle_msgs|tf2_ros|cv_bridge|moveit)(\.|$)")
LARGEST_FILE = 400


def sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module with its line, inside functions too."""
    tree = ast.parse(path.read_text(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield node.module or "", node.lineno


@pytest.mark.parametrize("name", sorted(ARROWS))
def test_a_room_imports_only_from_the_rooms_below_it(name: str) -> None:
    wrong = []
    for path in sources():
        if room(path) != name:
            continue
        for module, line in imports(path):
            parts = module.split(".")
            if parts[0] == "internvla_a1" and len(parts) > 1 and parts[1] not in ARROWS[name] | {name}:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_only_the_ros_edge_imports_ros() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources()
        if room(path) in ARROWS and room(path) not in ROS_ROOMS
        for module, line in imports(path)
        if ROS_PACKAGES.match(module) and not module.startswith("internvla_a1.")
    ]
    assert not wrong, "\n".join(wrong)


def test_torch_is_imported_only_where_the_model_is() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources()
        if room(path) in ARROWS and room(path) not in TORCH_ROOMS
        for module, line in imports(path)
        if module.split(".")[0] in ("torch", "transformers", "accelerate")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_is_longer_than_a_room_should_be() -> None:
    files = [p for folder in ("src", "tests", "scripts", "launch") for p in (ROOT / folder).rglob("*.py")]
    long = [f"{p.relative_to(ROOT)}: {n} lines" for p in files if (n := len(p.read_text().splitlines())) > LARGEST_FILE]
    assert not long, "\n".join(long)


def test_nothing_loads_or_runs_foreign_code() -> None:
    forbidden = {"eval", "exec"}
    modules = {"pickle": ("load", "loads"), "torch": ("load",), "yaml": ("load", "unsafe_load"), "marshal": ("load", "loads")}
    attributes = {(module, name) for module, names in modules.items() for name in names}
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            f = node.func
            called = (f.value.id, f.attr) if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) else None
            trusts = any(k.arg == "trust_remote_code" and getattr(k.value, "value", True) for k in node.keywords)
            if (isinstance(f, ast.Name) and f.id in forbidden) or called in attributes or trusts:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, "\n".join(wrong)


def test_every_row_of_the_fault_table_has_its_test_file() -> None:
    rows = {int(m.group(1)) for p in (ROOT / "tests" / "faults").glob("test_row_*.py") if (m := re.match(r"test_row_(\d+)_", p.name))}
    assert rows == set(range(1, 39)), f"missing rows: {sorted(set(range(1, 39)) - rows)}"
