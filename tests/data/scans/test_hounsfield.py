"""Values that cannot be HU are recognised whatever pads them, and no healthy scan is suspected."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.scans.hounsfield import find_hu_problem
from data.scans.volume import read_image

SHAPE = (24, 60, 70)


def abdomen(fat: float = 0.35, noise: float = 15.0, contrast: float = 0.0, seed: int = 0) -> np.ndarray:
    """A body in air: organs in fat, a spine, gas in the bowel, a lung at the top, and a table.

    Args:
        fat: Share of the body that is fat, at least a tenth.
        noise: Standard deviation in HU.
        contrast: Enhancement of the organs in HU.
        seed: Of noise and organs.
    """
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE)
    radius = np.hypot((y - 30) / 24, (x - 35) / 32)
    image = np.full(SHAPE, -1000.0)
    image[radius < 1] = -105
    inner = radius < np.sqrt(1 - fat)
    image[inner] = 45 + contrast
    image[inner & (rng.random(SHAPE) < 0.15)] = -100
    image[(np.hypot(y - 45, x - 35) < 4)] = 350
    image[(np.hypot(y - 20, x - 45) < 3) & (z < 12)] = -980
    image[(z > 20) & (np.hypot(y - 28, x - 20) < 9)] = -850
    image[:, 57:59] = 150
    return np.clip(image + rng.normal(0, noise, SHAPE), -1024, 3071).astype(np.int16)


def pad(image: np.ndarray, value: int) -> np.ndarray:
    """Replace what lies outside a circular field of view."""
    _, y, x = np.indices(SHAPE)
    return np.where(np.hypot((y - 30) / 30, (x - 35) / 35) > 1, value, image)


def problem(image: np.ndarray) -> str:
    found = find_hu_problem(np.clip(np.rint(image), -32768, 32767).astype(np.int16))
    return found.problem if found else ""


@given(
    fat=st.floats(0.1, 0.8),
    noise=st.floats(5, 60),
    contrast=st.floats(0, 120),
    seed=st.integers(0, 9),
    padding=st.sampled_from([None, -1000, -1024, -2000, -2048, -3024, -32768]),
)
def test_healthy_scans_are_never_suspected(fat, noise, contrast, seed, padding):
    image = abdomen(fat, noise, contrast, seed)
    assert problem(image if padding is None else pad(image, padding)) == ""
    assert problem(image[:, 15:45, 15:55]) == ""  # a crop with hardly any air
    assert problem(np.clip(image, -1000, 1500)) == ""


@given(
    fat=st.floats(0.1, 0.8),
    seed=st.integers(0, 9),
    padding=st.sampled_from([None, 0, -1000, -1024, -2000, -3024, -32768]),
    offset=st.sampled_from([1000, 1024]),
)
def test_a_missing_offset_is_seen_whatever_the_padding(fat, seed, padding, offset):
    image = abdomen(fat, seed=seed).astype(int) + offset
    assert "lack the offset of HU" in problem(image if padding is None else pad(image, padding))


@pytest.mark.parametrize("padding", [None, -2000, -3024])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: image - 1024.0, "hardly any in the middle"),
        (lambda image: image * 0.5, "expected near -1000"),
        (lambda image: image * 10.0, "not the HU of a CT"),
        (lambda image: image / 1000, "not the HU of a CT"),
        (lambda image: -image.astype(float), "more than bone fills"),
        (lambda image: (np.clip(image, -150, 250) + 150) / 400 * 255, "8-bit grey values"),
        (lambda image: np.clip(image, -150, 250), "clipped to a window, values -150 to 250"),
        (lambda image: np.clip(image, -1024, 240), "clipped to a window"),
        (lambda image: image + 8192.0, "above 4000 HU"),
    ],
)
def test_other_values_than_hu_are_seen(change, words, padding):
    image = change(abdomen())
    assert words in problem(image if padding is None else pad(image, padding))


def test_a_display_window_is_seen_behind_padding_of_air():
    assert "clipped to a window, values -150 to 250" in problem(pad(np.clip(abdomen(), -150, 250), -1024))


def test_metal_is_no_finding_but_padding_and_slices_of_high_values_are():
    image = abdomen()
    image[:, 29:33, 24:28] = image[:, 29:33, 44:46] = 12000
    assert problem(image) == ""
    assert "21.7% of the voxels above 4000 HU" in problem(pad(abdomen(), 32767))
    image = abdomen().repeat(6, axis=0)
    image[77] = 32767
    assert "100% of a slice above 4000 HU" in problem(image)


def test_labels_and_constant_images_are_no_ct():
    for values in (0, 2, -1000, -2000, 40, 1064):
        assert problem(np.full(SHAPE, values)) != ""
    assert "8-bit" in problem(np.arange(3).repeat(2000).reshape(3, 40, 50))


def test_real_scans_pass_and_fail_once_their_offset_is_missing(shared):
    paths = sorted((shared / "real_ct").glob("*/ct.nii.gz"))
    assert paths
    for path in paths:
        image = read_image(path).array
        assert find_hu_problem(image) is None
        moved = np.where(image < -1100, -2000, image + 1024).astype(np.int16)
        found = find_hu_problem(moved)
        assert found and "lack the offset" in found.problem
