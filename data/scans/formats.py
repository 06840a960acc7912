"""The file formats of scans: one module each, opened in one place.

The voxels are decoded here rather than by SimpleITK, which reads damaged files without an error, refuses some oblique
scans, goes by the case of a suffix, and can take the voxels of ``scan.nii`` for those of ``scan.nii.gz`` beside it.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from data.scans.bytes import AGAIN, GZIP_MAGIC, check_kind, read_planes, suffix_of
from data.scans.headers import Header
from data.scans.metaimage import open_metaimage
from data.scans.nifti import open_nifti
from data.scans.nrrd import open_nrrd

FORMATS = {  # how a file of each suffix is opened
    ".nii.gz": open_nifti,
    ".nii": open_nifti,
    ".nrrd": open_nrrd,
    ".mha": open_metaimage,
    ".mhd": open_metaimage,
}


@contextmanager
def open_scan(path: Path) -> Iterator[tuple[Header, Iterator[np.ndarray]]]:
    """Open a file that holds a three-dimensional scan or label.

    Args:
        path: File of any format in ``FORMATS``.

    Yields:
        Its header; and its voxels as stored, some planes (z, y, x) at a time, to be read while the file is open.
        Reading them to the end also checks that the file is whole.

    Raises:
        InputError: If the file is missing, of another format, truncated or damaged, if its header does not place it
            in space without contradiction, or if it has voxels that are NaN or infinite.
    """
    head, suffix = check_kind(path), suffix_of(path)
    if head.startswith(GZIP_MAGIC) != (suffix == ".nii.gz"):
        negation, right = ("", ".nii.gz") if head.startswith(GZIP_MAGIC) else ("not ", ".nii")
        remedy = f"name it {right} if it is NIfTI, otherwise {AGAIN}"
        raise InputError(path, f"{negation}compressed with gzip, which contradicts its suffix {suffix}", remedy)
    with ExitStack() as stack:
        with _blaming(path):
            header, chunks = stack.enter_context(FORMATS[suffix](path))
        yield header, read_planes(path, _blame_each(path, chunks), header.grid.size, header.dtype)


def check_file(path: Path) -> None:
    """Check that a file is a whole, three-dimensional scan. Raises InputError as ``open_scan``."""
    with open_scan(path) as (_, planes):
        for _ in planes:
            pass


def _blame_each(path: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    with _blaming(path):
        yield from chunks


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turn what damaged bytes raise into an InputError that blames the file."""
    try:
        yield
    except EOFError as error:
        raise InputError(path, "truncated: its compressed data end early", AGAIN) from error
    except zlib.error as error:
        raise InputError(path, f"damaged: its compressed data cannot be decompressed ({error})", AGAIN) from error
    except (struct.error, ValueError, OverflowError) as error:
        raise InputError(path, f"its header makes no sense ({error})", AGAIN) from error
