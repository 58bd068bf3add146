"""Weights on disk: opened with suspicion, checked against a manifest, mapped rather than read."""

from internvla_a1.model.checkpoint.folder import Checkpoint, open_checkpoint, require_tensors
from internvla_a1.model.checkpoint.manifest import Contract, Manifest, read_manifest
from internvla_a1.model.checkpoint.write import write_checkpoint, write_manifest

__all__ = [
    "Checkpoint",
    "Contract",
    "Manifest",
    "open_checkpoint",
    "read_manifest",
    "require_tensors",
    "write_checkpoint",
    "write_manifest",
]
