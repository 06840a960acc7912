"""NIfTI-1 files (.nii, .nii.gz).

References:
    The NIfTI-1 header, https://nifti.nimh.nih.gov/nifti-1.
"""

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from data.scans.bytes import AGAIN, AGAIN_OR_RENAME, GZIP, check_extent, inflate, read_chunks, take
from data.scans.headers import CORRECT, Header, make_header

HEADER_BYTES = 348
LARGEST_OFFSET = 1 << 24  # bytes before the voxels; header extensions are rarely longer than some kB
VOXEL_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
MILLIMETRES = (0, 2)  # codes of the unit of length: unknown, mm
SPACING_TOLERANCE = 1e-3  # relative difference between two statements of the same spacing
TO_LPS = np.diag((-1.0, -1.0, 1.0))  # the world of NIfTI is RAS


@contextmanager
def open_nifti(path: Path) -> Iterator[tuple[Header, Iterator[bytes]]]:
    """Open a NIfTI-1 file, compressed with gzip or not, and check that its header is consistent.

    Args:
        path: The file.

    Yields:
        Its header, and the decompressed bytes of its voxels, to be read while the file is open.

    Raises:
        InputError: If it is not a 3-D scan in NIfTI-1.
        EOFError: If the compressed stream is incomplete.
        zlib.error: If the compressed stream is damaged.
    """
    compressed = path.name.lower().endswith(".gz")
    with path.open("rb") as file:
        stream = inflate(read_chunks(file), GZIP) if compressed else read_chunks(file)
        header, stream = take(stream, HEADER_BYTES)
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
        if not (HEADER_BYTES + 4 <= offset <= LARGEST_OFFSET and offset.is_integer()):
            where = "within the header, " if offset < HEADER_BYTES + 4 else ""
            raise InputError(path, f"its header says that the voxels start {where}at byte {offset:g}", AGAIN)
        size, dtype = tuple(lengths[:axes]), np.dtype(order + VOXEL_TYPES[code])
        stored_bytes = path.stat().st_size - (0 if compressed else int(offset))
        check_extent(path, size, dtype.itemsize, stored_bytes, compressed)
        spacing, matrix = _read_geometry(path, header, order, size)
        _, voxels = take(stream, int(offset) - HEADER_BYTES)
        scale = _read_scale(path, header, order)
        yield make_header(path, dtype, size, spacing, TO_LPS @ matrix[:, 3], TO_LPS @ matrix[:, :3], scale), voxels


def _read_scale(path: Path, header: bytes, order: str) -> tuple[float, float]:
    """Return slope and intercept of the stored values; a slope of 0 means that they are not scaled."""
    slope, intercept = struct.unpack_from(f"{order}2f", header, 112)
    if slope == 0:
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        problem = f"its header scales the voxels by {slope:g} and adds {intercept:g}"
        raise InputError(path, problem, CORRECT)
    return slope, intercept


def _read_geometry(path: Path, header: bytes, order: str, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Read where the voxels lie; refuse a header that does not say it, or says it twice in different ways.

    NIfTI can give the position of its voxels as a quaternion (qform), a matrix (sform), or both, and the spacing in
    ``pixdim`` again. Other programs follow one or the other. Here the sform comes first, because a quaternion in
    float32 loses up to 5e-4 rad where it turns by nearly 180 degrees, as between RAS and LPS.

    Args:
        path: File to blame.
        header: The first 348 bytes.
        order: Byte order, "<" or ">".
        size: Voxels along each axis (x, y, z).

    Returns:
        The spacing (x, y, z) in mm, shape (3,), and the RAS directions of the axes with the origin as last column,
        shape (3, 4).
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
    return spacing, matrices[0]


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
