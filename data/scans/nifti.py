"""NIfTI-1 files (.nii, .nii.gz), checked before SimpleITK reads them.

References:
    The NIfTI-1 header, https://nifti.nimh.nih.gov/nifti-1.
"""

import gzip
import math
import struct
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from data.scans.bytes import AGAIN, AGAIN_OR_RENAME, check_three_axes, check_voxels, read_chunks
from data.scans.headers import CORRECT

HEADER_BYTES = 348
VOXEL_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
MILLIMETRES = (0, 2)  # codes of the unit of length: unknown, mm
SPACING_TOLERANCE = 1e-3  # relative difference between two statements of the same spacing


def check_nifti(path: Path) -> None:
    """Check that a NIfTI-1 file is a whole 3-D scan with a consistent header and finite voxels.

    Args:
        path: The file, compressed with gzip or not.

    Raises:
        InputError: If it is not.
        EOFError: If the compressed stream is incomplete.
        zlib.error: If the compressed stream is damaged.
    """
    if path.name.lower().endswith(".gz") and path.with_suffix("").exists():
        # A fault of ITK since 2021, https://github.com/InsightSoftwareConsortium/ITK/issues/2243
        problem = f"SimpleITK would read the voxels of {path.stem}, which is in the same folder"
        raise InputError(path, problem, "rename or remove one of the two files")
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        order = "<" if header[:4] == struct.pack("<i", HEADER_BYTES) else ">"
        if len(header) < HEADER_BYTES:
            raise InputError(path, "truncated: the file ends within its header", AGAIN)
        if header[4:7] in (b"n+2", b"ni2"):
            raise InputError(path, "a NIfTI-2 file, which is not read", "save it as NIfTI-1")
        if header[:4] != struct.pack(f"{order}i", HEADER_BYTES) or header[344:348] != b"n+1\0":
            raise InputError(path, "not a NIfTI-1 file by its first bytes", AGAIN_OR_RENAME)
        axes, *lengths = struct.unpack_from(f"{order}8h", header, 40)
        (code,) = struct.unpack_from(f"{order}h", header, 70)
        (offset,) = struct.unpack_from(f"{order}f", header, 108)
        if code not in VOXEL_TYPES:
            remedy = "export it as int16 or float32"
            raise InputError(path, f"its voxels are not plain numbers (NIfTI type {code})", remedy)
        if not 1 <= axes <= 7:
            raise InputError(path, f"its header promises {axes} axes", AGAIN)
        if not (offset >= HEADER_BYTES + 4 and offset.is_integer()):
            problem = f"its header says that the voxels start within the header, at byte {offset:g}"
            raise InputError(path, problem, AGAIN)
        size = tuple(lengths[:axes])
        check_three_axes(path, size)
        _check_geometry(path, header, order, size)
        file.seek(int(offset))
        check_voxels(path, read_chunks(file), size, np.dtype(order + VOXEL_TYPES[code]))


def _check_geometry(path: Path, header: bytes, order: str, size: tuple[int, ...]) -> None:
    """Refuse a header that does not place the scan, or places it twice in different ways.

    NIfTI can give the position of its voxels as a quaternion (qform), a matrix (sform), or both, and the spacing in
    ``pixdim`` again. SimpleITK follows one of the two; other programs follow the other.

    Args:
        path: File to blame.
        header: The first 348 bytes.
        order: Byte order, "<" or ">".
        size: Voxels along each axis (x, y, z).
    """
    if header[123] & 7 not in MILLIMETRES:
        raise InputError(path, "its header says that its lengths are not in mm", CORRECT)
    pixdim = np.array(struct.unpack_from(f"{order}8f", header, 76), float)
    spacing = pixdim[1:4]
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise InputError(path, f"its header gives voxels of {' x '.join(f'{s:g}' for s in spacing)} mm", CORRECT)
    qform_code, sform_code = struct.unpack_from(f"{order}2h", header, 252)
    matrices = []
    if sform_code > 0:
        sform = np.array(struct.unpack_from(f"{order}12f", header, 280), float).reshape(3, 4)
        lengths = np.linalg.norm(sform[:, :3], axis=0)
        if not np.allclose(lengths, spacing, rtol=SPACING_TOLERANCE, atol=0):
            both = " and ".join(" x ".join(f"{s:.4g}" for s in way) for way in (spacing, lengths))
            raise InputError(path, f"its header gives two spacings, {both} mm (pixdim and sform)", CORRECT)
        matrices.append(sform)
    if qform_code > 0:
        quaternion = struct.unpack_from(f"{order}3f", header, 256)
        offset = struct.unpack_from(f"{order}3f", header, 268)
        rotation = _rotation(path, *quaternion)
        rotation[:, 2] *= -1 if pixdim[0] < 0 else 1
        matrices.append(np.column_stack([rotation * spacing, offset]))
    if not matrices:  # ITK would guess the directions, and could exchange left and right
        raise InputError(path, "its header does not say which way the patient lies", "set its sform or export it again")
    corners = np.array([[*(np.array(size) - 1) * corner, 1] for corner in np.ndindex(2, 2, 2)])
    distance = float(np.abs((matrices[0] - matrices[-1]) @ corners.T).max())
    if not distance <= spacing.min():
        raise InputError(path, f"its header places it twice, {distance:.3g} mm apart (qform and sform)", CORRECT)


def _rotation(path: Path, b: float, c: float, d: float) -> np.ndarray:
    """Return the rotation matrix (3, 3) of the unit quaternion (a, b, c, d), of which NIfTI stores b, c and d."""
    a_squared = 1 - (b * b + c * c + d * d)
    if not a_squared > -SPACING_TOLERANCE:
        raise InputError(path, "the qform of its header is no rotation", CORRECT)
    a = math.sqrt(max(0.0, a_squared))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
