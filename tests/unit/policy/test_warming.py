"""A policy that was warmed up is the same policy: nothing of the made-up pictures is left in it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from policy_made_up import NS, ask, make_robot, observe, write_weights

from internvla_a1.core.errors import InternVLAError
from internvla_a1.nodes.policy_params import PolicyParams, build_policy
from internvla_a1.policy.network import NetworkPolicy
from internvla_a1.policy.protocol import PolicyRequest, PolicyResult
from internvla_a1.policy.warming import warm_up


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("tiny"), "tiny")


class Listening(NetworkPolicy):
    """Writes down what it was asked and what it drew."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: list[PolicyRequest] = []
        self.drawn = 0

    def infer(self, request: PolicyRequest) -> PolicyResult:
        self.asked.append(request)
        return super().infer(request)

    def decode(self, foresight: Any) -> Any:
        self.drawn += 1
        return super().decode(foresight)


@pytest.mark.parametrize("guided", [True, False])
def test_the_next_chunk_is_that_of_a_fresh_policy(folder: Path, guided: bool) -> None:
    fresh, warm = NetworkPolicy(make_robot(), folder), Listening(make_robot(), folder)
    warm_up(warm, guided, "put the green box in the right bin")
    first, second = warm.asked
    assert first.committed is None and (second.committed is not None) == guided
    assert second.past.stamp_ns == first.observation.stamp_ns and second.instruction == "put the green box in the right bin"
    assert warm.drawn == 1
    seen = observe(warm.robot, second.observation.stamp_ns / NS, age_s=0.0)  # another picture of the same instant
    chunks = [policy.infer(ask(policy, past=seen, seed=7)).chunk.positions for policy in (warm, fresh)]
    assert np.array_equal(*chunks)


def test_the_policy_node_gets_it_warm_and_says_what_fails(folder: Path) -> None:
    made: list[Listening] = []

    def make(kind: str, robot: Any, **options: Any) -> Listening:
        made.append(Listening(robot, options["weights"], noise_scale=options["noise_scale"]))
        return made[0]

    params = PolicyParams(robot="", policy="network", checkpoint=str(folder), device="cpu", realtime_chunking=False)
    assert build_policy(params, make_robot(), make) is made[0]
    assert len(made[0].asked) == 2 and made[0].asked[1].committed is None

    def broken(kind: str, robot: Any, **options: Any) -> Listening:
        policy = make(kind, robot, **options)

        def infer(request: PolicyRequest) -> PolicyResult:
            raise InternVLAError("no memory for a chunk")

        policy.infer = infer  # type: ignore[method-assign]
        return policy

    made.clear()
    with pytest.raises(InternVLAError, match="no memory"):
        build_policy(params, make_robot(), broken)
