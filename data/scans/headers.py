"""What the header of a file says about a scan, and strict reading of it.

SimpleITK is lenient: it reads "0n69" as 0 and ignores a misspelt field, so that one damaged byte can move, mirror or
scramble a scan. Here, what is missing, malformed or contradicts itself is refused. Axes that rounding has turned a
little out of orthogonality are the exception: they are corrected, alike in all formats.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from data.scans.grid import Grid

CORRECT = "correct the header or export the scan again"  # the remedy for a header that is wrong
BLANKS = " \t\r\n"  # the only white space that ITK knows
# Cosine between two axes, and error of the length of a unit vector. An affine of 0.7 mm voxels that was rounded to 3
# decimals has cosines up to 1e-3, one rounded to 4 decimals up to 1e-4. At the tolerance, the correction moves a
# corner of a 500 mm scan by 0.25 mm.
AXES_TOLERANCE = 1e-3
FLOAT32_COSINE = 1e-6  # reached by right angles whose header is float32
NOTED_COSINE = 1e-5  # smaller ones are not worth a note
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """What a header says.

    Attributes:
        grid: Where the voxels lie.
        dtype: Type of a stored voxel, with its byte order.
        slope: What a stored value is multiplied by.
        intercept: What is added afterwards.
        notes: What had to be corrected, one phrase each.
    """

    grid: Grid
    dtype: np.dtype
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()

    def scale(self, stored: np.ndarray) -> np.ndarray:
        """Return the values that stored voxels mean."""
        if (self.slope, self.intercept) == (1.0, 0.0):
            return stored
        return stored * np.float64(self.slope) + np.float64(self.intercept)


def make_header(
    path: Path,
    dtype: np.dtype,
    size: Sequence[int],
    spacing: np.ndarray,
    origin: np.ndarray,
    axes: np.ndarray,
    scale: tuple[float, float] = (1.0, 0.0),
) -> Header:
    """Make the header of a file whose axes may not be quite orthogonal because it was rounded.

    Args:
        path: File to blame.
        dtype: Type of a stored voxel.
        size: Voxels along each axis (x, y, z).
        spacing: Their spacing in mm, shape (3,).
        origin: LPS position of the centre of the first voxel in mm, shape (3,).
        axes: LPS directions of the axes, as columns of any length.
        scale: Slope and intercept of the stored values.

    Raises:
        InputError: If a position is not finite, or ``nearest_rotation`` refuses the axes.
    """
    if not (np.isfinite(axes).all() and np.isfinite(origin).all() and np.isfinite(spacing).all()):
        raise InputError(path, "its header gives positions that are not finite", CORRECT)
    rotation, notes = nearest_rotation(path, axes)
    grid = Grid.of(
        [int(n) for n in size],
        [float(s) for s in spacing],
        [float(o) for o in origin],
        [float(cosine) for cosine in rotation.ravel()],
    )
    return Header(grid, dtype, *scale, notes)


def nearest_rotation(path: Path, axes: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Find the right-angled axes nearest to those of a header (polar decomposition).

    Args:
        path: File to blame.
        axes: Directions of the axes, as columns (3, 3) of any length.

    Returns:
        The orthonormal axes, as columns (3, 3), left-handed if the given ones are; and a note if they differ visibly.

    Raises:
        InputError: If an axis has no length, or the cosine between two of them exceeds AXES_TOLERANCE.
    """
    lengths = np.linalg.norm(axes, axis=0)
    if not (lengths > 0).all():
        raise InputError(path, "its header gives voxels without extent", CORRECT)
    unit = axes / lengths
    cosine = float(np.abs(unit.T @ unit - np.eye(3)).max())
    if not cosine <= AXES_TOLERANCE + FLOAT32_COSINE:
        problem = f"its axes are not at right angles (sheared): cosine {cosine:.4g}, tolerance {AXES_TOLERANCE:g}"
        raise InputError(path, problem, "resample it onto a rectangular grid")
    left, _, right = np.linalg.svd(unit)
    notes = (f"axes corrected to right angles (cosine {cosine:.1e})",) if cosine > NOTED_COSINE else ()
    return left @ right, notes


def parse_sizes(path: Path, field: str, text: str) -> tuple[int, ...]:
    """Return the whole numbers, separated by blanks, of a header field. Raises InputError if it holds anything else."""
    words = [word for word in text.split(" ") if word]
    if not words or not all(word.isascii() and word.isdecimal() and len(word) <= 12 for word in words):
        raise InputError(path, f"the field {field} of its header is {text[:40]!r}, not whole numbers", CORRECT)
    return tuple(map(int, words))


def parse_numbers(path: Path, field: str, text: str, count: int) -> np.ndarray:
    """Return the finite numbers of a header field, separated by blanks or commas.

    Args:
        path: File to blame.
        field: Name of the field, for the message.
        text: Value of the field.
        count: How many numbers there have to be.

    Returns:
        The numbers, shape (count,).

    Raises:
        InputError: If the text is anything else.
    """
    words = [word for word in text.replace(",", " ").replace("\t", " ").split(" ") if word]  # blanks as ITK knows them
    values = [float(word) for word in words if _NUMBER.fullmatch(word)]
    if len(values) != count or len(words) != count or not np.isfinite(values).all():
        raise InputError(path, f"the field {field} of its header is {text[:40]!r}, not {count} numbers", CORRECT)
    return np.array(values)


def require_field(path: Path, fields: dict[str, str], *names: str) -> str:
    """Return the value of the first of these fields that a header has. Raises InputError if it has none of them."""
    for name in names:
        if name in fields:
            return fields[name]
    raise InputError(path, f"its header lacks {names[0]}, which is needed to place the scan", CORRECT)


def require_choice(path: Path, field: str, text: str, choices: tuple[str, ...]) -> str:
    """Return the value of a header field in lower case. Raises InputError if it is none of the choices."""
    if text.lower() not in choices:
        raise InputError(path, f"the field {field} of its header is {text[:40]!r}, not {' or '.join(choices)}", CORRECT)
    return text.lower()
