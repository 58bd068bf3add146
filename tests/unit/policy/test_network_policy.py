"""The network policy end to end on small random checkpoints of all three families."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from policy_made_up import ask, make_robot, observe, write_weights

from internvla_a1.core.errors import ConfigError, InternVLAError
from internvla_a1.policy.failures import InferenceError
from internvla_a1.policy.network import NetworkPolicy
from internvla_a1.policy.protocol import Committed
from internvla_a1.policy.registry import make_policy

KINDS = ("tiny", "2b", "3b")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write_weights(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def policy(folders: dict[str, Path], request: pytest.FixtureRequest) -> NetworkPolicy:
    return NetworkPolicy(make_robot(), folders[request.param])


@pytest.fixture
def tiny(folders: dict[str, Path]) -> NetworkPolicy:
    return NetworkPolicy(make_robot(), folders["tiny"])


def test_a_chunk_is_in_the_robots_own_order_units_and_time(policy: NetworkPolicy) -> None:
    request = ask(policy)
    result = policy.infer(request)
    chunk = result.chunk
    assert chunk.joint_names == policy.robot.joint_names and chunk.positions.shape == (8, 7)
    assert (chunk.stamp_ns, chunk.chunk_id, chunk.dt_s) == (request.observation.stamp_ns, 4, policy.robot.control_dt_s)
    assert chunk.frozen_steps == 0 and chunk.inference_time_s > 0 and chunk.instruction == request.instruction
    assert np.isfinite(chunk.positions).all()
    assert policy.history_s == pytest.approx(0.5) and policy.horizon_s == pytest.approx(0.5)


def test_the_same_seed_gives_the_same_chunk_bit_for_bit(policy: NetworkPolicy) -> None:
    first = policy.infer(ask(policy, seed=7)).chunk.positions
    policy.reset()
    assert np.array_equal(first, policy.infer(ask(policy, seed=7)).chunk.positions)
    assert not np.array_equal(first, policy.infer(ask(policy, seed=8)).chunk.positions)
    assert not np.array_equal(policy.infer(ask(policy, seed=None)).chunk.positions, policy.infer(ask(policy, seed=None)).chunk.positions)


def test_without_noise_a_chunk_is_a_function_of_the_observation(policy: NetworkPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "noise_scale", 0.0)
    first = policy.infer(ask(policy, seed=7)).chunk.positions
    policy.reset()
    assert np.array_equal(first, policy.infer(ask(policy, seed=8)).chunk.positions)


def test_a_delta_chunk_moves_with_the_measured_state_and_the_gripper_does_not(tiny: NetworkPolicy) -> None:
    actions = torch.zeros(8, 7)
    states = [torch.zeros(7), torch.full((7,), 0.25)]
    first, second = (tiny.pipeline.absolute(actions, s) for s in states)
    assert torch.allclose(second - first, torch.tensor([0.25] * 6 + [0.0]).expand(8, 7), atol=1e-6)


def test_the_way_out_undoes_the_way_in(policy: NetworkPolicy) -> None:
    state = torch.randn(7)
    actions = torch.randn(8, 7)
    inside = policy.pipeline.normalised_actions(actions, state)
    assert inside.shape == (8, 12) and (inside[:, 7:] == 0).all()
    assert torch.allclose(policy.pipeline.absolute(inside, state), actions, atol=1e-6)


def test_instruction_state_and_pictures_all_reach_the_chunk(policy: NetworkPolicy) -> None:
    base = policy.infer(ask(policy)).chunk.positions
    seen = observe(policy.robot)
    other_state = replace(seen, positions=seen.positions + 0.2)
    other_picture = replace(seen, images={**seen.images, "cam1": 255 - seen.images["cam1"]})
    for changed in (
        ask(policy, instruction="put the green box"),
        ask(policy, observation=other_state),
        ask(policy, observation=other_picture),
    ):
        policy.reset()
        assert not np.array_equal(base, policy.infer(changed).chunk.positions)


def test_a_frame_is_encoded_once_in_its_life(policy: NetworkPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    real = type(policy.model).encode_frames
    monkeypatch.setattr(type(policy.model), "encode_frames", lambda self, frames: encoded.append(len(frames)) or real(self, frames))
    policy.infer(ask(policy, 10.0))
    later = policy.infer(ask(policy, 10.0 + policy.history_s))
    assert encoded == [4, 2]  # past and present of two views, then the present alone
    policy.reset()
    fresh = policy.infer(ask(policy, 10.0 + policy.history_s))
    assert encoded == [4, 2, 4]
    assert np.allclose(later.chunk.positions, fresh.chunk.positions, atol=1e-5)


def test_a_remembered_frame_close_to_the_past_one_stands_in_for_it_if_allowed(folders: dict[str, Path]) -> None:
    policy = NetworkPolicy(make_robot(), folders["tiny"], past_tolerance_s=0.06)
    policy.infer(ask(policy, 10.0))
    seen = observe(policy.robot, 10.55)
    view = {0: "cam0", 1: "cam1"}
    assert policy._memory.recall(observe(policy.robot, 10.05), view) is not None
    assert policy._memory.recall(observe(policy.robot, 10.07), view) is None
    assert np.isfinite(policy.infer(ask(policy, observation=seen, past=observe(policy.robot, 10.05))).chunk.positions).all()


def test_a_missing_side_view_is_masked_and_a_missing_main_view_is_an_error(policy: NetworkPolicy) -> None:
    seen = observe(policy.robot, missing=("cam1",))
    result = policy.infer(ask(policy, observation=seen))
    assert np.isfinite(result.chunk.positions).all()
    assert result.foresight is not None and result.foresight.cameras == ("cam0",)
    with pytest.raises(InternVLAError, match="view 0"):
        policy.infer(ask(policy, observation=observe(policy.robot, missing=("cam0",))))


def test_foresight_is_predicted_with_the_chunk_and_drawn_when_asked(policy: NetworkPolicy) -> None:
    result = policy.infer(ask(policy))
    foresight = result.foresight
    assert foresight is not None and foresight.images == {} and foresight.chunk_id == result.chunk.chunk_id
    assert foresight.latents.shape == (2, 16, 8, 8) and foresight.latents.dtype == np.float32
    drawn = policy.decode(foresight)
    assert set(drawn.images) == {"cam0", "cam1"}
    assert all(i.shape == (64, 64, 3) and i.dtype == np.uint8 for i in drawn.images.values())
    assert np.array_equal(drawn.latents, foresight.latents)


def test_committed_steps_are_repeated_exactly_and_the_rest_leans_towards_them(policy: NetworkPolicy) -> None:
    free = policy.infer(ask(policy)).chunk.positions
    held = free + 0.1
    policy.reset()
    chunk = policy.infer(ask(policy, committed=Committed(held, 3))).chunk
    assert chunk.frozen_steps == 3
    assert np.array_equal(chunk.positions[:3], held[:3])
    assert np.abs(chunk.positions[3] - held[3]).mean() < np.abs(free[3] - held[3]).mean()


def test_a_model_trained_with_a_prefix_is_shown_it_without_a_gradient(tiny: NetworkPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    held = np.linspace(0, 0.1, 8)[:, None] * np.ones(7)
    guided = tiny.infer(ask(tiny, committed=Committed(held, 3))).chunk
    monkeypatch.setattr(tiny.model, "config", replace(tiny.model.config, prefix_steps=4))
    differentiated = []
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: differentiated.append(1))
    shown = tiny.infer(ask(tiny, committed=Committed(held, 3))).chunk
    assert shown.frozen_steps == 3 and np.array_equal(shown.positions[:3], held[:3])
    more = tiny.infer(ask(tiny, committed=Committed(held, 0, shown=4))).chunk
    assert more.frozen_steps == 4 and np.array_equal(more.positions[:4], held[:4])
    assert np.isfinite(shown.positions).all() and not np.allclose(shown.positions[3:], guided.positions[3:], atol=1e-4)
    assert not differentiated
    monkeypatch.undo()
    monkeypatch.setattr(tiny.model, "config", replace(tiny.model.config, prefix_steps=2))
    longer = tiny.infer(ask(tiny, committed=Committed(held, 3))).chunk  # than training showed: guided, as a published model is
    assert np.allclose(longer.positions, guided.positions, atol=1e-6)


@pytest.mark.parametrize(("rows", "frozen"), [(3, 5), (8, 8), (8, 50), (20, 30), (1, 0), (0, 4)])
def test_delays_beyond_what_is_committed_or_beyond_the_horizon_are_handled(tiny: NetworkPolicy, rows: int, frozen: int) -> None:
    held = np.linspace(0, 0.1, rows)[:, None] * np.ones(7)
    chunk = tiny.infer(ask(tiny, committed=Committed(held, frozen))).chunk
    assert chunk.positions.shape == (8, 7) and np.isfinite(chunk.positions).all()
    assert chunk.frozen_steps == (min(frozen, 8) if rows else 0)
    kept = min(rows, chunk.frozen_steps)
    assert np.array_equal(chunk.positions[:kept], held[:kept])
    if 0 < rows < chunk.frozen_steps:
        assert np.array_equal(chunk.positions[rows : chunk.frozen_steps], np.repeat(held[-1:], chunk.frozen_steps - rows, 0))


@pytest.mark.parametrize("wrong", [np.full((3, 7), np.nan), np.zeros((3, 6)), np.zeros(7)])
def test_nonsense_in_the_committed_steps_is_refused(tiny: NetworkPolicy, wrong: np.ndarray) -> None:
    with pytest.raises(InferenceError, match="committed"):
        tiny.infer(ask(tiny, committed=Committed(wrong, 1)))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: driver gone\nlong trace"), MemoryError()]
)
def test_a_device_error_is_one_of_ours_and_the_next_chunk_works(
    tiny: NetworkPolicy, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(tiny.model, "encode", failing)
        with pytest.raises(InferenceError, match="inference"):
            tiny.infer(ask(tiny))
    assert np.isfinite(tiny.infer(ask(tiny)).chunk.positions).all()


def test_a_chunk_that_is_not_finite_is_never_given_out(tiny: NetworkPolicy) -> None:
    tiny.model.action_head.action_out_proj.bias.data[0] = float("nan")
    tiny.model.forget_weights()
    with pytest.raises(InferenceError, match="not finite"):
        tiny.infer(ask(tiny))


def test_observations_of_other_joints_or_of_nan_are_refused(tiny: NetworkPolicy) -> None:
    seen = observe(tiny.robot)
    with pytest.raises(InferenceError, match="joints of the observation"):
        tiny.infer(ask(tiny, observation=replace(seen, joint_names=seen.joint_names[::-1])))
    with pytest.raises(InferenceError, match="not finite"):
        tiny.infer(ask(tiny, observation=replace(seen, positions=np.full(7, np.nan))))


def test_policies_are_made_by_name(folders: dict[str, Path]) -> None:
    assert isinstance(make_policy("network", make_robot(), weights=folders["tiny"], steps=2), NetworkPolicy)
    with pytest.raises(ConfigError, match="available: network, expert"):
        make_policy("magic", make_robot())
    with pytest.raises(ConfigError, match="wieghts"):
        make_policy("network", make_robot(), wieghts=folders["tiny"])
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        make_policy("network", make_robot(), weights=folders["tiny"], steps=0)
