"""Masks and positions on patterns small enough to write down."""

from __future__ import annotations

import torch

from internvla_a1.model.masks import block_index, joint_mask, published_cached_mask, published_mask, sequence_blocks
from internvla_a1.model.positions import appended_positions, grid_positions, rotary_table, rotate, running_positions


def test_blocks_see_what_came_before_and_never_padding() -> None:
    valid = torch.tensor([[True, False, True, True, True, True]])
    blocks = sequence_blocks(2, 1, 2)
    assert blocks.tolist() == [0, 0, 1, 2, 3, 3]
    expected = """
        x . . . . .
        x . . . . .
        x . x . . .
        x . x x . .
        x . x x x x
        x . x x x x"""
    drawn = [[c == "x" for c in line.split()] for line in expected.strip().splitlines()]
    assert joint_mask(valid, blocks)[0, 0].tolist() == drawn
    drawn[1] = [False] * 6
    assert published_mask(valid, blocks)[0, 0].tolist() == drawn


def test_cached_phases_mask_the_past_by_key_validity_alone() -> None:
    past, new = torch.tensor([[True, False]]), torch.tensor([[False, True]])
    mask = published_cached_mask(past, new, torch.tensor([0, 0]))
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 0, 0, 1]]


def test_block_numbers_are_running_sums_of_start_bits() -> None:
    assert block_index(torch.tensor([0, 0, 1, 0, 1, 1])).tolist() == [0, 0, 1, 1, 2, 3]


def test_running_positions_repeat_over_padding_and_start_at_minus_one() -> None:
    assert running_positions(torch.tensor([[False, True, True, False, True]])).tolist() == [[[-1, 0, 1, 1, 2]]]


def test_an_image_is_numbered_by_row_and_column_and_text_goes_on_after_its_longer_side() -> None:
    is_image = torch.tensor([[False] + [True] * 6 + [False, False]])
    valid = torch.tensor([[True] * 8 + [False]])
    t, h, w = grid_positions(valid, is_image, (2, 3))[:, 0].tolist()
    assert t == [0, 1, 1, 1, 1, 1, 1, 4, 1]
    assert h == [0, 1, 1, 1, 2, 2, 2, 4, 1]
    assert w == [0, 1, 2, 3, 1, 2, 3, 4, 1]


def test_a_missing_image_takes_no_numbers() -> None:
    is_image = torch.tensor([[True, True, True, True, False]])
    valid = torch.tensor([[True, True, False, False, True]])
    assert grid_positions(valid, is_image, (1, 2))[0, 0].tolist() == [0, 0, 1, 1, 2]


def test_appended_positions_ignore_validity() -> None:
    assert appended_positions(torch.tensor([[[0, 4, 1]]]), 3).tolist() == [[[5, 6, 7]]]


def test_rotation_keeps_lengths_and_depends_on_distance_only() -> None:
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 16, generator=random) for _ in range(2))

    def product(at: int, other: int) -> float:
        turned = [rotate(x, *rotary_table(torch.tensor([[[p]]]), 16, 1e4, None)) for x, p in ((q, at), (k, other))]
        assert torch.allclose(turned[0].norm(), q.norm())
        return float((turned[0] * turned[1]).sum())

    assert abs(product(3, 7) - product(10, 14)) < 1e-4
    assert abs(product(3, 7) - product(3, 8)) > 1e-3


def test_interleaved_sections_give_each_slot_its_row() -> None:
    positions = torch.tensor([[[0]], [[1]], [[2]]])  # t 0, h 1, w 2
    cos, sin = rotary_table(positions, 16, 1.0, (4, 2, 2))  # theta 1: every slot turns by its position
    rows = torch.atan2(sin, cos)[0, 0, 0, :8].round().int().tolist()
    assert rows == [0, 1, 2, 0, 1, 2, 0, 0]
    assert torch.equal(cos[..., :8], cos[..., 8:])


def test_rotation_into_buffers_is_the_same() -> None:
    x = torch.randn(1, 2, 3, 8)
    table = rotary_table(torch.arange(3)[None, None], 8, 1e4, None)
    assert torch.allclose(rotate(x, *table, torch.empty_like(x)), rotate(x, *table), atol=1e-6)
