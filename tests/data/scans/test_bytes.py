"""Every kind of bad file is refused with an error that names it, and is never read as something else."""

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from data.common.errors import InputError
from data.scans.bytes import SUFFIXES
from data.scans.formats import FORMATS
from data.scans.volume import read_image, read_label, write_lps
from tests.conftest import NOISE, VALUES, affine_of, assert_clear, refused, save


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_file_that_is_cut_anywhere_is_refused(tmp_path, suffix):
    write_lps(tmp_path / f"whole{suffix}", NOISE, (1, 1, 1))
    content, cut = (tmp_path / f"whole{suffix}").read_bytes(), tmp_path / f"cut{suffix}"

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, len(content) - 1))
    def check(length):
        cut.write_bytes(content[:length])
        refused(cut)

    check()
    refused(Path(shutil.copy(tmp_path / f"whole{suffix}", cut)).with_name("gone.nii"), "no such file")
    assert np.array_equal(read_image(cut).array, NOISE)


def test_flipped_bits_in_a_gzip_stream_are_refused_or_change_nothing(tmp_path):
    write_lps(tmp_path / "whole.nii.gz", NOISE, (1, 1, 1))
    content, path = (tmp_path / "whole.nii.gz").read_bytes(), tmp_path / "flipped.nii.gz"

    @settings(max_examples=120, deadline=None)
    @given(st.integers(0, len(content) - 1) | st.integers(0, 11), st.integers(0, 7))
    def check(position, bit):
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            assert np.array_equal(read_image(path).array, NOISE)
        except InputError as error:
            assert_clear(error, path)

    check()


def test_flipped_bits_in_an_uncompressed_header_never_raise_another_error(tmp_path):
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
            assert_clear(error, path)

    check()


NOT_SCANS = {  # content, phrase of the problem, phrase of the remedy
    "empty": (b"", "empty", "again"),
    "web page": (b"\n<!DOCTYPE html><html><body>Please log in</body></html>", "web page", "again"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "LFS", "git lfs pull"),
    "annex": (b"../.git/annex/objects/xx/yy/SHA256E-s1--ab.nii.gz", "annex", "git annex get case.nii.gz"),
    "mac": (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "macOS", "delete"),
    "zip": (b"PK\x03\x04rest", "zip", "unpack"),
    "text": (b"hello", "gzip", "name it .nii"),
    "stub": (gzip.compress(b"hello"), "header", "again"),
    "other gzip": (gzip.compress(bytes(1000)), "not a NIfTI", "again"),
}


@pytest.mark.parametrize("kind", NOT_SCANS)
@pytest.mark.parametrize("read", [read_image, read_label])
def test_the_kind_of_a_file_that_is_no_scan_is_named(tmp_path, kind, read):
    content, words, remedy = NOT_SCANS[kind]
    path = tmp_path / "case.nii.gz"
    path.write_bytes(content)
    refused(path, words, remedy=remedy, read=read)


def test_every_suffix_that_is_read_has_a_format():
    assert set(FORMATS) == set(SUFFIXES)


def test_missing_files_folders_and_formats_are_named(tmp_path):
    refused(tmp_path / "none.nii.gz", "no such file")
    refused(save(tmp_path / "._x.nii.gz"), "macOS", remedy="delete")
    (tmp_path / "scan.jpg").write_bytes(b"jpeg")
    refused(tmp_path / "scan.jpg", "format", remedy=".nrrd")
    refused(tmp_path, "no DICOM slices")
    shutil.copy(save(tmp_path / "raw.nii"), tmp_path / "raw.nii.gz")
    refused(tmp_path / "raw.nii.gz", "not compressed", remedy="name it .nii if")
    shutil.copy(save(tmp_path / "packed.nii.gz"), tmp_path / "packed.nii")
    refused(tmp_path / "packed.nii", "compressed", remedy="name it .nii.gz")


def test_a_compressed_file_is_not_read_with_the_voxels_of_an_uncompressed_one_of_its_name(tmp_path):
    save(tmp_path / "scan.nii.gz")
    save(tmp_path / "scan.nii", VALUES + 1)
    assert read_image(tmp_path / "scan.nii.gz").array.max() == 119
    assert read_image(tmp_path / "scan.nii").array.max() == 120


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
    refused(save(tmp_path / "a.nii.gz", np.zeros((4, 5, 6, 2), np.int16)), "4 axes (4 x 5 x 6 x 2)", remedy="3-D")
    refused(save(tmp_path / "b.nii.gz", np.zeros((4, 5, 6, 1), np.int16)), "4 axes")
    refused(save(tmp_path / "c.nii.gz", np.zeros((4, 5), np.int16)), "2 axes")
    refused(save(tmp_path / "d.nii.gz", np.zeros(VALUES.shape, np.complex64)), "plain numbers")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True), str(tmp_path / "e.mha"))
    refused(tmp_path / "e.mha", "plain numbers")
    nib.save(nib.Nifti2Image(VALUES, affine_of()), tmp_path / "f.nii.gz")
    refused(tmp_path / "f.nii.gz", "NIfTI-2")


def test_a_header_that_does_not_place_the_scan_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(VALUES, None), tmp_path / "nowhere.nii.gz")
    refused(tmp_path / "nowhere.nii.gz", "which way", remedy="sform")
    sheared = affine_of()
    sheared[0, 1] = 0.05
    refused(save(tmp_path / "sheared.nii.gz", affine=sheared), "right angles", remedy="resample")
