"""The set-up says in one line what is missing, and does nothing twice."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "bootstrap.py"


@pytest.fixture
def bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_missing_compiler_is_named_with_its_apt_package(bootstrap, monkeypatch) -> None:
    monkeypatch.setattr(bootstrap.shutil, "which", lambda tool, **_: None if tool in ("cmake", "c++") else f"/usr/bin/{tool}")
    with pytest.raises(bootstrap.SetupError) as error:
        bootstrap.check_tools()
    assert "\n" not in str(error.value)
    assert "sudo apt install cmake" in str(error.value) and "sudo apt install g++" in str(error.value)


def test_a_missing_gl_library_is_named_with_its_apt_package(bootstrap, monkeypatch) -> None:
    monkeypatch.setattr(bootstrap.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(bootstrap.SetupError, match="sudo apt install libegl1"):
        bootstrap.check_tools()


def test_an_unsupported_python_is_refused_with_the_versions_that_work(bootstrap, monkeypatch) -> None:
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(bootstrap.shutil, "which", lambda tool, **_: None)
    with pytest.raises(bootstrap.SetupError, match=r"3.10, 3.11 or 3.12 is needed, this is 3.9"):
        bootstrap.check_python()


def test_a_step_runs_once_for_a_key_and_again_for_another(bootstrap, tmp_path) -> None:
    def environment():
        return bootstrap.Environment(tmp_path, None)

    append = [sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'a').write('x')"]
    for key in ("a", "a", "b"):
        environment().step("name", key, "title", [append])
    assert (tmp_path / "ran").read_text() == "xx"


def test_a_failing_step_shows_the_end_of_its_log_and_is_not_recorded(bootstrap, tmp_path) -> None:
    failing = [sys.executable, "-c", "print('the cause'); raise SystemExit(3)"]
    for _ in range(2):
        with pytest.raises(bootstrap.SetupError, match="the cause"):
            bootstrap.Environment(tmp_path, None).step("name", "a", "title", [failing])


def test_a_sourced_ros_is_used_and_the_wheels_of_the_venv_are_not_mistaken_for_one(bootstrap, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert bootstrap.system_ros() is None
    (tmp_path / "share" / "rclpy").mkdir(parents=True)
    (tmp_path / "share" / "rclpy" / "package.xml").touch()
    assert bootstrap.system_ros() == "jazzy"


def test_a_path_with_a_space_is_refused_at_once(tmp_path) -> None:
    folder = tmp_path / "my robot" / "scripts"
    folder.mkdir(parents=True)
    (folder / "bootstrap.py").write_text(SCRIPT.read_text())
    done = subprocess.run([sys.executable, str(folder / "bootstrap.py"), "true"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "space in the path" in done.stderr


def test_from_within_an_environment_it_is_the_interpreter_that_made_it(tmp_path) -> None:
    """Else `make` in an activated environment would take it for another one's, and remove it while it runs in it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=60)
    ask = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import bootstrap; print(bootstrap.check_python())"
    inside = subprocess.run([str(tmp_path / "venv" / "bin" / "python"), "-c", ask], capture_output=True, text=True, check=True, timeout=30)
    outside = subprocess.run([sys._base_executable, "-c", ask], capture_output=True, text=True, check=True, timeout=30)
    assert inside.stdout == outside.stdout and str(tmp_path) not in inside.stdout
