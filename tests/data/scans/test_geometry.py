"""One tolerance for all formats: axes that are not quite orthogonal, and labels on the voxels of their scan."""

import re
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from data.common.errors import InputError
from data.scans.grid import SAME_GRID_VOXELS
from data.scans.headers import AXES_TOLERANCE
from data.scans.volume import Volume, read_image, read_label, write_mask
from tests.conftest import refused, save

SHAPE = (20, 24, 28)
CODES = np.random.default_rng(3).integers(0, 3, SHAPE).astype(np.uint8)
SPACING = np.array((0.7, 0.7, 2.5))
TURNED = Rotation.from_euler("xyz", (3.1, -2.2, 1.7), degrees=True).as_matrix()
TO_LPS = np.diag((-1.0, -1.0, 1.0))


def affine_with(axes: np.ndarray, spacing: np.ndarray = SPACING) -> np.ndarray:
    """Return a NIfTI affine (RAS) with these axes as columns."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * spacing, (-130.5, -95.25, 40.0)
    return affine


def sheared(cosine: float) -> np.ndarray:
    axes = TURNED.copy()
    axes[:, 1] += cosine * axes[:, 0]
    return axes / np.linalg.norm(axes, axis=0)


def write_as(path: Path, axes: np.ndarray, array: np.ndarray = CODES) -> Path:
    """Write an array with these axes (RAS) into the header of any format, as they are."""
    affine = affine_with(axes)
    if ".nii" in path.name:
        image = nib.Nifti1Image(array.T, affine)
        image.set_qform(None, 0)
        nib.save(image, path)
        return path
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING.tolist())
    image.SetOrigin((TO_LPS @ affine[:3, 3]).tolist())
    sitk.WriteImage(image, str(path), useCompression=True)
    rows = (TO_LPS @ axes).T * (SPACING[:, None] if path.suffix == ".nrrd" else 1)
    if path.suffix == ".nrrd":
        text = "space directions: " + " ".join(f"({','.join(map(repr, row.tolist()))})" for row in rows)
        field = rb"space directions:[^\n]*"
    else:
        text, field = f"TransformMatrix = {' '.join(map(repr, rows.ravel().tolist()))}", rb"TransformMatrix =[^\n]*"
    content = re.sub(field, text.encode(), path.read_bytes(), count=1)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_axes_within_the_tolerance_are_corrected_and_others_refused_in_every_format(tmp_path, suffix):
    exact = read_image(write_as(tmp_path / f"exact{suffix}", TURNED))
    assert not any("right angles" in note for note in exact.notes)
    read = read_image(write_as(tmp_path / f"near{suffix}", sheared(0.9 * AXES_TOLERANCE)))
    axes = np.array(read.direction).reshape(3, 3)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert np.abs(axes - np.array(exact.direction).reshape(3, 3)).max() < 0.6 * AXES_TOLERANCE
    assert any("right angles (cosine 9.0e-04)" in note for note in read.notes)
    beyond = write_as(tmp_path / f"beyond{suffix}", sheared(3 * AXES_TOLERANCE))
    refused(beyond, "cosine 0.003, tolerance 0.001", remedy="resample")
    refused(beyond, "right angles", read=read_label)


@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (1, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("decimals", [3, 4, 5])
def test_a_rounded_header_is_read_with_either_form_and_its_mask_lies_on_it(tmp_path, codes, decimals):
    affine = affine_with(TURNED)
    affine[:3, :3] = np.round(affine[:3, :3], decimals)
    image = nib.Nifti1Image(CODES.T, affine)
    for code, set_form in zip(codes, (image.set_qform, image.set_sform), strict=True):
        set_form(affine if code else None, code)
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = read_image(tmp_path / "scan.nii.gz")
    centres = nib.affines.apply_affine(np.diag((-1, -1, 1, 1)) @ affine, np.argwhere(np.ones((2, 2, 2))) * 19)
    there = (centres - np.array(scan.grid.origin)) @ np.array(scan.grid.direction).reshape(3, 3) / scan.grid.spacing
    assert np.abs(there - np.rint(there)).max() < SAME_GRID_VOXELS
    write_mask(tmp_path / "mask.nii.gz", scan.array.astype(np.uint8), scan.grid)
    mask = read_label(tmp_path / "mask.nii.gz", like=scan)
    assert np.array_equal(mask.array, scan.array) and not any("resampled" in note for note in mask.notes)


@pytest.mark.parametrize("form", ["sform", "qform", "canonical", "itk", "from the exact affine"])
def test_a_label_that_another_program_wrote_is_used_as_it_is(tmp_path, form):
    affine = affine_with(TO_LPS @ TURNED)
    affine[:3, :3] = np.round(affine[:3, :3], 4)
    scan = read_image(save(tmp_path / "scan.nii.gz", CODES.T.astype(np.int16), affine))
    image = nib.Nifti1Image(CODES.T, affine)
    if form == "sform":
        image.set_qform(None, 0)
    elif form == "qform":
        image.set_qform(affine, 1)
        image.set_sform(None, 0)
    elif form == "canonical":
        image = nib.as_closest_canonical(image)
    elif form == "from the exact affine":
        image = nib.Nifti1Image(CODES.T, affine_with(TO_LPS @ TURNED))
    path = tmp_path / "label.nii.gz"
    nib.save(image, path)
    if form == "itk":
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path))
    label = read_label(path, like=scan)
    assert np.array_equal(label.array, scan.array) and label.grid == scan.grid
    assert not any("resampled" in note for note in label.notes)


def crop(label: np.ndarray, start: tuple[int, ...], stop: tuple[int, ...], path: Path, affine: np.ndarray) -> Path:
    """Write a box (x, y, z) of a label where it lies; outside the array it is 0."""
    box = np.zeros(np.subtract(stop, start), label.dtype)
    index = np.indices(box.shape).reshape(3, -1) + np.array(start)[:, None]
    inside = np.all((index >= 0) & (index < np.array(label.shape)[:, None]), axis=0)
    box.ravel()[inside] = label[tuple(index[:, inside])]
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ start
    return save(path, box, moved)


@pytest.fixture
def scan_and_label(tmp_path) -> tuple[Volume, np.ndarray, np.ndarray]:
    """An oblique scan; its label in the file's order (x, y, z), with a segment inside; its affine."""
    affine = affine_with(TURNED @ np.diag((1, -1, 1)))
    label = np.zeros(CODES.T.shape, np.uint8)
    label[9:15, 8:12, 5:9] = np.random.default_rng(1).integers(1, 3, (6, 4, 4))
    return read_image(save(tmp_path / "scan.nii.gz", CODES.T.astype(np.int16), affine)), label, affine


@pytest.mark.parametrize(
    ("start", "stop", "note"),
    [
        ((9, 8, 5), (15, 12, 9), "covers part of its scan"),
        ((0, 0, 5), (28, 24, 9), "covers part of its scan"),
        ((-4, 2, 3), (20, 30, 12), "covers part of its scan"),
        ((-2, -1, 0), (29, 24, 22), "extends beyond its scan"),
    ],
)
def test_a_label_on_a_part_of_the_scans_voxels_is_put_in_its_place(tmp_path, scan_and_label, start, stop, note):
    scan, label, affine = scan_and_label
    whole = read_label(save(tmp_path / "whole.nii.gz", label, affine), like=scan)
    part = read_label(crop(label, start, stop, tmp_path / "part.nii.gz", affine), like=scan)
    assert np.array_equal(part.array, whole.array) and part.array.any() and part.grid == scan.grid
    assert part.frame == scan.frame and any(note in phrase for phrase in part.notes)


def test_a_label_beside_its_place_is_refused(tmp_path, scan_and_label):
    scan, label, affine = scan_and_label
    outside = np.pad(label, ((0, 3), (0, 0), (0, 0)), constant_values=1)
    path = crop(outside, (9, 0, 0), outside.shape, tmp_path / "outside.nii.gz", affine)
    refused(path, f"has {3 * 24 * 20} labelled voxels outside its image", read=read_label, like=scan)
    refused(crop(label, (40, 0, 0), (50, 24, 20), path, affine), "lies outside its image", read=read_label, like=scan)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, 2] * 2
    refused(save(path, label, moved), "shifted by (0, 0, 2) whole voxels", read=read_label, like=scan)
    moved[:3, 3] += affine[:3, 2] * 0.3
    small = save(path, label[9:15, 8:12, 5:9], moved)
    refused(small, "voxels off by 0.3 of a voxel", "tolerance 0.1", read=read_label, like=scan)
    finer = affine_with(TURNED, SPACING * 0.98)
    refused(save(path, label[9:15], finer), "tolerance 0.1", read=read_label, like=scan)


@pytest.mark.parametrize(("offset", "same"), [(0.8, True), (1.2, False)])
def test_the_tolerance_between_grids_is_one_number_of_voxels(tmp_path, offset, same):
    scan = read_image(save(tmp_path / "scan.nii.gz", CODES.T.astype(np.int16), affine_with(np.eye(3))))
    for axis, sign in product(range(3), (1, -1)):
        moved = affine_with(np.eye(3))
        moved[axis, 3] += sign * offset * SAME_GRID_VOXELS * SPACING[axis]
        label = read_label(save(tmp_path / "label.nii.gz", CODES.T, moved), like=scan)
        assert np.array_equal(label.array, scan.array)  # the nearest voxel is the same one in either case
        assert any("resampled" in note for note in label.notes) is not same


def test_positions_that_are_not_finite_are_refused(tmp_path):
    save(tmp_path / "a.nii", CODES.T)
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[292:296] = np.float32(np.nan).tobytes()  # the x position in the sform
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(InputError):
        read_image(tmp_path / "a.nii")
