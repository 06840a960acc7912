"""Reading and writing scans: against nibabel where that is possible, and every kind of bad file."""

import gzip
import json
import shutil
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from data.errors import InputError
from data.volume import WRITTEN, Grid, read_image, read_label, write_lps, write_mask

SHAPE = (4, 5, 6)
VALUES = np.arange(120, dtype=np.int16).reshape(SHAPE)  # every voxel is known by its value
ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


def affine_of(order=(0, 1, 2), signs=(1, 1, 1), degrees=(0.0, 0.0, 0.0), zooms=(0.7, 0.9, 2.5)) -> np.ndarray:
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    affine[:3, :3] = turned @ np.eye(3)[:, list(order)] @ np.diag(signs) @ np.diag(zooms)
    affine[:3, 3] = (-31.5, 17.25, 401.125)
    return affine


def save(path: Path, array: np.ndarray = VALUES, affine: np.ndarray | None = None, dtype=None) -> Path:
    nib.save(nib.Nifti1Image(array, affine_of() if affine is None else affine, dtype=dtype), path)
    return path


def same_voxels_in_space(volume, path: Path) -> bool:
    """Each voxel of the volume has the value that nibabel finds at its place in the world."""
    oracle = nib.load(path)
    index = np.indices(volume.array.shape).reshape(3, -1)
    steps = np.array(volume.direction).reshape(3, 3) * volume.spacing[::-1]
    world_ras = np.diag((-1, -1, 1)) @ (steps @ index[::-1] + np.array(volume.origin)[:, None])
    there = np.linalg.inv(oracle.affine) @ np.vstack([world_ras, np.ones(world_ras.shape[1])])
    nearest = np.rint(there[:3]).astype(int)
    assert np.abs(there[:3] - nearest).max() < 1e-3
    return np.array_equal(np.asarray(oracle.dataobj)[tuple(nearest)], volume.array.ravel())


def refused(path: Path, *words: str, read=read_image, **kwargs) -> str:
    """Reading raises one line that names the file and these words, and says what to do after a semicolon."""
    with pytest.raises(InputError) as caught:
        read(path, **kwargs)
    line = str(caught.value)
    assert str(path) in line and "\n" not in line and "; " in line, line
    assert all(word in line for word in words), line
    return line


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
def test_any_oblique_scan_is_turned_to_the_nearest_lps_and_back(tmp_path_factory, degrees, orientation):
    folder = tmp_path_factory.mktemp("oblique")
    path = save(folder / "scan.nii", affine=affine_of(*orientation, degrees))
    volume = read_image(path)
    assert same_voxels_in_space(volume, path)
    axes = np.array(volume.direction).reshape(3, 3)
    assert axes.trace() >= max(abs(axes[:, list(p)].diagonal()).sum() for p in permutations(range(3))) - 1e-9
    write_mask(folder / "mask.nii", volume.array.astype(np.uint8), volume.grid)
    assert np.array_equal(np.asarray(nib.load(folder / "mask.nii").dataobj), VALUES)
    assert np.allclose(nib.load(folder / "mask.nii").affine, nib.load(path).affine, atol=1e-5)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_each_written_format_is_read_back_the_same(tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    write_lps(path, VALUES, (2.5, 0.9, 0.7), (1.0, 2.0, 3.0))
    volume = read_image(path)
    assert np.array_equal(volume.array, VALUES) and volume.array.dtype == np.int16
    assert np.allclose(volume.spacing, (2.5, 0.9, 0.7)) and np.allclose(volume.origin, (1, 2, 3))
    assert not volume.notes and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_images_are_rounded_and_clipped_to_int16(tmp_path):
    array = np.array([-40000.0, -1.6, 0.4, 99999.0], np.float32).reshape(1, 2, 2)
    write_lps(tmp_path / "a.nii.gz", array, (1, 1, 1))
    assert read_image(tmp_path / "a.nii.gz").array.ravel().tolist() == [-32768, -2, 0, 32767]


def test_a_mask_of_another_shape_is_refused(tmp_path):
    volume = read_image(save(tmp_path / "scan.nii.gz"))
    with pytest.raises(ValueError, match="shape"):
        write_mask(tmp_path / "m.nii.gz", np.zeros((2, 2, 2), np.uint8), volume.grid)
    with pytest.raises(InputError, match="format"):
        write_mask(tmp_path / "m.png", volume.array.astype(np.uint8), volume.grid)


noise = np.random.default_rng(0).integers(-1000, 1000, (9, 10, 11)).astype(np.int16)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_file_cut_anywhere_is_refused(tmp_path, suffix):
    write_lps(tmp_path / f"whole{suffix}", noise, (1, 1, 1))
    content, cut = (tmp_path / f"whole{suffix}").read_bytes(), tmp_path / f"cut{suffix}"

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, len(content) - 1))
    def check(length):
        cut.write_bytes(content[:length])
        refused(cut, "; ")

    check()
    refused(Path(shutil.copy(tmp_path / f"whole{suffix}", cut)).with_name("gone.nii"), "no such file")
    assert np.array_equal(read_image(cut).array, noise)


def test_flipped_bits_in_a_gzip_raise_or_change_nothing(tmp_path):
    write_lps(tmp_path / "whole.nii.gz", noise, (1, 1, 1))
    content, path = (tmp_path / "whole.nii.gz").read_bytes(), tmp_path / "flipped.nii.gz"

    @settings(max_examples=120, deadline=None)
    @given(st.integers(0, len(content) - 1) | st.integers(0, 11), st.integers(0, 7))
    def check(position, bit):
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            assert np.array_equal(read_image(path).array, noise)
        except InputError as error:
            assert str(path) in str(error)

    check()


def test_flipped_bits_in_a_raw_header_never_give_a_traceback(tmp_path):
    save(tmp_path / "whole.nii")
    content, path = (tmp_path / "whole.nii").read_bytes(), tmp_path / "flipped.nii"

    @settings(max_examples=300, deadline=None)
    @given(st.integers(0, 351), st.integers(0, 7))
    def check(position, bit):
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            read_image(path)
        except InputError as error:
            assert str(path) in str(error)

    check()


NOT_SCANS = {
    "empty": (b"", "empty"),
    "web page": (b"\n<!DOCTYPE html><html><body>Please log in</body></html>", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
    "annex": (b"../.git/annex/objects/xx/yy/SHA256E-s1--ab.nii.gz", "git annex get"),
    "mac": (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "macOS"),
    "zip": (b"PK\x03\x04rest", "unpack"),
    "text": (b"hello", "gzip"),
    "stub": (gzip.compress(b"hello"), "header"),
    "other gzip": (gzip.compress(bytes(1000)), "not a NIfTI"),
}


@pytest.mark.parametrize("kind", NOT_SCANS)
@pytest.mark.parametrize("read", [read_image, read_label])
def test_what_is_no_scan_is_called_by_its_name(tmp_path, kind, read):
    content, word = NOT_SCANS[kind]
    path = tmp_path / "case.nii.gz"
    path.write_bytes(content)
    refused(path, word, read=read)


def test_missing_files_folders_and_formats_are_named(tmp_path):
    refused(tmp_path / "none.nii.gz", "no such file")
    refused(save(tmp_path / "._x.nii.gz"), "macOS")
    (tmp_path / "scan.jpg").write_bytes(b"jpeg")
    refused(tmp_path / "scan.jpg", "format", ".nrrd")
    refused(tmp_path, "no DICOM slices")
    shutil.copy(save(tmp_path / "raw.nii"), tmp_path / "raw.nii.gz")
    refused(tmp_path / "raw.nii.gz", "name it .nii")
    shutil.copy(save(tmp_path / "packed.nii.gz"), tmp_path / "packed.nii")
    refused(tmp_path / "packed.nii", "name it .nii.gz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_voxels_that_are_not_numbers_are_refused(tmp_path, value, suffix):
    array = VALUES.astype(np.float32)
    write_lps(tmp_path / f"good{suffix}", array, (1, 1, 1))
    array[2, 3, 4] = value
    image = sitk.GetImageFromArray(array)
    sitk.WriteImage(image, str(tmp_path / f"bad{suffix}"))
    assert read_image(tmp_path / f"good{suffix}").array.max() == 119
    refused(tmp_path / f"bad{suffix}", "NaN")
    refused(tmp_path / f"bad{suffix}", "NaN", read=read_label)


def test_only_three_axes_of_plain_numbers_are_read(tmp_path):
    refused(save(tmp_path / "a.nii.gz", np.zeros((4, 5, 6, 2), np.int16)), "4 axes (4 x 5 x 6 x 2)", "3-D")
    refused(save(tmp_path / "b.nii.gz", np.zeros((4, 5, 6, 1), np.int16)), "4 axes")
    refused(save(tmp_path / "c.nii.gz", np.zeros((4, 5), np.int16)), "2 axes")
    refused(save(tmp_path / "d.nii.gz", np.zeros(SHAPE, np.complex64)), "plain numbers")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True), str(tmp_path / "e.mha"))
    refused(tmp_path / "e.mha", "plain numbers")
    nib.save(nib.Nifti2Image(VALUES, affine_of()), tmp_path / "f.nii.gz")
    refused(tmp_path / "f.nii.gz", "NIfTI-2")


def test_a_header_that_does_not_place_the_patient_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(VALUES, None), tmp_path / "nowhere.nii.gz")
    refused(tmp_path / "nowhere.nii.gz", "which way")
    sheared = affine_of()
    sheared[0, 1] = 0.05
    refused(save(tmp_path / "sheared.nii.gz", affine=sheared), "right angles")


def test_label_codes_must_be_whole_numbers(tmp_path):
    codes = (VALUES % 7).astype(np.float64)
    label = read_label(save(tmp_path / "near.nii.gz", np.where(codes > 0, codes + 6e-8, 0)))
    assert set(np.unique(label.array)) == set(range(7)) and label.array.dtype == np.uint8
    assert any("rounded" in note for note in label.notes)
    refused(save(tmp_path / "half.nii.gz", codes / 2), "whole numbers", read=read_label)
    refused(save(tmp_path / "ct.nii.gz", VALUES - 50), "0 to 255", read=read_label)
    refused(save(tmp_path / "big.nii.gz", VALUES + 200), "0 to 255", read=read_label)


def test_a_label_behind_a_scale_is_read_by_its_value(tmp_path):
    """Stored 127 with a slope just under 1/127 means 0.9999..., which truncates to 0 when asked for as uint8."""
    image = nib.Nifti1Image(np.where(VALUES > 60, 127, 0).astype(np.uint8), affine_of())
    nib.save(image, tmp_path / "slope.nii")
    content = bytearray((tmp_path / "slope.nii").read_bytes())
    content[112:116] = np.float32(1 / 127.01).tobytes()
    (tmp_path / "slope.nii").write_bytes(content)
    assert int(read_label(tmp_path / "slope.nii").array.sum()) == 59


def test_a_label_on_the_same_grid_is_taken_as_it_is(tmp_path):
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


def test_a_label_on_a_finer_grid_is_resampled_and_said_so(tmp_path):
    coarse = np.random.default_rng(1).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    write_lps(tmp_path / "image.nii.gz", VALUES, (3, 3, 3), (0, 0, 0))
    write_lps(tmp_path / "label.nii.gz", coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2), (1, 1, 1), (-1, -1, -1))
    label = read_label(tmp_path / "label.nii.gz", like=read_image(tmp_path / "image.nii.gz"))
    assert np.array_equal(label.array, coarse) and label.spacing == (3, 3, 3)
    assert "resampled" in label.notes[-1]


def test_a_label_of_another_place_is_refused_with_both_grids(tmp_path):
    image = read_image(save(tmp_path / "image.nii.gz"))
    far = affine_of()
    far[2, 3] += 10
    line = refused(save(tmp_path / "label.nii.gz", affine=far), "4x5x6", read=read_label, like=image)
    assert "401.1" in line and "411.1" in line
    bigger = save(tmp_path / "bigger.nii.gz", np.zeros((9, 9, 9), np.uint8))
    refused(bigger, "9x9x9", "4x5x6", read=read_label, like=image)


def write_series(
    folder: Path, array: np.ndarray, series: str = "1.2.3.4", heights=None, tilt: float = 0.0
) -> list[Path]:
    """CT slices as a scanner would write them, file names in another order than the heights."""
    folder.mkdir(exist_ok=True)
    heights = np.arange(len(array)) * 2.5 if heights is None else heights
    writer, paths = sitk.ImageFileWriter(), []
    writer.KeepOriginalImageUIDOn()
    for index, (plane, height) in enumerate(zip(array, heights, strict=True)):
        image = sitk.GetImageFromArray(plane[None])
        image.SetSpacing((0.8, 0.8, 2.5))
        tags = {"0008|0060": "CT", "0020|000e": series, "0020|000d": "1.2.3", "0008|0018": f"{series}.{index}"}
        tags |= {"0020|0037": "1\\0\\0\\0\\1\\0", "0020|0032": f"-10\\{tilt * index - 20}\\{height}"}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        paths.append(folder / f"IM{(index * 7) % 97:03d}_{series}.dcm")
        writer.SetFileName(str(paths[-1]))
        writer.Execute(image)
    return paths


def test_a_dicom_folder_is_one_volume(tmp_path):
    write_series(tmp_path, noise)
    (tmp_path / "LICENSE").write_text("free")
    volume = read_image(tmp_path)
    assert np.array_equal(volume.array, noise) and volume.spacing == (2.5, 0.8, 0.8)
    assert np.allclose(volume.origin, (-10, -20, 0))


def test_a_damaged_dicom_slice_is_an_error_not_a_gap(tmp_path):
    paths = write_series(tmp_path, noise)
    content = paths[4].read_bytes()
    for length in (len(content) - 2, len(content) // 2, 300, 140):
        paths[4].write_bytes(content[:length])
        with pytest.raises(InputError, match=paths[4].name):
            read_image(tmp_path)
    paths[4].write_bytes(b"")
    refused(tmp_path, paths[4].name, "empty")


def test_a_dicom_folder_must_be_one_even_stack(tmp_path):
    paths = write_series(tmp_path / "gap", noise)
    paths[4].unlink()
    refused(tmp_path / "gap", "evenly", "5.000 mm")
    shutil.copy(write_series(tmp_path / "double", noise)[3], tmp_path / "double" / "copy.dcm")
    refused(tmp_path / "double", "evenly", "0.000 mm")
    write_series(tmp_path / "two", noise)
    write_series(tmp_path / "two", noise, series="1.2.3.5")
    refused(tmp_path / "two", "2 series", "1.2.3.4 (9 files)", "1.2.3.5 (9 files)")
    write_series(tmp_path / "tilted", noise, tilt=0.5)
    refused(tmp_path / "tilted", "tilted")
    write_series(tmp_path / "sizes", noise)
    write_series(tmp_path / "sizes", noise[:1, :8], heights=[22.5])[0].rename(tmp_path / "sizes" / "last.dcm")
    refused(tmp_path / "sizes", "size")
    write_series(tmp_path / "rounded", noise, heights=np.round(np.arange(9) * 0.6667, 2))
    assert read_image(tmp_path / "rounded").array.shape == noise.shape


def test_real_scan_as_nifti_and_as_dicom_is_the_same_volume(shared):
    folder = shared / "real_ct" / "amos_0013_slab"
    nifti, dicom = read_image(folder / "ct.nii.gz"), read_image(folder / "dicom")
    assert np.array_equal(nifti.array, dicom.array) and nifti.array.min() == -2048
    assert np.allclose(nifti.corners(), dicom.corners(), atol=1e-3)
    assert same_voxels_in_space(nifti, folder / "ct.nii.gz")
    label = read_label(folder / "label.nii.gz", like=dicom)
    assert 10 in label.array and 60 < nifti.array[label.array == 10].mean() < 130
