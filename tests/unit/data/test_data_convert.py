"""What the recorder node wrote becomes the same samples that a direct recording gives."""

import argparse
import json

import numpy as np
import pytest
from mcap.writer import CompressionType
from mcap_ros2.writer import Writer

from internvla_a1.core.errors import DataError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.data import convert_cli
from internvla_a1.data.episode import Episode, store_episode
from internvla_a1.data.mcap_episode import episodes_of, read_recording
from internvla_a1.data.reader import open_dataset
from internvla_a1.data.samples import Layout, Samples, Window
from internvla_a1.data.writer import write_dataset

ROBOT = load_robot(find("config/robots/demo_arm.yaml"))
PERIOD = round(ROBOT.control_dt_s * 1e9)
HEADER = "std_msgs/Header header\n"
HEADER_TEXT = "MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n" + "=" * 80
HEADER_TEXT += "\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec"
BAR = "\n" + "=" * 80 + "\n"
IMAGE = "MSG: sensor_msgs/Image\nstd_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\n"
IMAGE += "uint8 is_bigendian\nuint32 step\nuint8[] data"
OBSERVATION = (
    HEADER + "string[] cameras\nsensor_msgs/Image[] images\nbool[] image_valid\nfloat32[] image_age\nstring[] joint_names\n"
    "float64[] joint_positions\nfloat32 state_age" + BAR + IMAGE + BAR + HEADER_TEXT
)
STATUS = HEADER + "string[] joint_names\nfloat64[] commanded" + BAR + HEADER_TEXT
CHUNK = HEADER + "string[] joint_names\nfloat64[] positions" + BAR + HEADER_TEXT


def demonstration(n=12, seed=0):
    rng = np.random.default_rng(seed)
    columns = {k: rng.normal(size=(n, 7)).astype(np.float32) for k in ("observation.state", "action")}
    frames = {f"observation.images.{c}": rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8) for c in ROBOT.camera_names}
    tasks = tuple("put the red box in the left bin" if k < 6 else "put the blue box in the right bin" for k in range(n))
    return Episode(columns, frames, tasks)


def header(stamp):
    return {"stamp": {"sec": stamp // 10**9, "nanosec": stamp % 10**9}, "frame_id": ""}


def write_mcap(path, episode, skip=(), blind=(), shuffled=True, encoding="rgb8"):
    """The messages of a run whose executor commanded exactly the labels. Joint order on the wire differs from the robot's."""
    order = list(range(7))[::-1] if shuffled else list(range(7))
    names = [ROBOT.joint_names[i] for i in order]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = Writer(file, compression=CompressionType.NONE)
        observation = writer.register_msgdef("internvla_a1_msgs/msg/Observation", OBSERVATION)
        status = writer.register_msgdef("internvla_a1_msgs/msg/ExecutorStatus", STATUS)
        chunk = writer.register_msgdef("internvla_a1_msgs/msg/ActionChunk", CHUNK)
        text = writer.register_msgdef("std_msgs/msg/String", "string data")
        said = ""
        for k in range(episode.length):
            stamp = 5 * 10**9 + k * PERIOD
            if episode.tasks[k] != said:
                said = episode.tasks[k]
                writer.write_message("/ns/instruction", text, {"data": said}, log_time=stamp)
            label = [float(episode.columns["action"][k][i]) for i in order]
            if k not in skip:
                shape = {"header": header(stamp), "height": 8, "width": 8, "encoding": encoding, "is_bigendian": 0, "step": 24}
                images = [{**shape, "data": f[k].tobytes()} for f in episode.cameras.values()]
                message = {
                    "header": header(stamp), "cameras": list(ROBOT.camera_names), "images": images,
                    "image_valid": [k not in blind, True, True], "image_age": [0.0] * 3, "joint_names": names,
                    "joint_positions": [float(episode.columns["observation.state"][k][i]) for i in order], "state_age": 0.0,
                }  # fmt: skip
                writer.write_message("/ns/perception/observation", observation, message, log_time=stamp + 1000)
                plan = {"header": header(stamp), "joint_names": names, "positions": [*label, *[9.0] * 7]}
                writer.write_message("/ns/policy/action_chunk", chunk, plan, log_time=stamp + 2000)
            reached = {"header": header(stamp + PERIOD), "joint_names": names, "commanded": label}
            writer.write_message("/ns/executor/status", status, reached, log_time=stamp + PERIOD)
        note = {"interventions": [[5 * 10**9 + 3 * PERIOD, 5 * 10**9 + 4 * PERIOD]]}
        writer._writer.add_attachment(0, 0, "episode.json", "application/json", json.dumps(note).encode())
        writer.finish()


def arguments(*words):
    parser = argparse.ArgumentParser()
    convert_cli.add_arguments(parser)
    return parser.parse_args([str(w) for w in words])


@pytest.mark.parametrize("actions", ["command", "chunk"])
def test_a_converted_recording_gives_the_samples_of_a_direct_one(tmp_path, actions):
    episode = demonstration()
    write_mcap(tmp_path / "runs/first/first.mcap", episode)
    assert convert_cli.run(arguments(tmp_path / "runs", "--out", tmp_path / "converted", "--actions", actions)) == 0
    store_episode(tmp_path / "e", episode, 15, False)
    features = convert_cli.features_of(episode, ROBOT.joint_names, False)
    write_dataset(tmp_path / "direct", [tmp_path / "e"], features, round(1 / ROBOT.control_dt_s, 6), ROBOT.embodiment)
    views = {f"image{i}": f"observation.images.{c}" for i, c in enumerate(ROBOT.camera_names)}
    layout = Layout(("observation.state",), ("action",), views)
    one, two = (Samples(open_dataset(tmp_path / n), layout, Window((-3, 0, 3), 5)) for n in ("direct", "converted"))
    assert len(one) == len(two) == 12 and one.dataset.info.fps == two.dataset.info.fps
    for i in range(12):
        a, b = one[i], two[i]
        assert (a.state["observation.state"] == b.state["observation.state"]).all()
        assert (a.actions["action"] == b.actions["action"]).all()
        assert all((a.images[v] == b.images[v]).all() for v in views)
        assert (a.task, a.robot_type) == (b.task, b.robot_type)


def test_interventions_are_marked(tmp_path):
    write_mcap(tmp_path / "a.mcap", demonstration())
    (found,) = episodes_of(read_recording(tmp_path / "a.mcap", ROBOT.joint_names), ROBOT.camera_names, ROBOT.control_dt_s)
    assert found.columns["intervention"][:, 0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_a_gap_or_a_missing_view_cuts_the_demonstration_and_nothing_is_made_up(tmp_path):
    write_mcap(tmp_path / "a.mcap", demonstration(24), skip=(9,), blind=(20,))
    found = episodes_of(read_recording(tmp_path / "a.mcap", ROBOT.joint_names), ROBOT.camera_names, ROBOT.control_dt_s, least=3)
    assert [e.length for e in found] == [9, 10, 3]


def test_commands_between_two_reports_are_interpolated(tmp_path):
    episode = demonstration()
    write_mcap(tmp_path / "a.mcap", episode)
    recording = read_recording(tmp_path / "a.mcap", ROBOT.joint_names)
    recording.stamps = [s + PERIOD // 2 for s in recording.stamps[:-1]]
    (found,) = episodes_of(recording, ROBOT.camera_names, ROBOT.control_dt_s, least=3)
    label = episode.columns["action"]
    assert found.columns["action"] == pytest.approx((label[:-1] + label[1:])[: found.length] / 2, abs=1e-6)


def test_what_cannot_be_a_recording_is_refused_with_its_name(tmp_path):
    (tmp_path / "x.mcap").write_bytes(b"not an mcap file at all" * 10)
    with pytest.raises(DataError, match=r"x\.mcap"):
        read_recording(tmp_path / "x.mcap", ROBOT.joint_names)
    write_mcap(tmp_path / "bgr.mcap", demonstration(), encoding="bgr8")
    with pytest.raises(DataError, match="bgr8"):
        read_recording(tmp_path / "bgr.mcap", ROBOT.joint_names)
    write_mcap(tmp_path / "joints.mcap", demonstration())
    with pytest.raises(DataError, match="no joint 'elbow'"):
        read_recording(tmp_path / "joints.mcap", ("elbow",))
    with pytest.raises(DataError, match="no recording"):
        convert_cli.recordings([tmp_path / "nothing"])
