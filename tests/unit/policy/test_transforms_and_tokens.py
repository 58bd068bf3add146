"""Single transforms where the reference vectors do not reach: errors, missing views, the token rows, the way out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from policy_made_up import WORDS, write_tokenizer

from internvla_a1.core.errors import CheckpointError, ConfigError, DataError
from internvla_a1.policy.statistics import FeatureStats
from internvla_a1.policy.tokenizer import load_tokenizer
from internvla_a1.policy.transforms import (
    Chain,
    ConcatKeys,
    DeltaActions,
    Normalise,
    PadDims,
    RemapViews,
    ResizeWithPad,
    SelectKeys,
    SplitKeys,
    Unnormalise,
    absolute_actions,
    resize_with_pad,
    to_float,
)
from internvla_a1.policy.transforms.qwen import LanguageTokens, QwenImageProcessor, QwenInputs

SLOT = "observation.images.image"


def test_a_picture_becomes_floats_between_zero_and_one_channels_first() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[1, 2] = (255, 51, 0)
    out = to_float(image)
    assert out.shape == (3, 4, 6) and out[:, 1, 2].tolist() == pytest.approx([1.0, 0.2, 0.0])
    for wrong in (image.astype(np.float32), image[..., 0], image[..., :2]):
        with pytest.raises(DataError, match="uint8"):
            to_float(wrong)


def test_padding_puts_the_smaller_half_on_top_and_left() -> None:
    out = resize_with_pad(torch.ones(3, 4, 7), 7, 7)  # fills 4 of 7 rows: 1 above, 2 below
    assert (out[0, :, 0] > 0).tolist() == [False, True, True, True, True, False, False]
    same = torch.rand(3, 7, 7) * 3
    assert resize_with_pad(same, 7, 7) is same


def test_only_pictures_are_resized() -> None:
    sample = {"camera.image.a": torch.ones(1, 3, 4, 4), f"{SLOT}0_mask": torch.tensor(True), "image_is_pad": torch.ones(1, 3, 4, 4)}
    out = ResizeWithPad(8, 8)(sample)
    assert out["camera.image.a"].shape[-2:] == (8, 8) and out["image_is_pad"].shape[-2:] == (4, 4)
    assert sample["camera.image.a"].shape[-2:] == (4, 4)


def test_missing_views_are_white_and_masked_and_view_zero_may_not_be_missing() -> None:
    remap = RemapViews({"a": f"{SLOT}0", "b": f"{SLOT}1"})
    out = remap({"a": torch.zeros(1, 3, 2, 2), "task": "x"})
    assert [bool(out[f"{SLOT}{i}_mask"]) for i in range(3)] == [True, False, False]
    assert (out[f"{SLOT}1"] == 1).all() and (out[f"{SLOT}2"] == 1).all() and out["task"] == "x"
    with pytest.raises(DataError, match="comes from a"):
        remap({"b": torch.zeros(1, 3, 2, 2)})


def test_a_missing_view_repeats_the_pixels_before_it_with_attention_zero(tmp_path: Path) -> None:
    tokens = load_tokenizer(write_tokenizer(tmp_path))
    inputs = QwenInputs(QwenImageProcessor(4, 2, 2, min_pixels=256), tokens, text_tokens=6, start_id=308, image_id=310, end_id=309)
    frames = {f"{SLOT}{v}": torch.rand(2, 3, 16, 16) for v in range(3)}
    masks = {f"{SLOT}0_mask": torch.tensor(True), f"{SLOT}1_mask": torch.tensor(False), f"{SLOT}2_mask": torch.tensor(True)}
    out = inputs({**frames, **masks, "task": "put the red box"})
    patches = out["observation.pixel_values"].reshape(3, 16, -1)
    assert torch.equal(patches[0], patches[1]) and not torch.equal(patches[0], patches[2])
    assert torch.equal(patches[0], QwenImageProcessor(4, 2, 2, min_pixels=256)(frames[f"{SLOT}0"][1])[0])
    assert out["observation.image_grid_thw"].tolist() == [[1, 4, 4]] * 3
    view = [308, 310, 310, 310, 310, 309]
    assert out["observation.input_ids"].tolist() == [*view * 3, 2, 3, 4, 6, 0, 0]
    assert out["observation.attention_mask"].tolist() == [1] * 6 + [0] * 6 + [1] * 6 + [1, 1, 1, 1, 0, 0]


def test_the_smart_resize_keeps_pixel_bounds_in_whole_merge_blocks() -> None:
    processor = QwenImageProcessor()
    assert processor.target(224, 224) == (256, 256)
    for h, w in ((48, 3000), (5000, 5000), (100, 70), (1, 150)):
        th, tw = processor.target(h, w)
        assert th % 32 == 0 and tw % 32 == 0 and th * tw >= 65536
        assert th * tw <= processor.max_pixels
    with pytest.raises(DataError, match="aspect"):
        processor.target(10, 2001)


def test_tokens_are_padded_right_and_cut(tmp_path: Path) -> None:
    tokens = load_tokenizer(write_tokenizer(tmp_path))
    assert (tokens.pad_id, tokens.size) == (0, len(WORDS))
    out = LanguageTokens(tokens, 4)({"task": "put the box"})
    assert out["observation.language.tokens"].tolist() == [2, 3, 6, 0]
    assert out["observation.language.attention_mask"].tolist() == [1, 1, 1, 0]
    assert LanguageTokens(tokens, 2)({"task": "put the box"})["observation.language.tokens"].tolist() == [2, 3]


def test_special_tokens_spelt_in_an_instruction_stay_text(tmp_path: Path) -> None:
    tokens = load_tokenizer(write_tokenizer(tmp_path))
    assert tokens.pad_id not in tokens.encode("put [PAD] box")


def test_transformers_reads_the_same_ids_from_the_same_folder(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    ours = load_tokenizer(write_tokenizer(tmp_path))
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="[PAD]", padding_side="right")
    for text in ("put the red box in the left bin", "unknown words", ""):
        row = theirs(text, max_length=6, padding="max_length", truncation=True)
        assert (row["input_ids"], row["attention_mask"]) == ours.row(text, 6)


def test_a_tokenizer_that_brings_code_or_is_broken_is_refused(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tok", None]}}))
    with pytest.raises(CheckpointError, match="never run"):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<nowhere>"}))
    with pytest.raises(CheckpointError, match="no padding token"):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="weights pull"):
        load_tokenizer(folder)


@pytest.mark.parametrize("mode", ["mean_std", "min_max"])
def test_the_way_out_mirrors_the_way_in(mode: str) -> None:
    states, actions, dims, mask = ("s.arm", "s.grip"), ("a.arm", "a.grip"), (3, 1), (True, True, False, False)
    rng = torch.Generator().manual_seed(0)
    sample = {k: torch.randn(n, generator=rng) for k, n in zip(states, dims, strict=True)}
    sample |= {k: torch.randn(5, n, generator=rng) for k, n in zip(actions, dims, strict=True)}
    before = {k: v.clone() for k, v in sample.items()}
    stats = {
        k: FeatureStats(mean=torch.ones(n), std=torch.full((n,), 2.0), min=-torch.ones(n), max=torch.ones(n))
        for k, n in zip(actions, dims, strict=True)
    }
    way_in = Chain((DeltaActions(states, actions, mask), Normalise(stats, mode), ConcatKeys(actions, "action"), PadDims("action", 8)))
    way_out = Chain(
        (SplitKeys(actions, dims, "action"), Unnormalise(stats, mode), absolute_actions(states, actions, mask), SelectKeys(actions))
    )
    inside = way_in(sample)
    assert inside["action"].shape == (5, 8) and (inside["action"][:, 4:] == 0).all()
    out = way_out(inside)
    assert all(torch.allclose(out[k], before[k], atol=1e-5) for k in actions)
    assert all(torch.equal(sample[k], before[k]) for k in before)  # Q13: nothing is edited in place


def test_mistakes_in_shapes_are_named() -> None:
    with pytest.raises(DataError, match="at most 2"):
        PadDims("action", 2)({"action": torch.ones(4, 3)})
    with pytest.raises(DataError, match="needs b"):
        ConcatKeys(("a", "b"), "c")({"a": torch.ones(1)})
    with pytest.raises(DataError, match="4 are needed"):
        SplitKeys(("a", "b"), (2, 2), "c")({"c": torch.ones(3)})
    with pytest.raises(DataError, match="the mask 2"):
        DeltaActions(("s",), ("a",), (True, True))({"s": torch.ones(3), "a": torch.ones(5, 3)})
    with pytest.raises(ConfigError, match="available: mean_std, min_max"):
        Normalise({"a": FeatureStats()}, "median")({"a": torch.ones(1)})
    with pytest.raises(ConfigError, match="needs min and max"):
        Normalise({"a": FeatureStats(mean=torch.ones(1), std=torch.ones(1))}, "min_max")({"a": torch.ones(1)})
