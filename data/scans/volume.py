"""Reading and writing scans and masks: NIfTI, NRRD, MetaImage and folders of DICOM slices.

Arrays are (D, H, W) in LPS order: D grows towards the head, row 0 is anterior and column 0 is on the patient's right.
A file keeps its own orientation: ``Grid`` remembers it, and ``write_mask`` puts a mask back onto it voxel by voxel.
The axes of an oblique scan become those nearest to the patient's; the scan is never resampled.

Files are read in slabs that are converted to int16 or uint8 at once, so that a scan stored as float64 never has to
fit into memory as a whole.
"""

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.common.errors import InputError
from data.common.files import replacing
from data.scans.bytes import AGAIN, GZIP_MAGIC, check_finite, check_kind, suffix_of
from data.scans.dicom import read_series
from data.scans.dicom_seg import complete, find_segmentation, read_segmentation
from data.scans.grid import Grid, Vector3D
from data.scans.metaimage import check_metaimage
from data.scans.nifti import check_nifti
from data.scans.nrrd import check_nrrd

CHECKS = {
    ".nii.gz": check_nifti,
    ".nii": check_nifti,
    ".nrrd": check_nrrd,
    ".mha": check_metaimage,
    ".mhd": check_metaimage,
}
WRITTEN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
SAME_GRID_MM = 1e-3  # headers are float32: the origins of two files on one grid may differ by 2e-5 mm
LABEL_TOLERANCE = 1e-3  # published masks hold values such as 1.00000006
# ITK holds a slab twice while it reads it. Reading a slab of a compressed file means decompressing everything before
# it, so slabs should be few.
SLAB_BYTES = 400 << 20
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

    def corners(self, edge: float = 0.0) -> np.ndarray:
        """Return the world positions of the eight corners.

        Args:
            edge: Voxels by which the corners lie outside the centres of the corner voxels; 0.5 gives the outer faces.

        Returns:
            Positions (x, y, z) in mm, shape (8, 3).
        """
        last = np.array(self.array.shape[::-1]) - 1.0
        index = np.array([[(-edge, n + edge)[bit >> a & 1] for a, n in enumerate(last)] for bit in range(8)])
        return np.array(self.origin) + (index * self.spacing[::-1]) @ np.array(self.direction).reshape(3, 3).T

    def describe(self) -> str:
        """Return the shape (x, y, z), spacing and origin as a phrase for messages."""
        shape = "x".join(map(str, self.array.shape[::-1]))
        spacing = "x".join(f"{s:.3g}" for s in self.spacing[::-1])
        return f"{shape} voxels of {spacing} mm from ({', '.join(f'{o:.1f}' for o in self.origin)})"


def check_file(path: Path) -> None:
    """Check that a file is a whole, three-dimensional scan, before SimpleITK reads it (see ``data.scans.bytes``).

    Args:
        path: File of any format in ``CHECKS``.

    Raises:
        InputError: If the file is missing, of another format, truncated or damaged, if its header does not place it
            in space without contradiction, or if it is a NIfTI file with voxels that are NaN or infinite.
    """
    head, suffix = check_kind(path), suffix_of(path)
    if head.startswith(GZIP_MAGIC) != (suffix == ".nii.gz"):
        negation, right = ("", ".nii.gz") if head.startswith(GZIP_MAGIC) else ("not ", ".nii")
        remedy = f"name it {right} if it is NIfTI, otherwise {AGAIN}"
        raise InputError(path, f"{negation}compressed with gzip, which contradicts its suffix {suffix}", remedy)
    try:
        CHECKS[suffix](path)
    except EOFError as error:
        raise InputError(path, "truncated: its compressed data end early", AGAIN) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(path, f"damaged: its compressed data cannot be decompressed ({error})", AGAIN) from error
    except (struct.error, ValueError, OverflowError) as error:
        raise InputError(path, f"its header makes no sense ({error})", AGAIN) from error


def read_grid(path: str | Path) -> Grid:
    """Read the voxel grid of one file from its header; no voxel is read.

    Raises:
        InputError: If SimpleITK cannot read the header.
    """
    with _blaming(Path(path)):
        return _grid_of(_open_reader(Path(path)))


def read_image(path: str | Path) -> Volume:
    """Read a CT scan.

    Args:
        path: File, or folder of DICOM slices.

    Returns:
        The scan in HU, int16. Fractions are rounded, and values outside the range of int16 are clipped to it.

    Raises:
        InputError: If it is not a whole 3-D scan of finite numbers.
    """
    return _read(Path(path), np.int16, _to_hu)


def _to_hu(array: np.ndarray) -> np.ndarray:
    limits = np.iinfo(np.int16)
    return array if array.dtype == np.int16 else np.clip(np.rint(array), limits.min, limits.max).astype(np.int16)


def read_label(path: str | Path, like: Volume | None = None, rank: np.ndarray | None = None) -> Volume:
    """Read a label file.

    Args:
        path: File, DICOM segmentation (SEG; a file, or alone in a folder), or folder of DICOM slices.
        like: Scan that the label belongs to. If it is given, the result lies on its grid. A label whose grid agrees
            to 1e-3 mm is used as it is. One whose outer faces agree to half a voxel on each axis is resampled by
            nearest neighbour. Any other label is refused.
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
        segments = segments if like is None else complete(segments, like.grid)
        label = Volume(segments.codes, *segments.grid.lps_frame(), segments.grid, segments.notes)
        return label if like is None else _on_grid_of(like, label, Path(path))
    codes = _LabelCodes()
    label = _read(Path(path), np.uint8, codes)
    if codes.largest_fraction > LABEL_TOLERANCE:
        problem = f"label values are not whole numbers (off by {codes.largest_fraction:.3g})"
        raise InputError(path, problem, "give a file of label codes, not of scores")
    if codes.lowest < 0 or codes.highest > 255:
        problem = f"label codes run from {codes.lowest:g} to {codes.highest:g}, not within 0 to 255"
        raise InputError(path, problem, "check whether this is the image instead of the label")
    if codes.largest_fraction > 0:
        label = replace(label, notes=(*label.notes, "codes rounded to whole numbers"))
    return label if like is None else _on_grid_of(like, label, Path(path))


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


def _on_grid_of(like: Volume, label: Volume, path: Path) -> Volume:
    if label.array.shape == like.array.shape:
        distance = float(np.abs(label.corners() - like.corners()).max())
        if distance <= SAME_GRID_MM:
            rounded = ("header differs from the image's by rounding",) if distance > 0 else ()
            return replace(like, array=label.array, notes=label.notes + rounded)
    # Both are in LPS order, so equal corners correspond. Their distances are measured along the scan's axes.
    distances = np.abs((label.corners(0.5) - like.corners(0.5)) @ np.array(like.direction).reshape(3, 3))
    half_voxel = 0.5 * np.minimum(label.spacing, like.spacing)[::-1]
    if (distances > half_voxel).any():
        problem = f"does not lie where its image lies: label {label.describe()}, image {like.describe()}"
        raise InputError(path, problem, "give the label that was drawn on this image, or correct its header")
    source = _lps_image(label.array, label.spacing, label.origin, label.direction)
    target = _lps_image(like.array, like.spacing, like.origin, like.direction)
    array = sitk.GetArrayFromImage(sitk.Resample(source, target, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    return replace(like, array=array, notes=(*label.notes, "resampled onto the image's grid"))


def _read(path: Path, dtype: type, convert: Callable[[np.ndarray], np.ndarray]) -> Volume:
    if path.is_dir():
        image = read_series(path)
        grid, slabs = _grid_of(image), iter([image])
    else:
        check_file(path)
        with _blaming(path):
            reader = _open_reader(path)
        grid, slabs = _grid_of(reader), _read_slabs(path, reader)
    array: np.ndarray = np.empty(grid.lps_shape, dtype)
    planes, done = grid.in_file_order(array), 0  # a view: what is written to it is in LPS order in the array
    step = max(1, CONVERTED_VOXELS // (grid.size[0] * grid.size[1]))
    for slab in slabs:
        values = sitk.GetArrayViewFromImage(slab)
        for start in range(0, len(values), step):
            piece = values[start : start + step]
            if piece.dtype.kind == "f":
                check_finite(path, piece)
            planes[done : done + len(piece)] = convert(piece)
            done += len(piece)
        del slab, values, piece  # frees the slab before the next one is read
    notes = () if grid.orientation == "LPS" else (f"turned from {grid.orientation} to LPS",)
    spacing, origin, direction = grid.lps_frame()
    return Volume(array, spacing, origin, direction, grid, notes)


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turn what SimpleITK raises into an InputError that blames the file."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        if "orthonormal" in reason:
            remedy = "resample it onto a rectangular grid"
            raise InputError(path, "its axes are not at right angles (sheared)", remedy) from error
        raise InputError(path, f"cannot be read ({reason})", "export it again") from error


def _open_reader(path: Path) -> sitk.ImageFileReader:
    """Return a reader that has read the header."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _read_slabs(path: Path, reader: sitk.ImageFileReader) -> Iterator[sitk.Image]:
    """Yield the slices of a file in as few slabs as memory allows; ITK reads parts of NIfTI files only."""
    *plane, depth = reader.GetSize()
    voxel_bytes = sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    step = depth
    if suffix_of(path) in (".nii", ".nii.gz"):
        step = max(1, SLAB_BYTES // (plane[0] * plane[1] * voxel_bytes))
    for start in range(0, depth, step):
        reader.SetExtractIndex((0, 0, start))
        reader.SetExtractSize((*plane, min(step, depth - start)))
        with _blaming(path):
            yield reader.Execute()


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
            sitk.WriteImage(image, str(unfinished), useCompression=True)
            check_file(unfinished)  # ITK does not notice a full disk
    except (RuntimeError, InputError) as error:
        raise InputError(path, "could not be written completely", "free some space or choose another folder") from error
