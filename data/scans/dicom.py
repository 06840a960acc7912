"""A folder of DICOM slices as one volume: exactly one series, every slice readable, evenly spaced, none missing.

GDCM drops a damaged slice with a warning and the spacing changes silently; so each file is accounted for here.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from data.common.errors import InputError
from data.scans.bytes import AGAIN, check_kind

EVEN = 0.02  # slice distances may differ from their median by this share: positions are rounded decimals
# Bits allocated, stored and highest, signed or not, rescale intercept and slope: a scanner writes a series in one way.
VOXELS = ("0028|0100", "0028|0101", "0028|0102", "0028|0103", "0028|1052", "0028|1053")
DRIFT_PIXELS = 0.5  # sideways, from the first slice to the last; more is a tilted gantry


class Slice(NamedTuple):
    """What decides where a slice belongs."""

    path: Path
    series: str
    size: tuple[int, ...]
    pixel: tuple[float, ...]  # spacing of rows and columns, mm
    position: np.ndarray  # (3,) mm
    orientation: np.ndarray  # (6,) direction of a row, direction of a column
    voxels: tuple[str, ...]  # how its stored values become HU
    number: int  # within the series; 0 where the header does not tell


def read_series(folder: Path) -> sitk.Image:
    """Read the one CT series in ``folder`` as float32 HU, slices in the order of their positions.

    Files that neither are called .dcm nor carry DICOM's mark are passed over. Raises InputError for no or several
    series, an unreadable or truncated slice, slices of different size, a gap, a duplicate or a tilted gantry.
    """
    slices = _in_order(folder, [_read_header(path) for path in _slice_files(folder)])
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileNames([str(s.path) for s in slices])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            f"{folder}: a slice cannot be read ({str(error).splitlines()[-1].strip()}); {AGAIN}"
        ) from error
    if image.GetSize()[2] != len(slices):
        raise InputError(f"{folder}: {len(slices)} files but {image.GetSize()[2]} slices were read; {AGAIN}")
    return image


def outline(folder: Path) -> tuple[Path, int, float]:
    """A slice of the folder, how many there are, and how far (mm) one lies from the next: enough for an estimate.

    Two headers are read, not all. Raises InputError where these, or any file, are no DICOM slices.
    """
    files = _slice_files(folder)
    first, last = (_read_header(path) for path in (files[0], files[-1]))
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    apart = abs(float((last.position - first.position) @ normal))
    # File names need not follow the heights; numbers do. Without these the names are all there is.
    between = abs(last.number - first.number) or max(1, len(files) - 1)
    return files[0], len(files), apart / between


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
        raise InputError(f"{folder}: no DICOM slices in it; give the folder that holds them directly")
    return files


def _read_header(path: Path) -> Slice:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if reader.HasMetaDataKey("0028|0008") and int(reader.GetMetaData("0028|0008")) > 1:
            raise InputError(f"{path}: a multi-frame DICOM file, which is not read; convert it to NIfTI")
        position = np.array(reader.GetMetaData("0020|0032").split("\\"), float)
        orientation = np.array(reader.GetMetaData("0020|0037").split("\\"), float)
        series = reader.GetMetaData("0020|000e").strip("\0 ")
        reader.GetMetaData("0028|0103")  # signed or not: where that is lost, GDCM takes all values for positive
        voxels = tuple(reader.GetMetaData(t).strip("\0 ") if reader.HasMetaDataKey(t) else "" for t in VOXELS)
        number = reader.GetMetaData("0020|0013").strip("\0 ") if reader.HasMetaDataKey("0020|0013") else ""
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: a truncated, damaged or incomplete DICOM slice; {AGAIN}") from error
    size, pixel = reader.GetSize()[:2], reader.GetSpacing()[:2]
    return Slice(path, series, size, pixel, position, orientation, voxels, int(number) if number.isdecimal() else 0)


def _in_order(folder: Path, slices: list[Slice]) -> list[Slice]:
    """Sort by position along the slice normal, and check that they make one evenly spaced stack."""
    series = Counter(s.series for s in slices)
    if len(series) > 1:
        names = ", ".join(f"{name} ({count} files)" for name, count in series.items())
        raise InputError(f"{folder}: holds {len(series)} series: {names}; keep one series per folder")
    first = slices[0]
    for other in slices:
        aligned = np.allclose(other.orientation, first.orientation, atol=1e-4)
        if other.size != first.size or not aligned or not np.allclose(other.pixel, first.pixel, rtol=1e-4):
            raise InputError(f"{other.path}: size, pixel spacing or orientation differ from {first.path.name}; {AGAIN}")
        if other.voxels != first.voxels:
            raise InputError(
                f"{other.path}: its values are stored or rescaled unlike those of {first.path.name}; {AGAIN}"
            )
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    slices = sorted(slices, key=lambda s: float(s.position @ normal))
    if len(slices) < 2:
        raise InputError(f"{folder}: a single slice has no thickness; give the whole series")
    heights = np.array([s.position @ normal for s in slices])
    steps = np.diff(heights)
    usual = float(np.median(steps))
    for step, below, above in zip(steps, slices, slices[1:], strict=False):
        if abs(step - usual) > EVEN * usual or usual <= 0:
            where = f"{step:.3f} mm between {below.path.name} and {above.path.name}, elsewhere {usual:.3f}"
            raise InputError(f"{folder}: slices are not evenly spaced ({where}); is one missing or doubled? {AGAIN}")
    travel = slices[-1].position - slices[0].position
    sideways = float(np.linalg.norm(travel - (travel @ normal) * normal))
    if sideways > DRIFT_PIXELS * min(first.pixel):
        raise InputError(
            f"{folder}: slices shift sideways by {sideways:.1f} mm (tilted gantry); resample the scan first"
        )
    return slices
