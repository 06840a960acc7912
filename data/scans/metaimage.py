"""MetaImage files (.mha, or .mhd with a data file beside it), raw or zlib.

References:
    MetaIO, https://itk.org/Wiki/ITK/MetaIO.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from data.scans.bytes import AGAIN, AGAIN_OR_RENAME, ZLIB, check_extent, inflate, read_chunks
from data.scans.headers import (
    AXES_TOLERANCE,
    BLANKS,
    CORRECT,
    Header,
    make_header,
    parse_numbers,
    parse_sizes,
    require_choice,
    require_field,
)

LONGEST_LINE_BYTES = 4096
MOST_LINES = 4096
VOXEL_TYPES = {
    **{"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4"},
    **{"LONG": "i4", "ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"},
}
TRUE_OR_FALSE = ("true", "false")


@contextmanager
def open_metaimage(path: Path) -> Iterator[tuple[Header, Iterator[bytes]]]:
    """Open a MetaImage file and check that its header is complete and well-formed.

    Args:
        path: The file with the header.

    Yields:
        Its header, and the decompressed bytes of its voxels, to be read while the file is open.

    Raises:
        InputError: If it is not a 3-D scan.
        EOFError: If the compressed voxels are incomplete.
        zlib.error: If the compressed voxels are damaged.
    """
    fields, header_bytes = _read_fields(path)
    kind = fields.get("ElementType", "").removeprefix("MET_")
    if kind not in VOXEL_TYPES or fields.get("ElementNumberOfChannels", "1") != "1":
        raise InputError(path, f"its voxels are not plain numbers (ElementType {kind!r})", "export it as int16")
    size = parse_sizes(path, "DimSize", require_field(path, fields, "DimSize"))
    require_choice(path, "NDims", require_field(path, fields, "NDims"), (str(len(size)),))
    inside = fields["ElementDataFile"] == "LOCAL"
    data = path if inside else path.parent / fields["ElementDataFile"]
    if not data.is_file():
        raise InputError(path, f"its data file {data.name!r} is not in the same folder", "copy both files")
    start = header_bytes if inside else 0
    stored_bytes = data.stat().st_size - start
    compressed, order = _read_encoding(path, fields, stored_bytes)
    dtype = np.dtype(order + VOXEL_TYPES[kind])
    check_extent(path, size, dtype.itemsize, stored_bytes, compressed)
    header = _place(path, fields, dtype, size)
    with data.open("rb") as file:
        file.seek(start)
        yield header, inflate(read_chunks(file), ZLIB) if compressed else read_chunks(file)


def _read_fields(path: Path) -> tuple[dict[str, str], int]:
    """Read the fields of the header; return them and the length of the header in bytes."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for _ in range(MOST_LINES):
            key, equals, value = file.readline(LONGEST_LINE_BYTES).decode("latin-1").partition("=")
            if not equals:
                break
            fields[key.strip(BLANKS)] = value.strip(BLANKS)
            if "ElementDataFile" in fields:  # the last field; the voxels follow
                return fields, file.tell()
    raise InputError(path, "its MetaImage header is incomplete", AGAIN_OR_RENAME)


def _read_encoding(path: Path, fields: dict[str, str], stored_bytes: int) -> tuple[bool, str]:
    """Return whether the voxels are compressed, and their byte order ("<" or ">").

    Raises:
        InputError: If the header does not say how its voxels are stored, or says it in a way that programs read
            differently.
    """
    require_choice(path, "BinaryData", fields.get("BinaryData", "True"), ("true",))
    require_choice(path, "HeaderSize", fields.get("HeaderSize", "0"), ("0", "-1"))
    for field, neutral in (("ElementToIntensityFunctionSlope", 1), ("ElementToIntensityFunctionOffset", 0)):
        if field in fields and parse_numbers(path, field, fields[field], 1)[0] != neutral:
            problem = f"its header scales the voxels ({field} {fields[field][:20]}), which many programs ignore"
            raise InputError(path, problem, "export it again in HU, without a scale")
    order = "False"
    if VOXEL_TYPES[fields["ElementType"].removeprefix("MET_")][1] != "1":
        order = require_field(path, fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    order = require_choice(path, "BinaryDataByteOrderMSB", order, TRUE_OR_FALSE)
    compressed = require_choice(path, "CompressedData", fields.get("CompressedData", "False"), TRUE_OR_FALSE) == "true"
    if compressed:
        promised = require_field(path, fields, "CompressedDataSize")
        if promised != str(stored_bytes):
            problem = f"{stored_bytes} bytes of compressed voxels, {promised[:20]!r} promised by the header"
            raise InputError(path, problem, AGAIN)
    return compressed, ">" if order == "true" else "<"


def _place(path: Path, fields: dict[str, str], dtype: np.dtype, size: tuple[int, ...]) -> Header:
    """Make the header; refuse one that does not place the scan in the patient."""
    origin = parse_numbers(path, "Offset", require_field(path, fields, "Offset", "Position", "Origin"), 3)
    spacing = parse_numbers(path, "ElementSpacing", require_field(path, fields, "ElementSpacing"), 3)
    matrix = require_field(path, fields, "TransformMatrix", "Rotation", "Orientation")
    axes = parse_numbers(path, "TransformMatrix", matrix, 9).reshape(3, 3).T  # each row of the file is an axis
    if not (spacing > 0).all():
        raise InputError(path, "its header gives voxels without extent", CORRECT)
    if np.abs(np.linalg.norm(axes, axis=0) - 1).max() > AXES_TOLERANCE:
        raise InputError(path, "the directions of its header are not unit vectors", CORRECT)
    return make_header(path, dtype, size, spacing, origin, axes)
