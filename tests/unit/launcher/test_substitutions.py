from pathlib import Path

import pytest

from internvla_a1.launcher.document import Entry, LaunchFileError
from internvla_a1.launcher.substitutions import Scope, expand, is_true

FILE = Path("/somewhere/a.launch.yaml")


def entry(text: object) -> Entry:
    return Entry(text, FILE, 7)  # type: ignore[arg-type]


def performed(text: str, **variables: str) -> str:
    return expand(entry(text), Scope(variables=variables, environment={"HOME": "/home/me"}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$(var speed) m/s", "0.08 m/s"),
        ("$(var other fallback)", "fallback"),
        ("$(env HOME)/x", "/home/me/x"),
        ("$(env NOT_SET 'two words')", "two words"),
        ("$(env NOT_SET $(dirname)/fastdds.xml)", "/somewhere/fastdds.xml"),
        ("$(dirname)", "/somewhere"),
        ("$(equals $(var policy) expert)", "true"),
        ("$(not-equals $(var policy) expert)", "false"),
        ("$(and $(not false) $(or false 1))", "true"),
        ("cost: $5 (now)", "cost: $5 (now)"),
        ("\\$(var speed)", "$(var speed)"),
    ],
)
def test_a_substitution_gives_what_ros2_launch_gives(text: str, expected: str) -> None:
    assert performed(text, speed="0.08", policy="expert") == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("$(var sped)", "launch argument: asked for 'sped', available: speed"),
        ("$(eval 1 + 1)", "substitution: asked for '$(eval 1 + 1)'"),
        ("$(command 'rm x')", "substitution"),
        ("$(var speed", "is not closed"),
        ("$(env NOT_SET)", "NOT_SET is not set"),
        ("$(not perhaps)", "condition: asked for 'perhaps'"),
        ("$(and true)", "takes 2 arguments"),
        ("$(find-pkg-share no_such_package)", "no_such_package is not in AMENT_PREFIX_PATH"),
    ],
)
def test_a_substitution_that_cannot_be_performed_is_refused_with_file_and_line(text: str, told: str) -> None:
    with pytest.raises(LaunchFileError) as refused:
        performed(text, speed="0.08")
    assert str(refused.value).startswith("/somewhere/a.launch.yaml:7: ")
    assert told in str(refused.value)


def test_the_share_folder_of_this_package_is_found_in_a_checkout() -> None:
    assert (Path(performed("$(find-pkg-share internvla_a1)")) / "launch").is_dir()


def test_a_condition_is_true_1_false_or_0() -> None:
    assert [is_true(word, entry(word)) for word in ("true", "True", "1", "false", "0")] == [True, True, True, False, False]
