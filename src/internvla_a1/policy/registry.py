"""Policies by name, as the policy node's parameter spells them. Each is imported only when it is asked for."""

from __future__ import annotations

from typing import Any

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.robot import RobotSpec
from internvla_a1.policy.protocol import Policy

KINDS = ("network", "expert")


def make_policy(kind: str, robot: RobotSpec, **options: Any) -> Policy:
    """`network`: NetworkPolicy (weights folder and more, see there); `expert`: the scripted expert of the demo cell.

    Raises ConfigError for an unknown kind or option, CheckpointError for weights that are refused.
    """
    if kind not in KINDS:
        raise ConfigError.asked("policy", kind, KINDS)
    try:
        if kind == "network":
            from internvla_a1.policy.network import NetworkPolicy

            return NetworkPolicy(robot, **options)
        from internvla_a1.policy.expert import ExpertPolicy

        return ExpertPolicy(robot, **options)
    except TypeError as error:
        if "argument" in str(error):
            raise ConfigError(f"policy {kind}: {error}") from error
        raise
