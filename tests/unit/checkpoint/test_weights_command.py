"""`internvla-a1 weights inspect | verify | convert`, and the writer behind them."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from internvla_a1.core.errors import CheckpointError, ConfigError
from internvla_a1.core.resources import find
from internvla_a1.core.robot import load_robot
from internvla_a1.model.checkpoint import Contract, open_checkpoint, write_checkpoint
from internvla_a1.model.checkpoint.cli import add_arguments, run
from internvla_a1.model.checkpoint.convert import contract_for, convert
from internvla_a1.model.checkpoint.describe import PARTS, part_of
from internvla_a1.model.checkpoint.stream import Planned, plan, write_tensors

TENSORS = {
    "model.qwen3_vl_with_expert.und_expert.lm_head.weight": torch.randn(7, 4),
    "model.qwen3_vl_with_expert.und_expert.model.visual.patch_embed.proj.bias": torch.randn(3),
    "model.qwen3_vl_with_expert.gen_expert.norm.weight": torch.randn(4),
    "model.qwen3_vl_with_expert.act_expert.layers.0.mlp.up_proj.weight": torch.randn(5, 4).to(torch.bfloat16),
    "model.cosmos._enc_model.encoder.conv_in.weight": torch.randn(2, 3, 3, 3),
    "model.cosmos._enc_model.encoder.patcher._arange": torch.arange(3),
    "model.state_proj.weight": torch.randn(4, 2),
}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder as the hub has it: no manifest."""
    folder = tmp_path / "published"
    folder.mkdir()
    save_file(TENSORS, folder / "model.safetensors", metadata={"alias": "kept"})
    (folder / "config.json").write_text(json.dumps({"type": "qwena1"}))
    (folder / "stats.json").write_text(json.dumps({"aloha": {"action": {"mean": [0.0] * 14, "std": [1.0] * 14}}}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def weights(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(w) for w in words]))


def test_verify_says_whether_damage_can_be_excluded(published: Path, capsys: pytest.CaptureFixture) -> None:
    assert weights("verify", published) == 0
    assert "damage cannot be excluded" in capsys.readouterr().out
    assert weights("verify", published, "--require-manifest") == 1
    assert weights("convert", published) == 0
    capsys.readouterr()
    assert weights("verify", published, "--require-manifest") == 0
    assert "every byte" in capsys.readouterr().out
    content = bytearray((published / "model.safetensors").read_bytes())
    content[-2] ^= 1
    (published / "model.safetensors").write_bytes(content)
    assert weights("verify", published) == 1
    assert "refused:" in capsys.readouterr().out


def test_inspect_shows_parts_embodiments_and_contract(published: Path, capsys: pytest.CaptureFixture) -> None:
    weights("convert", published, "--robot", "config/robots/demo_arm.yaml")
    capsys.readouterr()
    assert weights("inspect", published) == 0
    text = capsys.readouterr().out
    assert all(part in text.replace("\n", " ") for part in ("generation", "action", "heads", "aloha", "joint_1", "contract: demo_arm"))
    assert weights("inspect", published, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parts"]["understanding: language"] == {"tensors": 1, "parameters": 28, "size": 112, "dtypes": {"F32": 28}}
    assert sum(part["tensors"] for part in facts["parts"].values()) == len(TENSORS)
    assert facts["embodiments"] == {"aloha": {"action": 14}}
    assert facts["contract"]["joint_names"][-1] == "gripper_joint" and facts["contract"]["delta"][-1] is False


def test_every_published_and_own_name_has_its_part() -> None:
    assert part_of("model.internvl_with_expert.und_expert.model.multi_modal_projector.linear_1.weight") == PARTS[0]
    assert part_of("model.cosmos_tokenizer._dec_model.decoder.conv_in.bias") == PARTS[4]
    assert part_of("mixture.act.layers.0.input_layernorm.weight") == PARTS[3]
    assert part_of("vision.blocks.0.norm1.weight") == PARTS[0]
    assert part_of("action_head.state_proj.bias") == PARTS[5]


def test_a_copy_in_bfloat16_rounds_matrices_and_leaves_the_rest(published: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    assert weights("convert", published, "--out", out, "--dtype", "bfloat16") == 0
    stored = load_file(out / "model.safetensors")
    for name, tensor in TENSORS.items():
        rounded = tensor.ndim >= 2 and tensor.is_floating_point()
        assert torch.equal(stored[name], tensor.to(torch.bfloat16) if rounded else tensor), name
    checkpoint = open_checkpoint(out)
    assert checkpoint.metadata == {"alias": "kept"} and checkpoint.stats is not None
    assert checkpoint.tokenizer_folder == out


def test_conversion_never_overwrites_weights(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --out"):
        convert(published, dtype="bfloat16")
    with pytest.raises(CheckpointError, match="already holds weights"):
        convert(published, published)
    with pytest.raises(ConfigError, match="available: float32"):
        convert(published, tmp_path / "x", dtype="int4")


def test_conversion_of_a_damaged_folder_is_refused(published: Path) -> None:
    convert(published)
    (published / "config.json").write_text('{"type": "interna1"}')
    with pytest.raises(CheckpointError, match=r"config\.json"):
        convert(published)


def test_a_contract_stays_until_a_new_one_is_given(published: Path) -> None:
    robot = load_robot(find("config/robots/demo_arm.yaml"))
    assert convert(published, contract=contract_for(robot)).contract == contract_for(robot)
    assert convert(published).contract == contract_for(robot)
    assert convert(published, contract=contract_for(robot, "min_max")).contract == contract_for(robot, "min_max")


def test_what_the_writer_writes_the_safetensors_package_reads(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {
        **TENSORS,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "flag": torch.tensor([True, False]),
        "half": torch.ones(3).half(),
    }
    write_tensors(path, plan(tensors), {"note": "ü"})
    stored = load_file(path)
    assert set(stored) == set(tensors)
    assert all(torch.equal(stored[k], v) and stored[k].dtype == v.dtype for k, v in tensors.items())
    ours = {k: v for k, v in open_checkpoint(_folder(path)).tensors.items()}
    assert all(torch.equal(ours[k], v) and ours[k].dtype == v.dtype for k, v in tensors.items())


def _folder(path: Path) -> Path:
    path.rename(path.with_name("model.safetensors"))
    path.with_name("config.json").write_text("{}")
    return path.parent


def test_tensors_are_made_one_at_a_time_and_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, plan({"a": torch.ones(2)}))
    before = path.read_bytes()
    bad = {
        "a": Planned(torch.float32, (2,), lambda: torch.ones(2)),
        "b": Planned(torch.float32, (2,), lambda: torch.tensor([1.0, torch.nan])),
    }
    with pytest.raises(CheckpointError, match="tensor b holds NaN"):
        write_tensors(path, bad)
    with pytest.raises(CheckpointError, match="announced as"):
        write_tensors(path, {"a": Planned(torch.float32, (3,), lambda: torch.ones(2))})
    with pytest.raises(CheckpointError, match="cannot be stored"):
        write_tensors(path, {"a": Planned(torch.complex64, (2,), lambda: torch.ones(2))})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_writing_into_a_mapped_tensor_never_reaches_the_disk(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {"type": "qwena1"}, {"model.x": torch.zeros(4)})
    before = (tmp_path / "model.safetensors").read_bytes()
    open_checkpoint(tmp_path).tensors["model.x"].fill_(3.0)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert float(open_checkpoint(tmp_path).tensors["model.x"].sum()) == 0.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"joint_names": "ab", "delta": [True, False]}, "must be text"),
        ({"joint_names": [1, 2], "delta": [True, False]}, "must be text"),
        ({"views": ["top"]}, "must be text"),
        ({"delta": [True, False]}, "2 delta flags"),
        ({"joint_names": [], "delta": []}, "0 joint names"),
        ({"control_dt_s": 0.0}, "control_dt_s"),
        ({"control_dt_s": "fast"}, "contract"),
        ({"normalization": "median"}, "median"),
        ({"colour": "red"}, "unknown key"),
    ],
)
def test_a_contract_of_the_wrong_form_is_refused(changes: dict, said: str) -> None:
    good = {"embodiment": "arm", "joint_names": ["a"], "delta": [True], "views": {"image0": "top"}, "control_dt_s": 0.1}
    assert Contract.from_json("manifest", good).joint_names == ("a",)
    with pytest.raises(CheckpointError, match=said):
        Contract.from_json("manifest", {**good, **changes})
