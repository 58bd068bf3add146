"""A training run as data: config/train/*.yaml as frozen dataclasses. Defaults are the published ones (model.md section 2)."""

from __future__ import annotations

from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from internvla_a1.core.errors import ConfigError
from internvla_a1.core.resources import find
from internvla_a1.data.features import SPEED_KEY, TARGET_KEY
from internvla_a1.eval.ablation import ABLATIONS

KINDS = ("policy", "codec", "grounding", "foresight")
PRECISIONS = ("float32", "bfloat16", "auto")


@dataclass(frozen=True)
class Source:
    """One data set of the mixture. weight 0: in proportion to its size. embodiment: '' takes the robot type of its info.json.

    robot: a robot file that says joints, views and delta mask for a type that the table of model.md section 9 does not know;
    '' looks for config/robots/<robot type>.yaml.
    """

    path: str
    weight: float = 0.0
    embodiment: str = ""
    robot: str = ""


@dataclass(frozen=True)
class DataConfig:
    """cache: folder of the decoded training cache, '' reads the data sets directly. Offsets in frames (model.md section 8)."""

    sources: tuple[Source, ...] = ()
    frame_offsets: tuple[int, ...] = (-15, 0, 15)
    delta: bool = True  # actions relative to the present state where the embodiment's mask says so
    per_step_statistics: bool = False  # normalise each step of the chunk by its own statistics
    cache: str = ""
    normalization: str = "mean_std"
    std_floor: float = 0.0  # least standard deviation, robot units: joints that hardly move are not blown up
    tokenizer: str = ""  # folder of the text tokenizer; '' takes the initial weights' own, or makes one from the tasks (tiny)


@dataclass(frozen=True)
class ModelChoice:
    """size: tiny, 2b or 3b; changes: fields of ModelConfig; init: a weights folder to start from; codec: one to take the codec from."""

    size: str = "tiny"
    changes: dict[str, Any] = field(default_factory=dict)
    init: str = ""
    codec: str = ""
    warm_start: str = ""  # a grounding run whose tensors replace those of the same name


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, linear warm-up, cosine to end_lr at decay_steps (0: at the last step).

    muon > 0: the learning rate of Muon for matrices and kernels inside the network, which warms up and decays alike.
    """

    lr: float = 2.5e-5
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: int = 1000
    decay_steps: int = 30000
    end_lr: float = 2.5e-6
    muon: float = 0.0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses. grounding, target and speed (of the belt) are heads that exist in training only."""

    lambda_gen: float = 0.01
    grounding: float = 0.0
    target: float = 0.0
    target_key: str = TARGET_KEY
    speed: float = 0.0
    speed_key: str = SPEED_KEY
    mask_padded_actions: bool = False  # the published loss counts the steps past the end of an episode
    object_weight: float = 25.0  # codec, foresight: extra weight of coloured pixels
    codec_noise: float = 0.0  # codec: of the latents that are decoded, in their standard deviations
    codec_smooth: float = 0.0  # codec: how little latents are to change in one frame, against one horizon
    gen_balance: bool = False  # foresight: changes of every view count alike; published: as large as they are
    gen_object_weight: float = 0.0  # foresight: extra weight of latent cells with coloured pixels, now or then; published: none


@dataclass(frozen=True)
class FreezeConfig:
    """The published options: freeze_vision_encoder, train_expert_only (und frozen), train_vlm_only (gen and act frozen)."""

    vision_encoder: bool = False
    train_expert_only: bool = False
    train_vlm_only: bool = False


@dataclass(frozen=True)
class AugmentConfig:
    """Standard deviations: gain and offset of the pictures in [0, 1], state in normalised units. history_drop: share of samples."""

    gain: float = 0.0
    color: float = 0.0
    state: float = 0.0
    shift_px: int = 0
    history_drop: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """kind: policy, codec, grounding or foresight. budget_s > 0 ends the run early; it then counts as complete (a resumed run adds up)."""

    out: str
    kind: str = "policy"
    seed: int = 0
    steps: int = 30000
    batch_size: int = 128  # over all processes
    accumulate: int = 1
    noise_draws: int = 1  # noise and time drawn this many times per observation
    precision: str = "bfloat16"  # auto: bfloat16 on a GPU or a CPU with AVX-512 BF16 or AMX, else float32
    threads: int = 0  # torch threads on a CPU, 0: as torch has it
    gradient_checkpointing: bool = False  # layers and vision blocks run again in the backward pass instead of keeping what they made
    compile: bool = False  # fuse the small operations of the layers (torch.compile; a C++ compiler on a CPU)
    ema: float = 0.0  # 0: off
    save_every: int = 1000
    keep: int = 2
    log_every: int = 10
    budget_s: float = 0.0
    inherit_statistics: bool = True  # take those of model.init for the robot types that it knows
    ablation: str = "full"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelChoice = field(default_factory=ModelChoice)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("size", self.model.size, ("tiny", "2b", "3b"))
        _one_of("ablation", self.ablation, ABLATIONS)
        for name in ("steps", "batch_size", "accumulate", "noise_draws", "save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0.0 <= self.ema < 1.0:
            raise ConfigError(f"ema must be in [0, 1), not {self.ema}")
        if self.optim.muon < 0.0:
            raise ConfigError(f"optim.muon is a learning rate, or 0 for AdamW alone, not {self.optim.muon}")
        if self.optim.muon and self.optim.lr <= 0.0:
            raise ConfigError(f"optim.muon follows optim.lr, which must be above 0, not {self.optim.lr}")
        if self.freeze.train_expert_only and self.freeze.train_vlm_only:
            raise ConfigError("train_expert_only and train_vlm_only leave nothing to train; choose one")

    @property
    def decay_steps(self) -> int:
        return self.optim.decay_steps or self.steps

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they go into checkpoints."""
        return asdict(self)


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError.asked(what, value, known)


def load_train_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a YAML file; `base:` names another file that it changes; overrides are `a.b=value`. ConfigError on any unknown key."""
    raw = _read(Path(find(str(path))), depth=0)
    for override in overrides or []:
        key, _, text = override.partition("=")
        _assign(raw, key.split("."), yaml.safe_load(text), override)
    if "out" not in raw:
        raise ConfigError(f"{path}: `out` (folder of the run) is missing")
    return build(TrainConfig, raw, str(path))


def _read(path: Path, depth: int) -> dict[str, Any]:
    if depth > 4:
        raise ConfigError(f"{path}: `base` goes round in circles")
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping at the top")
    base = raw.pop("base", None)
    return overlay(_read((path.parent / base).resolve(), depth + 1), raw) if base else raw


def overlay(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """`low` with the values of `high`; mappings are merged, all else replaced."""
    merged = dict(low)
    for key, value in high.items():
        merged[key] = overlay(low[key], value) if isinstance(value, dict) and isinstance(low.get(key), dict) else value
    return merged


def _assign(raw: dict[str, Any], keys: list[str], value: Any, where: str) -> None:
    for key in keys[:-1]:
        raw = raw.setdefault(key, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"{where}: {key} is not a mapping")
    raw[keys[-1]] = value


def build(kind: type, raw: Any, where: str) -> Any:
    """A dataclass from plain values, its own defaults where nothing is said. ConfigError names unknown keys and wrong types."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected a mapping, not {raw!r}")
    known = {f.name: f for f in fields(kind)}
    unknown = [k for k in raw if k not in known]
    if unknown:
        raise ConfigError.asked(f"{where}: unknown key", unknown[0], sorted(known))
    values = {name: _value(name, _default(known[name]), value, f"{where}: {name}") for name, value in raw.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def _default(entry: Field) -> Any:
    if entry.default is not MISSING:
        return entry.default
    return entry.default_factory() if entry.default_factory is not MISSING else ""  # what has no default is a text


def _value(name: str, default: Any, value: Any, where: str) -> Any:
    if is_dataclass(default):
        return build(type(default), value, where)
    if name == "sources":
        return tuple(build(Source, {"path": s} if isinstance(s, str) else s, f"{where}[{i}]") for i, s in enumerate(value))
    if isinstance(default, tuple) and isinstance(value, (list, tuple)):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError as error:
            raise ConfigError(f"{where}: expected a number, not {value!r}") from error
    if type(value) is not type(default):
        raise ConfigError(f"{where}: expected {type(default).__name__}, not {value!r}")
    return value
