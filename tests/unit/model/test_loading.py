"""Weights folders: names, shapes, the tied embedding, precision, memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_helpers import noise_for, small_model
from safetensors.torch import load_file, save_file

from internvla_a1.core.errors import CheckpointError, ConfigError
from internvla_a1.model import ModelConfig, load_model, names, new_model, save_model, tiny_config
from internvla_a1.model.config import config_2b, config_3b
from internvla_a1.model.example import example_batch
from internvla_a1.model.infer import infer_config
from internvla_a1.model.loading import published_tensors
from internvla_a1.model.network import InternVLAA1
from internvla_a1.model.precision import stored_dtypes


def sizes_beside(config: ModelConfig) -> dict[str, object]:
    """What shapes cannot tell, as reference vectors carry it."""
    vision = {"num_heads": config.vision.heads, "num_attention_heads": config.vision.heads}  # type: ignore[union-attr]
    und = {"head_dim": config.head_dim, "num_attention_heads": config.heads}
    return {
        "und": und,
        "vision": vision,
        "mrope_section": config.rope_sections,
        "image_token_id": config.image_token,
        "lang_len": config.text_tokens,
    }


def published_folder(folder: Path, variant: str) -> Path:
    """A published folder of a small model, written from our names."""
    model = small_model(variant)
    save_file({name: t.contiguous() for name, t in published_tensors(model).items()}, folder / "model.safetensors")
    config = {"type": names.TYPES[variant], "chunk_size": 6, "num_inference_steps": 4, "output_features": {"action": {"shape": [7]}}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tiny_config.json").write_text(json.dumps(sizes_beside(model.config)))
    return folder


@pytest.mark.parametrize("variant", ["3b", "2b", "tiny"])
def test_a_model_is_loaded_and_asked_without_torchs_compiler(tmp_path: Path, variant: str) -> None:
    """It would be a third of a policy node's memory, and a second or two of its start."""
    folder = published_folder(tmp_path, variant) if variant != "tiny" else tmp_path
    if variant == "tiny":
        save_model(small_model(variant), folder)
    work = f"""
import sys
from internvla_a1.model import load_model
from internvla_a1.model.example import example_batch
model = load_model({str(folder)!r})
model.predict(example_batch(model.config))
print("torch._dynamo" in sys.modules, "triton" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=True).stdout.split() == ["False", "False"]


def rewrite(folder: Path, change) -> None:  # type: ignore[no-untyped-def]
    tensors = {name: t.clone() for name, t in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("variant", ["3b", "2b"])
def test_published_names_and_inferred_sizes_give_the_same_model(variant: str, tmp_path: Path) -> None:
    model = small_model(variant, compat="published")
    loaded = load_model(published_folder(tmp_path, variant))
    assert loaded.compat == "published"
    batch, noise = example_batch(model.config), noise_for(model)
    # a 64 px tokenizer is a choice of these tests; published files always mean 256
    assert loaded.config.codec.image == 256
    loaded.config = model.config
    assert torch.allclose(loaded.predict(batch, noise).actions, model.predict(batch, noise).actions, atol=1e-5)


@pytest.mark.parametrize("variant,config", [("3b", config_3b()), ("2b", config_2b())])
def test_published_full_sizes_are_inferred_from_shapes_alone(variant: str, config: ModelConfig) -> None:
    with torch.device("meta"):
        model = InternVLAA1(config)
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    assert infer_config(variant, shapes, {}) == config
    und = sum(
        p.numel() for n, p in model.named_parameters() if n.startswith(("embed_tokens", "vision", "mixture.und")) and "imagenet" not in n
    )
    published = {"3b": 2_127_532_032 - 75_540_480, "2b": 938_119_296 - 135_899_904}[
        variant
    ]  # without deepstack, without the separate lm_head
    assert und == published
    assert sum(p.numel() for p in model.mixture.act.parameters()) == {"3b": 440_467_456, "2b": 357_898_112}[variant]
    assert sum(p.numel() for n, p in model.codec.named_parameters() if "wavelets" not in n) == 76_789_472
    assert len({names.published(n, variant) for n in shapes}) == len(shapes)
    assert all(names.ours(names.published(n, variant), variant) == n for n in shapes)


def test_either_spelling_of_the_tied_embedding_will_do(tmp_path: Path) -> None:
    folder = published_folder(tmp_path, "3b")

    def respell(tensors: dict[str, torch.Tensor]) -> None:
        tensors[names.EMBEDDING_3B] = tensors.pop(names.LM_HEAD_3B)

    before = load_model(folder).embed_tokens.weight.clone()
    rewrite(folder, respell)
    assert torch.equal(load_model(folder).embed_tokens.weight, before)


@pytest.mark.parametrize(
    "change,said",
    [
        (lambda t: t.pop("model.state_proj.bias"), r"missing model\.state_proj\.bias"),
        (lambda t: t.update({"model.extra.weight": torch.ones(2)}), r"unknown tensors: model\.extra\.weight"),
        (
            lambda t: t.update({"model.action_out_proj.weight": torch.ones(8, 41)}),
            r"model\.action_out_proj\.weight is \[8, 41\], expected \[8, 40\]",
        ),
        (lambda t: t["model.state_proj.bias"].fill_(float("nan")), r"model\.state_proj\.bias holds NaN"),
        (lambda t: t.update({"model.state_proj.bias": torch.ones(40, dtype=torch.int32)}), "expected a floating point type"),
        (lambda t: [t.pop(n) for n in list(t) if "q_proj" in n], "size of the model cannot be told"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_published_name(tmp_path: Path, change, said: str) -> None:  # type: ignore[no-untyped-def]
    folder = published_folder(tmp_path, "3b")
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=said):
        load_model(folder)


def test_deepstack_mergers_and_a_separate_lm_head_are_known_and_unused(tmp_path: Path) -> None:
    three, two = tmp_path / "three", tmp_path / "two"
    three.mkdir()
    two.mkdir()
    root = "model.qwen3_vl_with_expert.und_expert.model.visual.deepstack_merger_list.0.norm.weight"
    rewrite(published_folder(three, "3b"), lambda t: t.update({root: torch.ones(128)}))
    rewrite(published_folder(two, "2b"), lambda t: t.update({names.LM_HEAD_2B: torch.ones(320, 48)}))
    load_model(three)
    load_model(two)


def test_an_unknown_type_lists_the_known_ones(tmp_path: Path) -> None:
    folder = published_folder(tmp_path, "3b")
    (folder / "config.json").write_text(json.dumps({"type": "pi0"}))
    with pytest.raises(CheckpointError, match="internvla_a1, qwena1, interna1"):
        load_model(folder)


def test_our_own_layout_stores_every_size_and_comes_back_the_same(tmp_path: Path) -> None:
    model = small_model("tiny")
    save_model(model, tmp_path, extra={"note": "kept"})
    loaded = load_model(tmp_path)
    assert loaded.config == model.config and loaded.compat == "consistent"
    assert json.loads((tmp_path / "config.json").read_text())["note"] == "kept"
    batch, noise = example_batch(model.config), noise_for(model)
    assert torch.equal(loaded.predict(batch, noise).actions, model.predict(batch, noise).actions)


def test_loaded_weights_are_the_file_and_not_a_copy(tmp_path: Path) -> None:
    save_model(new_model(tiny_config()), tmp_path)
    weight = load_model(tmp_path).embed_tokens.weight
    mapped = weight.untyped_storage().nbytes()
    assert mapped == (tmp_path / "model.safetensors").stat().st_size


def test_bfloat16_keeps_norms_and_the_action_head_wide_and_moves_the_actions_little() -> None:
    wide, narrow = small_model("3b"), small_model("3b", dtype="bfloat16")
    kept = {name: p.dtype for name, p in narrow.named_parameters()}
    assert kept["mixture.und.layers.0.mlp.up_proj.weight"] == torch.bfloat16
    assert kept["mixture.und.layers.0.input_layernorm.weight"] == torch.float32
    assert kept["action_head.action_out_proj.weight"] == torch.float32
    batch, noise = example_batch(wide.config), noise_for(wide)
    error = (narrow.predict(batch, noise).actions - wide.predict(batch, noise).actions).abs().max()
    assert 0 < float(error) < 0.1


def test_wide_copies_stay_within_their_share_of_memory() -> None:
    with torch.device("meta"):
        model = InternVLAA1(config_2b())
    size = {n: p.numel() for n, p in model.named_parameters()}
    plan = stored_dtypes(model, torch.bfloat16, native=False)
    total = sum(size[n] * plan[n].itemsize for n in size)
    assert 1.1 < total / sum(2 * s for s in size.values()) <= 1.15


def test_an_unknown_dtype_lists_the_known_ones(tmp_path: Path) -> None:
    save_model(new_model(tiny_config()), tmp_path)
    with pytest.raises(ConfigError, match="float32, bfloat16, int8"):
        load_model(tmp_path, dtype="float16")
