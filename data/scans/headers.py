"""What a header says about its voxels, read strictly: what is unsaid, garbled or contradicts itself is refused.

The reader underneath is lenient: it takes "0n69" for 0, passes over a misspelt field, swaps bytes as it sees fit, and
believes one of two geometries that a NIfTI header gives. One damaged byte then moves, mirrors or scrambles a scan.
"""

import math
import re
import struct
from pathlib import Path

import numpy as np

from data.common.errors import InputError

AGAIN = "download or copy it again"
EXPORT = "set it right, or export it again"
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
NOT_SQUARE = 1e-3  # cosine between two axes, and how far a direction's length may be from 1
SAME_LENGTH = 1e-3  # share by which two statements of one spacing may differ
MILLIMETRES = (0, 2)  # NIfTI's codes for lengths: unsaid, mm


def numbers(path: Path, field: str, text: str, count: int) -> np.ndarray:
    """``count`` finite numbers, separated by blanks or commas. Raises InputError for anything else."""
    words = [word for word in text.replace(",", " ").replace("\t", " ").split(" ") if word]  # no other blanks, as ITK
    values = [float(word) for word in words if NUMBER.fullmatch(word)]
    if len(values) != count or len(words) != count or not np.isfinite(values).all():
        raise InputError(f"{path}: its header's {field} is no list of {count} numbers ({text[:40]!r}); {AGAIN}")
    return np.array(values)


def required(path: Path, fields: dict[str, str], *names: str) -> str:
    """The value of the first field of these names. Raises InputError where the header has none of them."""
    for name in names:
        if name in fields:
            return fields[name]
    raise InputError(f"{path}: its header lacks {names[0]}, without which the scan cannot be placed; {EXPORT}")


def one_of(path: Path, field: str, text: str, allowed: tuple[str, ...]) -> str:
    """``text``, lower case. Raises InputError where it is none of ``allowed``."""
    if text.lower() not in allowed:
        raise InputError(f"{path}: its header's {field} is {text[:40]!r}, not {' or '.join(allowed)}; {AGAIN}")
    return text.lower()


def check_axes(path: Path, axes: np.ndarray) -> None:
    """Raise InputError unless the rows of ``axes`` (3, 3) are three directions at right angles."""
    lengths = np.linalg.norm(axes, axis=1)
    if not (lengths > 0).all():
        raise InputError(f"{path}: its header gives voxels without extent; {EXPORT}")
    cosines = (axes / lengths[:, None]) @ (axes / lengths[:, None]).T - np.eye(3)
    if np.abs(cosines).max() > NOT_SQUARE:
        raise InputError(f"{path}: its axes are not at right angles (sheared); resample it onto a rectangular grid")


def check_nrrd(path: Path, fields: dict[str, str], item_bytes: int) -> None:
    """Fields (lower case) of an NRRD header: where its voxels lie, and in which order their bytes come."""
    if item_bytes > 1:
        one_of(path, "endian", required(path, fields, "endian"), ("little", "big"))
    spaces = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior", "lps", "ras", "las")
    one_of(path, "space", required(path, fields, "space"), spaces)
    for unit in re.findall(r'"([^"]*)"', fields.get("space units", "")):
        one_of(path, "space units", unit, ("mm", "millimeter", "millimeters"))
    numbers(path, "space origin", required(path, fields, "space origin").strip("()"), 3)
    directions = required(path, fields, "space directions")
    if not re.fullmatch(r"\s*(\([^()]*\)\s*){3}", directions):
        raise InputError(f"{path}: its header's space directions are not three vectors; {EXPORT}")
    rows = re.findall(r"\(([^()]*)\)", directions)
    check_axes(path, np.array([numbers(path, "space directions", row, 3) for row in rows]))


def check_meta(path: Path, fields: dict[str, str], item_bytes: int, stored_bytes: int) -> None:
    """Fields of a MetaImage header. ``stored_bytes``: what follows the header, or the size of its data file."""
    yes_or_no = ("true", "false")
    one_of(path, "NDims", required(path, fields, "NDims"), ("3",))
    one_of(path, "BinaryData", fields.get("BinaryData", "True"), ("true",))
    if item_bytes > 1:
        order = required(path, fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
        one_of(path, "BinaryDataByteOrderMSB", order, yes_or_no)
    if one_of(path, "CompressedData", fields.get("CompressedData", "False"), yes_or_no) == "true":
        size = required(path, fields, "CompressedDataSize")
        if size != str(stored_bytes):
            raise InputError(f"{path}: holds {stored_bytes} bytes where its header promises {size[:20]}; {AGAIN}")
    numbers(path, "Offset", required(path, fields, "Offset", "Position", "Origin"), 3)
    spacing = numbers(path, "ElementSpacing", required(path, fields, "ElementSpacing"), 3)
    matrix = required(path, fields, "TransformMatrix", "Rotation", "Orientation")
    axes = numbers(path, "TransformMatrix", matrix, 9).reshape(3, 3)
    check_axes(path, axes)
    if not (spacing > 0).all() or np.abs(np.linalg.norm(axes, axis=1) - 1).max() > NOT_SQUARE:
        raise InputError(f"{path}: its header gives voxels without extent, or directions that are none; {EXPORT}")


def check_nifti(path: Path, head: bytes, order: str, size: tuple[int, ...]) -> None:
    """The first 348 bytes of a NIfTI-1 header: its two ways of placing the voxels, where given, must agree.

    Args:
        order: of the bytes, "<" or ">". size: voxels (x, y, z).
    """
    if head[123] & 7 not in MILLIMETRES:
        raise InputError(f"{path}: its header says that its lengths are not in mm; {EXPORT}")
    pixdim = np.array(struct.unpack(order + "8f", head[76:108]), float)
    spacing = pixdim[1:4]
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise InputError(f"{path}: its header gives voxels of {' x '.join(f'{s:g}' for s in spacing)} mm; {EXPORT}")
    qform_code, sform_code = struct.unpack(order + "2h", head[252:256])
    ways = []
    if sform_code > 0:
        sform = np.array(struct.unpack(order + "12f", head[280:328]), float).reshape(3, 4)
        lengths = np.linalg.norm(sform[:, :3], axis=0)
        if not np.allclose(lengths, spacing, rtol=SAME_LENGTH, atol=0):
            both = " and ".join(" x ".join(f"{s:.4g}" for s in way) for way in (spacing, lengths))
            raise InputError(f"{path}: its header gives two spacings, {both} mm (pixdim, sform); {EXPORT}")
        ways.append(sform)
    if qform_code > 0:
        ways.append(_qform(path, struct.unpack(order + "6f", head[256:280]), spacing, pixdim[0]))
    if not ways:  # ITK would guess, and left and right with it
        raise InputError(f"{path}: its header does not say which way the patient lies; set its sform, or export again")
    corners = np.array(
        [[x * (size[0] - 1), y * (size[1] - 1), z * (size[2] - 1), 1] for x, y, z in np.ndindex(2, 2, 2)]
    )
    apart = float(np.abs((ways[0] - ways[-1]) @ corners.T).max())
    if not apart <= spacing.min():
        raise InputError(f"{path}: its header places it twice, {apart:.3g} mm apart (qform, sform); {EXPORT}")


def _qform(path: Path, fields: tuple[float, ...], spacing: np.ndarray, handed: float) -> np.ndarray:
    """The (3, 4) matrix that the quaternion b, c, d and the offset x, y, z stand for."""
    b, c, d, *offset = fields
    rest = 1 - (b * b + c * c + d * d)
    if not rest > -SAME_LENGTH:
        raise InputError(f"{path}: its header's qform is no rotation; {EXPORT}")
    a = math.sqrt(max(0.0, rest))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    rotation[:, 2] *= -1 if handed < 0 else 1
    return np.column_stack([rotation * spacing, offset])
