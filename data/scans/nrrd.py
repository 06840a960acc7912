"""NRRD files (.nrrd) with their data inside, raw or gzip.

References:
    The NRRD format, https://teem.sourceforge.net/nrrd/format.html.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from data.scans.bytes import AGAIN, AGAIN_OR_RENAME, GZIP, check_extent, inflate, read_chunks
from data.scans.headers import (
    BLANKS,
    CORRECT,
    Header,
    make_header,
    parse_numbers,
    parse_sizes,
    require_choice,
    require_field,
)

VOXEL_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    **dict.fromkeys(("int64", "int64_t"), "i8"),
    "float": "f4",
    "double": "f8",
}
TO_LPS = {  # signs that turn positions of a space into LPS
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}
LARGEST_HEADER = 1 << 22  # bytes; segmentations describe each segment in some hundred


@contextmanager
def open_nrrd(path: Path) -> Iterator[tuple[Header, Iterator[bytes]]]:
    """Open an NRRD file and check that its header is complete and well-formed.

    Args:
        path: The file.

    Yields:
        Its header, and the decompressed bytes of its voxels, to be read while the file is open.

    Raises:
        InputError: If it is not a 3-D scan with its voxels inside.
        EOFError: If the compressed voxels are incomplete.
        zlib.error: If the compressed voxels are damaged.
    """
    with path.open("rb") as file:
        fields = _read_fields(path, file)
        if {"data file", "datafile", "line skip", "byte skip"} & set(fields):
            problem = "its voxels are in another file or do not follow the header directly"
            raise InputError(path, problem, "save it as one plain .nrrd file")
        encoding, kind = fields.get("encoding"), fields.get("type", "")
        if encoding not in ("raw", "gzip", "gz"):
            raise InputError(path, f"its encoding is {encoding!r}, which is not read", "save it as raw or gzip")
        if kind not in VOXEL_TYPES:
            raise InputError(path, f"its voxels are not plain numbers (NRRD type {kind!r})", "export it as int16")
        size = parse_sizes(path, "sizes", require_field(path, fields, "sizes"))
        require_choice(path, "dimension", require_field(path, fields, "dimension"), (str(len(size)),))
        dtype = np.dtype(VOXEL_TYPES[kind])
        stored_bytes = path.stat().st_size - file.tell()
        check_extent(path, size, dtype.itemsize, stored_bytes, encoding != "raw")
        if dtype.itemsize > 1:
            order = require_choice(path, "endian", require_field(path, fields, "endian"), ("little", "big"))
            dtype = dtype.newbyteorder("<" if order == "little" else ">")
        header = _place(path, fields, dtype, size)
        yield header, read_chunks(file) if encoding == "raw" else inflate(read_chunks(file), GZIP)


def _read_fields(path: Path, file: BufferedReader) -> dict[str, str]:
    """Read the fields of the header, names and values in lower case, up to the empty line before the voxels.

    The ``key:=value`` pairs that programs may add, and comments, are passed over.
    """
    if not file.readline(LARGEST_HEADER).startswith(b"NRRD"):
        raise InputError(path, "not an NRRD file by its first bytes", AGAIN_OR_RENAME)
    fields: dict[str, str] = {}
    length = 0
    while line := file.readline(LARGEST_HEADER).decode("latin-1").strip(BLANKS):
        length += len(line) + 1
        if length > LARGEST_HEADER:
            raise InputError(path, f"its header is longer than {LARGEST_HEADER >> 20} MB", AGAIN)
        key, colon, value = line.partition(":")
        if line.startswith("#") or not colon or value.startswith("="):
            continue
        key = key.strip(BLANKS).lower()
        if key in fields:
            raise InputError(path, f"its header gives {key[:40]!r} twice", CORRECT)
        fields[key] = value.strip(BLANKS).lower()
    return fields


def _place(path: Path, fields: dict[str, str], dtype: np.dtype, size: tuple[int, ...]) -> Header:
    """Make the header; refuse one that does not place the scan in the patient."""
    space = require_choice(path, "space", require_field(path, fields, "space"), tuple(TO_LPS))
    for unit in re.findall(r'"([^"]*)"', fields.get("space units", "")):
        require_choice(path, "space units", unit, ("mm", "millimeter", "millimeters"))
    origin = parse_numbers(path, "space origin", require_field(path, fields, "space origin").strip("()"), 3)
    directions = require_field(path, fields, "space directions")
    if not re.fullmatch(r"\s*(\([^()]*\)\s*){3}", directions):
        raise InputError(path, "the space directions of its header are not three vectors", CORRECT)
    rows = re.findall(r"\(([^()]*)\)", directions)
    axes = np.column_stack([parse_numbers(path, "space directions", row, 3) for row in rows])
    signs = np.array(TO_LPS[space], float)
    return make_header(path, dtype, size, np.linalg.norm(axes, axis=0), signs * origin, signs[:, None] * axes)
