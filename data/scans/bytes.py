"""What the bytes of a scan file tell before their values are used: the kind of file, and whether all of it is there.

SimpleITK reads a truncated or damaged NIfTI file without an error, as zeros, and turns NaN into 0, which is water in
HU. Files are therefore read here, and always to their end: a compressed stream is decompressed, which verifies its
checksum; the voxel data have to be exactly as long as the header promises, and no longer; and values that are not
finite are refused. The formats' own modules (``nifti``, ``nrrd``, ``metaimage``) parse the headers.

A header is not believed before it is compared with the file: a promise that the file cannot keep is refused before
memory is allocated, and a stream that unpacks to more than was promised is left at the first byte beyond.
"""

import math
import shlex
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from itertools import chain
from pathlib import Path

import numpy as np

from data.common.errors import InputError

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
NIFTI_PAIR = "half of an Analyze or NIfTI pair (.hdr with .img), which is not read"
TO_NIFTI = "convert the pair to one .nii.gz, such as with nibabel or ITK-SNAP, and check left and right"
REFUSED_SUFFIXES = {  # formats of scans that are recognised, but not read: what they are, and what to do
    ".nhdr": ("a detached NRRD header, which is not read", "save header and voxels as one .nrrd"),
    ".hdr": (NIFTI_PAIR, TO_NIFTI),
    ".hdr.gz": (NIFTI_PAIR, TO_NIFTI),
    ".img": (NIFTI_PAIR, TO_NIFTI),
    ".img.gz": (NIFTI_PAIR, TO_NIFTI),
}
GZIP_MAGIC = b"\x1f\x8b"
AGAIN = "download or copy it again"  # the remedy for damage
AGAIN_OR_RENAME = f"{AGAIN}, or give it the suffix of its format"
CHUNK_BYTES = 1 << 22  # read and converted at a time: a conversion makes several copies
GZIP, ZLIB = 31, 15  # formats of a compressed stream, as zlib numbers them
LARGEST_AXIS = 4096  # voxels; CT has 512 to 2048 a side, and whole-body scans about 2000 slices
LARGEST_SCAN = 1 << 32  # voxels; 8 GB as int16
DEFLATE_RATIO = 1032  # no deflate stream unpacks to more than this many times its own length


def suffix_of(path: Path) -> str:
    """Return the suffix of a scan's format in lower case, ``.nii.gz`` as one.

    Raises:
        InputError: If files of this format are not read.
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    if refused := refused_suffix(path.name):
        raise InputError(path, *REFUSED_SUFFIXES[refused])
    remedy = f"use {', '.join(SUFFIXES)} or a folder of DICOM slices"
    raise InputError(path, "not in a known format of scans", remedy)


def refused_suffix(file_name: str) -> str:
    """Return the suffix of a file in a format of scans that is recognised but not read; empty for any other file."""
    return next((suffix for suffix in REFUSED_SUFFIXES if file_name.lower().endswith(suffix)), "")


def refuse_folder_of_pairs(folder: Path) -> None:
    """Raise InputError if a folder that should hold scans holds only files of formats that are not read."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    known = [name for name in names if refused_suffix(name)]
    if known and all(refused_suffix(name) or name.lower().endswith((".raw", ".raw.gz")) for name in names):
        problem, remedy = REFUSED_SUFFIXES[refused_suffix(known[0])]
        raise InputError(folder, f"holds no scan that is read: {known[0]} is {problem}", remedy)


def is_readable_by_itk(path: Path) -> bool:
    """Return whether a path can be given to SimpleITK, which ends the process if it holds bytes that are not UTF-8."""
    try:
        str(path).encode("utf-8")
        return True
    except UnicodeEncodeError:
        return False


def check_path_for_itk(path: Path) -> None:
    """Raise InputError unless a path can be given to SimpleITK."""
    if not is_readable_by_itk(path):
        raise InputError(path, "its path holds bytes that are not UTF-8", "rename it")


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
    """Yield the rest of a file in pieces of at most CHUNK_BYTES."""
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def inflate(chunks: Iterable[bytes], zlib_bits: int) -> Iterator[bytes]:
    """Decompress a stream to its end, in pieces of at most CHUNK_BYTES however much it unpacks to.

    Args:
        chunks: The compressed stream, in pieces.
        zlib_bits: ``ZLIB``, or ``GZIP``, which may consist of several streams in a row and be padded with zeros.

    Yields:
        The decompressed data, in pieces.

    Raises:
        EOFError: If the stream is incomplete.
        zlib.error: If the stream is damaged.
    """
    inflater, packed = zlib.decompressobj(zlib_bits), b""
    for chunk in chunks:
        packed += chunk
        while packed:
            if inflater.eof:
                packed = b"" if zlib_bits == ZLIB else packed.lstrip(b"\0")
                if not packed:
                    break
                inflater = zlib.decompressobj(zlib_bits)
            piece = inflater.decompress(packed, CHUNK_BYTES)
            packed = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            yield piece
    while not inflater.eof:
        piece = inflater.decompress(b"", CHUNK_BYTES)  # what the inflater has read, but not yet unpacked
        if not piece:
            raise EOFError
        yield piece


def take(chunks: Iterable[bytes], count: int) -> tuple[bytes, Iterator[bytes]]:
    """Divide a stream into its first ``count`` bytes, or all if there are fewer, and the rest in pieces."""
    rest, head = iter(chunks), b""
    for chunk in rest:
        head += chunk
        if len(head) >= count:
            break
    return head[:count], chain([head[count:]], rest)


def check_extent(path: Path, sizes: tuple[int, ...], voxel_bytes: int, stored_bytes: int, compressed: bool) -> None:
    """Check that a header promises a scan, and no more voxels than its file can hold.

    Args:
        path: File to blame.
        sizes: Voxels along each axis, as the header promises them. A fourth axis is refused even if its length is 1.
        voxel_bytes: Size of a voxel.
        stored_bytes: Bytes of the file in which the voxels are stored.
        compressed: Whether they are compressed there.

    Raises:
        InputError: If the axes are not three, or the promise is empty, absurdly large, or not kept.
    """
    shape = " x ".join(map(str, sizes))
    if len(sizes) != 3:
        raise InputError(path, f"has {len(sizes)} axes ({shape}), not 3", "save one 3-D volume per file")
    if min(sizes) < 1:
        raise InputError(path, f"its header promises {shape} voxels", AGAIN)
    if max(sizes) > LARGEST_AXIS or math.prod(sizes) > LARGEST_SCAN:
        limit = f"at most {LARGEST_AXIS} along an axis and {LARGEST_SCAN:,} in all are read"
        raise InputError(path, f"its header promises {shape} voxels; {limit}", f"crop it, or if damaged {AGAIN}")
    promised = math.prod(sizes) * voxel_bytes
    if stored_bytes * (DEFLATE_RATIO if compressed else 1) < promised:
        packed = " compressed" if compressed else ""
        problem = f"truncated: {max(0, stored_bytes)}{packed} bytes of voxels, {promised} promised by the header"
        raise InputError(path, problem, AGAIN)
    if stored_bytes > promised and not compressed:
        problem = f"damaged: {stored_bytes} bytes of voxels, {promised} promised by the header"
        raise InputError(path, problem, AGAIN)


def read_planes(
    path: Path, chunks: Iterable[bytes], size: tuple[int, int, int], dtype: np.dtype
) -> Iterator[np.ndarray]:
    """Read the voxels of a file, as many as its header promises.

    Args:
        path: File to blame.
        chunks: The decompressed voxel data, in pieces.
        size: Voxels along each axis (x, y, z), checked by ``check_extent``.
        dtype: Type of a voxel with its byte order.

    Yields:
        Some planes at a time, shape (planes, y, x), in the byte order of the machine.

    Raises:
        InputError: After the planes if the data are too short, at the first byte beyond the promise if they are too
            long, and if a voxel is NaN or infinite.
    """
    plane_bytes = size[0] * size[1] * dtype.itemsize
    promised, length, rest = plane_bytes * size[2], 0, b""
    for chunk in chunks:
        length += len(chunk)
        if length > promised:
            raise InputError(path, f"damaged: more voxels than the {promised} bytes promised by the header", AGAIN)
        rest += chunk
        if whole := len(rest) // plane_bytes * plane_bytes:
            planes = np.frombuffer(rest[:whole], dtype).reshape(-1, size[1], size[0])
            rest = rest[whole:]
            check_finite(path, planes)
            yield planes.astype(dtype.newbyteorder("="), copy=False)
    if length < promised:
        problem = f"truncated: {length} bytes of voxels, {promised} promised by the header"
        raise InputError(path, problem, AGAIN)


def check_finite(path: Path, voxels: np.ndarray) -> None:
    """Raise InputError if a voxel is NaN or infinite."""
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        raise InputError(path, "has voxels that are not numbers (NaN or Inf)", "replace them or export the scan again")
