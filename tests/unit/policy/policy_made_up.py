"""A made-up robot, its observations, statistics, a word tokenizer and small checkpoints for the policy's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from internvla_a1.core.robot import CameraSpec, GroupSpec, JointSpec, RobotSpec
from internvla_a1.core.types import Observation
from internvla_a1.model import ModelConfig, new_model, save_model, tiny_config
from internvla_a1.model.checkpoint import Contract
from internvla_a1.model.config import CodecConfig, ExpertConfig, InternVisionConfig, QwenVisionConfig, StemConfig
from internvla_a1.policy.network import NetworkPolicy
from internvla_a1.policy.protocol import Committed, PolicyRequest

WORDS = ["[PAD]", "[UNK]", "put", "the", "red", "green", "box", "in", "left", "right", "bin"]
DT = 0.1
NS = 1_000_000_000

torch.set_num_threads(1)  # the models below are so small that a second thread only costs


def make_robot(
    joints: int = 7, cameras: int = 2, embodiment: str = "made_up", grippers: tuple[int, ...] = (6,), delta: bool = True
) -> RobotSpec:
    """Joints j0, j1 ...; cameras cam0, cam1 ... in slots image0, image1 ..."""
    specs = tuple(
        JointSpec(f"j{i}", "arm", -3.0, 3.0, 2.0, 12.0, 400.0, 0.0, gripper=i in grippers, delta=delta and i not in grippers)
        for i in range(joints)
    )
    views = tuple(CameraSpec(f"cam{i}", f"cam{i}/image_raw", f"image{i}") for i in range(cameras))
    return RobotSpec("made_up_arm", embodiment, "base", "tool", "made_up.urdf", specs, (GroupSpec("arm", "arm_controller"),), views, DT)


def make_stats(robot: RobotSpec, seed: int = 0) -> dict[str, Any]:
    """Statistics of the default feature keys for this robot."""
    rng = np.random.default_rng(seed)
    n = len(robot.joints)
    features = {}
    for key, scale in (("observation.state", 1.0), ("action", 0.1)):
        mean, std = rng.normal(size=n) * scale, (0.5 + rng.random(n)) * scale
        features[key] = {
            "mean": mean.tolist(), "std": std.tolist(), "min": (mean - 3 * std).tolist(), "max": (mean + 3 * std).tolist(), "count": [100],
        }  # fmt: skip
    return {robot.embodiment: features}


def write_tokenizer(folder: Path) -> Path:
    """A word-level tokenizer of eleven words."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def contract_of(robot: RobotSpec, **changes: Any) -> Contract:
    """The contract that this robot fulfils."""
    values: dict[str, Any] = dict(
        embodiment=robot.embodiment, joint_names=robot.joint_names, delta=tuple(bool(d) for d in robot.delta_mask),
        views={c.view: c.name for c in robot.cameras}, control_dt_s=robot.control_dt_s, history_steps=5, horizon_steps=5,
    )  # fmt: skip
    return Contract(**{**values, **changes})


def small_config(kind: str) -> ModelConfig:
    """The three families at toy size: `tiny`, `2b`, `3b`."""
    width = ExpertConfig(32, 48)
    common: dict[str, Any] = dict(
        layers=2, heads=2, kv_heads=1, head_dim=16, und=width, gen=width, act=width, vocab=320, chunk=8, state_dim=10, action_dim=12,
        used_action_dim=7, steps=4, text_tokens=8, scale_factor=4, codec=CodecConfig(32, (1, 1, 1), 1, image=64),
    )  # fmt: skip
    if kind == "3b":
        vision = QwenVisionConfig(depth=1, hidden=16, heads=2, mlp=32, patch=4, positions=36)
        return ModelConfig("tiny", **common, vision=vision, rope_sections=(4, 2, 2), image_token=310, views=2)
    if kind == "2b":
        return ModelConfig("tiny", **common, vision=InternVisionConfig(depth=1, hidden=16, heads=2, mlp=32, patch=8, image=64), views=2)
    return tiny_config(**{**common, "vision": StemConfig(image=64, patch=8, hidden=16, text_tokens=8), "views": 2})


def write_weights(folder: Path, kind: str = "tiny", robot: RobotSpec | None = None, **contract: Any) -> Path:
    """A checkpoint folder with random weights, statistics, tokenizer and manifest."""
    robot = robot or make_robot()
    write_tokenizer(folder / "tokenizer")
    save_model(new_model(small_config(kind), seed=3), folder, stats=make_stats(robot), contract=contract_of(robot, **contract))
    return folder


def observe(
    robot: RobotSpec, stamp_s: float = 10.0, seed: int = 0, side: int = 80, missing: tuple[str, ...] = (), age_s: float = 0.01
) -> Observation:
    """Pictures that depend on camera and image stamp only, so that the same frame seen twice is the same."""
    images: dict[str, Any] = {}
    for i, camera in enumerate(robot.camera_names):
        rng = np.random.default_rng(1000 * i + round((stamp_s - age_s) * 1000) + seed)
        images[camera] = None if camera in missing else rng.integers(0, 256, (side, side + 16, 3), dtype=np.uint8)
    positions = np.random.default_rng(seed).normal(size=len(robot.joints)) * 0.3
    ages = {c: float(np.float32(age_s)) for c in robot.camera_names}
    return Observation(round(stamp_s * NS), images, ages, robot.joint_names, positions)


def ask(
    policy: NetworkPolicy, stamp_s: float = 10.0, committed: Committed | None = None, seed: int | None = 5, **changes: Any
) -> PolicyRequest:
    """A request with the observation of `stamp_s` and the one a history earlier."""
    observation = changes.pop("observation", None) or observe(policy.robot, stamp_s)
    past = changes.pop("past", None) or observe(policy.robot, stamp_s - policy.history_s)
    instruction = changes.pop("instruction", "put the red box in the left bin")
    return PolicyRequest(observation, past, instruction, chunk_id=4, committed=committed, seed=seed, **changes)
