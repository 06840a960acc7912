"""What could be taken for a tumour lies where the gland is thick."""

import numpy as np
import pytest

from data.cases.case import Case, read_case, write_case
from data.scans.boxes import Box
from data.scans.grid import Grid
from data.thick_places import draw_thick_place, thickest_place


def swollen_case(folder, spacing: tuple[float, float, float], radius_mm: float = 14.0) -> tuple[Case, np.ndarray]:
    """A gland that is a rod of 12 x 12 x 120 mm along x with a ball at 90 mm, and the middle of the ball in voxels."""
    shape = tuple(round(mm / s) for mm, s in zip((60, 60, 150), spacing, strict=True))
    z, y, x = (s * (i + 0.5) for s, i in zip(spacing, np.indices(shape), strict=True))
    rod = (abs(z - 30) < 6) & (abs(y - 30) < 6) & (abs(x - 75) < 60)
    ball = (z - 30) ** 2 + (y - 30) ** 2 + (x - 90) ** 2 < radius_mm**2
    facts = {"patient": "p", "spacing": spacing, "grid": Grid.plain(shape, spacing), "source": {}}
    label = (rod | ball).astype(np.uint8)
    middle = np.array([30, 30, 90]) / spacing - 0.5
    return read_case(write_case(folder, "c", "swollen", np.zeros(shape, np.int16), label, **facts)), middle


@pytest.mark.parametrize("spacing", [(3.0, 3.0, 3.0), (2.5, 0.8, 0.8), (5.0, 1.5, 1.5)])
def test_the_largest_ball_in_a_gland_is_found_at_any_voxel_size(tmp_path, spacing):
    case, middle = swollen_case(tmp_path, spacing)
    box = thickest_place(case, case.pancreas_box)
    centre, sides = (np.add(*box) - 1) / 2 * spacing, np.multiply(box.shape, spacing)
    np.testing.assert_allclose(centre, middle * spacing, atol=5)
    assert (abs(sides - 28) < 10).all()


def test_thick_places_are_drawn_more_often_than_others_but_not_alone(tmp_path):
    case, middle = swollen_case(tmp_path, (3.0, 3.0, 3.0))
    rng = np.random.default_rng(0)
    drawn = np.array([draw_thick_place(case, case.pancreas_box, rng) for _ in range(200)])
    assert (case.label()[tuple(drawn.T)] == 1).all() and len(np.unique(drawn, axis=0)) > 10
    away = np.linalg.norm((drawn - middle) * 3.0, axis=1)
    everywhere = np.linalg.norm((np.argwhere(case.label()) - middle) * 3.0, axis=1)
    assert np.mean(away < 10) > 0.8 and np.mean(everywhere < 10) < 0.4


def test_a_gland_of_a_single_voxel_has_a_thick_place(tmp_path):
    label = np.zeros((8, 40, 40), np.uint8)
    label[3, 10, 17] = 1
    facts = {"patient": "p", "spacing": (5.0, 0.7, 0.7), "grid": Grid.plain(label.shape, (5.0, 0.7, 0.7)), "source": {}}
    case = read_case(write_case(tmp_path, "c", "tiny", np.zeros(label.shape, np.int16), label, **facts))
    assert draw_thick_place(case, case.pancreas_box, np.random.default_rng(0)) == (3, 10, 17)
    assert thickest_place(case, case.pancreas_box).contains(Box((3, 10, 17), (4, 11, 18)))
