"""A folder of DICOM slices, read as one volume: one series, every slice readable, evenly spaced, none missing.

GDCM, with which SimpleITK reads DICOM, drops a damaged slice of a series with a warning, and the spacing changes with
it. Positions are therefore compared here, and the slices are decoded one by one. That also applies to each slice its
own rescale, as the standard demands, and turns padding into air.

``data.scans.dicom_headers`` reads what a file says of itself, and ``data.scans.dicom_series`` decides which files of
a folder are the scan.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from data.common.errors import InputError
from data.scans.bytes import AGAIN, check_path_for_itk
from data.scans.dicom_headers import DAMAGED, Rescale, Slice, conversion, dicom_files, read_header
from data.scans.dicom_series import SAME_PLACE_MM, Stack, choose_stack
from data.scans.grid import Grid
from data.scans.headers import nearest_rotation

SPACING_TOLERANCE = 0.02  # of the median distance of two slices; positions are rounded decimals
MAX_DRIFT_PIXELS = 0.5  # sideways, from the first slice to any other; more means a tilted gantry
ANGLE_TOLERANCE = 1e-4  # difference between the direction cosines of two slices
PIXEL_TOLERANCE = 1e-4  # relative difference between the pixel spacings of two slices
AIR_HU = -1024  # padding becomes this
# Padding inside this range is not believed: with 0 HU as padding, for example, water would become air.
TISSUE_HU = (-900.0, 3000.0)


class Series(NamedTuple):
    """A series that was found to be complete, and whose voxels are still to be read.

    Attributes:
        grid: Voxel grid of the volume.
        planes: The slices (1, rows, columns) in the order of the grid, in HU, each read when it is asked for. A slice
            that cannot be read raises InputError.
        notes: What was passed over or adapted, one phrase each.
    """

    grid: Grid
    planes: Iterator[np.ndarray]
    notes: tuple[str, ...]


class SeriesSummary(NamedTuple):
    """What two headers tell about a series."""

    first_file: Path
    slices: int  # at most
    distance_mm: float  # from one slice to the next


def read_series(folder: Path, choice: str = "", *, is_label: bool = False) -> Series:
    """Find the CT series in a folder and check that it is complete.

    Args:
        folder: Folder that holds the slices directly. Files that are neither called .dcm or .ima nor carry DICOM's
            mark are ignored.
        choice: Which series, as ``--series`` names it; empty for the only one.
        is_label: Accept slices that are not of a CT, and read their values without regard to padding.

    Returns:
        The series; its voxels are read slice by slice.

    Raises:
        InputError: If there is no CT series or more than one, a header cannot be read, a slice differs from the
            others in size, orientation or storage, a slice is missing or doubled, or the gantry was tilted.
    """
    stack, notes = _choose(folder, choice, is_label=is_label)
    _check_storage(folder, stack)
    _check_places(folder, stack)
    if len({s.rescale for s in stack.slices}) > 1:
        notes.append("its slices are rescaled differently, each as its header says")
    paddings = [None if is_label else _padding_hu(s) for s in stack.slices]
    tissue = sorted({f"{low:g} HU" for low, high in filter(None, paddings) if _is_tissue(low, high)})
    if tissue:
        notes.append(f"padding of {', '.join(tissue)} not read as air, because tissue has this value")
    ranges = [None if padding and _is_tissue(*padding) else padding for padding in paddings]
    planes = (_read_plane(s, padding) for s, padding in zip(stack.slices, ranges, strict=True))
    grid, axes_notes = _grid_of(folder, stack)
    return Series(grid, planes, (*notes, *axes_notes))


def find_slices(folder: Path, choice: str = "") -> list[Path]:
    """List the files of a series that ``read_series`` reads, in the order of its grid.

    Raises:
        InputError: As for ``read_series``, as far as the headers are concerned one by one.
    """
    return [one.path for one in _choose(folder, choice)[0].slices]


def summarise_series(folder: Path) -> SeriesSummary:
    """Estimate the extent of a series from two of its headers, without the checks of ``read_series``.

    All files count as slices, so that the extent is an upper limit where other objects lie beside them.

    Raises:
        InputError: If the folder holds no DICOM slices, or a header cannot be read.
    """
    files = dicom_files(folder)
    first, last = next(_slices_of(files), None), next(_slices_of(files[::-1]), None)
    if first is None or last is None:
        raise InputError(folder, "no DICOM slices in this folder", "give the folder that holds them directly")
    if first.series != last.series:
        return SeriesSummary(first.path, len(files), first.thickness or 1.0)
    distance = abs(float((last.position - first.position) @ first.normal))
    # File names need not follow the positions, but instance numbers do. Without them, the names have to serve.
    steps = abs(last.number - first.number) or max(1, len(files) - 1)
    return SeriesSummary(first.path, len(files), distance / steps)


def _choose(folder: Path, choice: str, *, is_label: bool = False) -> tuple[Stack, list[str]]:
    headers = [read_header(path) for path in dicom_files(folder)]
    return choose_stack(folder, headers, choice, any_modality=is_label)


def _slices_of(files: Sequence[Path]) -> Iterator[Slice]:
    """Yield the headers of slices that are no localizers."""
    headers = (read_header(path) for path in files)
    return (h for h in headers if isinstance(h, Slice) and "LOCALIZER" not in h.image_type)


def _check_storage(folder: Path, stack: Stack) -> None:
    """Check that all slices have the same pixels and store their values in the same way."""
    first = stack.first
    foreign = "remove it if it does not belong to the series, or export the series again"
    for other in stack.slices:
        aligned = np.allclose(other.orientation, first.orientation, atol=ANGLE_TOLERANCE)
        alike = np.allclose(other.pixel_mm, first.pixel_mm, rtol=PIXEL_TOLERANCE)
        if other.modality != first.modality or other.size != first.size or not aligned or not alike:
            problem = f"its modality, size, pixel spacing or orientation differs from that of {first.path.name}"
            raise InputError(other.path, problem, foreign)
        if other.storage != first.storage or (other.rescale is None) != (first.rescale is None):
            difference = ", ".join(
                f"{theirs or 'none'} instead of {ours or 'none'}"
                for theirs, ours in zip(other.storage, first.storage, strict=True)
                if theirs != ours
            )
            problem = f"its values are stored differently from those of {first.path.name} ({difference or 'rescale'})"
            raise InputError(other.path, problem, foreign)
    if unread := [s for s in stack.slices if not s.is_decoded]:
        problem = f"compressed in a way that is not read (transfer syntax {unread[0].compression})"
        raise InputError(unread[0].path, problem, "convert the folder to NIfTI", command=conversion(folder))
    samples, interpretation = first.storage[1:3]
    if (samples or "1") != "1" or interpretation not in ("MONOCHROME2", ""):
        problem = f"its values are stored as {interpretation or 'colours'}, not as HU are (MONOCHROME2)"
        raise InputError(first.path, problem, "convert the folder to NIfTI", command=conversion(folder))


def _check_places(folder: Path, stack: Stack) -> None:
    """Check that the slices form one straight, evenly spaced stack."""
    slices, normal = stack.slices, stack.first.normal
    if len(slices) < 2:
        raise InputError(folder, "holds a single slice, which has no thickness", "give the whole series")
    usual = stack.step_mm
    for below, above in pairwise(slices):
        step = float((above.position - below.position) @ normal)
        if step < SAME_PLACE_MM:
            same = "the same slice" if below.identity == above.identity else "two images of one place"
            problem = f"{below.path.name} and {above.path.name} are {same} (at {below.height:.1f} mm)"
            remedy = "remove doubled slices; if these are two phases, keep one phase in the folder"
            raise InputError(folder, problem, remedy)
        if abs(step - usual) > SPACING_TOLERANCE * usual:
            where = f"{step:.3f} mm between {below.path.name} and {above.path.name}, elsewhere {usual:.3f} mm"
            remedy = "export the series again if slices are missing; otherwise resample it to even distances"
            raise InputError(folder, f"its slices are not evenly spaced ({where})", remedy)
    travel = np.array([s.position - stack.first.position for s in slices])
    sideways = np.linalg.norm(travel - np.outer(travel @ normal, normal), axis=1)
    if sideways.max() > MAX_DRIFT_PIXELS * min(stack.first.pixel_mm):
        degrees = np.degrees(np.arctan2(sideways[-1], stack.extent_mm))
        problem = (
            f"its slices shift sideways by {sideways.max():.1f} mm, as with a gantry tilted by {degrees:.1f} degrees"
        )
        remedy = "resample it onto a rectangular grid, as this command does (use its file *_Tilt*)"
        raise InputError(folder, problem, remedy, command=conversion(folder))


def _grid_of(folder: Path, stack: Stack) -> tuple[Grid, tuple[str, ...]]:
    """Return the voxel grid of a stack, and a note if its axes had to be corrected to right angles."""
    first, last = stack.slices[0], stack.slices[-1]
    axes = np.column_stack((first.orientation[:3], first.orientation[3:], first.normal))
    rotation, notes = nearest_rotation(folder, axes)
    size = (*first.size, len(stack.slices))
    step = float((last.position - first.position) @ first.normal) / (len(stack.slices) - 1)
    return Grid.of(size, (*first.pixel_mm, step), first.position.tolist(), rotation.ravel().tolist()), notes


def _padding_hu(one: Slice) -> tuple[float, float] | None:
    """Return the lowest and highest HU that stand for no measurement in a slice."""
    if one.padding is None:
        return None
    slope, intercept = one.rescale or Rescale(1.0, 0.0)
    low, high = sorted(slope * stored + intercept for stored in one.padding)
    return low, high


def _is_tissue(low: float, high: float) -> bool:
    return low < TISSUE_HU[1] and high > TISSUE_HU[0]


def _read_plane(one: Slice, padding: tuple[float, float] | None) -> np.ndarray:
    """Decode a slice.

    Args:
        one: Header of the slice.
        padding: Lowest and highest HU that become air.

    Returns:
        Values in HU, shape (1, rows, columns).
    """
    check_path_for_itk(one.path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(one.path))
    try:
        values = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise InputError(one.path, DAMAGED, AGAIN) from error
    if values.shape != (1, *one.size[::-1]):
        raise InputError(one.path, DAMAGED, AGAIN)
    if padding is not None:
        # Half a step of the stored values, because HU are rounded after a fractional slope.
        tolerance = 0.5 * abs(one.rescale.slope if one.rescale else 1.0)
        padded = (values > padding[0] - tolerance) & (values < padding[1] + tolerance)
        if padded.any():
            values = np.where(padded, AIR_HU, values.astype(np.float32))
    return values
