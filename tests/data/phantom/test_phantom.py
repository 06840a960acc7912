"""The phantom: reproducible voxels, plausible labels, centres that differ, label maps in their true place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, map_coordinates

from data.phantom.anatomy import Tissue
from data.phantom.command import DEFAULT_CENTRES
from data.phantom.fields import Field, curve, ellipsoid, smooth_noise, tubes
from data.phantom.scanner import HOUNSFIELD, SCANNERS, render_case

BY_NAME = {scanner.name: scanner for scanner in SCANNERS}
CASES = 6


@pytest.fixture(scope="module")
def centres() -> dict[str, list]:
    return {name: [render_case(BY_NAME[name], index, seed=0) for index in range(CASES)] for name in DEFAULT_CENTRES}


@pytest.fixture
def label_map(tmp_path: Path) -> Path:
    """A folder with one made-up label map: a 40 mm block of gland with a lesion in it, and an aorta behind it."""
    labels = np.zeros((20, 50, 60), np.uint8)
    labels[2:18, 5:25, 10:50] = 4
    labels[6:12, 10:18, 20:28] = 1
    labels[:, 35:48, 34:47] = 3
    path = tmp_path / "maps" / "here" / "made_up.npz"
    path.parent.mkdir(parents=True)
    box_start, scan_shape = np.array([12, 80, 70]), np.array([48, 200, 208])
    np.savez(path, labels=labels, box_start=box_start, scan_shape=scan_shape, spacing=np.array([2.5, 1.5, 1.5]))
    return path


@pytest.fixture
def low_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans of a third of the height, for tests that do not depend on it."""
    monkeypatch.setattr("data.phantom.scanner.SMALL_HEIGHT_MM", (50.0, 60.0))


def test_the_same_seed_gives_the_same_voxels_and_another_seed_does_not(centres: dict) -> None:
    image, label, spacing = centres["north"][1]
    again = render_case(BY_NAME["north"], 1, seed=0)
    assert np.array_equal(image, again[0]) and np.array_equal(label, again[1]) and spacing == again[2]
    others = [render_case(BY_NAME["north"], 1, seed=1), centres["north"][2]]
    assert all(image.shape != other[0].shape or not np.array_equal(label, other[1]) for other in others)


def test_the_slabs_leave_no_seam(centres: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    image, label, _ = centres["west"][0]
    monkeypatch.setattr("data.phantom.scanner.SLAB", 7)
    narrow_image, narrow_label, _ = render_case(BY_NAME["west"], 0, seed=0)
    assert np.array_equal(label, narrow_label)
    assert np.abs(image.astype(int) - narrow_image).max() <= 1  # rounding of float32 sums


def test_labels_show_a_pancreas_that_contains_its_tumour(centres: dict) -> None:
    for name, cases in centres.items():
        for image, label, spacing in cases:
            assert image.dtype == np.int16 and label.dtype == np.uint8 and image.shape == label.shape
            assert set(np.unique(label)) <= {0, 1, 2}
            volume = (label > 0).sum() * np.prod(spacing) / 1000
            assert 45 < volume < 140, name
            tumour = label == 2
            if tumour.any():
                low, high = BY_NAME[name].tumour
                diameter = np.cbrt(6 / np.pi * tumour.sum() * np.prod(spacing))
                assert 0.75 * low < diameter < 1.1 * high  # vessels may cut a piece off
                rim = binary_dilation(tumour) & ~tumour
                assert (label[rim] == 1).mean() > 0.1
                assert image[label == 1].mean() - image[tumour].mean() > 15


def test_one_case_in_three_has_no_tumour(centres: dict) -> None:
    for cases in centres.values():
        free = [not (label == 2).any() for _, label, _ in cases]
        assert all(sum(free[first : first + 3]) == 1 for first in range(len(free) - 2))


def test_size_and_place_of_the_gland_vary(centres: dict) -> None:
    """Otherwise a network could memorise one mask."""
    for cases in centres.values():
        volumes = [(label > 0).sum() for _, label, _ in cases]
        assert np.std(volumes) / np.mean(volumes) > 0.05
        middles = np.array([np.argwhere(label > 0).mean(axis=0) * spacing for _, label, spacing in cases])
        assert (middles.std(axis=0) > 1).all()


def _noise(image: np.ndarray) -> tuple[float, float]:
    """Standard deviation and correlation of neighbours in the air beside the patient, where there is only noise."""
    corner = image[:, :12, :12].astype(float)
    corner -= corner.mean()
    return corner.std(), (corner[..., 1:] * corner[..., :-1]).mean() / corner.var()


def test_centres_differ_as_scanners_do(centres: dict) -> None:
    assert len({cases[0][2] for cases in centres.values()}) == len(centres)
    noise = {n: np.mean([_noise(image) for image, _, _ in cases], axis=0) for n, cases in centres.items()}
    assert noise["north"][0] < 0.9 * noise["west"][0] < 0.9**2 * noise["south"][0]
    assert noise["west"][1] + 0.1 < noise["north"][1] < noise["south"][1] - 0.1  # sharp, middle and soft grain
    glands = {n: np.mean([image[label == 1].mean() for image, label, _ in cases]) for n, cases in centres.items()}
    assert max(glands.values()) - min(glands.values()) > 5
    contrast = {}
    for name, cases in centres.items():
        differences = [i[lab == 1].mean() - i[lab == 2].mean() for i, lab, _ in cases if (lab == 2).any()]
        contrast[name] = np.mean(differences)
    assert max(contrast.values()) - min(contrast.values()) > 3


def test_the_noise_is_that_of_the_scanner(low_scans: None) -> None:
    quiet, loud = (replace(BY_NAME["north"], noise=noise) for noise in (0.0, 20.0))
    clean, label, _ = render_case(quiet, 0, seed=1)
    noisy, _, _ = render_case(loud, 0, seed=1)
    assert (
        14 < (noisy.astype(float) - clean)[label > 0].std() < 22
    )  # it falls with the distance from the centre of the body


def test_bias_shifts_all_voxels_and_contrast_only_the_tumour(low_scans: None) -> None:
    base = replace(BY_NAME["north"], bias=0.0, contrast=(30, 30))
    image, label, _ = render_case(base, 1, seed=0)
    shifted, _, _ = render_case(replace(base, bias=12.0), 1, seed=0)
    assert (shifted.astype(int) - image)[label > 0].mean() == pytest.approx(12, abs=0.1)
    darker, _, _ = render_case(replace(base, contrast=(50, 50)), 1, seed=0)
    change = darker.astype(int) - image
    assert change[label == 2].mean() < -15 and abs(change[label == 0].mean()) < 0.1


def test_the_patient_lies_in_lps(centres: dict) -> None:
    """Liver on the right (column 0), spine at the back (last row), tail of the pancreas above and left of its head."""
    for cases in centres.values():
        for image, label, _ in cases:
            bone = np.argwhere(image > 300)
            assert np.median(bone[:, 1]) > image.shape[1] * 0.55
            gland = np.argwhere(label > 0)
            right = gland[:, 2] < np.percentile(gland[:, 2], 20)
            left = gland[:, 2] > np.percentile(gland[:, 2], 80)
            assert gland[left, 0].mean() > gland[right, 0].mean()
            rows = slice(image.shape[1] * 4 // 10, image.shape[1] * 6 // 10)
            sides = np.array_split(image[image.shape[0] // 2 :, rows], 2, axis=2)
            soft = [((side > 40) & (side < 140)).mean() for side in sides]
            assert soft[0] > soft[1]


def test_full_scans_have_a_clinical_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.phantom.scanner.FULL_HEIGHT_MM", (40, 41))
    image, label, spacing = render_case(BY_NAME["south"], 0, 0, size="full")
    assert image.shape[1:] == (512, 512) and 0.65 < spacing[1] < 0.95 and label.any()


def test_a_label_map_lies_in_its_true_place(label_map: Path) -> None:
    image, label, spacing = render_case(BY_NAME["north"], 0, 0, size="full", anatomy=label_map)
    assert image.shape == (48, 200, 208) and spacing == (2.5, 1.5, 1.5)
    expected = np.zeros(image.shape, np.uint8)
    expected[14:30, 85:105, 80:120] = 1
    expected[18:24, 90:98, 90:98] = 2
    assert np.array_equal(label, expected)
    aorta, gland = image[14:30, 118:125, 107:114].mean(), image[15:17, 88:102, 82:118].mean()
    assert aorta > gland + 15
    assert gland - image[19:23, 91:97, 91:97].mean() > 5


def test_a_small_label_map_keeps_field_of_view_and_place(label_map: Path) -> None:
    scanner = BY_NAME["south"]
    image, label, spacing = render_case(scanner, 0, 0, size="small", anatomy=label_map)
    assert spacing == scanner.small
    extent, true = np.multiply(image.shape, spacing), np.multiply((48, 200, 208), (2.5, 1.5, 1.5))
    assert (np.abs(extent - true) <= np.array(spacing) / 2).all()
    for code, low, high in ((0, (14, 85, 80), (30, 105, 120)), (1, (18, 90, 90), (24, 98, 98))):
        middle = (np.argwhere(label > code).mean(axis=0) + 0.5) * spacing
        assert np.abs(middle - np.add(low, high) / 2 * (2.5, 1.5, 1.5)).max() < 0.75 * max(spacing)


def test_real_label_maps_keep_their_volumes(shared: Path) -> None:
    for path in [sorted(centre.glob("*.npz"))[0] for centre in sorted((shared / "anatomy").glob("*/"))]:
        with np.load(path) as file:
            true = np.isin(file["labels"], (1, 4, 5)).sum() * file["spacing"].prod()
        _, label, spacing = render_case(BY_NAME["west"], 0, 0, anatomy=path)
        assert (label > 0).sum() * np.prod(spacing) == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("cubic", [False, True])
def test_a_field_agrees_with_spline_interpolation(cubic: bool) -> None:
    noise = smooth_noise(np.random.default_rng(0), (0, 0, 0), (30, 40, 50), 6.0)
    field = Field(noise.start, noise.step, noise.values, cubic)
    axes = (np.arange(0, 30, 2.3), np.arange(0, 40, 3.1), np.arange(0, 50, 1.7))
    places = [(a - s) / t for a, s, t in zip(axes, field.start, field.step, strict=True)]
    grid = np.meshgrid(*places, indexing="ij")
    expected = map_coordinates(field.values.astype(float), grid, order=3 if cubic else 1, prefilter=False)
    assert field.sample(axes) == pytest.approx(expected, abs=1e-5)


def test_shapes_are_signed_distances() -> None:
    line, _ = curve([(0, 0, 0, 5), (0, 0, 30, 5)], 1.0)
    axes = (np.array([0.0]), np.array([-9.0, -5.0, -2.0, 0.0]), np.array([15.0]))
    assert tubes(line, 1.0).sample(axes).ravel() == pytest.approx([4, 0, -3, -5], abs=0.6)
    ball = ellipsoid((0, 0, 0), (20, 20, 20), 2.0)
    axes = (np.array([0.0]), np.array([10.0, 20.0, 26.0]), np.array([0.0]))
    assert ball.sample(axes).ravel() == pytest.approx([-10, 0, 6], abs=0.3)


def test_every_tissue_has_hounsfield_units() -> None:
    assert list(HOUNSFIELD) == list(Tissue)
