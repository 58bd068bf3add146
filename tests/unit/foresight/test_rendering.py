import numpy as np

from internvla_a1.foresight.rendering import BAR, GAP, TILE, fit, predicted_view, sheet

CAMERAS = ("overhead", "wrist")
GREEN = np.full((240, 320, 3), (0, 200, 0), np.uint8)
BLUE = np.full((96, 96, 3), (0, 0, 200), np.uint8)


def test_the_sheet_puts_now_on_the_left_and_the_prediction_on_the_right_of_each_row():
    page = sheet({"overhead": GREEN, "wrist": GREEN}, {"overhead": BLUE, "wrist": BLUE}, 1.0, CAMERAS)
    assert page.shape == (2 * (TILE + BAR + GAP) + GAP, 2 * TILE + 3 * GAP, 3)
    assert page.dtype == np.uint8
    for row in range(2):
        middle = GAP + row * (TILE + BAR + GAP) + BAR + TILE // 2
        assert tuple(page[middle, GAP + TILE // 2]) == (0, 200, 0)
        assert tuple(page[middle, 2 * GAP + TILE + TILE // 2]) == (0, 0, 200)


def test_a_missing_view_leaves_a_tile_that_says_so_instead_of_old_pixels():
    page = sheet({"overhead": None, "wrist": GREEN}, {}, 1.0, CAMERAS)
    tile = page[GAP + BAR : GAP + BAR + TILE, GAP : GAP + TILE]
    assert (tile.max(axis=2) > 100).any(), "the note"
    assert (tile.max(axis=2) > 100).mean() < 0.05


def test_pictures_keep_their_proportions():
    assert fit(GREEN, 224).shape == (168, 224, 3)
    assert fit(BLUE, 224).shape == (224, 224, 3)


def test_the_horizon_is_written_above_the_predicted_view():
    one, two = predicted_view(BLUE, "wrist", 1.0), predicted_view(BLUE, "wrist", 2.0)
    assert (one[:BAR] != two[:BAR]).any()
    assert (one[BAR:] == two[BAR:]).all()
