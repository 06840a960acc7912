"""Scans and masks in and out: NIfTI, NRRD, MHA/MHD and DICOM folders. The only place that knows file formats.

Inside, every array is (D, H, W) in LPS: z grows towards the head, row 0 is anterior, column 0 is the patient's
right. Outside, a file keeps its own orientation: ``Grid`` remembers it, and ``write_mask`` goes back onto it voxel
for voxel. Oblique scans are turned to the nearest LPS order of axes and never resampled.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.dicom import read_series
from data.errors import InputError
from data.files import replacing
from data.grid import Grid
from data.integrity import check_file, suffix_of

SAME_GRID_MM = 1e-3  # headers are float32: an origin may differ by 2e-5 mm between files of one grid
WHOLE_NUMBER = 1e-3  # published masks hold values such as 1.00000006
WRITTEN = (".nii.gz", ".nii", ".nrrd", ".mha")


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

    Raises InputError where the file is not a whole 3-D scan of finite numbers (data.integrity, data.dicom).
    """
    volume = _read(Path(path))
    array = volume.array
    if array.dtype != np.int16:
        limits = np.iinfo(np.int16)
        array = np.clip(np.rint(array), limits.min, limits.max).astype(np.int16)
    return replace(volume, array=array)


def read_label(path: str | Path, like: Volume | None = None) -> Volume:
    """Read a label file: uint8 codes (D, H, W) in LPS, exactly as numbered in the file.

    Args:
        like: the scan it belongs to. The result then lies on its grid: taken as it is where both grids agree to
            1e-3 mm, resampled (nearest) where their physical boxes agree to one voxel, refused otherwise.

    Raises InputError also for codes that are not whole numbers (tolerance 1e-3) from 0 to 255.
    """
    volume = _read(Path(path))
    array, notes = volume.array, volume.notes
    floating = array.dtype.kind == "f"
    codes = np.rint(array) if floating else array
    off = float(np.abs(array - codes).max()) if floating else 0.0
    if off > WHOLE_NUMBER:
        raise InputError(f"{path}: label values are not whole numbers (off by {off:.3g}); give a label map, not scores")
    if codes.min() < 0 or codes.max() > 255:
        span = f"{codes.min():g} to {codes.max():g}"
        raise InputError(f"{path}: label codes run from {span}, not within 0 to 255; is this the image?")
    if off > 0:
        notes += ("codes rounded to whole numbers",)
    label = replace(volume, array=codes.astype(np.uint8), notes=notes)
    return label if like is None else _onto(Path(path), label, like)


def write_mask(path: str | Path, mask: np.ndarray, grid: Grid) -> None:
    """Write an LPS mask (uint8, (D, H, W)) on the grid of the scan it was made from.

    The file appears only when complete. Its format is that of its suffix: .nii.gz, .nii, .nrrd or .mha.
    Raises ValueError where the mask's shape is not the grid's, InputError where the disk refuses.
    """
    if mask.shape != grid.lps_shape:
        raise ValueError(f"mask of shape {mask.shape} for a grid of shape {grid.lps_shape}")
    image = sitk.GetImageFromArray(grid.from_lps(mask.astype(np.uint8, copy=False)))
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


def _read(path: Path) -> Volume:
    """Check the bytes, read, turn to LPS; voxels keep their type."""
    if path.is_dir():
        image = read_series(path)
    else:
        check_file(path)
        try:
            image = sitk.ReadImage(str(path))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            if "orthonormal" in reason:
                remedy = "resample it onto a rectangular grid"
                raise InputError(f"{path}: its axes are not at right angles (sheared); {remedy}") from error
            raise InputError(f"{path}: cannot be read ({reason}); export it again") from error
    array = sitk.GetArrayFromImage(image)  # a copy: a view would outlive the image
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{path}: has voxels that are not numbers (NaN or Inf); replace them or export again")
    grid = _grid_of(image)
    notes = () if grid.orientation == "LPS" else (f"turned from {grid.orientation} to LPS",)
    return Volume(grid.to_lps(array), *grid.lps_frame(), grid, notes)


def _grid_of(image: sitk.Image) -> Grid:
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
