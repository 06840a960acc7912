"""The figures that compare synthetic with real CT, on images whose noise and anatomy are known."""

import numpy as np
import pytest
from scipy import ndimage

from experiments.texture import EDGES_HU, Image, measure, measure_noise

SPACING = (3.0, 2.0, 2.0)


def ball(shape, centre, radius_mm):
    z, y, x = (np.arange(n) * s for n, s in zip(shape, SPACING, strict=True))
    away = (z[:, None, None] - centre[0]) ** 2 + (y[:, None] - centre[1]) ** 2 + (x - centre[2]) ** 2
    return away < radius_mm**2


@pytest.mark.parametrize("smooth_slices", [0.0, 1.0])
def test_the_noise_is_found_beneath_a_gradient_of_grey_values(smooth_slices):
    rng = np.random.default_rng(0)
    shape = (12, 60, 60)
    noise = ndimage.gaussian_filter1d(rng.standard_normal(shape), smooth_slices, axis=0) if smooth_slices else None
    noise = rng.standard_normal(shape) if noise is None else noise
    hu = 12 * noise / noise.std() + np.linspace(20, 120, 60)
    power, deviation, between = measure_noise(hu, np.ones(shape, bool), SPACING)
    assert deviation == pytest.approx(12, rel=0.1)
    # White noise has the power of its variance over the area of a pixel at every frequency.
    np.testing.assert_allclose(power[2:], 12**2 * 2 * 2, rtol=0.3)
    assert (between > 0.4) if smooth_slices else abs(between) < 0.15


def test_the_figures_of_a_gland_in_fat_are_those_that_it_was_drawn_with():
    shape = (30, 80, 100)
    middle = (45, 80, 100)
    body, gland, vessel = ball(shape, middle, 70), ball(shape, middle, 15), ball(shape, (45, 80, 121), 6)
    hu = np.select([gland, vessel, body], [60, 150, -100], -1000).astype(np.float32)
    figures = measure(Image("drawn", hu, gland, {"vein": vessel}), SPACING)
    numbers = figures.numbers
    assert numbers["gland HU"] == 60 and numbers["vein HU"] == 150
    assert numbers["gland ml"] == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=0.05)
    assert numbers["body width mm"] == pytest.approx(140, abs=6)
    assert numbers["shell fat"] == pytest.approx(1 - numbers["shell soft"]) and 0.8 < numbers["shell fat"] < 1
    assert numbers["gland minus soft shell HU"] == -90
    assert figures.histogram[np.searchsorted(EDGES_HU, -100)] > 0.85
