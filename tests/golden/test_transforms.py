"""Preprocessing against the reference vectors: the committed subset always, the whole set where it is."""

import os
from pathlib import Path

import pytest
import torch

from internvla_a1.core.errors import ConfigError
from internvla_a1.policy import vectors

HERE = Path(__file__).resolve().parent / "data"
FULL = Path(os.environ.get("INTERNVLA_A1_GOLDEN") or Path(__file__).resolve().parents[3] / "shared" / "golden")
FOLDERS = [root / kind for root in (HERE, FULL) for kind in ("transforms", "image_processor") if (root / kind).is_dir()]


@pytest.fixture(autouse=True)
def one_thread():
    """As the vectors were made; with more, torch cuts bilinear rows elsewhere and the last bit may differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f"{f.parent.name}-{f.name}")
def test_every_vector_is_reproduced_bit_for_bit(folder: Path) -> None:
    results = vectors.verify(folder)
    assert len(results) >= 4
    assert {name: error for name, error in results if error > 0.0} == {}


def test_the_table_of_a_known_robot_must_agree_with_the_vectors(tmp_path: Path) -> None:
    folder = HERE / "transforms"
    (tmp_path / "transforms.safetensors").write_bytes((folder / "transforms.safetensors").read_bytes())
    changed = (folder / "transforms.json").read_text().replace("images.rgb.hand_right", "images.rgb.hand_wrong")
    (tmp_path / "transforms.json").write_text(changed)
    wrong = [name for name, error in vectors.verify(tmp_path) if error > 0.0]
    assert "robot.genie1.table" in wrong and "robot.aloha.table" not in wrong


def test_a_folder_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    assert not vectors.knows(tmp_path)
    with pytest.raises(ConfigError, match=r"transforms\.json, processor\.json"):
        vectors.verify(tmp_path)
