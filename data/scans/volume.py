"""Reading and writing scans and masks: NIfTI, NRRD, MetaImage and folders of DICOM slices.

Arrays are (D, H, W) in LPS order: D grows towards the head, row 0 is anterior and column 0 is on the patient's right.
A file keeps its own orientation: ``Grid`` remembers it, and ``write_mask`` puts a mask back onto it voxel by voxel.
The axes of an oblique scan become those nearest to the patient's; the scan is never resampled.

Files are read some planes at a time, which are converted to int16 or uint8 at once, so that a scan stored as float64
never has to fit into memory as a whole.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.common.errors import InputError
from data.common.files import replacing
from data.common.memory import require_memory, zeros
from data.scans.boxes import filled_rows, triple
from data.scans.bytes import (
    SUFFIXES,
    check_finite,
    check_path_for_itk,
    is_readable_by_itk,
    refuse_folder_of_pairs,
    suffix_of,
)
from data.scans.dicom import Series, read_series
from data.scans.dicom_seg import find_segmentation, read_segmentation
from data.scans.formats import check_file, open_scan
from data.scans.grid import SAME_GRID_VOXELS, Frame, Grid, Vector3D

WRITTEN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
LABEL_TOLERANCE = 1e-3  # published masks hold values such as 1.00000006
NOTED_OFFSET = 1e-6  # voxels; differences of identical headers that come from the arithmetic
PART_NOTE = "covers part of its scan: put in its place"
BEYOND_NOTE = "extends beyond its scan, where it is empty: cut"
CONVERTED_VOXELS = 1 << 22  # voxels converted at a time: a conversion makes several copies


@dataclass(frozen=True)
class Volume:
    """A scan or a mask in LPS order.

    Attributes:
        array: Voxels (D, H, W).
        spacing: Voxel spacing (z, y, x) in mm.
        origin: World position (x, y, z) of the centre of the array's first voxel, in mm.
        direction: Direction cosines of the array's axes (x, y, z), row by row.
        grid: Grid of the file that the volume came from.
        notes: What had to be changed when the file was read, one phrase each.
    """

    array: np.ndarray
    spacing: Vector3D
    origin: Vector3D
    direction: tuple[float, ...]
    grid: Grid
    notes: tuple[str, ...] = ()

    @property
    def frame(self) -> Frame:
        """Where the voxels lie."""
        return Frame(triple(self.array.shape), self.spacing, self.origin, self.direction)

    def corners(self, edge: float = 0.0) -> np.ndarray:
        """Return the world positions of the eight corners; see ``Frame.corners``."""
        return self.frame.corners(edge)

    def describe(self) -> str:
        """Return the shape (x, y, z), spacing and origin as a phrase for messages."""
        return self.frame.describe()


def read_grid(path: str | Path) -> Grid:
    """Read the voxel grid of a file, or of a single DICOM slice, from its header; no voxel is read.

    Raises:
        InputError: If the header cannot be read.
    """
    path = Path(path)
    if path.name.lower().endswith(SUFFIXES):
        with open_scan(path) as (header, _):
            return header.grid
    check_path_for_itk(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(path, f"cannot be read ({str(error).splitlines()[-1].strip()})", "export it again") from error
    return _grid_of(reader)


def read_image(path: str | Path, series: str = "") -> Volume:
    """Read a CT scan.

    Args:
        path: File, or folder of DICOM slices.
        series: Which series of a DICOM folder, as ``--series`` names it; empty for the only one.

    Returns:
        The scan in HU, int16. Fractions are rounded, and values outside the range of int16 are clipped to it.

    Raises:
        InputError: If it is not a whole 3-D scan of finite numbers.
    """
    return _read(Path(path), np.int16, _to_hu, partial(read_series, choice=series))


def from_image(image: sitk.Image) -> Volume:
    """Take a CT scan that is in memory, as ``read_image`` takes one from a file.

    Raises:
        InputError: If it is not a 3-D scan of finite numbers.
    """
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        shape = f"{image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} values per voxel"
        raise InputError("the image", f"has {shape}, not 3 and 1", "give a CT scan")
    planes = sitk.GetArrayViewFromImage(image)
    each = (planes[z : z + 1] for z in range(len(planes)))
    return _assemble(Path("the image"), _grid_of(image), each, np.int16, _to_hu, ())


def _to_hu(array: np.ndarray) -> np.ndarray:
    limits = np.iinfo(np.int16)
    if array.dtype == np.int16:
        return array
    whole = np.rint(array) if array.dtype.kind == "f" else array
    return np.clip(whole, limits.min, limits.max).astype(np.int16)


def read_label(path: str | Path, like: Volume | None = None, rank: np.ndarray | None = None) -> Volume:
    """Read a label file.

    Args:
        path: File, DICOM segmentation (SEG; a file, or alone in a folder), or folder of DICOM slices.
        like: Scan that the label belongs to. If it is given, the result lies on its grid. A label on the same voxels
            is used as it is, or put in its place if it covers only a part of them (``place_label``). One whose outer
            faces agree to half a voxel on each axis is resampled by nearest neighbour. Any other label is refused.
        rank: For each code (0 to 255) its rank, by which the segments of a DICOM segmentation may overlap; see
            ``read_segmentation``.

    Returns:
        The label codes as the file numbers them, uint8.

    Raises:
        InputError: If the file is not a whole 3-D volume, its codes are not whole numbers (to 1e-3) from 0 to 255, or
            it does not lie where its scan lies.
    """
    if segmentation := find_segmentation(Path(path)):
        segments = read_segmentation(segmentation, rank)
        label = Volume(segments.codes, *segments.grid.lps_frame(), segments.grid, segments.notes)
        return label if like is None else _on_grid_of(like, label, Path(path))
    codes = _LabelCodes()
    label = _read(Path(path), np.uint8, codes, partial(read_series, is_label=True))
    if codes.largest_fraction > LABEL_TOLERANCE:
        problem = f"label values are not whole numbers (off by {codes.largest_fraction:.3g})"
        raise InputError(path, problem, "give a file of label codes, not of scores")
    if codes.lowest < 0 or codes.highest > 255:
        problem = f"label codes run from {codes.lowest:g} to {codes.highest:g}, not within 0 to 255"
        raise InputError(path, problem, "check whether this is the image instead of the label")
    if codes.largest_fraction > 0:
        label = replace(label, notes=(*label.notes, "codes rounded to whole numbers"))
    return label if like is None else _on_grid_of(like, label, Path(path))


def read_numbers(path: str | Path) -> Volume:
    """Read a file of numbers that are neither HU nor codes, as float32.

    Raises:
        InputError: If it is not a whole 3-D volume of finite numbers.
    """
    return _read(Path(path), np.float32, lambda array: array.astype(np.float32), read_series)


class _LabelCodes:
    """Converts values to uint8 codes, and remembers their range and their largest distance to a whole number."""

    def __init__(self) -> None:
        self.lowest, self.highest, self.largest_fraction = 0.0, 0.0, 0.0

    def __call__(self, values: np.ndarray) -> np.ndarray:
        codes = values
        if values.dtype.kind == "f":
            codes = np.rint(values)
            self.largest_fraction = max(self.largest_fraction, float(np.abs(values - codes).max()))
        self.lowest, self.highest = min(self.lowest, float(codes.min())), max(self.highest, float(codes.max()))
        with np.errstate(invalid="ignore"):  # values outside uint8 are refused when the whole file has been read
            return codes.astype(np.uint8)


def place_label(path: Path, label: Volume, grid: Grid) -> Volume | None:
    """Put a label onto the voxels of a scan if it has the same voxels, as far as both overlap.

    Programs such as 3D Slicer may save only the box around a segment. Outside the label everything is background.

    Args:
        path: File of the label, to blame.
        label: The label.
        grid: Grid of the scan.

    Returns:
        The label on the whole scan; None if its voxels are not those of the scan, which is said by an offset of more
        than SAME_GRID_VOXELS, or by the same shape at another position: then one of the headers is wrong.

    Raises:
        InputError: If a labelled voxel lies outside the scan, or all of the label does.
    """
    frame, shape = grid.frame, label.array.shape
    start, offset = label.frame.find_on(frame)
    if offset > SAME_GRID_VOXELS or (shape == frame.shape and any(start)):
        return None
    notes, array = label.notes, label.array
    if offset > NOTED_OFFSET:
        notes = (*notes, f"header differs from the image's by rounding ({offset:.1g} voxels)")
    if shape != frame.shape:
        first, last = np.maximum(start, 0), np.minimum(frame.shape, np.add(start, shape))
        inside = tuple(slice(a, max(a, b)) for a, b in zip(first, last, strict=True))
        overlap = tuple(slice(s.start - n, s.stop - n) for s, n in zip(inside, start, strict=True))
        outside = np.count_nonzero(label.array) - np.count_nonzero(label.array[overlap])
        if outside or not label.array[overlap].size:
            what = f"has {outside} labelled voxels outside its image" if outside else "lies outside its image"
            problem = f"{what}: label {label.describe()}, image {frame.describe()}"
            raise InputError(path, problem, "give the label that was drawn on this image")
        array = zeros(frame.shape, label.array.dtype)
        array[inside] = label.array[overlap]
        beyond = label.array[overlap].shape == frame.shape
        notes = (*notes, BEYOND_NOTE if beyond else PART_NOTE)
    return _moved(label, array, grid, notes)


def _moved(label: Volume, array: np.ndarray, grid: Grid, notes: tuple[str, ...]) -> Volume:
    """Return a label whose array lies on the whole scan of a grid."""
    spacing, origin, direction = grid.lps_frame()
    own = replace(grid, part=None)
    return replace(label, array=array, spacing=spacing, origin=origin, direction=direction, grid=own, notes=notes)


def _on_grid_of(like: Volume, label: Volume, path: Path) -> Volume:
    """Return a label on the grid of its scan; see ``read_label``."""
    if placed := place_label(path, label, like.grid):
        return placed
    # Both are in LPS order, so equal corners correspond. Their distances are measured along the scan's axes.
    distances = np.abs((label.corners(0.5) - like.corners(0.5)) @ np.array(like.direction).reshape(3, 3))
    half_voxel = 0.5 * np.minimum(label.spacing, like.spacing)[::-1]
    if (distances > half_voxel).any():
        problem = (
            f"does not lie where its image lies: label {label.describe()}, image {like.describe()}; faces up to "
            f"{distances.max():.3g} mm apart, tolerance half a voxel; {label.frame.describe_offset(like.frame)}"
        )
        raise InputError(path, problem, "give the label that was drawn on this image, or correct its header")
    source = _lps_image(label.array, label.spacing, label.origin, label.direction)
    target = _lps_image(like.array, like.spacing, like.origin, like.direction)
    array = sitk.GetArrayFromImage(sitk.Resample(source, target, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    return _moved(label, array, like.grid, (*label.notes, "resampled onto the image's grid"))


def _read(
    path: Path,
    dtype: type,
    convert: Callable[[np.ndarray], np.ndarray],
    open_folder: Callable[[Path], Series],
) -> Volume:
    if path.is_dir():
        refuse_folder_of_pairs(path)
        found = open_folder(path)
        return _assemble(path, found.grid, found.planes, dtype, convert, found.notes)
    with open_scan(path) as (header, planes):
        return _assemble(path, header.grid, map(header.scale, planes), dtype, convert, header.notes)


def _assemble(
    path: Path,
    grid: Grid,
    pieces: Iterator[np.ndarray],
    dtype: type,
    convert: Callable[[np.ndarray], np.ndarray],
    notes: tuple[str, ...],
) -> Volume:
    """Convert the voxels of a file, some planes (z, y, x) at a time, and turn them to LPS order."""
    require_memory(path, math.prod(grid.lps_shape) * np.dtype(dtype).itemsize)
    array = zeros(grid.lps_shape, dtype)  # nearly all voxels of a label are 0, and take no memory
    planes, done = grid.in_file_order(array), 0  # a view: what is written to it is in LPS order in the array
    for piece in pieces:
        check_finite(path, piece)
        values = convert(piece)
        for plane, target in zip(values, planes[done : done + len(piece)], strict=True):
            rows = filled_rows(plane)
            target[rows] = plane[rows]
        done += len(piece)
    if grid.orientation != "LPS":
        notes = (*notes, f"turned from {grid.orientation} to LPS")
    spacing, origin, direction = grid.lps_frame()
    return Volume(array, spacing, origin, direction, grid, notes)


def _grid_of(image: sitk.Image | sitk.ImageFileReader) -> Grid:
    return Grid.of(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def write_mask(path: str | Path, mask: np.ndarray, grid: Grid) -> None:
    """Write a mask, such as a prediction, as uint8 on the grid of the scan's own file; see ``write_image``."""
    write_image(path, mask.astype(np.uint8, copy=False), grid)


def write_image(path: str | Path, array: np.ndarray, grid: Grid) -> None:
    """Write an array on the grid of the scan's own file, which appears only when it is complete.

    Args:
        path: File to write; its suffix, one of ``WRITTEN_SUFFIXES``, chooses the format.
        array: Voxels of any type, in LPS order, of shape ``grid.prepared_shape``. If the scan was cropped or resampled
            (``grid.part``), the file has the whole scan's grid and is 0 outside the part.
        grid: Grid of the scan.

    Raises:
        InputError: If the suffix is of another format, or the file cannot be written completely.
        ValueError: If the array has another shape.
    """
    if array.shape != grid.prepared_shape:
        raise ValueError(f"array of shape {array.shape} for a grid of shape {grid.prepared_shape}")
    image = sitk.GetImageFromArray(grid.to_file(array))
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    _write(Path(path), image)


def write_lps(path: str | Path, array: np.ndarray, spacing: Vector3D, origin: Vector3D = (0.0, 0.0, 0.0)) -> None:
    """Write an array whose axes are those of the patient.

    Args:
        path: File to write; its suffix, one of ``WRITTEN_SUFFIXES``, chooses the format.
        array: Voxels of any type (D, H, W), in LPS order.
        spacing: Voxel spacing (z, y, x) in mm.
        origin: World position (x, y, z) of the centre of the first voxel, in mm.

    Raises:
        InputError: If the suffix is of another format, or the file cannot be written completely.
    """
    _write(Path(path), _lps_image(array, spacing, origin, (1, 0, 0, 0, 1, 0, 0, 0, 1)))


def _lps_image(array: np.ndarray, spacing: Vector3D, origin: Vector3D, direction: tuple[float, ...]) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in reversed(spacing)])
    image.SetOrigin([float(o) for o in origin])
    image.SetDirection([float(d) for d in direction])
    return image


def _write(path: Path, image: sitk.Image) -> None:
    if suffix_of(path) not in WRITTEN_SUFFIXES:
        raise InputError(path, "files of this format are not written", f"name it {', '.join(WRITTEN_SUFFIXES)}")
    try:
        with replacing(path) as unfinished:
            unfinished.touch()  # raises PermissionError if the folder cannot be written to; ITK's message would not say
            if is_readable_by_itk(unfinished):
                sitk.WriteImage(image, str(unfinished), useCompression=True)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    plain = Path(folder) / f"mask{suffix_of(path)}"
                    sitk.WriteImage(image, str(plain), useCompression=True)
                    shutil.copyfile(plain, unfinished)
            check_file(unfinished)  # ITK does not notice a full disk
    except (RuntimeError, InputError) as error:
        raise InputError(path, "could not be written completely", "free some space or choose another folder") from error
