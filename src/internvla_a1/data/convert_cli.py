"""`internvla-a1 convert`: recordings of the recorder node to a LeRobot v3.0 folder."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from internvla_a1.core.errors import ConfigError, DataError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.data.episode import Episode, store_episode
from internvla_a1.data.features import Feature, camera_feature
from internvla_a1.data.mcap_episode import ACTION_KEY, ACTION_SOURCES, STATE_KEY, episodes_of, read_recording
from internvla_a1.data.writer import write_dataset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("recordings", nargs="+", type=Path, help="episode folders of the recorder, their parent, or .mcap files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new data set")
    parser.add_argument("--robot", default="config/robots/demo_arm.yaml", help="robot file: joints, cameras, period")
    said = "commanded by the executor, or asked by the policy"
    parser.add_argument("--actions", choices=ACTION_SOURCES, default=ACTION_SOURCES[0], help=said)
    parser.add_argument("--store", choices=("image", "video"), default="image", help="lossless pictures or H.264")
    parser.add_argument("--force", action="store_true", help="replace an existing folder")


def run(args: argparse.Namespace) -> int:
    """Convert; 0 if at least one demonstration came out. Raises InternVLAError for what cannot be read."""
    if args.out.exists() and not args.force:
        raise ConfigError(f"{args.out} exists; choose another folder or say --force")
    robot = load_robot(find(args.robot))
    staging = args.out.with_name(f".{args.out.name}.episodes")
    shutil.rmtree(staging, ignore_errors=True)
    shards: list[Path] = []
    first: Episode | None = None
    try:
        for path in recordings(args.recordings):
            found = episodes_of(read_recording(path, robot.joint_names), robot.camera_names, robot.control_dt_s, args.actions)
            print(f"{path}: {len(found)} demonstrations, {sum(e.length for e in found)} frames")
            for episode in found:
                first = first or episode
                shards.append(staging / f"episode-{len(shards):06d}")
                store_episode(shards[-1], episode, 1.0 / robot.control_dt_s, args.store == "video")
        if first is None:
            print("no demonstration in these recordings: no unbroken stretch has pictures and actions", file=sys.stderr)
            return 1
        features = features_of(first, robot.joint_names, args.store == "video")
        write_dataset(args.out, shards, features, round(1.0 / robot.control_dt_s, 6), robot.embodiment)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print(f"{args.out}: {len(shards)} episodes")
    return 0


def recordings(paths: list[Path]) -> list[Path]:
    """MCAP files and folders holding one, looking one level down. Raises DataError where there is none."""
    found: list[Path] = []
    for path in paths:
        if path.is_file() or list(path.glob("*.mcap")):
            found.append(path)
        else:
            below = sorted(p.parent for p in path.glob("*/*.mcap"))
            if not below:
                raise DataError(f"{path}: no recording (.mcap) here or one level down")
            found += below
    return found


def features_of(episode: Episode, joint_names: tuple[str, ...], video: bool) -> list[Feature]:
    """The features of a data set of episodes like this one."""
    features = []
    for key, values in episode.columns.items():
        names = joint_names if key in (STATE_KEY, ACTION_KEY) else None
        features.append(Feature(key, "float32", (values.shape[1],), names))
    for key, frames in episode.cameras.items():
        features.append(camera_feature(key, frames.shape[1], frames.shape[2], video))
    return features
