"""The carried subset of the reference vectors as models: tensors that it leaves out are zeros, which nothing compared here reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from internvla_a1.model.config import ModelConfig
from internvla_a1.model.infer import infer_config
from internvla_a1.model.loading import build, prepare, rename
from internvla_a1.model.names import published
from internvla_a1.model.network import InternVLAA1
from internvla_a1.model.verify import read_tensors

DATA = Path(__file__).resolve().parent / "data"
GOLDEN = Path(os.environ.get("INTERNVLA_A1_GOLDEN") or Path(__file__).resolve().parents[3] / "shared" / "golden")
VARIANTS = ("3b", "2b")


def subset_model(variant: str, compat: str = "published") -> InternVLAA1:
    config, full = completed(variant, torch.zeros)
    return prepare(build(config, compat, full, str(DATA / variant)), torch.device("cpu"), torch.float32)


def complete_folder(variant: str, target: Path) -> None:
    """The carried subset as a folder in the published layout; what it leaves out is small noise."""
    generator = torch.Generator().manual_seed(0)
    _, full = completed(variant, lambda shape: 0.05 * torch.randn(shape, generator=generator))
    save_file({published(name, variant): t.contiguous() for name, t in full.items()}, target / "model.safetensors")
    for name in ("config.json", "tiny_config.json"):
        (target / name).write_bytes((DATA / variant / name).read_bytes())


def completed(variant: str, filler: Callable[[torch.Size], torch.Tensor]) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """The configuration and every weight, those that the subset leaves out from `filler(shape)`."""
    folder = DATA / variant
    config_file = json.loads((folder / "config.json").read_text())
    sizes = json.loads((folder / "tiny_config.json").read_text())
    tensors = rename(folder, variant, read_tensors(folder / "model.safetensors"))
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    if variant == "2b":  # the image tokenizer of both variants has the same sizes
        donor = rename(DATA / "3b", "3b", read_tensors(DATA / "3b" / "model.safetensors"))
        shapes = {name: tuple(t.shape) for name, t in donor.items() if name.startswith(("codec", "latent_head"))} | shapes
    config = infer_config(variant, shapes, config_file, sizes)
    with torch.device("meta"):
        expected = InternVLAA1(config).state_dict()
    return config, {name: tensors[name] if name in tensors else filler(t.shape) for name, t in expected.items()}


def subset_case(variant: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Inputs and outputs of the carried case: one view missing."""
    return tuple(read_tensors(DATA / variant / f"masked_view.{part}.safetensors") for part in ("inputs", "outputs"))  # type: ignore[return-value]


def with_recorded_middle(model: InternVLAA1, embeddings: torch.Tensor) -> InternVLAA1:
    """Middle embeddings (B, M, hidden) from the vectors in the place of the image tokenizer."""
    model.embed_middle = lambda latents, layout: embeddings[:, layout.middle]  # type: ignore[method-assign]
    return model
