"""Reading and writing scans and labels, compared with nibabel where possible."""

import json
import os
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.common.errors import InputError
from data.scans.grid import Part
from data.scans.volume import WRITTEN_SUFFIXES, Grid, read_image, read_label, write_lps, write_mask
from tests.conftest import NOISE, SPACING, VALUES, affine_of, refused, save
from tests.dicom_files import write_slices

ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


def same_voxels_in_space(volume, path: Path) -> bool:
    """Return True if each voxel of the volume has the value that nibabel finds at its world position."""
    oracle = nib.load(path)
    index = np.indices(volume.array.shape).reshape(3, -1)
    steps = np.array(volume.direction).reshape(3, 3) * volume.spacing[::-1]
    world_ras = np.diag((-1, -1, 1)) @ (steps @ index[::-1] + np.array(volume.origin)[:, None])
    there = np.linalg.inv(oracle.affine) @ np.vstack([world_ras, np.ones(world_ras.shape[1])])
    nearest = np.rint(there[:3]).astype(int)
    assert np.abs(there[:3] - nearest).max() < 1e-3
    return np.array_equal(np.asarray(oracle.dataobj)[tuple(nearest)], volume.array.ravel())


@pytest.mark.parametrize("order, signs", ORIENTATIONS)
def test_every_orientation_is_read_in_place_and_written_back_bit_exact(tmp_path, order, signs):
    path = save(tmp_path / "scan.nii.gz", affine=affine_of(order, signs, (3.0, -7.0, 5.0)))
    volume = read_image(path)
    assert same_voxels_in_space(volume, path)
    direction = np.array(volume.direction).reshape(3, 3)
    assert (direction.diagonal() > 0.9).all()
    assert volume.grid.orientation == "".join(nib.aff2axcodes(nib.load(path).affine))
    grid = Grid.from_json(json.loads(json.dumps(volume.grid.to_json())))
    assert grid == volume.grid
    write_mask(tmp_path / "mask.nii.gz", volume.array.astype(np.uint8), grid)
    mask, scan = nib.load(tmp_path / "mask.nii.gz"), nib.load(path)
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(scan.dataobj))
    assert np.allclose(mask.affine, scan.affine, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(degrees=st.tuples(*[st.floats(-180, 180)] * 3), orientation=st.sampled_from(ORIENTATIONS))
def test_any_oblique_scan_is_read_along_the_nearest_axes_and_written_back(tmp_path_factory, degrees, orientation):
    folder = tmp_path_factory.mktemp("oblique")
    path = save(folder / "scan.nii", affine=affine_of(*orientation, degrees))
    volume = read_image(path)
    assert same_voxels_in_space(volume, path)
    axes = np.array(volume.direction).reshape(3, 3)
    assert axes.trace() >= max(abs(axes[:, list(p)].diagonal()).sum() for p in permutations(range(3))) - 1e-9
    write_mask(folder / "mask.nii", volume.array.astype(np.uint8), volume.grid)
    assert np.array_equal(np.asarray(nib.load(folder / "mask.nii").dataobj), VALUES)
    assert np.allclose(nib.load(folder / "mask.nii").affine, nib.load(path).affine, atol=1e-5)


@pytest.mark.parametrize("suffix", WRITTEN_SUFFIXES)
def test_each_written_format_is_read_back_unchanged(tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    write_lps(path, VALUES, (2.5, 0.9, 0.7), (1.0, 2.0, 3.0))
    volume = read_image(path)
    assert np.array_equal(volume.array, VALUES) and volume.array.dtype == np.int16
    assert np.allclose(volume.spacing, (2.5, 0.9, 0.7)) and np.allclose(volume.origin, (1, 2, 3))
    assert not volume.notes and [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dtype", [np.int16, np.float64])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_a_file_larger_than_a_chunk_is_read_alike(tmp_path, monkeypatch, dtype, suffix):
    path = save(tmp_path / f"scan{suffix}", VALUES.astype(dtype), affine_of((2, 0, 1), (1, -1, -1)))
    whole = read_image(path)
    monkeypatch.setattr("data.scans.bytes.CHUNK_BYTES", 13)  # neither whole voxels nor whole planes
    pieces = read_image(path)
    assert np.array_equal(whole.array, pieces.array) and same_voxels_in_space(pieces, path)
    assert pieces.origin == whole.origin and pieces.grid == whole.grid


def test_images_are_rounded_and_clipped_to_int16(tmp_path):
    array = np.array([-40000.0, -1.6, 0.4, 99999.0], np.float32).reshape(1, 2, 2)
    write_lps(tmp_path / "a.nii.gz", array, (1, 1, 1))
    assert read_image(tmp_path / "a.nii.gz").array.ravel().tolist() == [-32768, -2, 0, 32767]


def test_a_mask_of_another_shape_is_refused(tmp_path):
    volume = read_image(save(tmp_path / "scan.nii.gz"))
    with pytest.raises(ValueError, match="shape"):
        write_mask(tmp_path / "m.nii.gz", np.zeros((2, 2, 2), np.uint8), volume.grid)
    with pytest.raises(InputError) as caught:
        write_mask(tmp_path / "m.png", volume.array.astype(np.uint8), volume.grid)
    assert "format" in caught.value.problem and ".nii.gz" in caught.value.remedy


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_mask_of_a_cropped_part_is_written_on_the_whole_scan(tmp_path, suffix):
    volume = read_image(save(tmp_path / "scan.nii.gz", affine=affine_of((1, 2, 0), (-1, 1, -1))))
    d, h, w = volume.array.shape
    mask = np.random.default_rng(0).integers(0, 3, (d - 2, h - 1, w)).astype(np.uint8)
    grid = replace(volume.grid, part=Part((1, 0, 0), (d - 1, h - 1, w), mask.shape))
    write_mask(tmp_path / f"mask{suffix}", mask, Grid.from_json(json.loads(json.dumps(grid.to_json()))))
    back = read_label(tmp_path / f"mask{suffix}", like=volume)
    assert np.array_equal(back.array[1:-1, :-1], mask) and back.array.sum() == mask.sum()
    assert np.array_equal(grid.to_prepared(back.array), mask)
    with pytest.raises(ValueError, match="shape"):
        write_mask(tmp_path / "m.nii.gz", back.array, grid)


def test_a_mask_of_a_resampled_part_is_written_at_the_nearest_voxels(tmp_path):
    volume = read_image(save(tmp_path / "scan.nii.gz"))
    whole = np.zeros(volume.array.shape, np.uint8)
    whole[2:4, 2:4, 1:3] = 1
    fine = replace(volume.grid, part=Part((0, 1, 0), whole.shape, (2 * whole.shape[0], 8, whole.shape[2])))
    assert fine.to_prepared(whole).shape == fine.prepared_shape and fine.to_prepared(whole).sum() == 4 * whole.sum()
    write_mask(tmp_path / "mask.nii.gz", fine.to_prepared(whole), fine)
    assert np.array_equal(read_label(tmp_path / "mask.nii.gz").array, whole)


def test_label_codes_must_be_whole_numbers(tmp_path):
    codes = (VALUES % 7).astype(np.float64)
    label = read_label(save(tmp_path / "near.nii.gz", np.where(codes > 0, codes + 6e-8, 0)))
    assert set(np.unique(label.array)) == set(range(7)) and label.array.dtype == np.uint8
    assert any("rounded" in note for note in label.notes)
    refused(save(tmp_path / "half.nii.gz", codes / 2), "whole numbers", read=read_label)
    refused(save(tmp_path / "ct.nii.gz", VALUES - 50), "-50 to 69", "0 to 255", remedy="image", read=read_label)
    refused(save(tmp_path / "big.nii.gz", VALUES + 200), "0 to 255", read=read_label)


def test_a_scaled_label_is_read_by_its_value(tmp_path):
    """A stored 127 with a slope just below 1/127 means 0.9999, which SimpleITK truncates to 0 if it reads uint8."""
    image = nib.Nifti1Image(np.where(VALUES > 60, 127, 0).astype(np.uint8), affine_of())
    nib.save(image, tmp_path / "slope.nii")
    content = bytearray((tmp_path / "slope.nii").read_bytes())
    content[112:116] = np.float32(1 / 127.01).tobytes()
    (tmp_path / "slope.nii").write_bytes(content)
    assert int(read_label(tmp_path / "slope.nii").array.sum()) == 59


def test_a_label_on_the_same_grid_is_used_as_it_is(tmp_path):
    image = read_image(save(tmp_path / "image.nii.gz"))
    shifted = affine_of()
    shifted[:3, 3] += 2e-5
    label = read_label(save(tmp_path / "label.nii.gz", affine=shifted), like=image)
    assert np.array_equal(label.array, image.array) and label.grid == image.grid
    assert label.notes[-1].startswith("header differs")
    turned = nib.load(tmp_path / "image.nii.gz").as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nib.save(turned, tmp_path / "turned.nii.gz")
    label = read_label(tmp_path / "turned.nii.gz", like=image)
    assert np.array_equal(label.array, image.array)


def test_a_label_on_a_finer_grid_is_resampled_with_a_note(tmp_path):
    coarse = np.random.default_rng(1).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    write_lps(tmp_path / "image.nii.gz", VALUES, (3, 3, 3), (0, 0, 0))
    write_lps(tmp_path / "label.nii.gz", coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2), (1, 1, 1), (-1, -1, -1))
    label = read_label(tmp_path / "label.nii.gz", like=read_image(tmp_path / "image.nii.gz"))
    assert np.array_equal(label.array, coarse) and label.spacing == (3, 3, 3)
    assert "resampled" in label.notes[-1]
    write_lps(tmp_path / "off.nii.gz", coarse * 2, (3, 3, 3), (1.2, -1.2, 1.2))  # less than half a voxel away
    off = read_label(tmp_path / "off.nii.gz", like=read_image(tmp_path / "image.nii.gz"))
    assert np.array_equal(off.array, coarse * 2) and "resampled" in off.notes[-1]


def test_a_label_at_another_position_is_refused_with_both_grids(tmp_path):
    image = read_image(save(tmp_path / "image.nii.gz"))
    far = affine_of()
    far[2, 3] += 10
    line = refused(save(tmp_path / "label.nii.gz", affine=far), "4x5x6", read=read_label, like=image)
    assert "401.1" in line and "411.1" in line
    bigger = save(tmp_path / "bigger.nii.gz", np.ones((9, 9, 9), np.uint8))
    refused(bigger, "9x9x9", "4x5x6", "609 labelled voxels outside", read=read_label, like=image)


def test_a_real_scan_is_the_same_volume_as_nifti_and_as_dicom(shared):
    folder = shared / "real_ct" / "amos_0013_slab"
    nifti, dicom = read_image(folder / "ct.nii.gz"), read_image(folder / "dicom")
    assert np.array_equal(nifti.array, dicom.array) and nifti.array.min() == -2048
    assert np.allclose(nifti.corners(), dicom.corners(), atol=1e-3)
    assert same_voxels_in_space(nifti, folder / "ct.nii.gz")
    label = read_label(folder / "label.nii.gz", like=dicom)
    assert 10 in label.array and 60 < nifti.array[label.array == 10].mean() < 130


def test_a_name_that_is_not_utf8_does_not_end_the_process(tmp_path):
    """SimpleITK aborts on it; files are written by a detour, and DICOM slices are refused."""
    path = tmp_path / os.fsdecode(b"M\xfcller.nii.gz")
    write_lps(path, VALUES, SPACING)
    assert np.array_equal(read_image(path).array, VALUES)
    slices = tmp_path / os.fsdecode(b"\xfc")
    slices.mkdir()
    write_slices(slices, NOISE)
    with pytest.raises(InputError, match="its path holds bytes that are not UTF-8"):
        read_image(slices)
