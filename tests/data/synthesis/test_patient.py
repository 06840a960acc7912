"""Randomised patients: what is drawn, where it lies, and how it is scanned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.phantom.anatomy import Tissue
from data.scans.boxes import bounding_box
from data.synthesis.acquisition import PIXEL_MM, Acquisition, acquire, random_acquisition, resampled
from data.synthesis.materials import COUNT, ENHANCEMENT, STEADY, random_materials
from data.synthesis.patient import MOST_DEVIATIONS, Deformation, render_patient
from data.synthesis.settings import Synthesis
from data.warp import low_pass

COARSE = (6.0, 6.0, 6.0)
GOOD = Acquisition(blur_mm=(0, 0, 0), edge=0, slice_mm=1, noise=0, grain_mm=(0, 0), streaks=0, scale=1, offset=0)


def test_the_same_seed_gives_the_same_voxels_and_another_seed_another_patient():
    first, again, other = (render_patient(seed, Synthesis(), COARSE) for seed in ([3, 1], [3, 1], [3, 2]))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_every_scan_shows_a_part_of_the_pancreas(seed: int):
    image, label = render_patient(seed, Synthesis(), COARSE)
    assert image.shape == label.shape and (image.dtype, label.dtype) == (np.int16, np.uint8)
    assert label.any() and set(np.unique(label)) <= {0, 1, 2}
    assert image.min() >= -1024 and image.max() <= 3071


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_a_box_holds_the_whole_pancreas_with_its_margin(seed: int):
    margin, spacing = (15.0, 21.0, 27.0), (4.0, 4.0, 4.0)
    _, label = render_patient(seed, Synthesis(), spacing, margin)
    box = bounding_box(label > 0)
    assert box is not None
    for low, high, side, mm, step in zip(*box, label.shape, margin, spacing, strict=True):
        assert low * step >= mm - 10 and (side - high) * step >= mm - 10  # the extent is found on a grid of 5 mm


def test_as_many_patients_have_a_tumour_as_asked_for():
    boxes = [
        render_patient(seed, Synthesis(tumours=share), COARSE, (6, 6, 6))[1] for share in (0, 1) for seed in range(5)
    ]
    assert not any((label == 2).any() for label in boxes[:5])
    assert sum((label == 2).any() for label in boxes[5:]) >= 4  # a tumour of 12 mm can fall between voxels of 6 mm


def test_without_variation_the_grey_values_are_always_those_of_the_portal_venous_phase():
    first, second = (random_materials(np.random.default_rng(seed), 0).mean for seed in (1, 2))
    kept = [*STEADY, *(code for code in ENHANCEMENT if code != Tissue.PARENCHYMA)]
    np.testing.assert_allclose(first[kept], second[kept])
    assert first[Tissue.LIVER] == pytest.approx(110) and first[Tissue.ARTERY] == pytest.approx(150)


def test_phases_and_fat_reach_from_unenhanced_fatty_glands_to_bright_ones():
    drawn = [random_materials(np.random.default_rng(seed), 1.0) for seed in range(300)]
    gland = np.array([m.mean[Tissue.PARENCHYMA] for m in drawn])
    artery = np.array([m.mean[Tissue.ARTERY] for m in drawn])
    assert gland.min() < 0 and gland.max() > 130
    unenhanced = (artery < 70).mean()
    assert 0.2 < unenhanced < 0.5
    assert (np.array([m.mean[Tissue.VEIN] for m in drawn]) - gland > 25).any()  # veins brighter than a fatty gland
    assert all(len(m.fine) == COUNT and (m.fine >= 0).all() and (m.coarse >= 0).all() for m in drawn)


def test_fatty_glands_are_uneven_also_on_large_voxels():
    drawn = [random_materials(np.random.default_rng(seed), 1.0) for seed in range(300)]
    unenhanced = [m for m in drawn if m.mean[Tissue.ARTERY] == m.mean[Tissue.CAVA]]
    coarse = {
        fatty: np.mean([m.coarse[Tissue.PARENCHYMA] for m in unenhanced if (m.mean[Tissue.PARENCHYMA] < 0) == fatty])
        for fatty in (True, False)
    }
    assert coarse[True] > 14 and coarse[False] < 10


def test_without_contrast_agent_blood_is_even_and_the_same_in_all_vessels():
    blood = [Tissue.ARTERY, Tissue.HEART, Tissue.VEIN, Tissue.CAVA]
    drawn = [random_materials(np.random.default_rng(seed), 1.0) for seed in range(200)]
    alike = [np.ptp(m.mean[blood]) == 0 and m.mean[Tissue.CORTEX] == m.mean[Tissue.MEDULLA] for m in drawn]
    assert 0.2 < np.mean(alike) < 0.5
    even = [m.coarse[Tissue.CAVA] == m.coarse[Tissue.VEIN] for m in drawn]
    assert even == alike  # with contrast agent, the blood in the vena cava is not mixed yet
    assert np.std([m.mean[Tissue.CAVA] for m, same in zip(drawn, alike, strict=True) if same]) > 3


def test_no_deformation_is_the_identity_and_a_deformation_is_bounded():
    axes = (np.arange(-60.0, 60, 12), np.arange(-80.0, 80, 16), np.arange(-90.0, 90, 18))
    flat = Deformation.draw(np.random.default_rng(0), 0)(axes)
    for place, axis, view in zip(flat, axes, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True):
        np.testing.assert_allclose(place, np.broadcast_to(axis.reshape(view), place.shape), atol=1e-4)
    strong = Deformation.draw(np.random.default_rng(0), 1)
    moved = strong(axes)[0] - axes[0][:, None, None] / strong.size[0]
    assert np.abs(moved).max() <= MOST_DEVIATIONS * sum(strong.deviations) + 1e-3


def test_a_scanner_without_faults_changes_nothing():
    water = np.full((6, 8, 8), 7.0, np.float32)
    assert (acquire(np.random.default_rng(0), water, (2, 1, 1), GOOD) == 7).all()


def test_noise_streaks_scale_and_offset_are_as_asked_for():
    rng = np.random.default_rng(0)
    noisy = acquire(rng, np.zeros((20, 60, 60), np.float32), (1, 1, 1), replace(GOOD, noise=20.0))
    assert noisy.std() == pytest.approx(19, abs=4)
    lifted = acquire(rng, np.full((2, 4, 4), 100.0, np.float32), (1, 1, 1), replace(GOOD, scale=1.02, offset=-5.0))
    assert (lifted == 97).all()
    streaky = acquire(rng, np.zeros((4, 60, 200), np.float32), (1, 1, 1), replace(GOOD, streaks=30.0)).astype(float)
    assert np.abs(np.diff(streaky, axis=2)).mean() < 0.3 * np.abs(np.diff(streaky, axis=1)).mean()


@pytest.mark.parametrize("grain", [0.0, 1.2])
def test_noise_on_large_voxels_is_what_smoothing_leaves_of_that_of_the_scan(grain: float):
    scanner = replace(GOOD, slice_mm=2.0, noise=200.0, grain_mm=(0.0, grain))
    scan = acquire(np.random.default_rng(0), np.zeros((60, 160, 160), np.float32), (2.0, PIXEL_MM, PIXEL_MM), scanner)
    factor = (3, 5, 5)
    seen = low_pass(torch.from_numpy(scan.astype(np.float32))[None, None], factor)[0, 0].numpy()[1::3, 2::5, 2::5]
    expected = resampled(scanner, (6.0, 4.0, 4.0))
    # Noise is less beside the middle of the body, alike in both.
    assert seen.std() / scan.std() == pytest.approx(expected.noise / scanner.noise, rel=0.1)
    drawn = acquire(np.random.default_rng(1), np.zeros(seen.shape, np.float32), (6.0, 4.0, 4.0), expected)
    assert drawn.std() == pytest.approx(seen.std(), rel=0.1)
    neighbours = [np.corrcoef(image[:, :, 1:].ravel(), image[:, :, :-1].ravel())[0, 1] for image in (drawn, seen)]
    assert neighbours[0] == pytest.approx(neighbours[1], abs=0.15)


def test_a_scanner_whose_voxels_are_as_large_as_those_of_the_network_keeps_its_noise():
    scanner = replace(GOOD, slice_mm=5.0, noise=20.0, grain_mm=(0.5, 0.8))
    kept = resampled(scanner, (2.0, 0.7, 0.7))
    assert (kept.noise, kept.grain_mm) == (20.0, scanner.grain_mm) and kept.blur_mm[1] == pytest.approx(0.29 * 0.7)
    coarse = resampled(scanner, (2.0, 6.0, 6.0))
    assert coarse.noise < 10 and coarse.blur_mm[1] > 2.6 and coarse.blur_mm[0] == kept.blur_mm[0]


def test_thick_slices_average_over_their_neighbours():
    image = np.zeros((24, 2, 2), np.float32)
    image[12] = 100
    thick = acquire(np.random.default_rng(0), image, (1, 1, 1), replace(GOOD, slice_mm=4.0))
    assert 0 < thick.max() <= 26 and (thick > 0)[:, 0, 0].sum() >= 3


def test_a_random_scanner_without_variation_is_always_the_same():
    first, second = (random_acquisition(np.random.default_rng(seed), 0) for seed in (1, 2))
    assert first == second and first.streaks == first.edge == 0


@pytest.mark.parametrize("wrong", [{"shape": -1}, {"intensity": 3}, {"tumours": 1.2}])
def test_settings_out_of_their_range_are_refused(wrong: dict):
    with pytest.raises(ValueError, match="between"):
        Synthesis(**wrong)
