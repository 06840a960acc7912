"""NRRD files (.nrrd) with their data inside, raw or gzip, checked before SimpleITK reads them.

References:
    The NRRD format, https://teem.sourceforge.net/nrrd/format.html.
"""

import re
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from data.scans.bytes import AGAIN_OR_RENAME, check_three_axes, check_voxels, inflate, read_chunks
from data.scans.headers import BLANKS, CORRECT, check_right_angles, parse_numbers, require_choice, require_field

VOXEL_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4),
    **dict.fromkeys(("longlong", "long long", "int64", "int64_t", "ulonglong", "uint64", "uint64_t"), 8),
    "float": 4,
    "double": 8,
}
SPACES = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior", "lps", "ras", "las")


def check_nrrd(path: Path) -> None:
    """Check that an NRRD file is a whole 3-D scan with a complete and well-formed header.

    Args:
        path: The file.

    Raises:
        InputError: If it is not.
        EOFError: If the compressed voxels are incomplete.
        zlib.error: If the compressed voxels are damaged.
        ValueError: If the sizes in the header are no numbers.
    """
    with path.open("rb") as file:
        if not file.readline().startswith(b"NRRD"):
            raise InputError(path, "not an NRRD file by its first bytes", AGAIN_OR_RENAME)
        fields = {}
        while line := file.readline().decode("latin-1").strip(BLANKS):
            key, _, value = line.partition(":")
            fields[key.strip(BLANKS).lower()] = value.lstrip("=").strip(BLANKS).lower()
        if {"data file", "datafile", "line skip", "byte skip"} & set(fields):
            problem = "its voxels are in another file or do not follow the header directly"
            raise InputError(path, problem, "save it as one plain .nrrd file")
        encoding, kind = fields.get("encoding"), fields.get("type", "")
        if encoding not in ("raw", "gzip", "gz"):
            raise InputError(path, f"its encoding is {encoding!r}, which is not read", "save it as raw or gzip")
        if kind not in VOXEL_BYTES:
            raise InputError(path, f"its voxels are not plain numbers (NRRD type {kind!r})", "export it as int16")
        sizes = tuple(map(int, fields.get("sizes", "").split()))
        check_three_axes(path, sizes)
        _check_geometry(path, fields)
        if VOXEL_BYTES[kind] > 1:
            require_choice(path, "endian", require_field(path, fields, "endian"), ("little", "big"))
        chunks = read_chunks(file)
        voxels = chunks if encoding == "raw" else inflate(chunks, 31)
        check_voxels(path, voxels, sizes, np.dtype(f"V{VOXEL_BYTES[kind]}"))


def _check_geometry(path: Path, fields: dict[str, str]) -> None:
    """Refuse a header (names and values in lower case) that does not place the scan in the patient."""
    require_choice(path, "space", require_field(path, fields, "space"), SPACES)
    for unit in re.findall(r'"([^"]*)"', fields.get("space units", "")):
        require_choice(path, "space units", unit, ("mm", "millimeter", "millimeters"))
    parse_numbers(path, "space origin", require_field(path, fields, "space origin").strip("()"), 3)
    directions = require_field(path, fields, "space directions")
    if not re.fullmatch(r"\s*(\([^()]*\)\s*){3}", directions):
        raise InputError(path, "the space directions of its header are not three vectors", CORRECT)
    rows = re.findall(r"\(([^()]*)\)", directions)
    check_right_angles(path, np.array([parse_numbers(path, "space directions", row, 3) for row in rows]))
