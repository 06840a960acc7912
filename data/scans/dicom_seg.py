"""DICOM segmentation objects (SEG) as labels: the names of their segments, and their voxels.

The packages pydicom and highdicom are imported only where such an object is read.

References:
    DICOM PS3.3, A.51 Segmentation IOD.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.common.errors import InputError
from data.common.program import install_command
from data.scans.bytes import AGAIN, SUFFIXES
from data.scans.grid import Grid
from data.scans.headers import nearest_rotation

MOST_VOXELS = 1 << 31  # more than any CT has; a damaged header must not exhaust the memory
CONVERT = "convert it to a labelmap in 3D Slicer (with SlicerRT), or with plastimatch"
PLASTIMATCH = "plastimatch convert --input RTSTRUCT.dcm --referenced-ct CT_FOLDER --output-labelmap label.nrrd"


class Segments(NamedTuple):
    """The voxels of a segmentation object.

    Attributes:
        codes: Numbers of the segments, uint8, shape (D, H, W) in LPS; 0 where there is none.
        grid: Grid of the object's own voxels, which begin with its first slice and end with its last one.
        notes: What had to be adapted.
    """

    codes: np.ndarray
    grid: Grid
    notes: tuple[str, ...]


def is_dicom(path: Path) -> bool:
    """Return True if a path is a file that begins as DICOM objects do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def find_segmentation(path: Path) -> Path | None:
    """Find the segmentation object that a label consists of.

    Args:
        path: A file, or a folder that holds the object alone.

    Returns:
        The object's file; None if the path is a file of another format or a folder of slices.

    Raises:
        InputError: If it is a DICOM object of another kind, such as contours (RTSTRUCT), or the folder holds a
            segmentation object and other files.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        kinds = [_modality(file) for file in files]
        if "SEG" not in kinds and "RTSTRUCT" not in kinds:
            return None  # slices, which are read as a volume
        if len(files) > 1:
            problem = f"it holds {len(files)} files, among them a DICOM segmentation, and only one can be the label"
            raise InputError(path, problem, "keep the one file that is the label of this scan")
        path, modality = files[0], kinds[0]
    elif path.is_file() and not path.name.lower().endswith(SUFFIXES):
        modality = _modality(path)
    else:
        return None
    if modality == "RTSTRUCT":
        raise InputError(path, "contours (RTSTRUCT), not a label of voxels", CONVERT, command=PLASTIMATCH)
    if modality not in (None, "SEG"):
        remedy = "give a DICOM segmentation (SEG), a folder of slices, or a label in another format"
        raise InputError(path, f"a DICOM object of modality {modality or 'unknown'}, not a segmentation", remedy)
    return path if modality else None


def segment_names(path: Path) -> dict[int, str]:
    """Return the label that a segmentation object gives to each segment, by number."""
    import pydicom

    with _blaming(path):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in header.SegmentSequence}
    return {number: name for number, name in names.items() if number != 0}  # a LABELMAP names its background too


def read_segmentation(path: Path, rank: np.ndarray | None = None) -> Segments:
    """Read a segmentation object of type BINARY or LABELMAP.

    Args:
        path: File of the object.
        rank: For each number of a segment (0 to 255) its rank. Where two segments overlap, the one of higher rank
            counts. Without ranks, segments that overlap are refused.

    Returns:
        The voxels from the first to the last slice that the object has; slices without a segment are often omitted.

    Raises:
        InputError: If the object is damaged, of type FRACTIONAL, not on a regular grid, or has overlapping segments
            of which none takes precedence.
    """
    try:
        import highdicom
    except ImportError as error:
        problem = "reading DICOM segmentations needs the package highdicom"
        command = install_command("dicom", "highdicom")
        raise InputError(path, problem, "install it", command=command) from error
    with _blaming(path):
        segmentation = highdicom.seg.segread(path)
        kind, numbers = segmentation.segmentation_type.value, [int(n) for n in segmentation.segment_numbers]
        geometry = segmentation.get_volume_geometry()
    if kind == "FRACTIONAL":
        problem = "a segmentation of type FRACTIONAL, whose voxels are probabilities"
        raise InputError(path, problem, "export it as a BINARY segmentation")
    if not numbers or max(numbers) > 255:
        raise InputError(path, f"its segments have numbers up to {max(numbers, default=0)}, not 1 to 255", AGAIN)
    if geometry is None:
        raise InputError(path, "its slices do not form a regular grid", "export it as a labelmap in NRRD or NIfTI")
    shape = tuple(map(int, geometry.spatial_shape))
    if math.prod(shape) > MOST_VOXELS:
        raise InputError(path, f"its header promises {' x '.join(map(str, shape))} voxels", AGAIN)
    codes, overlapped = np.zeros(shape, np.uint8), False
    for number in sorted(numbers, key=lambda n: 0 if rank is None else int(rank[n])):
        with _blaming(path):
            mask = segmentation.get_volume(segment_numbers=[number], dtype=np.uint8).array[..., 0] > 0
        hidden = codes[mask]
        if hidden.any():
            overlapped = True
            if rank is None:
                other = hidden[hidden > 0][0]
                problem = f"its segments {other} and {number} overlap, so that a voxel has two codes"
                raise InputError(path, problem, "export it without overlap, for instance as a labelmap from 3D Slicer")
        codes[mask] = number
    affine = np.array(geometry.affine)[:3]  # from the index (slice, row, column) to mm in LPS
    axes = affine[:, [2, 1, 0]]
    rotation, rounded = nearest_rotation(path, axes)
    spacing = np.linalg.norm(axes, axis=0)
    grid = Grid.of(shape[::-1], spacing.tolist(), affine[:, 3].tolist(), rotation.ravel().tolist())
    overlap = ("segments overlap: a tumour hides the pancreas, which hides the background",) if overlapped else ()
    return Segments(grid.to_lps(codes), grid, (*rounded, *overlap))


def _modality(path: Path) -> str | None:
    """Return the modality of a DICOM file, "" if it states none; None if the file is not DICOM."""
    if not is_dicom(path):
        return None
    import pydicom

    with _blaming(path):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality"])
        return str(header.get("Modality", ""))


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turn whatever pydicom and highdicom raise for a damaged object into an InputError that blames the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on values that are not as the standard wants them
            yield
    except OSError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(path, f"a DICOM object that cannot be read ({reason})", AGAIN) from error
