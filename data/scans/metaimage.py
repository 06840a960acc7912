"""MetaImage files (.mha, or .mhd with a data file beside it), raw or zlib, checked before SimpleITK reads them.

References:
    MetaIO, https://itk.org/Wiki/ITK/MetaIO.
"""

from pathlib import Path

import numpy as np

from data.common.errors import InputError
from data.scans.bytes import AGAIN, AGAIN_OR_RENAME, check_three_axes, check_voxels, inflate, read_chunks
from data.scans.headers import (
    AXES_TOLERANCE,
    BLANKS,
    CORRECT,
    check_right_angles,
    parse_numbers,
    require_choice,
    require_field,
)

LONGEST_LINE_BYTES = 4096
VOXEL_BYTES = {
    **dict.fromkeys(("CHAR", "UCHAR"), 1),
    **dict.fromkeys(("SHORT", "USHORT"), 2),
    **dict.fromkeys(("INT", "UINT", "LONG", "ULONG", "FLOAT"), 4),
    **dict.fromkeys(("LONG_LONG", "ULONG_LONG", "DOUBLE"), 8),
}
TRUE_OR_FALSE = ("true", "false")


def check_metaimage(path: Path) -> None:
    """Check that a MetaImage file is a whole 3-D scan with a complete and well-formed header.

    Args:
        path: The file with the header.

    Raises:
        InputError: If it is not.
        EOFError: If the compressed voxels are incomplete.
        zlib.error: If the compressed voxels are damaged.
        ValueError: If the sizes in the header are no numbers.
    """
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while "ElementDataFile" not in fields:  # the last field; the voxels follow
            key, equals, value = file.readline(LONGEST_LINE_BYTES).decode("latin-1").partition("=")
            if not equals:
                raise InputError(path, "its MetaImage header is incomplete", AGAIN_OR_RENAME)
            fields[key.strip(BLANKS)] = value.strip(BLANKS)
        header_bytes = file.tell()
    kind = fields.get("ElementType", "").removeprefix("MET_")
    if kind not in VOXEL_BYTES or fields.get("ElementNumberOfChannels", "1") != "1":
        raise InputError(path, f"its voxels are not plain numbers (ElementType {kind!r})", "export it as int16")
    sizes = tuple(map(int, fields.get("DimSize", "").split()))
    check_three_axes(path, sizes)
    require_choice(path, "NDims", require_field(path, fields, "NDims"), ("3",))
    inside = fields["ElementDataFile"] == "LOCAL"
    data = path if inside else path.parent / fields["ElementDataFile"]
    if not data.is_file():
        raise InputError(path, f"its data file {data.name!r} is not in the same folder", "copy both files")
    start = header_bytes if inside else 0
    _check_geometry(path, fields)
    compressed = _check_encoding(path, fields, VOXEL_BYTES[kind], data.stat().st_size - start)
    with data.open("rb") as file:
        file.seek(start)
        chunks = read_chunks(file)
        voxels = inflate(chunks, 15) if compressed else chunks
        check_voxels(data, voxels, sizes, np.dtype(f"V{VOXEL_BYTES[kind]}"))


def _check_encoding(path: Path, fields: dict[str, str], voxel_bytes: int, stored_bytes: int) -> bool:
    """Refuse a header that does not say how its voxels are stored; return whether they are compressed."""
    require_choice(path, "BinaryData", fields.get("BinaryData", "True"), ("true",))
    if voxel_bytes > 1:
        order = require_field(path, fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
        require_choice(path, "BinaryDataByteOrderMSB", order, TRUE_OR_FALSE)
    compressed = require_choice(path, "CompressedData", fields.get("CompressedData", "False"), TRUE_OR_FALSE) == "true"
    if compressed:
        promised = require_field(path, fields, "CompressedDataSize")
        if promised != str(stored_bytes):
            problem = f"{stored_bytes} bytes of compressed voxels, {promised[:20]!r} promised by the header"
            raise InputError(path, problem, AGAIN)
    return compressed


def _check_geometry(path: Path, fields: dict[str, str]) -> None:
    """Refuse a header that does not place the scan in the patient."""
    parse_numbers(path, "Offset", require_field(path, fields, "Offset", "Position", "Origin"), 3)
    spacing = parse_numbers(path, "ElementSpacing", require_field(path, fields, "ElementSpacing"), 3)
    matrix = require_field(path, fields, "TransformMatrix", "Rotation", "Orientation")
    axes = parse_numbers(path, "TransformMatrix", matrix, 9).reshape(3, 3)
    check_right_angles(path, axes)
    if not (spacing > 0).all():
        raise InputError(path, "its header gives voxels without extent", CORRECT)
    if np.abs(np.linalg.norm(axes, axis=1) - 1).max() > AXES_TOLERANCE:
        raise InputError(path, "the directions of its header are no unit vectors", CORRECT)
