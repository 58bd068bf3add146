"""Every size of a model, as data. The three configurations differ in nothing else (model.md section 1)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from internvla_a1.core.errors import ConfigError


@dataclass(frozen=True)
class ExpertConfig:
    """Widths of one of the three transformer stacks; depth and heads are shared."""

    hidden: int
    mlp: int


@dataclass(frozen=True)
class QwenVisionConfig:
    """Qwen3-VL ViT of the 3B. `positions` are learned on a square grid and interpolated."""

    depth: int = 24
    hidden: int = 1024
    heads: int = 16
    mlp: int = 4096
    patch: int = 16
    temporal_patch: int = 2
    merge: int = 2
    positions: int = 2304
    kind: str = "qwen"


@dataclass(frozen=True)
class InternVisionConfig:
    """InternVL ViT of the 2B and its projector (LayerNorm eps 1e-5)."""

    depth: int = 24
    hidden: int = 1024
    heads: int = 16
    mlp: int = 4096
    patch: int = 14
    image: int = 448
    shuffle: int = 2  # pixel shuffle: shuffle x shuffle patches become one token
    kind: str = "intern"

    @property
    def tokens(self) -> int:
        return (self.image // self.patch // self.shuffle) ** 2


@dataclass(frozen=True)
class StemConfig:
    """A small convolutional stem for CPUs: (image / (patch * merge))^2 tokens a view, steered by the instruction."""

    image: int = 96
    patch: int = 8
    hidden: int = 96
    merge: int = 2
    text_tokens: int = 12
    kind: str = "stem"

    @property
    def tokens(self) -> int:
        return (self.image // self.patch // self.merge) ** 2


VisionConfig = QwenVisionConfig | InternVisionConfig | StemConfig


@dataclass(frozen=True)
class CodecConfig:
    """Cosmos CI image tokenizer: Haar patch 4, `downsamples` stride-2 steps, 16 latent channels."""

    channels: int = 128
    multipliers: tuple[int, ...] = (2, 4, 4)
    res_blocks: int = 2
    latent: int = 16
    downsamples: int = 1
    image: int = 256  # frames are resized to this before they are encoded

    @property
    def compression(self) -> int:
        return 4 * 2**self.downsamples

    @property
    def grid(self) -> int:
        """Height and width of a frame's latents."""
        return self.image // self.compression


@dataclass(frozen=True)
class ModelConfig:
    """A complete architecture. `variant` names the published family; a tiny model is `tiny`."""

    variant: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    und: ExpertConfig
    gen: ExpertConfig
    act: ExpertConfig
    vocab: int
    vision: VisionConfig
    codec: CodecConfig = field(default_factory=CodecConfig)
    qkv_bias: bool = False
    qk_norm: bool = True
    rope_theta: float = 5e6
    rope_sections: tuple[int, ...] | None = None  # interleaved M-RoPE where given (t, h, w), plain 1-D otherwise
    scale_text: bool = False  # token embeddings times sqrt(hidden): Q4
    norm_eps: float = 1e-6
    image_token: int = 151655
    views: int = 3
    text_tokens: int = 48
    chunk: int = 50
    state_dim: int = 32
    action_dim: int = 32
    used_action_dim: int = 32  # leading action values that mean something; the rest is padding
    steps: int = 10
    scale_factor: int = 8  # latent cells per generation token, per side
    residual_foresight: bool = False  # the future as the present with changes: a small head need not draw what stays as it is
    motion_tokens: bool = False  # a token of the present also holds what was in its cells before: motion in one place, not two
    state_change: bool = False  # state values behind the joints': their change since one step ago, so that a moving arm is known as one
    prefix_steps: int = 0  # committed steps that training has put before the steps to come, at most; 0: published, guided at inference
    lambda_gen: float = 0.01
    min_period: float = 0.004
    max_period: float = 4.0

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ConfigError(f"{self.heads} query heads cannot share {self.kv_heads} key heads evenly")
        if self.rope_sections is not None and sum(self.rope_sections) != self.head_dim // 2:
            raise ConfigError(f"rotary sections {self.rope_sections} must add up to half of head_dim {self.head_dim}")
        if not 0 <= self.prefix_steps < self.chunk:
            raise ConfigError(f"prefix_steps must be at least 0 and below the chunk's {self.chunk}, not {self.prefix_steps}")
        if self.codec.grid % self.scale_factor:
            raise ConfigError(f"a {self.codec.grid}-cell latent is not divisible by scale_factor {self.scale_factor}")

    @property
    def gen_tokens_per_frame(self) -> int:
        return (self.codec.grid // self.scale_factor) ** 2

    @property
    def middle_tokens(self) -> int:
        """views x (past, now) x tokens of a frame."""
        return self.views * 2 * self.gen_tokens_per_frame

    @property
    def suffix_tokens(self) -> int:
        """One state token and the chunk."""
        return 1 + self.chunk

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Inverse of `to_dict`. ConfigError names an unknown or missing field."""
        values = dict(data)
        try:
            for expert in ("und", "gen", "act"):
                values[expert] = ExpertConfig(**values[expert])
            vision = dict(values["vision"])
            values["vision"] = _VISION[vision.pop("kind")](**vision)
            codec = dict(values["codec"])
            values["codec"] = CodecConfig(**{**codec, "multipliers": tuple(codec["multipliers"])})
            if values.get("rope_sections") is not None:
                values["rope_sections"] = tuple(values["rope_sections"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not a model configuration: {error}") from error


_VISION: dict[str, type] = {"qwen": QwenVisionConfig, "intern": InternVisionConfig, "stem": StemConfig}


def config_3b() -> ModelConfig:
    """The published 3B (Qwen3-VL)."""
    small = ExpertConfig(1024, 3072)
    return ModelConfig("3b", 28, 16, 8, 128, ExpertConfig(2048, 6144), small, small, 151936, QwenVisionConfig(), rope_sections=(24, 20, 20))


def config_2b() -> ModelConfig:
    """The published 2B (InternVL3). Rotary theta is 10000, not the pretrained 1e6: Q2."""
    width = ExpertConfig(896, 4864)
    return ModelConfig(
        "2b", 24, 14, 2, 64, width, width, width, 151674, InternVisionConfig(),
        qkv_bias=True, qk_norm=False, rope_theta=1e4, scale_text=True,
    )  # fmt: skip


def tiny_config(**changes: Any) -> ModelConfig:
    """The same architecture for two CPU cores: about 25 ms a chunk on one. Any field of ModelConfig may be replaced.

    Two 96 px views, 36 tokens each; 12 x 12 latent cells and 16 generation tokens a frame; four layers of width 128.
    """
    width = ExpertConfig(128, 256)
    values: dict[str, Any] = dict(
        variant="tiny", layers=4, heads=4, kv_heads=2, head_dim=32, und=width, gen=width, act=width, vocab=256,
        vision=StemConfig(), codec=CodecConfig(channels=32, multipliers=(1, 1, 2), res_blocks=1, image=96), qk_norm=False, rope_theta=1e4,
        views=2, text_tokens=12, chunk=16, state_dim=16, action_dim=16, used_action_dim=7, steps=5, scale_factor=3,
    )  # fmt: skip
    return ModelConfig(**{**values, **changes})
