"""Two hundred random corruptions of each format: reading is refused in one line, or gives the right volume.

Which volume is right depends on what a format can check of itself:

- A file of any format that is cut short at any byte, and a ``.nii.gz`` file with any bytes changed: exactly the volume
  that was written, or a refusal. The checksum of gzip covers header and voxels.
- Bytes changed in the header of ``.nii``, ``.nrrd`` and ``.mha``, headers with exchanged fields, and headers of other
  files: a refusal, or exactly what the file says now according to an independent reader. A header that contradicts
  itself is refused. If it gives a spacing or an origin once, as a plain number, damage can turn it into another plain
  number, and no reader can notice.
- Bytes changed in the voxels of a file without a checksum, or in their scale, cannot be noticed by any reader and are
  not tested. Compressed voxels have a checksum and are tested.
- In one slice of a DICOM series, damage anywhere in the header: the same volume, or a refusal.
"""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.common.errors import InputError
from data.scans.volume import Volume, read_image, read_label
from tests.conftest import affine_of, assert_clear, refused
from tests.data.scans.test_dicom import write_series
from tests.other_readers import Reading, agrees, read_metaimage, read_nrrd, read_with_nibabel

RNG = np.random.default_rng(7)
CODES = RNG.integers(0, 256, (5, 6, 7)).astype(np.int16)  # valid both as a scan and as a label
OTHER = RNG.integers(0, 3, (4, 8, 9)).astype(np.uint8)  # has another shape, type and position
FUZZ = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SCALE = range(112, 120)  # bytes of a NIfTI header that scale the voxels, and so belong to them


class Kind(NamedTuple):
    """A format to corrupt."""

    suffix: str
    compressed: bool
    read: Callable[[Path], Reading]  # an independent reader
    reach: Callable[[bytes], int]  # how many bytes of a file are damaged: its header, or all if there is a checksum


KINDS = {
    "nii.gz": Kind(".nii.gz", True, read_with_nibabel, len),
    "nii": Kind(".nii", False, read_with_nibabel, lambda content: 348),
    "nrrd raw": Kind(".nrrd", False, read_nrrd, lambda content: content.index(b"\n\n") + 2),
    "nrrd gzip": Kind(".nrrd", True, read_nrrd, len),
    "mha raw": Kind(".mha", False, read_metaimage, lambda content: content.index(b"LOCAL\n") + 6),
    "mha zlib": Kind(".mha", True, read_metaimage, len),
}


def write(
    path: Path, array: np.ndarray, kind: Kind, order=(2, 0, 1), signs=(1, -1, 1), degrees=(3.0, -7.0, 5.0)
) -> bytes:
    affine = np.diag((-1, -1, 1, 1)) @ affine_of(order, signs, degrees)
    image = sitk.GetImageFromArray(array)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=kind.compressed)
    return path.read_bytes()


def same(volume: Volume, whole: Volume) -> bool:
    if volume.array.shape != whole.array.shape or not np.array_equal(volume.array, whole.array):
        return False
    return bool(np.abs(volume.corners() - whole.corners()).max() < 1e-3)


def assert_right_or_refused(path: Path, whole: Volume, independent: Callable[[Path], Reading] | None) -> None:
    """Assert that both readers refuse the file with a clear error, or return the right volume."""
    for read in (read_image, read_label):
        try:
            volume = read(path)
        except InputError as error:
            assert_clear(error, path)
        else:
            right = same(volume, whole) or (independent and agrees(volume, independent(path)))
            assert right, f"{read.__name__} returned another volume"


def edits(reach: int) -> st.SearchStrategy[list[tuple]]:
    """Draw damage to the first ``reach`` bytes: flipped bits, overwritten runs of bytes, exchanged fields."""
    place = st.integers(0, reach - 1)
    flip = st.tuples(st.just("flip"), place, st.integers(0, 7))
    blot = st.tuples(st.just("blot"), place, st.binary(min_size=1, max_size=12))
    swap = st.tuples(st.just("swap"), place, place, st.sampled_from((1, 2, 4, 8)))
    return st.lists(flip | blot | swap, min_size=1, max_size=3)


def damaged(content: bytes, damage: list[tuple], reach: int) -> bytes:
    after = bytearray(content)
    for how, place, *more in damage:
        if how == "flip":
            after[place] ^= 1 << more[0]
        elif how == "blot":
            after[place : min(place + len(more[0]), reach)] = more[0][: reach - place]
        else:
            other, width = more
            for a, b in zip(
                range(place, min(place + width, reach)), range(other, min(other + width, reach)), strict=False
            ):
                after[a], after[b] = after[b], after[a]
    return bytes(after)


@pytest.mark.parametrize("name", KINDS)
def test_files_with_changed_bytes(tmp_path, name):
    kind = KINDS[name]
    content = write(tmp_path / f"whole{kind.suffix}", CODES, kind)
    whole, path, reach = (
        read_image(tmp_path / f"whole{kind.suffix}"),
        tmp_path / f"changed{kind.suffix}",
        kind.reach(content),
    )
    assert agrees(whole, kind.read(tmp_path / f"whole{kind.suffix}"))

    @FUZZ
    @given(edits(reach))
    def check(damage):
        after = bytearray(damaged(content, damage, reach))
        if name == "nii":
            after[SCALE.start : SCALE.stop] = content[SCALE.start : SCALE.stop]
        path.write_bytes(after)
        assert_right_or_refused(path, whole, None if name == "nii.gz" else kind.read)

    check()


def test_a_damaged_header_that_was_compressed_afterwards(tmp_path):
    """The checksum of gzip does not reveal damage that is older than the compression."""
    plain = write(tmp_path / "whole.nii", CODES, KINDS["nii"])
    whole, path = read_image(tmp_path / "whole.nii"), tmp_path / "changed.nii.gz"

    @FUZZ
    @given(edits(348))
    def check(damage):
        after = bytearray(damaged(plain, damage, 348))
        after[SCALE.start : SCALE.stop] = plain[SCALE.start : SCALE.stop]
        path.write_bytes(gzip.compress(after, 1))
        assert_right_or_refused(path, whole, read_with_nibabel)

    check()


@pytest.mark.parametrize("name", KINDS)
def test_files_that_are_cut_short_or_joined_from_two_files(tmp_path, name):
    """The head of one file before the tail of another is what a download leaves that continued with the wrong file."""
    kind = KINDS[name]
    content = write(tmp_path / f"whole{kind.suffix}", CODES, kind)
    other = write(
        tmp_path / f"other{kind.suffix}", OTHER, kind, order=(0, 1, 2), signs=(-1, 1, 1), degrees=(0.0, 0.0, 9.0)
    )
    whole, path = read_image(tmp_path / f"whole{kind.suffix}"), tmp_path / f"joined{kind.suffix}"
    heads = sorted({kind.reach(content), kind.reach(other), 348, 352})

    @FUZZ
    @given(
        st.permutations((content, other)), st.integers(0, len(content)) | st.sampled_from(heads), st.integers(-40, 40)
    )
    def check(files, cut, shift):
        head, tail = files
        joined = head[: min(cut, len(head) - 1)] + (tail[max(0, cut + shift) :] if shift else b"")
        if joined not in files:
            path.write_bytes(joined)
            assert_right_or_refused(path, whole, None if name == "nii.gz" or not shift else kind.read)

    check()


def test_a_dicom_series_with_one_damaged_slice(tmp_path):
    paths = write_series(tmp_path / "series", CODES)
    whole, hit = read_image(tmp_path / "series"), paths[2]
    content = hit.read_bytes()
    reach = content.index(CODES[2].tobytes())

    @FUZZ
    @given(st.integers(0, len(content) - 1) | edits(reach))
    def check(damage):
        hit.write_bytes(content[:damage] if isinstance(damage, int) else damaged(content, damage, reach))
        try:
            volume = read_image(tmp_path / "series")
        except InputError as error:
            assert_clear(error, tmp_path / "series")
        else:
            assert same(volume, whole), "returned another volume"

    check()


@pytest.mark.parametrize(
    ("offset", "form", "value", "words"),
    [
        (108, "f", 320.0, "voxels start within the header"),
        (80, "f", 0.8, "two spacings"),
        (84, "f", -0.9, "voxels of"),
        (123, "B", 3, "not in mm"),
        (268, "f", 31.5, "places it twice"),
        (260, "f", 1.5, "no rotation"),
        (44, "h", 0, "promises 7 x 0 x 5 voxels"),
        (344, "4s", b"n+1x", "not a NIfTI-1"),
    ],
)
def test_the_contradiction_in_a_nifti_header_is_named(tmp_path, offset, form, value, words):
    content = bytearray(write(tmp_path / "a.nii", CODES, KINDS["nii"]))
    content[offset : offset + struct.calcsize(form)] = struct.pack(f"<{form}", value)
    (tmp_path / "a.nii").write_bytes(content)
    refused(tmp_path / "a.nii", words)


@pytest.mark.parametrize(
    ("suffix", "before", "after", "words"),
    [
        (".nrrd", b"space origin", b"space orihin", "lacks space origin"),
        (".nrrd", b"endian: little", b"endian: mittle", "endian"),
        (".nrrd", b"space: left", b"space: neft", "the field space of its header is"),
        (".nrrd", b"(-31.5", b"(-3n.5", "not 3 numbers"),
        (".mha", b"TransformMatrix", b"transformMatrix", "lacks TransformMatrix"),
        (".mha", b"CompressedDataSize = ", b"CompressedDataSize = 1", "promised by the header"),
        (".mha", b"Offset = -31.5", b"Offset = -31.5 1", "not 3 numbers"),
        (".mha", b"NDims = 3", b"NDims = 2", "NDims"),
    ],
)
def test_text_headers_are_read_strictly(tmp_path, suffix, before, after, words):
    path = tmp_path / f"a{suffix}"
    image = sitk.GetImageFromArray(CODES)
    image.SetSpacing((0.7, 0.9, 2.5))
    image.SetOrigin((-31.5, 17.25, 401.125))
    sitk.WriteImage(image, str(path), useCompression=True)
    assert path.read_bytes().count(before) >= 1
    path.write_bytes(path.read_bytes().replace(before, after, 1))
    refused(path, words)
