"""Pictures have the expected size, and their contours lie on the edges of the masks."""

import cv2
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from engine.report.pictures import COLOURS, _legend, choose_slices, draw_overlay, smooth_contours
from engine.report.plots import _draw_distribution, draw_curves, draw_distributions

SPACING = (4.0, 1.0, 2.0)
SHAPE = (20, 120, 80)


def ball(centre: tuple[int, int, int], radius_mm: float) -> np.ndarray:
    distance = (np.indices(SHAPE).T - np.array(centre)) * np.array(SPACING)
    millimetres = np.linalg.norm(distance, axis=-1).T
    return (millimetres <= radius_mm).astype(np.uint8)


@pytest.fixture
def scan() -> np.ndarray:
    return np.random.default_rng(0).normal(40, 15, SHAPE).astype(np.int16)


def read(path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def near(picture: np.ndarray, origin: str, label: int) -> np.ndarray:
    """The pixels that have about the colour of a contour."""
    return np.abs(picture.astype(int) - COLOURS[origin, label]).max(-1) < 40


def draw(path, image, reference, prediction, spacing, title) -> np.ndarray:
    draw_overlay(path, image, reference=reference, prediction=prediction, spacing=spacing, title=title)
    return read(path)


def test_the_contours_of_both_masks_and_both_labels_are_drawn(tmp_path, scan):
    reference = ball((10, 60, 40), 24) + ball((10, 60, 36), 8)
    prediction = ball((11, 62, 41), 20) + ball((10, 62, 38), 6)
    picture = draw(tmp_path / "new" / "a.png", scan, reference, prediction, SPACING, "case")
    assert picture.shape[0] > 600 and picture.shape[1] > 3 * 300
    assert all(near(picture, origin, label).sum() > 300 for origin, label in COLOURS)


def test_a_ball_is_round_in_every_panel_although_voxels_are_not_cubes(tmp_path, scan):
    picture = draw(tmp_path / "a.png", scan, None, ball((10, 60, 40), 24), SPACING, "case")
    lines = near(picture, "prediction", 1).astype(np.uint8)
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


def test_the_coronal_view_has_the_head_on_top(tmp_path):
    image = np.full(SHAPE, -100, np.int16)
    image[10:] = 240
    picture = draw(tmp_path / "a.png", image, None, ball((15, 60, 40), 16), SPACING, "")
    height, width, _ = picture.shape
    view = picture[height // 2 + 40 :, width // 3 : 2 * width // 3]
    bright = np.flatnonzero(view[:, width // 24 : width // 12].mean((1, 2)) > 128)
    outline = np.nonzero(near(view, "prediction", 1))[0]
    assert bright[0] == 0 and 60 < bright[-1] < len(view) - 60
    assert outline.size and outline.max() < bright[-1]


def test_an_empty_prediction_and_a_missing_reference_are_drawn(tmp_path, scan):
    organ, empty = ball((10, 60, 40), 20), np.zeros(SHAPE, np.uint8)
    missed = draw(tmp_path / "a.png", scan, organ, empty, SPACING, "missed")
    # Only the swatch of the legend's line "nothing predicted" has the colour of the prediction.
    assert near(missed, "reference", 1).sum() > 500 and 0 < near(missed, "prediction", 1).sum() < 120
    alone = draw(tmp_path / "b.png", scan, None, organ, SPACING, "no reference")
    assert near(alone, "reference", 1).sum() == 0 and near(alone, "prediction", 1).sum() > 500
    nothing = draw(tmp_path / "c.png", scan, None, empty, SPACING, "nothing")
    assert nothing.shape[1] > 600 and nothing.std() > 10


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 40, 200), (40, 8, 8)])
def test_scans_of_extreme_shapes_are_drawn(tmp_path, shape):
    mask = np.zeros(shape, np.uint8)
    mask[shape[0] // 2, 4:7, 4:7] = 1
    picture = draw(tmp_path / "a.png", np.zeros(shape, np.int16), mask, mask, (5, 0.8, 0.8), "a long title " * 12)
    assert near(picture, "prediction", 1).sum() > 20


def test_a_structure_one_voxel_wide_keeps_its_outline():
    mask = np.zeros((20, 30), bool)
    mask[7, 12] = True
    (line,) = smooth_contours(mask, (300, 200))
    assert np.abs(line[:, 0].mean(0) - (124.5, 74.5)).max() < 2
    assert smooth_contours(np.zeros((20, 30)), (300, 200)) == []


def test_slices_spread_over_the_organ_and_show_the_tumour():
    reference, prediction = np.zeros((40, 9, 9), np.uint8), np.zeros((40, 9, 9), np.uint8)
    reference[8:32, 2:7, 2:7] = 1
    reference[29, 4, 4:6] = reference[28, 4, 4] = 2
    chosen = choose_slices({"reference": reference, "prediction": prediction}, axis=0, count=4)
    assert chosen == sorted(chosen, reverse=True) and len(chosen) == 4 and 29 in chosen
    assert min(chosen) < 14 and all(8 <= z < 32 for z in chosen)
    assert choose_slices({"prediction": prediction}, axis=0, count=4) == [34, 24, 14, 4]
    assert choose_slices({"prediction": reference[29:30]}, axis=0, count=4) == [0]


def table(count: int) -> list[dict]:
    values = np.random.default_rng(1).random((count, 2))
    rows = [{"case": str(i), "centre": "ab"[i % 2], "dice": d, "hd95_mm": 20 * h} for i, (d, h) in enumerate(values)]
    return [
        *rows,
        {"case": "x", "centre": "a", "dice": np.nan, "hd95_mm": np.nan},
        {"case": "y", "error": "unreadable"},
    ]


@pytest.mark.parametrize("count", [0, 1, 9])
def test_distributions_of_any_number_of_cases_are_repeatable(tmp_path, count):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for name in ("a.png", "b.png"):
        draw_distributions(tmp_path / name, table(count), ["dice", "hd95_mm"], "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert read(tmp_path / "a.png").shape[0] == 540
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("values", [[17.4, 16.4], [5.0], [0.0]])
def test_the_largest_value_is_not_cut_off_at_the_top(values):
    axes = Figure().add_subplot()
    _draw_distribution(axes, [{"case": str(i), "centre": "a", "hd95_mm": v} for i, v in enumerate(values)], "hd95_mm")
    bottom, top = axes.get_ylim()
    assert bottom == 0 and top >= 1.05 * max(values) and top > 0


def test_more_than_four_metrics_take_two_lines(tmp_path):
    draw_distributions(tmp_path / "a.png", table(5), ["dice", "hd95_mm"] * 3)
    assert read(tmp_path / "a.png").shape[0] == 1080


def test_curves_of_a_training_from_its_first_epoch(tmp_path):
    history = [
        {"epoch": e, "lr": 1e-4, "loss": 1 / e, "dice": 0.5 / e, "validation_dice": e / 50 if e % 5 == 0 else ""}
        for e in range(1, 31)
    ]
    for name, rows in {"none": [], "one": history[:1], "all": history}.items():
        draw_curves(tmp_path / f"{name}.png", rows, name)
        assert read(tmp_path / f"{name}.png").shape == (630, 1650, 3)
    texts = [{key: str(value) for key, value in row.items()} for row in history]
    draw_curves(tmp_path / "read.png", texts, "all")
    assert (tmp_path / "read.png").read_bytes() == (tmp_path / "all.png").read_bytes()


def test_the_settings_of_matplotlib_stay_as_they_were(tmp_path):
    before = dict(matplotlib.rcParams)
    draw_distributions(tmp_path / "a.png", table(3), ["dice"])
    draw_curves(tmp_path / "b.png", [{"epoch": 1, "loss": 1.0}])
    assert dict(matplotlib.rcParams) == before
    assert not matplotlib.pyplot.get_fignums()


def test_the_legend_names_only_what_the_masks_hold():
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
