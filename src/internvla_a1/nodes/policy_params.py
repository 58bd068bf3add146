"""Parameters of the policy node, and the policy that they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import RobotSpec
from internvla_a1.policy.devices import prepare_device
from internvla_a1.policy.protocol import Policy
from internvla_a1.policy.registry import KINDS
from internvla_a1.policy.warming import warm_up
from internvla_a1.ros.params import flag, integer, number, text


@dataclass(frozen=True)
class PolicyParams:
    robot: str = text("config/robots/demo_arm.yaml", "Robot file", required=True)
    policy: str = text("expert", "Which policy", choices=KINDS)
    checkpoint: str = text("", "Weights folder of the network policy")
    instruction: str = text("", "Instruction to begin with; empty waits for one")
    period_s: float = number(0.2, "s", 0.02, 10.0, "Least time between the observations of two chunks", live=True)
    foresight_period_s: float = number(
        0.25, "s", 0.0, 10.0, "Least time between two predictions that are drawn for those who look; 0: with every chunk", live=True
    )
    device: str = text("auto", "Device of the network policy: auto, cpu, cuda, cuda:1, ...")
    threads: int = integer(0, "threads", 0, 256, "CPU threads of the network policy; 0 leaves the choice to torch")
    seed: int = integer(-1, "", -1, 2_000_000_000, "Noise of the flow, the same for the same observation; -1 draws fresh noise")
    noise_scale: float = number(1.0, "", 0.0, 2.0, "Of the flow's noise; 0: the same chunk for the same observation, and calmer motion")
    realtime_chunking: bool = flag(True, "Begin every chunk with the steps that will have run by the time it arrives", live=True)
    delay_margin_s: float = number(0.02, "s", 0.0, 0.5, "Added to the measured delay of inference: transport and one executor tick")
    fade_s: float = number(0.05, "s", 0.0, 1.0, "The executor's blend_s: how long a new chunk takes to replace the one before")


def build_policy(params: PolicyParams, robot: RobotSpec, make: Callable[..., Policy]) -> Policy:
    """A network policy comes warm: its first chunk takes no longer than the others.

    Raises ConfigError, CheckpointError or InferenceError with path and reason; the node then stays unconfigured.
    """
    if params.policy != "network":
        return make(params.policy, robot)
    if not params.checkpoint:
        raise ConfigError("the network policy needs the parameter checkpoint: a weights folder, see model_weights/README.md")
    device = prepare_device(params.device, params.threads)
    policy = make("network", robot, weights=find(params.checkpoint), device=device, noise_scale=params.noise_scale)
    warm_up(policy, params.realtime_chunking, params.instruction)
    return policy
