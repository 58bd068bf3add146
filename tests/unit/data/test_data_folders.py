"""Folders in the published layouts load with the right names, offsets and pictures, whichever version they are."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from data_made_up import (
    AGIBOT_WORLD,
    FPS,
    INTERNDATA_FRANKA,
    INTERNDATA_LIFT2,
    agibot_keys,
    columns_of,
    interndata_keys,
    picture,
    value,
    write_v21,
    write_v30,
)

from internvla_a1.core.errors import DataError
from internvla_a1.data.features import BOOKKEEPING
from internvla_a1.data.reader import open_dataset
from internvla_a1.data.samples import Layout, Samples, Window
from internvla_a1.data.writer import write_dataset

LAYOUTS = {
    "ARX Lift-2": (INTERNDATA_LIFT2, interndata_keys),
    "Franka": (INTERNDATA_FRANKA, interndata_keys),
    "a2d": (AGIBOT_WORLD, agibot_keys),
}


def make(tmp_path, robot, version, **kw):
    layout, keys = LAYOUTS[robot]
    states, actions = keys(layout["states"])
    root = tmp_path / f"{version}-{robot}"
    writer = write_v21 if version == "v2.1" else write_v30
    writer(root, robot, states, actions, layout["cameras"], **kw)
    views = {f"image{i}": c for i, c in enumerate(layout["cameras"])}
    return open_dataset(root), Layout(tuple(states), tuple(actions), views), states, actions


@pytest.mark.parametrize("robot", LAYOUTS)
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_published_layouts_load_with_their_numbers_pictures_and_tasks(tmp_path, robot, version):
    data, layout, states, actions = make(tmp_path, robot, version)
    assert (data.info.version, data.info.robot_type, data.info.fps) == (version, robot, FPS)
    assert data.total_frames == 12 and [e.length for e in data.episodes] == [7, 5]
    samples = Samples(data, layout, Window((-2, 0, 2), horizon=3))
    episode, frame = 1, 3
    sample = samples[7 + frame]
    expected = columns_of(episode, 5, {**states, **actions})
    for key in states:
        assert sample.state[key] == pytest.approx(expected[key][frame])
    for key in actions:
        assert sample.actions[key] == pytest.approx(expected[key][[3, 4, 4]])
    assert sample.action_is_pad.tolist() == [False, False, True]
    assert sample.frame_is_pad.tolist() == [False, False, True]
    assert (sample.task, sample.robot_type) == ("task 1", robot)
    for c, slot in enumerate(layout.views):
        wanted = np.stack([picture(episode, k, c) for k in (1, 3, 4)]).astype(int)
        assert np.abs(sample.images[slot].astype(int) - wanted).max() <= 3  # 4:2:0 video rounds


def test_offsets_are_clamped_at_both_ends_of_an_episode_and_never_cross_into_the_next(tmp_path):
    data, layout, *_ = make(tmp_path, "Franka", "v3.0", video=False)
    samples = Samples(data, layout, Window((-15, 0, 15), horizon=50))
    first, last = samples[0], samples[6]
    assert first.frame_is_pad.tolist() == [True, False, True]
    assert (first.images["image0"][0] == picture(0, 0, 0)).all() and (first.images["image0"][2] == picture(0, 6, 0)).all()
    assert (last.images["image0"] == np.stack([picture(0, 0, 0), picture(0, 6, 0), picture(0, 6, 0)])).all()
    assert last.action_is_pad.sum() == 49
    assert last.actions["actions.joint.position"][-1, 0] == pytest.approx(value(0, 6, 2, 0))


def test_stored_images_come_back_bit_for_bit(tmp_path):
    data, *_ = make(tmp_path, "Franka", "v3.0", video=False)
    assert (data.frames(1, "images.rgb.hand", [4, 0, 4]) == np.stack([picture(1, k, 1) for k in (4, 0, 4)])).all()


def test_v30_keeps_the_files_and_columns_that_lerobot_reads(tmp_path):
    data, *_ = make(tmp_path, "a2d", "v3.0")
    info = json.loads((data.root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["splits"] == {"train": "0:2"} and info["total_tasks"] == 2
    table = pq.read_table(data.root / "meta/episodes/chunk-000/file-000.parquet")
    wanted = {"episode_index", "tasks", "length", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index"}
    wanted |= {f"videos/observation.images.head/{n}" for n in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")}
    wanted |= {"stats/actions.joint.position/mean", "meta/episodes/chunk_index"}
    assert wanted <= set(table.column_names)
    assert table.column("videos/observation.images.head/from_timestamp").to_pylist() == pytest.approx([0, 7 / FPS])
    frames = pq.read_table(data.root / "data/chunk-000/file-000.parquet")
    assert frames.column("index").to_pylist() == list(range(12))
    assert str(frames.schema.field("actions.joint.position").type) == "fixed_size_list<element: float>[14]"
    stats = data.statistics()["actions.joint.position"]
    assert stats["count"] == [12] and len(stats["mean"]) == 14


def test_features_of_one_value_are_plain_columns_as_lerobot_has_them(tmp_path):
    data, *_ = make(tmp_path, "Franka", "v3.0", video=False)
    frames = pq.read_table(data.root / "data/chunk-000/file-000.parquet")
    assert str(frames.schema.field("actions.gripper.position").type) == "float"
    tasks = pq.read_table(data.root / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_several_data_files_give_the_same_rows_as_one(tmp_path):
    make(tmp_path, "Franka", "v3.0", video=False)
    shards = sorted((tmp_path / "v3.0-Franka-shards").iterdir())
    one = open_dataset(tmp_path / "v3.0-Franka")
    features = [f for k, f in one.info.features.items() if k not in BOOKKEEPING]
    write_dataset(tmp_path / "split", shards, features, FPS, "Franka", data_file_mb=0)
    many = open_dataset(tmp_path / "split")
    assert many.episodes[1].data_file != many.episodes[0].data_file
    for key in ("states.joint.position", "actions.gripper.position", "index"):
        assert (many.numbers(1, (key,))[key] == one.numbers(1, (key,))[key]).all()


def test_a_missing_feature_is_named_with_those_that_exist(tmp_path):
    data, *_ = make(tmp_path, "Franka", "v3.0", video=False)
    with pytest.raises(DataError, match=r"no feature 'states\.arm'.*states\.joint\.position"):
        Samples(data, Layout(("states.arm",), (), {}), Window())


@pytest.mark.parametrize("damage", ["info", "version", "data", "tasks"])
def test_a_damaged_folder_is_refused_with_its_path(tmp_path, damage):
    data, *_ = make(tmp_path, "Franka", "v2.1")
    if damage == "info":
        (data.root / "meta/info.json").write_text("{")
    elif damage == "version":
        (data.root / "meta/info.json").write_text((data.root / "meta/info.json").read_text().replace("v2.1", "v1.6"))
    elif damage == "data":
        (data.root / "data/chunk-000/episode_000001.parquet").unlink()
    else:
        (data.root / "meta/tasks.jsonl").write_text('{"task": "x"}\n')
    with pytest.raises(DataError, match=str(data.root)):
        open_dataset(data.root)
