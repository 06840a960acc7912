"""Probability maps on the grid of a scan's file: bytes, which every NIfTI reader scales to 0 to 1."""

import gzip
import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np

from data.common.errors import InputError
from data.common.files import replacing
from data.common.memory import zeros
from data.scans.boxes import Box
from data.scans.grid import Grid
from data.scans.volume import place_label, read_numbers, write_image

STEPS = 255  # of a byte; the stored value is the probability to within half of 1 / STEPS
_SLOPE_AT, _SLOPE = 112, struct.Struct("<ff")  # scl_slope and scl_inter in the NIfTI-1 header
_COMPRESSION = 6


def write_probability(path: Path, values: np.ndarray, box: Box, grid: Grid) -> None:
    """Write a map with values from 0 to 1 on the grid of the scan's own file, which appears only when it is complete.

    The file holds bytes with the slope 1 / ``STEPS`` in its header. SimpleITK does not set it, so it is set here.

    Args:
        path: A .nii.gz file.
        values: Values in [0, 1] of the voxels in the box, shape ``box.shape``. Elsewhere the map is 0.
        box: Box of the prepared array.
        grid: Grid of the scan.

    Raises:
        InputError: If the file cannot be written completely.
    """
    whole = zeros(grid.prepared_shape, np.uint8)
    for plane, target in zip(values, whole[box.slices], strict=True):
        target[...] = np.rint(plane * STEPS)
    with replacing(path) as unfinished, tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "probability.nii"
        try:
            write_image(plain, whole, grid)
        except InputError as error:
            problem = f"could not be written, because the folder for temporary files, {plain.parent.parent}, is full"
            raise InputError(path, problem, "free some space there, or choose another one with TMPDIR") from error
        with plain.open("r+b") as file:
            file.seek(_SLOPE_AT)
            file.write(_SLOPE.pack(1 / STEPS, 0.0))
        with plain.open("rb") as source, gzip.open(unfinished, "wb", _COMPRESSION) as target:
            shutil.copyfileobj(source, target, 1 << 20)


def read_probability(path: str | Path, grid: Grid) -> np.ndarray:
    """Read a map of numbers, such as probabilities, that lies on the grid of a scan.

    Args:
        path: File.
        grid: Grid of the scan.

    Returns:
        float32 values on the prepared array of the grid, taken at the nearest voxels; 0 where the file has none.

    Raises:
        InputError: If it is not a whole 3-D volume of finite numbers, or has other voxels than the scan.
    """
    values = read_numbers(path)
    placed = place_label(Path(path), values, grid)
    if placed is None:
        problem = f"not on the grid of its scan: {values.describe()}, the scan has {grid.frame.describe()}"
        raise InputError(path, problem, "write it on the grid of the scan")
    return grid.to_prepared(placed.array)
