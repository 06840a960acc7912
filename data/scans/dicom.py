"""A folder of DICOM slices, read as one volume: one series, every slice readable, evenly spaced, none missing.

GDCM, with which SimpleITK reads DICOM, drops a damaged slice with a warning, and the spacing changes with it. The files
are therefore counted and their positions compared here.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from data.common.errors import InputError
from data.scans.bytes import AGAIN, check_kind

SPACING_TOLERANCE = 0.02  # of the median distance of two slices; positions are rounded decimals
MAX_DRIFT_PIXELS = 0.5  # sideways, from the first slice to the last; more means a tilted gantry
ANGLE_TOLERANCE = 1e-4  # difference between the direction cosines of two slices
PIXEL_TOLERANCE = 1e-4  # relative difference between the pixel spacings of two slices

FRAMES, SERIES, NUMBER = "0028|0008", "0020|000e", "0020|0013"
POSITION, ORIENTATION = "0020|0032", "0020|0037"
SIGNED = "0028|0103"
# Bits allocated, bits stored, highest bit, signed, rescale intercept and slope: equal in all slices of a series.
VALUE_TAGS = ("0028|0100", "0028|0101", "0028|0102", SIGNED, "0028|1052", "0028|1053")


class Slice(NamedTuple):
    """The header of a slice, as far as it decides where the slice belongs."""

    path: Path
    series: str
    size: tuple[int, ...]  # columns, rows
    pixel_mm: tuple[float, ...]
    position: np.ndarray  # (3,) mm
    orientation: np.ndarray  # (6,) direction cosines of a row, then of a column
    values: tuple[str, ...]  # how stored values become HU, see VALUE_TAGS
    number: int  # within the series; 0 if the header does not give it

    @property
    def normal(self) -> np.ndarray:
        """Direction (3,) perpendicular to the slice."""
        return np.cross(self.orientation[:3], self.orientation[3:])


class SeriesSummary(NamedTuple):
    """What two headers tell about a series."""

    first_file: Path
    slices: int
    distance_mm: float  # from one slice to the next


def read_series(folder: Path) -> sitk.Image:
    """Read the CT series in a folder, its slices in the order of their positions.

    Files that are neither called .dcm or .ima nor carry DICOM's mark are ignored.

    Args:
        folder: Folder that holds the slices directly.

    Returns:
        The volume in HU, float32.

    Raises:
        InputError: If there is no series or more than one, a slice cannot be read or differs from the others in size,
            orientation or storage, a slice is missing or doubled, or the gantry was tilted.
    """
    slices = _in_order(folder, [_read_slice(path) for path in _slice_files(folder)])
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileNames([str(s.path) for s in slices])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(folder, f"a slice cannot be read ({str(error).splitlines()[-1].strip()})", AGAIN) from error
    if image.GetSize()[2] != len(slices):
        raise InputError(folder, f"only {image.GetSize()[2]} of its {len(slices)} slices can be read", AGAIN)
    return image


def summarise_series(folder: Path) -> SeriesSummary:
    """Estimate the extent of a series from two of its headers, without the checks of ``read_series``.

    Raises:
        InputError: If the folder holds no DICOM slices, or one of the two headers cannot be read.
    """
    files = _slice_files(folder)
    first, last = _read_slice(files[0]), _read_slice(files[-1])
    distance = abs(float((last.position - first.position) @ first.normal))
    # File names need not follow the positions, but instance numbers do. Without them, the names have to serve.
    steps = abs(last.number - first.number) or max(1, len(files) - 1)
    return SeriesSummary(files[0], len(files), distance / steps)


def _slice_files(folder: Path) -> list[Path]:
    files = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
            continue
        named = path.suffix.lower() in (".dcm", ".ima")
        if named or path.stat().st_size == 0:
            check_kind(path)
        with path.open("rb") as file:
            marked = file.read(132)[128:] == b"DICM"
        if named or marked:
            files.append(path)
    if not files:
        raise InputError(folder, "no DICOM slices in this folder", "give the folder that holds them directly")
    return files


def _read_slice(path: Path) -> Slice:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))

    def optional(tag: str) -> str:
        return reader.GetMetaData(tag).strip("\0 ") if reader.HasMetaDataKey(tag) else ""

    try:
        reader.ReadImageInformation()
        if reader.HasMetaDataKey(FRAMES) and int(reader.GetMetaData(FRAMES)) > 1:
            raise InputError(path, "a multi-frame DICOM file, which is not read", "convert it to NIfTI")
        position = np.array(reader.GetMetaData(POSITION).split("\\"), float)
        orientation = np.array(reader.GetMetaData(ORIENTATION).split("\\"), float)
        series = reader.GetMetaData(SERIES).strip("\0 ")
        reader.GetMetaData(SIGNED)  # raises if it is lost: GDCM would read all values as unsigned
        values, number = tuple(map(optional, VALUE_TAGS)), optional(NUMBER)
    except (RuntimeError, ValueError) as error:
        raise InputError(path, "a truncated, damaged or incomplete DICOM slice", AGAIN) from error
    return Slice(
        path=path,
        series=series,
        size=reader.GetSize()[:2],
        pixel_mm=reader.GetSpacing()[:2],
        position=position,
        orientation=orientation,
        values=values,
        number=int(number) if number.isdecimal() else 0,
    )


def _in_order(folder: Path, slices: list[Slice]) -> list[Slice]:
    """Check that the slices form one evenly spaced stack, and sort them by their position along its normal."""
    series = Counter(s.series for s in slices)
    if len(series) > 1:
        names = ", ".join(f"{name} ({count} files)" for name, count in series.items())
        raise InputError(folder, f"holds {len(series)} series: {names}", "keep one series per folder")
    first = slices[0]
    for other in slices:
        aligned = np.allclose(other.orientation, first.orientation, atol=ANGLE_TOLERANCE)
        alike = np.allclose(other.pixel_mm, first.pixel_mm, rtol=PIXEL_TOLERANCE)
        remedy = "remove it if it does not belong to the series, or download the series again if it is damaged"
        if other.size != first.size or not aligned or not alike:
            problem = f"its size, pixel spacing or orientation differs from that of {first.path.name}"
            raise InputError(other.path, problem, remedy)
        if other.values != first.values:
            problem = f"its values are stored or rescaled differently from those of {first.path.name}"
            raise InputError(other.path, problem, remedy)
    if len(slices) < 2:
        raise InputError(folder, "holds a single slice, which has no thickness", "give the whole series")
    normal = first.normal
    slices = sorted(slices, key=lambda s: float(s.position @ normal))
    steps = np.diff([s.position @ normal for s in slices])
    usual = float(np.median(steps))
    for step, below, above in zip(steps, slices, slices[1:], strict=False):
        if abs(step - usual) > SPACING_TOLERANCE * usual or usual <= 0:
            where = f"{step:.3f} mm between {below.path.name} and {above.path.name}, elsewhere {usual:.3f} mm"
            remedy = "remove doubled slices, or download the series again if some are missing"
            raise InputError(folder, f"its slices are not evenly spaced ({where})", remedy)
    travel = slices[-1].position - slices[0].position
    sideways = float(np.linalg.norm(travel - (travel @ normal) * normal))
    if sideways > MAX_DRIFT_PIXELS * min(first.pixel_mm):
        problem = f"its slices shift sideways by {sideways:.1f} mm, as with a tilted gantry"
        raise InputError(folder, problem, "resample the scan onto a rectangular grid")
    return slices
