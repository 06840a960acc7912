"""Scans and masks in and out: NIfTI, NRRD, MHA/MHD and DICOM folders. The only place that knows file formats.

Inside, every array is (D, H, W) in LPS: z grows towards the head, row 0 is anterior, column 0 is the patient's
right. Outside, a file keeps its own orientation: ``Grid`` remembers it, and ``write_mask`` goes back onto it voxel
for voxel. Oblique scans are turned to the nearest LPS order of axes and never resampled.

Files are read in slabs that become int16 or uint8 at once: a scan in float64 never lies in memory whole.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.common.errors import InputError
from data.common.files import replacing
from data.scans.bytes import check_file, suffix_of
from data.scans.dicom import read_series
from data.scans.grid import Grid

SAME_GRID_MM = 1e-3  # headers are float32: an origin may differ by 2e-5 mm between files of one grid
WHOLE_NUMBER = 1e-3  # published masks hold values such as 1.00000006
WRITTEN = (".nii.gz", ".nii", ".nrrd", ".mha")
# ITK holds what it reads twice. A slab of a compressed file costs unpacking all before it, so there should be few.
SLAB_BYTES = 400 << 20
CONVERTED_VOXELS = 1 << 22  # at a time: conversions make several copies


@dataclass(frozen=True)
class Volume:
    """A scan or a mask in LPS. ``origin`` (x, y, z) and ``direction`` (row by row) belong to this array."""

    array: np.ndarray  # (D, H, W)
    spacing: tuple[float, float, float]  # (z, y, x) mm
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    grid: Grid  # of the file it came from
    notes: tuple[str, ...] = ()  # what reading had to mend

    def corners(self, edge: float = 0.0) -> np.ndarray:
        """World positions (8, 3) in mm of the centres of the corner voxels, or ``edge`` voxels further out."""
        last = np.array(self.array.shape[::-1]) - 1.0
        index = np.array([[(-edge, n + edge)[bit >> a & 1] for a, n in enumerate(last)] for bit in range(8)])
        return np.array(self.origin) + (index * self.spacing[::-1]) @ np.array(self.direction).reshape(3, 3).T

    def described(self) -> str:
        """Shape, spacing and origin in a few words, for messages."""
        shape = "x".join(map(str, self.array.shape[::-1]))
        spacing = "x".join(f"{s:.3g}" for s in self.spacing[::-1])
        return f"{shape} voxels of {spacing} mm from ({', '.join(f'{o:.1f}' for o in self.origin)})"


def read_image(path: str | Path) -> Volume:
    """Read a CT scan: int16 HU (D, H, W) in LPS; fractions are rounded, values outside int16 clipped to it.

    Raises InputError where the file is not a whole 3-D scan of finite numbers (data.scans.bytes, data.scans.dicom).
    """
    return _read(Path(path), np.int16, _to_hu)


def _to_hu(array: np.ndarray) -> np.ndarray:
    limits = np.iinfo(np.int16)
    return array if array.dtype == np.int16 else np.clip(np.rint(array), limits.min, limits.max).astype(np.int16)


class _Codes:
    """Turns values into uint8 codes and remembers their range and how far from whole numbers they were."""

    def __init__(self):
        self.low, self.high, self.off = 0.0, 0.0, 0.0

    def __call__(self, array: np.ndarray) -> np.ndarray:
        codes = array
        if array.dtype.kind == "f":
            codes = np.rint(array)
            self.off = max(self.off, float(np.abs(array - codes).max()))
        self.low, self.high = min(self.low, codes.min()), max(self.high, codes.max())
        with np.errstate(invalid="ignore"):  # what does not fit is refused when all is seen
            return codes.astype(np.uint8)


def read_header(path: str | Path) -> Grid:
    """The grid that the header of one file tells; no voxel is read. Raises InputError where it cannot be read."""
    with _naming_reader_errors(Path(path)):
        return _grid_of(_reader(Path(path)))


def read_label(path: str | Path, like: Volume | None = None) -> Volume:
    """Read a label file: uint8 codes (D, H, W) in LPS, exactly as numbered in the file.

    Args:
        like: the scan it belongs to. The result then lies on its grid: taken as it is where both grids agree to
            1e-3 mm, resampled (nearest) where their physical boxes agree to one voxel, refused otherwise.

    Raises InputError also for codes that are not whole numbers (tolerance 1e-3) from 0 to 255.
    """
    codes = _Codes()
    label = _read(Path(path), np.uint8, codes)
    if codes.off > WHOLE_NUMBER:
        off = f"off by {codes.off:.3g}"
        raise InputError(f"{path}: label values are not whole numbers ({off}); give a label map, not scores")
    if codes.low < 0 or codes.high > 255:
        span = f"{codes.low:g} to {codes.high:g}"
        raise InputError(f"{path}: label codes run from {span}, not within 0 to 255; is this the image?")
    if codes.off > 0:
        label = replace(label, notes=(*label.notes, "codes rounded to whole numbers"))
    return label if like is None else _onto(Path(path), label, like)


def write_mask(path: str | Path, mask: np.ndarray, grid: Grid) -> None:
    """Write an LPS mask (uint8, (D, H, W)) on the whole grid of the scan it was made from.

    Where the grid has a ``part`` (the case was cropped or resampled) the mask has that part's shape, and goes back
    onto the scan's own voxels; ``grid.to_prepared(read_label(path).array)`` reads it again.

    The file appears only when complete. Its format is that of its suffix: .nii.gz, .nii, .nrrd or .mha.
    Raises ValueError where the mask's shape is not the grid's, InputError where the disk refuses.
    """
    write_image(path, mask.astype(np.uint8, copy=False), grid)


def write_image(path: str | Path, array: np.ndarray, grid: Grid) -> None:
    """As ``write_mask``, for an LPS array (D, H, W) of any type, such as a scan's int16 HU."""
    if array.shape != grid.prepared_shape:
        raise ValueError(f"array of shape {array.shape} for a grid of shape {grid.prepared_shape}")
    image = sitk.GetImageFromArray(grid.to_file(array))
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    _write(Path(path), image)


def write_lps(
    path: str | Path,
    array: np.ndarray,
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    """Write an LPS array (D, H, W) with spacing (z, y, x) mm and origin (x, y, z) mm, axes along the patient's."""
    _write(Path(path), _lps_image(array, spacing, origin, (1, 0, 0, 0, 1, 0, 0, 0, 1)))


def _read(path: Path, dtype: type, convert: Callable[[np.ndarray], np.ndarray]) -> Volume:
    """Check the bytes, then read slab by slab, each converted and put into its place in LPS."""
    if path.is_dir():
        image = read_series(path)
        grid, slabs = _grid_of(image), iter([image])
    else:
        check_file(path)
        with _naming_reader_errors(path):
            reader = _reader(path)
        grid, slabs = _grid_of(reader), _slabs(path, reader)
    array = np.empty(grid.lps_shape, dtype)
    rows, done = grid.in_file_order(array), 0
    step = max(1, CONVERTED_VOXELS // (grid.size[0] * grid.size[1]))
    for slab in slabs:
        values = sitk.GetArrayViewFromImage(slab)
        for start in range(0, len(values), step):
            piece = values[start : start + step]
            if piece.dtype.kind == "f" and not np.isfinite(piece).all():
                raise InputError(f"{path}: has voxels that are not numbers (NaN or Inf); replace them or export again")
            rows[done : done + len(piece)] = convert(piece)
            done += len(piece)
        del slab, values, piece  # before the next is read
    notes = () if grid.orientation == "LPS" else (f"turned from {grid.orientation} to LPS",)
    return Volume(array, *grid.lps_frame(), grid, notes)


@contextmanager
def _naming_reader_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        if "orthonormal" in reason:
            remedy = "resample it onto a rectangular grid"
            raise InputError(f"{path}: its axes are not at right angles (sheared); {remedy}") from error
        raise InputError(f"{path}: cannot be read ({reason}); export it again") from error


def _reader(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header alone."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _slabs(path: Path, reader: sitk.ImageFileReader) -> Iterator[sitk.Image]:
    """The file's slices in as few slabs as memory allows; ITK reads the other formats whole whatever it is asked."""
    *plane, depth = reader.GetSize()
    voxel = sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    step = depth
    if suffix_of(path) in (".nii", ".nii.gz"):
        step = max(1, SLAB_BYTES // (plane[0] * plane[1] * voxel))
    for start in range(0, depth, step):
        reader.SetExtractIndex((0, 0, start))
        reader.SetExtractSize((*plane, min(step, depth - start)))
        with _naming_reader_errors(path):
            yield reader.Execute()


def _grid_of(image: sitk.Image | sitk.ImageFileReader) -> Grid:
    return Grid.of(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def _onto(path: Path, label: Volume, like: Volume) -> Volume:
    """The label on the grid of ``like``: as it is, resampled, or refused."""
    if label.array.shape == like.array.shape:
        apart = float(np.abs(label.corners() - like.corners()).max())
        if apart <= SAME_GRID_MM:
            rounded = ("header differs from the image's by rounding",) if apart > 0 else ()
            return replace(like, array=label.array, notes=label.notes + rounded)
    # Both are in LPS, so the same corners correspond; how far apart they lie is measured along the scan's axes.
    apart = np.abs((label.corners(0.5) - like.corners(0.5)) @ np.array(like.direction).reshape(3, 3))
    half_voxel = 0.5 * np.minimum(label.spacing, like.spacing)[::-1]
    if (apart > half_voxel).any():
        raise InputError(
            f"{path}: lies elsewhere than its image: label {label.described()}, image {like.described()}; "
            "give the label that was drawn on this image, or correct its header"
        )
    source = _lps_image(label.array, label.spacing, label.origin, label.direction)
    target = _lps_image(like.array, like.spacing, like.origin, like.direction)
    array = sitk.GetArrayFromImage(sitk.Resample(source, target, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    return replace(like, array=array, notes=(*label.notes, "resampled onto the image's grid"))


def _lps_image(array: np.ndarray, spacing: tuple, origin: tuple, direction: tuple) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in reversed(spacing)])
    image.SetOrigin([float(o) for o in origin])
    image.SetDirection([float(d) for d in direction])
    return image


def _write(path: Path, image: sitk.Image) -> None:
    """Write under a temporary name, check that it is whole (ITK is silent on a full disk), rename."""
    if suffix_of(path) not in WRITTEN:
        raise InputError(f"{path}: cannot write this format; name it {', '.join(WRITTEN)}")
    try:
        with replacing(path) as unfinished:
            unfinished.touch()  # an unwritable place raises PermissionError here, where ITK's message would be obscure
            sitk.WriteImage(image, str(unfinished), useCompression=True)
            check_file(unfinished)
    except (RuntimeError, InputError) as error:
        raise InputError(f"{path}: could not be written whole; free some space or choose another place") from error
