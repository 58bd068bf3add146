"""ament_python package: `colcon build` on a robot, `pip install -e .` in the embedded environment."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "internvla_a1"
ROOT = Path(__file__).parent
NODES = ("cell", "executor", "foresight", "perception", "policy", "recorder", "teleop")


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below `folder`, to be installed under share/ in the same place."""
    places: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob("*")):
        if path.is_file():
            relative = path.relative_to(ROOT)
            places.setdefault(f"share/{NAME}/{relative.parent}", []).append(str(relative))
    return sorted(places.items())


setup(
    name=NAME,
    version="0.1.0",
    description="InternVLA-A1, a vision-language-action policy with visual foresight, as a ROS 2 stack",
    license="Apache-2.0",
    maintainer="InternVLA-A1 ROS maintainers",
    maintainer_email="maintainers@internvla-a1-ros.org",
    python_requires=">=3.10",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={f"{NAME}.model.cpu": ["*.h", "*.cpp"]},  # compiled by the machine that runs them
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *shared("launch"),
        *shared("urdf"),
        *shared("config"),
        *shared("model_weights"),
    ],
    zip_safe=False,
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            *(f"{node}_node = {NAME}.nodes.{node}:main" for node in NODES),
            f"lifecycle_manager = {NAME}.nodes.lifecycle_manager:main",
            f"internvla-a1 = {NAME}.cli:main",
        ]
    },
)
