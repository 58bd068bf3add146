"""Published tensor names <-> ours, for both variants (model.md section 2). Ours differ only in their roots."""

from __future__ import annotations

import re

VARIANTS = {"qwena1": "3b", "interna1": "2b"}
TYPES = {variant: kind for kind, variant in VARIANTS.items()}

_ACTION = {
    name: f"action_head.{name}" for name in ("state_proj", "action_in_proj", "action_out_proj", "action_time_mlp_in", "action_time_mlp_out")
}
_CODEC = {
    "_enc_model.encoder": "codec.encoder",
    "_enc_model.quant_conv": "codec.quant_conv",
    "_dec_model.decoder": "codec.decoder",
    "_dec_model.post_quant_conv": "codec.post_quant_conv",
}
_3B, _2B = "model.qwen3_vl_with_expert.", "model.internvl_with_expert."

# published root -> our root; the longest root that fits decides
ROOTS: dict[str, dict[str, str]] = {
    "3b": {
        _3B + "und_expert.lm_head": "embed_tokens",
        _3B + "und_expert.model.language_model": "mixture.und",
        _3B + "und_expert.model.visual": "vision",
        _3B + "gen_expert": "mixture.gen",
        _3B + "act_expert": "mixture.act",
        "model.cosmos_in_proj": "latent_head.gen_in_proj",
        "model.cosmos_out_layer_norm": "latent_head.gen_out_layer_norm",
        "model.cosmos_out_proj": "latent_head.gen_out_proj",
        "model.downsample_conv": "latent_head.downsample_conv",
        "model.upsample_conv": "latent_head.upsample_conv",
        **{f"model.cosmos.{theirs}": ours for theirs, ours in _CODEC.items()},
        **{f"model.{theirs}": ours for theirs, ours in _ACTION.items()},
    },
    "2b": {
        _2B + "und_expert.model.language_model.embed_tokens": "embed_tokens",
        _2B + "und_expert.model.language_model": "mixture.und",
        _2B + "und_expert.model.vision_tower.embeddings.cls_token": "vision.cls_token",
        _2B + "und_expert.model.vision_tower.embeddings.position_embeddings": "vision.position_embeddings",
        _2B + "und_expert.model.vision_tower.embeddings.patch_embeddings.projection": "vision.projection",
        _2B + "und_expert.model.vision_tower.encoder.layer": "vision.layer",
        _2B + "und_expert.model.multi_modal_projector": "vision.projector",
        _2B + "gen_expert.model": "mixture.gen",
        _2B + "act_expert.model": "mixture.act",
        "model.imagenet_mean": "vision.imagenet_mean",
        "model.imagenet_std": "vision.imagenet_std",
        "model.gen_in_proj": "latent_head.gen_in_proj",
        "model.gen_out_layer_norm": "latent_head.gen_out_layer_norm",
        "model.gen_out_proj": "latent_head.gen_out_proj",
        "model.downsample_conv": "latent_head.downsample_conv",
        "model.upsample_conv": "latent_head.upsample_conv",
        **{f"model.cosmos_tokenizer.{theirs}": ours for theirs, ours in _CODEC.items()},
        **{f"model.{theirs}": ours for theirs, ours in _ACTION.items()},
    },
}

EMBEDDING_3B = _3B + "und_expert.model.language_model.embed_tokens.weight"
LM_HEAD_3B = _3B + "und_expert.lm_head.weight"  # the tied pair is stored under this name
LM_HEAD_2B = _2B + "und_expert.lm_head.weight"

# may be missing: a tokenizer saved by hand has no Haar taps
OPTIONAL = ("codec.encoder.patcher.wavelets", "codec.decoder.unpatcher.wavelets")

# in published files, and in no output
UNUSED = {
    "3b": re.compile(r".*\.visual\.deepstack_merger_list\..*|.*\.(patcher|unpatcher)\._arange"),
    "2b": re.compile(r".*\.und_expert\.lm_head\.weight|.*\.(patcher|unpatcher)\._arange"),
}


def _renamed(name: str, roots: dict[str, str]) -> str | None:
    for root in sorted(roots, key=len, reverse=True):
        if name == root or name.startswith(root + "."):
            return roots[root] + name[len(root) :]
    return None


def ours(published: str, variant: str) -> str | None:
    """Our name of a published tensor, None for a name that is not known."""
    if published == EMBEDDING_3B and variant == "3b":
        return "embed_tokens.weight"
    return _renamed(published, ROOTS[variant])


def published(name: str, variant: str) -> str:
    """The published name of one of our tensors, in the spelling that published files use."""
    result = _renamed(name, {our_root: root for root, our_root in ROOTS[variant].items()})
    if result is None:
        raise KeyError(f"{name} has no published name in the {variant} layout")
    return result


def is_unused(published_name: str, variant: str) -> bool:
    """A tensor that published files hold and nothing reads."""
    return UNUSED[variant].fullmatch(published_name) is not None
