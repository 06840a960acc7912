"""The volumes and surfaces of a report are what the scan and its masks are, in files that other programs read."""

import base64
import gzip
import struct
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from engine.report.html.viewer import (
    CONTEXT_MM,
    STEP_HU,
    Layer,
    Map,
    View,
    nifti_bytes,
    pack_view,
    shown_box,
    surface_bytes,
    thinned_shape,
)
from tests.engine.report.html.pages import SPACING, ball, small_view


def unpack(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def lps_array(image: nib.Nifti1Image) -> np.ndarray:
    return np.asarray(image.get_fdata()).T


def parse_mz3(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the triangles and the vertices (x, y, z) of an MZ3 file."""
    magic, attributes, faces, vertices, skipped = struct.unpack_from("<2H3I", content)
    assert (magic, attributes, skipped) == (23117, 3, 0) and len(content) == 16 + 12 * faces + 12 * vertices
    triangles = np.frombuffer(content, "<i4", 3 * faces, 16).reshape(-1, 3)
    return triangles, np.frombuffer(content, "<f4", 3 * vertices, 16 + 12 * faces).reshape(-1, 3)


def test_a_volume_is_a_nifti_file_with_the_patients_sides_where_they_belong():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    image = nib.Nifti1Image.from_bytes(nifti_bytes(array, (3.0, 2.0, 1.5), slope=4, intercept=-400))
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_zooms() == (1.5, 2.0, 3.0) and image.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(lps_array(image), 4.0 * array - 400)


def test_masks_and_grey_values_of_a_case_can_be_read_back():
    view = small_view()
    packed, box = pack_view(view), shown_box(view)
    assert packed["start"] == list(box.start) and packed["factor"] == [1.0, 1.0, 1.0]
    scan = unpack(packed["scan"])
    assert scan.header.get_zooms() == pytest.approx(SPACING[::-1])
    assert np.abs(lps_array(scan) - view.image[box.slices]).max() <= STEP_HU / 2
    for layer, stored in zip(view.layers, packed["layers"], strict=True):
        assert (stored["name"], stored["shown"]) == (layer.name, True)
        assert np.array_equal(lps_array(unpack(stored["mask"])), layer.mask[box.slices])
    (stored,) = packed["maps"]
    assert np.abs(lps_array(unpack(stored["values"])) - view.maps[0].values[box.slices]).max() < 1 / 500


def test_a_map_with_a_range_of_its_own_keeps_its_values_and_says_its_range():
    view = small_view()
    spread = Map("uncertainty", view.maps[0].values / 1.5, 0.5, "how far they disagree")  # from 0 to 0.5
    (stored,) = pack_view(replace(view, maps=[spread]))["maps"]
    assert (stored["highest"], stored["meaning"]) == (0.5, "how far they disagree")
    values = lps_array(unpack(stored["values"]))
    assert values.max() == pytest.approx(0.5)
    assert np.abs(values - spread.values[shown_box(view).slices]).max() < 0.5 / 500


def test_what_is_looked_at_first_lies_in_the_last_mask_that_is_not_empty():
    view = small_view()
    empty = Layer("tumour", np.zeros_like(view.layers[0].mask), (255, 0, 0))
    view = replace(view, layers=[*view.layers, empty])
    packed, box = pack_view(view), shown_box(view)
    voxel = tuple(int(share * n) for share, n in zip(packed["cross"], box.shape, strict=True))
    assert view.layers[1].mask[box.slices][voxel]
    assert packed["layers"][2]["surface"] is None


def test_the_surroundings_of_all_masks_are_shown():
    view = small_view()
    masked = np.any([layer.mask for layer in view.layers], axis=0)
    box = shown_box(view)
    assert masked[box.slices].sum() == masked.sum()
    inside = np.nonzero(masked)
    for axis, mm in enumerate(SPACING):
        left = min(CONTEXT_MM, inside[axis].min() * mm)
        assert (inside[axis].min() - box.start[axis]) * mm >= left - 1e-6
    nothing = replace(view, layers=[replace(view.layers[0], mask=np.zeros_like(masked))])
    assert shown_box(nothing).shape == view.image.shape


@pytest.mark.parametrize("spacing", [(2.0, 0.8, 0.8), (0.5, 0.5, 0.5)])
def test_a_large_box_is_thinned_where_its_voxels_are_finest(spacing):
    shape = (100, 300, 400)
    thinned = thinned_shape(shape, spacing, 4_000_000)
    assert 3.6e6 < np.prod(thinned) <= 4e6
    sizes = [n * s / m for n, s, m in zip(shape, spacing, thinned, strict=True)]
    assert sizes[1] == pytest.approx(sizes[2], rel=0.02)
    assert thinned[0] == 100 if spacing[0] == 2 else sizes[0] == pytest.approx(sizes[1], rel=0.02)
    assert thinned_shape((4, 5, 6), spacing, 1000) == (4, 5, 6)


def test_a_thinned_case_keeps_its_place_and_its_means():
    shape, spacing = (60, 150, 220), (1.5, 0.8, 0.8)
    mask = ball((30, 75, 110), 40.0, shape, spacing)
    image = (100 * mask).astype(np.int16)
    layers = [Layer("a", mask, (1, 2, 3)), Layer("b", image < 9, (1, 2, 3))]
    packed = pack_view(View(image, spacing, layers, [Map("probability", mask.astype(np.float32))]))
    assert np.prod(packed["shape"]) <= 1_500_000 < image.size and max(packed["factor"]) > 1
    scan, thin = unpack(packed["scan"]), unpack(packed["layers"][0]["mask"])
    voxel = np.prod(scan.header.get_zooms())
    assert lps_array(thin).sum() * voxel == pytest.approx(mask.sum() * np.prod(spacing), rel=0.01)
    middle = [np.mean(i) * s for i, s in zip(np.nonzero(lps_array(thin)), scan.header.get_zooms()[::-1], strict=True)]
    expected = [(c + 0.5) * s for c, s in zip((30, 75, 110), spacing, strict=True)]
    half = [z / 2 for z in scan.header.get_zooms()[::-1]]
    assert [m + h for m, h in zip(middle, half, strict=True)] == pytest.approx(expected, abs=0.2)
    assert lps_array(scan)[lps_array(thin) > 0].mean() == pytest.approx(100, abs=4)
    assert np.corrcoef(lps_array(thin).ravel(), lps_array(unpack(packed["maps"][0]["values"])).ravel())[0, 1] > 0.97


def test_a_surface_encloses_its_mask_and_faces_outwards():
    mask = ball((10, 18, 16), 12.0)
    faces, points = parse_mz3(surface_bytes(mask, SPACING))
    assert points.mean(axis=0) == pytest.approx((-16 * 2, -18 * 2, 10 * 3), abs=0.5)  # LPS indices to RAS mm
    radius = np.linalg.norm(points - (-32, -36, 30), axis=1)
    assert radius.min() > 10.5 and radius.max() < 13.5
    a, b, c = (points[faces[:, i]].astype(float) for i in range(3))
    enclosed = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6  # positive if the normals point outwards
    assert enclosed == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.1)


def test_a_lesion_of_one_voxel_has_a_surface_and_an_empty_mask_has_none():
    mask = np.zeros((9, 9, 9), bool)
    assert surface_bytes(mask, SPACING) == b""
    mask[4, 4, 4] = True
    faces, points = parse_mz3(surface_bytes(mask, SPACING))
    assert len(faces) >= 8 and np.abs(points - (-8, -8, 12)).max() < 3
