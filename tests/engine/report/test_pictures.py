"""Pictures of a case: they are written, have the expected size and show contours on the edges of the masks."""

import cv2
import numpy as np
import pytest

from engine.report.pictures import COLOURS, _legend, choose_slices, draw_overlay, smooth_contours

SPACING = (4.0, 1.0, 2.0)
SHAPE = (20, 120, 80)


def ball(centre: tuple[int, int, int], radius_mm: float) -> np.ndarray:
    distance = (np.indices(SHAPE).T - np.array(centre)) * np.array(SPACING)
    millimetres = np.linalg.norm(distance, axis=-1).T
    return (millimetres <= radius_mm).astype(np.uint8)


@pytest.fixture
def scan() -> np.ndarray:
    return np.random.default_rng(0).normal(40, 15, SHAPE).astype(np.int16)


def draw(path, image, reference, prediction, spacing=SPACING, title="", doubts=(), notes=()) -> np.ndarray:
    """Draw a picture and read it: uint8 RGB."""
    looks = {"spacing": spacing, "title": title, "doubts": doubts, "notes": notes}
    draw_overlay(path, image, reference=reference, prediction=prediction, **looks)
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def has_colour(picture: np.ndarray, origin: str, code: int) -> np.ndarray:
    """Return which pixels have about the colour of a contour."""
    return np.abs(picture.astype(int) - COLOURS[origin, code]).max(-1) < 40


def test_all_four_contours_are_drawn_in_their_colours(tmp_path, scan):
    reference = ball((10, 60, 40), 24) + ball((10, 60, 36), 8)
    prediction = ball((11, 62, 41), 20) + ball((10, 62, 38), 6)
    picture = draw(tmp_path / "new" / "a.png", scan, reference, prediction, SPACING, "case")
    assert picture.shape[0] > 600 and picture.shape[1] > 3 * 300
    assert all(has_colour(picture, origin, code).sum() > 300 for origin, code in COLOURS)


def test_a_ball_is_round_in_every_panel_if_voxels_are_not_cubes(tmp_path, scan):
    picture = draw(tmp_path / "a.png", scan, None, ball((10, 60, 40), 24), SPACING, "case")
    lines = has_colour(picture, "prediction", 1).astype(np.uint8)
    _, _, boxes, _ = cv2.connectedComponentsWithStats(lines, connectivity=8)
    circles = [(width, height) for _, _, width, height, _ in boxes[1:] if width > 40 and height > 20]
    assert len(circles) == 5
    assert all(width == pytest.approx(height, rel=0.15) for width, height in circles)


def test_a_contour_lies_on_the_edge_of_its_mask():
    rows, columns = np.indices((40, 40))
    (line,) = smooth_contours(np.hypot(rows - 20, columns - 17) <= 10, (400, 400))
    # Voxel 17 reaches from 170 to 180 in the picture; a disc of radius 10 voxels ends half a voxel further.
    radius = np.hypot(line[:, 0, 0] - 174.5, line[:, 0, 1] - 204.5) / 10
    assert np.abs(radius - 10.25).max() < 0.75


def test_the_head_is_at_the_top_of_the_coronal_slice(tmp_path):
    image = np.full(SHAPE, -100, np.int16)
    image[10:] = 240
    picture = draw(tmp_path / "a.png", image, None, ball((15, 60, 40), 16), SPACING, "")
    height, width, _ = picture.shape
    view = picture[height // 2 + 40 :, width // 3 : 2 * width // 3]
    bright = np.flatnonzero(view[:, width // 24 : width // 12].mean((1, 2)) > 128)
    outline = np.nonzero(has_colour(view, "prediction", 1))[0]
    assert bright[0] == 0 and 60 < bright[-1] < len(view) - 60
    assert outline.size and outline.max() < bright[-1]


def test_empty_predictions_and_missing_references_are_drawn(tmp_path, scan):
    organ, empty = ball((10, 60, 40), 20), np.zeros(SHAPE, np.uint8)
    missed = draw(tmp_path / "a.png", scan, organ, empty, SPACING, "missed")
    # Only the swatch of the line "nothing predicted" in the legend has the colour of the prediction.
    assert has_colour(missed, "reference", 1).sum() > 500 and 0 < has_colour(missed, "prediction", 1).sum() < 120
    unreferenced = draw(tmp_path / "b.png", scan, None, organ, SPACING, "no reference")
    assert has_colour(unreferenced, "reference", 1).sum() == 0 and has_colour(unreferenced, "prediction", 1).sum() > 500
    nothing = draw(tmp_path / "c.png", scan, None, empty, SPACING, "nothing")
    assert nothing.shape[1] > 600 and nothing.std() > 10


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 40, 200), (40, 8, 8)])
def test_scans_of_unusual_shapes_are_drawn(tmp_path, shape):
    mask = np.zeros(shape, np.uint8)
    mask[shape[0] // 2, 4:7, 4:7] = 1
    picture = draw(tmp_path / "a.png", np.zeros(shape, np.int16), mask, mask, (5, 0.8, 0.8), "a long title " * 12)
    assert has_colour(picture, "prediction", 1).sum() > 20


def test_a_structure_one_voxel_wide_keeps_its_outline():
    mask = np.zeros((20, 30), bool)
    mask[7, 12] = True
    (line,) = smooth_contours(mask, (300, 200))
    assert np.abs(line[:, 0].mean(0) - (124.5, 74.5)).max() < 2
    assert smooth_contours(np.zeros((20, 30)), (300, 200)) == []


def test_the_chosen_slices_cover_the_organ_and_show_the_tumour():
    reference, prediction = np.zeros((40, 9, 9), np.uint8), np.zeros((40, 9, 9), np.uint8)
    reference[8:32, 2:7, 2:7] = 1
    reference[29, 4, 4:6] = reference[28, 4, 4] = 2
    chosen = choose_slices({"reference": reference, "prediction": prediction}, axis=0, count=4)
    assert chosen == sorted(chosen, reverse=True) and len(chosen) == 4 and 29 in chosen
    assert min(chosen) < 14 and all(8 <= z < 32 for z in chosen)
    assert choose_slices({"prediction": prediction}, axis=0, count=4) == [34, 24, 14, 4]
    assert choose_slices({"prediction": reference[29:30]}, axis=0, count=4) == [0]


def test_the_legend_names_only_the_structures_in_the_masks():
    empty, tumour = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    tumour[1, 1, :2] = 2
    both = tumour.copy()
    both[2, :, :] = 1
    spacing = (10.0, 10.0, 10.0)
    lines = [text for text, _ in _legend({"reference": tumour, "prediction": empty}, spacing)]
    assert lines[:2] == ["reference tumour  2.0 ml", "nothing predicted"]
    lines = [text for text, _ in _legend({"reference": both, "prediction": both * (both == 1)}, spacing)]
    assert lines[:4] == [
        "reference pancreas  18.0 ml",
        "reference tumour  2.0 ml",
        "prediction pancreas  16.0 ml",
        "prediction: no tumour",
    ]


def test_doubts_stand_in_words_above_the_panels(tmp_path, scan):
    mask = ball((10, 60, 40), 24)
    plain = draw(tmp_path / "a.png", scan, None, mask)
    doubted = draw(tmp_path / "b.png", scan, None, mask, doubts=("the voxels are unlike", "far too large " * 20))
    added = doubted.shape[0] - plain.shape[0]
    assert added >= 4 * 15 and np.array_equal(doubted[44 + added :], plain[44:])  # the long one takes several lines
    amber = np.abs(doubted[: 44 + added].astype(int) - (255, 176, 32)).max(-1) < 40
    assert amber.sum() > 500 and not amber[:, -8:].any()  # and none runs out of the picture
    noted = draw(tmp_path / "c.png", scan, None, mask, notes=("tumour coarse found nothing",))
    assert 15 <= noted.shape[0] - plain.shape[0] <= 25  # one line, which is not in the colour of a doubt
    assert not (np.abs(noted[:64].astype(int) - (255, 176, 32)).max(-1) < 40).any()


def test_any_file_name_can_be_the_title(tmp_path, scan, recwarn):
    for title in ("患者_7", "$x_1$ costs 5$", "\\frac{", "a" * 300):
        draw(tmp_path / "a.png", scan, None, ball((10, 60, 40), 24), title=title)
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
