"""Every type of voxel and spelling of a suffix is read as SimpleITK reads it; hostile headers cost nothing."""

import contextlib
import gzip
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.scans.bytes import GZIP, inflate
from data.scans.volume import read_grid, read_image, read_label
from tests.conftest import VALUES, affine_of, refused, save

KINDS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"])
def test_voxels_and_grid_are_those_that_simpleitk_reads(tmp_path, kind, suffix):
    array = VALUES.astype(kind) if kind[0] == "u" else VALUES.astype(kind) - np.array(60, kind)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.9, 2.5))
    image.SetOrigin((-31.5, 17.25, 401.125))
    image.SetDirection((0, 0, -1, 1, 0, 0, 0, -1, 0))
    for compressed in (False, True):
        path = tmp_path / f"scan_{compressed}{suffix}"
        sitk.WriteImage(image, str(path), useCompression=compressed)
        volume = read_image(path)
        assert np.array_equal(volume.grid.to_file(volume.array), array.astype(np.int16))
        there = sitk.ReadImage(str(path))
        for ours, theirs in (
            (volume.grid.spacing, there.GetSpacing()),
            (volume.grid.origin, there.GetOrigin()),
            (volume.grid.direction, there.GetDirection()),
        ):
            assert np.allclose(ours, theirs, atol=1e-6)
        assert read_grid(path) == volume.grid


@pytest.mark.parametrize(
    ("suffix", "before", "after"),
    [
        (".nrrd", b"endian: little", b"endian: big"),
        (".mha", b"BinaryDataByteOrderMSB = False", b"BinaryDataByteOrderMSB = True"),
    ],
)
def test_big_endian_voxels_are_read(tmp_path, suffix, before, after):
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(VALUES.astype(np.float32)), str(path))
    head, _, body = path.read_bytes().partition(VALUES.astype("<f4").tobytes())
    path.write_bytes(head.replace(before, after) + VALUES.astype(">f4").tobytes() + body)
    assert np.array_equal(read_image(path).array, VALUES)


@pytest.mark.parametrize("space", ["right-anterior-superior", "left-anterior-superior", "left-posterior-superior"])
def test_the_space_of_an_nrrd_is_respected(tmp_path, space):
    image = sitk.GetImageFromArray(VALUES)
    image.SetOrigin((-31.5, 17.25, 401.125))
    sitk.WriteImage(image, str(tmp_path / "scan.nrrd"))
    content = (tmp_path / "scan.nrrd").read_bytes().replace(b"left-posterior-superior", space.encode())
    (tmp_path / "scan.nrrd").write_bytes(content)
    there, ours = sitk.ReadImage(str(tmp_path / "scan.nrrd")), read_grid(tmp_path / "scan.nrrd")
    assert np.allclose(ours.origin, there.GetOrigin()) and np.allclose(ours.direction, there.GetDirection())


@pytest.mark.parametrize("name", ["p.Nii.Gz", "p.NII", "p.Nrrd", "p.MHA", "p.Mhd", "p.seg.nrrd"])
def test_a_suffix_is_read_in_any_spelling(tmp_path, name):
    image = sitk.GetImageFromArray(VALUES)
    sitk.WriteImage(image, str(tmp_path / name.lower()))
    if name != name.lower():
        (tmp_path / name.lower()).rename(tmp_path / name)
    assert np.array_equal(read_label(tmp_path / name).array, VALUES)
    assert np.array_equal(read_image(tmp_path / name).array, VALUES)


@pytest.mark.parametrize("name", ["p.nhdr", "p.hdr", "p.IMG", "p.img.gz"])
def test_formats_in_two_files_are_refused_by_name(tmp_path, name):
    (tmp_path / "series").mkdir()
    for path in (tmp_path / name, tmp_path / "series" / name):
        path.write_bytes(b"NRRD0005\ndata file: p.raw\n\n")
    words, remedy = ("detached NRRD", "one .nrrd") if "nhdr" in name else ("Analyze or NIfTI pair", ".nii.gz")
    refused(tmp_path / name, words, remedy=remedy)
    refused(tmp_path / "series", "holds no scan that is read", name, words, remedy=remedy)


def test_values_are_scaled_as_the_header_says_or_refused(tmp_path):
    save(tmp_path / "a.nii")
    plain = bytearray((tmp_path / "a.nii").read_bytes())
    for slope, intercept, expected in ((2.0, -1024.0, VALUES * 2.0 - 1024), (0.0, 7.0, VALUES)):
        plain[112:120] = struct.pack("<2f", slope, intercept)
        (tmp_path / "a.nii").write_bytes(plain)
        assert sorted(read_image(tmp_path / "a.nii").array.ravel()) == sorted(expected.ravel())
    for slope, intercept in ((np.nan, 0.0), (1.0, np.inf)):
        plain[112:120] = struct.pack("<2f", slope, intercept)
        (tmp_path / "a.nii").write_bytes(plain)
        refused(tmp_path / "a.nii", "scales the voxels")
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(tmp_path / "a.mha"))
    whole = (tmp_path / "a.mha").read_bytes()
    for line, words in ((b"ElementToIntensityFunctionSlope = 2\n", "scales"), (b"HeaderSize = 3\n", "HeaderSize")):
        (tmp_path / "a.mha").write_bytes(whole.replace(b"ElementType", line + b"ElementType"))
        refused(tmp_path / "a.mha", words)


def test_a_key_of_an_nrrd_is_no_field_and_fields_are_not_repeated(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(tmp_path / "a.nrrd"))
    whole = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(whole.replace(b"endian", b"type:=double\nendian", 1))
    assert np.array_equal(read_image(tmp_path / "a.nrrd").array, VALUES)
    (tmp_path / "a.nrrd").write_bytes(whole.replace(b"endian", b"sizes: 4 5 6\nendian", 1))
    refused(tmp_path / "a.nrrd", "'sizes' twice")
    (tmp_path / "a.nrrd").write_bytes(whole.replace(b"dimension: 3", b"dimension: 4", 1))
    refused(tmp_path / "a.nrrd", "dimension")


def test_gzip_in_several_streams_is_read_and_what_follows_is_not_overlooked(tmp_path):
    path = save(tmp_path / "a.nii")
    content = path.read_bytes()
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]) + bytes(100))
    assert np.array_equal(read_image(packed).array, read_image(path).array)
    packed.write_bytes(gzip.compress(content) + b"more")
    refused(packed, "damaged")
    packed.write_bytes(gzip.compress(content[:-1]) + gzip.compress(content[-1:])[:-4])
    refused(packed, "truncated")
    assert b"".join(inflate([gzip.compress(b"")] * 3, GZIP)) == b""


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Assert that Python takes less than 60 MB within the block."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 << 20


@pytest.fixture(scope="module")
def bomb() -> tuple[bytes, bytes]:
    """What 300 MB of zeros are compressed to: a deflate stream without header, and its zlib form."""
    streams = []
    for bits in (-15, 15):
        deflater, zeros = zlib.compressobj(9, zlib.DEFLATED, bits), bytes(1 << 20)
        streams.append(b"".join(deflater.compress(zeros) for _ in range(300)) + deflater.flush())
    return streams[0], streams[1]


def hostile(path: Path, bomb: tuple[bytes, bytes]) -> Path:
    """Write a small scan whose compressed voxels go on for 300 MB."""
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(path), useCompression=True)
    content = path.read_bytes()
    if path.suffix == ".mha":
        head, mark, body = content.partition(b"ElementDataFile = LOCAL\n")
        size = b"CompressedDataSize = %d" % len(body)
        path.write_bytes(head.replace(size, b"CompressedDataSize = %d" % len(bomb[1])) + mark + bomb[1])
        return path
    head, mark, body = content.partition(b"\n\n") if path.suffix == ".nrrd" else (b"", b"", content)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = deflater.compress(gzip.decompress(body)) + deflater.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(head + mark + b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + start + bomb[0] + bytes(8))
    return path


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_stream_is_left_at_the_first_byte_beyond_its_promise(tmp_path, suffix, bomb):
    path = hostile(tmp_path / f"a{suffix}", bomb)
    assert path.stat().st_size < 400_000
    with little_memory():
        refused(path, "more voxels than the 240 bytes promised")


@pytest.mark.parametrize("size", [(30000, 30000, 30000), (4097, 2, 2), (4096, 4096, 512), (4000, 4000, 200)])
def test_a_promise_that_no_file_can_keep_is_refused_before_memory_is_taken(tmp_path, size):
    nifti, nrrd, mha = (tmp_path / name for name in ("a.nii.gz", "a.nrrd", "a.mha"))
    content = bytearray(save(tmp_path / "a.nii", affine=affine_of()).read_bytes())
    content[42:48] = struct.pack("<3h", *size)
    nifti.write_bytes(gzip.compress(content))
    (tmp_path / "a.nii").write_bytes(content)
    words = " ".join(map(str, size)).encode()
    for path, field in ((nrrd, b"sizes: "), (mha, b"DimSize = ")):
        sitk.WriteImage(sitk.GetImageFromArray(VALUES), str(path), useCompression=True)
        whole = path.read_bytes()
        assert field + b"6 5 4" in whole
        path.write_bytes(whole.replace(field + b"6 5 4", field + words, 1))
    for path in (tmp_path / "a.nii", nifti, nrrd, mha):
        with little_memory():
            line = refused(path)
        assert "promise" in line


def test_endless_headers_are_refused(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0005\n" + b"a:=b\n" * (1 << 20))
    (tmp_path / "a.mha").write_bytes(b"ObjectType = Image\n" * (1 << 18))
    content = bytearray(save(tmp_path / "a.nii").read_bytes())
    content[108:112] = struct.pack("<f", 1e12)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
    for name, words in (("a.nrrd", "longer than"), ("a.mha", "incomplete"), ("a.nii.gz", "at byte 1e+12")):
        with little_memory():
            refused(tmp_path / name, words)
