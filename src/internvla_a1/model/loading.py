"""A weights folder to a model and back: strict about names and shapes, without a second copy in memory.

The module tree is built on the meta device and the mapped tensors of the file become its parameters, so that a weight of the wanted
dtype is never copied: the page cache is its memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from internvla_a1.core.errors import CheckpointError, ConfigError
from internvla_a1.model import names
from internvla_a1.model.checkpoint import Contract, Manifest, open_checkpoint, require_tensors, write_checkpoint
from internvla_a1.model.config import ModelConfig
from internvla_a1.model.cosmos import CosmosCodec
from internvla_a1.model.infer import codec_config, infer_config
from internvla_a1.model.network import InternVLAA1
from internvla_a1.model.precision import place, wanted_dtype
from internvla_a1.model.quantize import quantize_checked

NATIVE_TYPE = "internvla_a1"  # config.json `type` of our own layout, which stores every size under `architecture`
TINY = "tiny_config.json"


def load_model(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str = torch.float32,
    compat: str | None = None,
    verify: bool = True,
    kernels: bool = True,
) -> InternVLAA1:
    """Read a published or our own weights folder.

    dtype: float32, bfloat16 or "int8". compat: "published" | "consistent" (docs/model.md), None takes published for published weights.
    verify: hash against the manifest, or look for NaN where there is none. kernels: let the CPU or CUDA kernels run it where they can; a
    model that is to be trained wants False, for they give no gradients and keep matrices in bfloat16. CheckpointError names what is wrong.
    """
    checkpoint = open_checkpoint(folder, verify=verify)
    config, tensors, is_published = read_architecture(checkpoint.path, checkpoint.config, checkpoint.tensors)
    model = build(config, compat or ("published" if is_published else "consistent"), tensors, str(checkpoint.path))
    return prepare(model, torch.device(device), dtype, kernels)


def prepare(model: InternVLAA1, device: torch.device, dtype: torch.dtype | str, kernels: bool = True) -> InternVLAA1:
    """Put a model of float32 or bfloat16 weights on a device in a precision, ready for inference."""
    place(model, device, torch.bfloat16 if dtype == "int8" else wanted_dtype(dtype), kernels)
    model.requires_grad_(False).eval()
    model.set_attention("auto")
    return quantize_checked(model) if dtype == "int8" else model


def read_architecture(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor], bool]:
    """-> sizes, tensors under our names, whether the folder has the published layout. CheckpointError on unknown names."""
    if config.get("type") == NATIVE_TYPE:
        try:
            return ModelConfig.from_dict(config["architecture"]), dict(tensors), False
        except (KeyError, ConfigError) as error:
            raise CheckpointError(f"{path}: config.json: {error}") from error
    if config.get("type") not in names.VARIANTS:
        raise CheckpointError(f"{path}: config.json type {config.get('type')!r}, available: {', '.join([NATIVE_TYPE, *names.VARIANTS])}")
    variant = names.VARIANTS[config["type"]]
    renamed = rename(path, variant, tensors)
    tiny = path / TINY
    sizes = json.loads(tiny.read_text()) if tiny.is_file() else None
    return infer_config(variant, {name: tuple(t.shape) for name, t in renamed.items()}, config, sizes), renamed, True


def rename(path: Path, variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names to ours; unused tensors are left out, unknown ones refused. Either spelling of the tied embedding will do."""
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in tensors.items():
        ours = names.ours(name, variant)
        if names.is_unused(name, variant):
            continue
        if ours is None:
            unknown.append(name)
        elif ours in renamed and tuple(renamed[ours].shape) != tuple(tensor.shape):
            raise CheckpointError(f"{path}: {name} is {list(tensor.shape)}, its tied twin {list(renamed[ours].shape)}")
        else:
            renamed[ours] = tensor
    if unknown:
        raise CheckpointError(f"{path}: unknown tensors: {', '.join(sorted(unknown)[:8])}")
    return renamed


def build(config: ModelConfig, compat: str, tensors: Mapping[str, Tensor], where: str) -> InternVLAA1:
    """A model whose parameters are the given tensors, not copies of them."""
    tensors = {**{name: torch.full((2,), 0.5**0.5) for name in names.OPTIONAL}, **tensors}
    with torch.device("meta"):
        model = InternVLAA1(config, compat)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    display = {name: _shown(name, config.variant) for name in [*expected, *tensors]}
    require_tensors(where, {display[n]: t for n, t in tensors.items()}, {display[n]: shape for n, shape in expected.items()})
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{where}: {display[name]} is {tensor.dtype}, expected a floating point type")
    model.load_state_dict({name: tensors[name] for name in expected}, assign=True)
    return model


def load_codec(tensors: Mapping[str, Tensor], where: str) -> CosmosCodec:
    """An image tokenizer alone, from tensors named `_enc_model.*` and `_dec_model.*`."""
    root = "model.cosmos."
    renamed = rename(Path(where), "3b", {root + name: tensor for name, tensor in tensors.items()})
    renamed = {**{name: torch.full((2,), 0.5**0.5) for name in names.OPTIONAL}, **renamed}
    codec = CosmosCodec(codec_config({name: tuple(t.shape) for name, t in renamed.items()}))
    short = {name.removeprefix("codec."): tensor for name, tensor in renamed.items()}
    require_tensors(where, short, {name: tuple(t.shape) for name, t in codec.state_dict().items()})
    codec.load_state_dict(short)
    return codec.requires_grad_(False).eval()


def _shown(name: str, variant: str) -> str:
    try:
        return names.published(name, variant) if variant in names.TYPES else name
    except KeyError:
        return name


def new_model(config: ModelConfig, seed: int = 0, compat: str = "consistent") -> InternVLAA1:
    """A model with fresh random weights, float32 on the CPU, ready to train."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = InternVLAA1(config, compat)
        for module in model.mixture.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(model.embed_tokens.weight, std=0.02)
    return model


def save_model(
    model: InternVLAA1,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    stats: Mapping[str, Any] | None = None,
    contract: Contract | None = None,
    extra: Mapping[str, Any] | None = None,
    codec_dtype: torch.dtype | None = None,
) -> Manifest:
    """Write our own layout: config.json with the architecture, model.safetensors under our names, manifest. extra: added to config.json.

    dtype: of what is stored, None as it is; codec_dtype: of the image tokenizer, None as the rest.
    """
    kinds = {True: codec_dtype or dtype, False: dtype}
    tensors = {
        name: t.detach().to(kinds[name.startswith("codec.")] or t.dtype).cpu().contiguous() for name, t in model.state_dict().items()
    }
    config = {**(extra or {}), "type": NATIVE_TYPE, "architecture": model.config.to_dict()}
    return write_checkpoint(folder, config, tensors, stats=stats, contract=contract)


def published_tensors(model: InternVLAA1) -> dict[str, Tensor]:
    """The weights under published names (3B and 2B); what published files hold and nothing reads is not written."""
    return {names.published(name, model.config.variant): t.detach() for name, t in model.state_dict().items()}
