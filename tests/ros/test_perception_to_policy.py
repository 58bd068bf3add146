"""The real cell in front: cameras to observations, to chunks, to the ghost and into a recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from internvla_a1_msgs.msg import ActionChunk, Observation
from mcap.reader import make_reader
from processes import Graph
from samples import CAMERAS, ROBOT
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger

from internvla_a1.core.scene import parse_order
from internvla_a1.ros import convert, qos

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    graph = Graph(tmp_path_factory.mktemp("chain"))
    graph.start("cell", seed=3)
    for node in ("perception", "policy", "foresight"):
        graph.start(node, use_sim_time="true", **({"frozen_s": 0.0, "stale_s": 1.0} if node == "perception" else {}))
    graph.start("recorder", use_sim_time="true", folder=str(tmp_path_factory.mktemp("episodes")), min_free_mb=1)
    graph.up("perception", "policy", "foresight")
    yield graph
    graph.close()


def test_the_cells_cameras_become_observations_of_the_moving_belt(graph):
    seen = graph.collect(Observation, "perception/observation", qos.NEWEST)
    assert graph.until(lambda: len(seen) >= 10, 15.0)
    assert tuple(seen[0].cameras) == CAMERAS
    first, last = (np.frombuffer(m.images[0].data, np.uint8).astype(int) for m in (seen[0], seen[-1]))
    assert (abs(first - last) > 20).mean() > 0.001, "parcels move"
    np.testing.assert_allclose(seen[-1].joint_positions, ROBOT.array("home"), atol=0.02)


def test_the_expert_answers_with_chunks_for_the_cells_own_order(graph):
    chunks = graph.collect(ActionChunk, "policy/action_chunk", qos.RELIABLE)
    assert graph.until(lambda: len(chunks) >= 3 and chunks[-1].instruction, 15.0), graph.log("policy")
    parse_order(chunks[-1].instruction)
    plan = convert.chunk(chunks[-1], ROBOT.joint_names)
    assert plan.dt_s == pytest.approx(ROBOT.control_dt_s)
    assert (np.abs(plan.positions[0] - ROBOT.array("home")) < 0.3).all(), "it begins where the arm is"


def test_the_ghost_and_the_sheet_live_beside_the_expert(graph):
    ghost = graph.collect(JointState, "foresight/ghost/joint_states", qos.DEFAULT)
    sheets = graph.collect(Image, "foresight/image", qos.RELIABLE)
    assert graph.until(lambda: len(ghost) >= 5 and sheets, 15.0), graph.log("foresight")


def test_an_episode_of_the_cell_holds_every_link_of_the_chain(graph):
    folder = Path(graph.call(Trigger, "recorder/start", Trigger.Request()).message)
    graph.until(lambda: False, 2.0)
    assert graph.call(Trigger, "recorder/stop", Trigger.Request()).success
    with next(folder.glob("*.mcap")).open("rb") as file:
        summary = make_reader(file).get_summary()
    counts = {summary.channels[i].topic: n for i, n in summary.statistics.channel_message_counts.items()}
    for topic in ("/perception/observation", "/policy/action_chunk", "/joint_states", "/tf_static", "/instruction"):
        assert counts.get(topic, 0) > 0, counts


def test_the_whole_chain_ends_with_zero_on_ctrl_c(graph):
    statuses = {name: graph.end(name) for name in list(graph.processes)}
    assert set(statuses.values()) == {0}, statuses
