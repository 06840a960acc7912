"""What the bytes of a scan file tell before any library reads it: its kind, and whether all of it is there.

SimpleITK reads a truncated or damaged NIfTI file without an error, as zeros, and turns NaN into 0, which is water in
HU. Every file is therefore read to its end first. A compressed stream is decompressed, which verifies its checksum;
the length of the voxel data is compared with what the header promises, and their values are checked where SimpleITK
would hide that they are not finite. The formats' own modules (``nifti``, ``nrrd``, ``metaimage``) parse the headers.
"""

import math
import shlex
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from data.common.errors import InputError

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
GZIP_MAGIC = b"\x1f\x8b"
AGAIN = "download or copy it again"  # the remedy for damage
AGAIN_OR_RENAME = f"{AGAIN}, or give it the suffix of its format"
CHUNK_BYTES = 1 << 24


def suffix_of(path: Path) -> str:
    """Return the suffix of a scan's format, ``.nii.gz`` as one. Raises InputError for a format that is not read."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    remedy = f"use {', '.join(SUFFIXES)} or a folder of DICOM slices"
    raise InputError(path, "not in a known format of scans", remedy)


def check_kind(path: Path) -> bytes:
    """Refuse a file whose first bytes show that it is no scan at all.

    Args:
        path: File to look at.

    Returns:
        The first 512 bytes of the file, or all of them if there are fewer.

    Raises:
        InputError: If the file is missing, empty, a web page, a Git-LFS or git-annex pointer, a zip archive, or one
            of the ``._*`` files that macOS adds to archives.
    """
    if path.is_dir():
        raise InputError(path, "a folder, not a file", "check the path")
    if not path.is_file():
        raise InputError(path, "no such file", "check the path")
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if not head:
        raise InputError(path, "the file is empty", AGAIN)
    if head.startswith(b"\x00\x05\x16\x07") or path.name.startswith("._"):
        raise InputError(path, "a macOS metadata file (._*), not a scan", "delete it")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        raise InputError(path, "a web page, not a scan; perhaps the download needed a login", AGAIN)
    where = "fetch the scan with this command, in the repository that it came from"
    if text.startswith(b"version https://git-lfs"):
        raise InputError(path, "a Git-LFS pointer, not the scan itself", where, command="git lfs pull")
    if b"annex/objects/" in head:
        get = f"git annex get {shlex.quote(path.name)}"
        raise InputError(path, "a git-annex pointer, not the scan itself", where, command=get)
    if head.startswith(b"PK\x03\x04"):
        raise InputError(path, "a zip archive, not a scan", "unpack it")
    return head


def read_chunks(file: BufferedIOBase) -> Iterator[bytes]:
    """Yield the rest of a file in pieces that fit into memory."""
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def inflate(chunks: Iterable[bytes], zlib_bits: int) -> Iterator[bytes]:
    """Decompress a stream to its end.

    Args:
        chunks: The compressed stream, in pieces.
        zlib_bits: Format of the stream, as ``zlib.decompressobj`` expects it: 15 for zlib, 31 for gzip.

    Yields:
        The decompressed data, in pieces.

    Raises:
        EOFError: If the stream is incomplete.
        zlib.error: If the stream is damaged.
    """
    inflater = zlib.decompressobj(zlib_bits)
    for chunk in chunks:
        yield inflater.decompress(chunk)
        if inflater.eof:
            return
    raise EOFError


def check_three_axes(path: Path, sizes: tuple[int, ...]) -> None:
    """Raise InputError unless a scan has exactly three axes with voxels; a fourth axis of length 1 is refused too."""
    shape = " x ".join(map(str, sizes))
    if len(sizes) != 3:
        raise InputError(path, f"has {len(sizes)} axes ({shape}), not 3", "save one 3-D volume per file")
    if min(sizes) < 1:
        raise InputError(path, f"its header promises {shape} voxels", AGAIN)


def check_voxels(path: Path, chunks: Iterable[bytes], sizes: tuple[int, ...], dtype: np.dtype) -> None:
    """Check that the voxel data are as long as the header promises, and finite if their type is floating point.

    Args:
        path: File to blame.
        chunks: The decompressed voxel data, in pieces.
        sizes: Voxels along each axis, as the header promises them.
        dtype: Type of a voxel. A void type stands for values that need no check; only its size is used.

    Raises:
        InputError: If the data are too short or too long, or a voxel is NaN or infinite.
    """
    length, rest = 0, b""
    for chunk in chunks:
        length += len(chunk)
        if dtype.kind == "f":
            unchecked = rest + chunk
            whole_voxels = len(unchecked) - len(unchecked) % dtype.itemsize
            rest = unchecked[whole_voxels:]
            check_finite(path, np.frombuffer(unchecked[:whole_voxels], dtype))
    promised = math.prod(sizes) * dtype.itemsize
    if length != promised:
        what = "truncated" if length < promised else "damaged"
        raise InputError(path, f"{what}: {length} bytes of voxels, {promised} promised by the header", AGAIN)


def check_finite(path: Path, voxels: np.ndarray) -> None:
    """Raise InputError if a voxel is NaN or infinite."""
    if not np.isfinite(voxels).all():
        raise InputError(path, "has voxels that are not numbers (NaN or Inf)", "replace them or export the scan again")
