"""manifest.json: what a weights folder must contain, byte for byte, and which robot it was trained for.

safetensors has no checksum: a flipped bit loads silently. The manifest holds size and sha256 of every file, dtype, shape
and sha256 of every tensor (so that a damaged one can be named), the contract with the robot, and its own sha256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from internvla_a1.core.errors import CheckpointError
from internvla_a1.model.checkpoint.header import parse_json
from internvla_a1.model.checkpoint.paths import read_text_file

MANIFEST = "manifest.json"
FORMAT = "internvla-a1 weights manifest"
VERSION = 1


@dataclass(frozen=True)
class Contract:
    """What a checkpoint expects of the robot that it drives (checked by policy/contract.py).

    joint_names: order of state and action. delta: per joint, is the action relative to the measured state.
    views: model slot (image0, image1, image2) -> camera name. control_dt_s: period of the action steps, s.
    history_steps, horizon_steps: how many periods back the past frame lies and ahead the foresight (model.md section 8).
    """

    embodiment: str
    joint_names: tuple[str, ...]
    delta: tuple[bool, ...]
    views: dict[str, str]
    control_dt_s: float
    normalization: str = "mean_std"  # mean_std | min_max
    history_steps: int = 15
    horizon_steps: int = 15

    def __post_init__(self) -> None:
        texts = (self.embodiment, *self.joint_names, *self.views, *self.views.values()) if isinstance(self.views, dict) else (None,)
        if not isinstance(self.joint_names, tuple) or not all(isinstance(t, str) for t in texts):
            raise CheckpointError("contract: embodiment, joint names and views must be text")
        if len(self.delta) != len(self.joint_names) or not self.joint_names:
            raise CheckpointError(f"contract: {len(self.joint_names)} joint names and {len(self.delta)} delta flags")
        if self.normalization not in ("mean_std", "min_max"):
            raise CheckpointError(f"contract: normalization {self.normalization!r}, available: mean_std, min_max")
        if not self.control_dt_s > 0 or self.history_steps < 0 or self.horizon_steps < 0:
            raise CheckpointError("contract: control_dt_s must be above 0, history_steps and horizon_steps not below")

    @classmethod
    def from_json(cls, where: object, value: Any) -> Contract:
        """Build from parsed JSON. Raises CheckpointError with the key that is wrong."""
        known = {f.name for f in fields(cls)}
        if not isinstance(value, dict) or not set(value) <= known:
            raise CheckpointError(f"{where}: contract: unknown key; available: {', '.join(sorted(known))}")
        try:
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
            return cls(**values)
        except TypeError as error:
            raise CheckpointError(f"{where}: contract: {error}") from error


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and sha256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class TensorRecord:
    """One tensor as stored: dtype in safetensors spelling, shape, sha256 of its bytes."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """files by name, tensors by "file:name"; source: where the weights came from, for people."""

    files: dict[str, FileRecord]
    tensors: dict[str, TensorRecord]
    contract: Contract | None = None
    source: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of manifest.json, with its own digest."""
        body = {"format": FORMAT, "version": VERSION, **asdict(self)}
        body = json.loads(json.dumps(body))  # tuples to lists, so that the digest is that of what a reader parses
        return json.dumps({**body, "sha256": _digest(body)}, indent=1, ensure_ascii=False) + "\n"


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, None if it has none. Raises CheckpointError if it is damaged or was edited."""
    path = folder / MANIFEST
    if not path.exists() and not path.is_symlink():
        return None
    body = parse_json(path, read_text_file(folder, MANIFEST))
    stated = body.pop("sha256", None)
    if stated != _digest(body):
        raise CheckpointError(f"{path}: the manifest's own sha256 does not match: it is damaged or was edited by hand")
    if body.get("format") != FORMAT or body.get("version") != VERSION:
        raise CheckpointError(f"{path}: format {body.get('format')!r} version {body.get('version')!r}, expected {FORMAT!r} {VERSION}")
    try:
        files = {name: FileRecord(**record) for name, record in body["files"].items()}
        tensors = {n: TensorRecord(r["dtype"], tuple(r["shape"]), r["sha256"]) for n, r in body["tensors"].items()}
        source, raw = dict(body["source"]), body["contract"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path}: malformed: {type(error).__name__}: {error}") from error
    return Manifest(files, tensors, Contract.from_json(path, raw) if raw is not None else None, source)


def file_sha256(path: Path, chunk: int = 1 << 22) -> str:
    """sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(chunk):
            digest.update(piece)
    return digest.hexdigest()
