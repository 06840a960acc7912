"""The headers of DICOM files: what a file is, and where its slice lies.

Headers are read with pydicom, because GDCM, with which SimpleITK decodes the voxels, opens images only: of a dose
report or a structure set it would merely say that it cannot be read.
"""

import math
import shlex
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data.common.errors import InputError
from data.scans.bytes import AGAIN, check_kind
from data.scans.dicom_pixels import check_pixel_data

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

DICOM_SUFFIXES = (".dcm", ".ima")
MARK = b"DICM"  # at byte 128
# First elements of files that were saved without preamble: group 2 or 8, little endian.
BARE_STARTS = tuple(bytes(pair) for pair in ((2, 0, 0, 0), (8, 0, 0, 0), (8, 0, 5, 0), (8, 0, 8, 0), (8, 0, 0x16, 0)))
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
RADIATION_DOSE = "1.2.840.10008.5.1.4.1.1.88.67"
# Objects that lie beside the slices of a study and are none themselves, by their modality.
OBJECTS = {
    "AU": "audio recording (AU)",
    "DOC": "document (DOC)",
    "FID": "set of fiducials (FID)",
    "KO": "key object selection (KO)",
    "M3D": "3-D model (M3D)",
    "PLAN": "plan (PLAN)",
    "PR": "presentation state (PR)",
    "REG": "registration (REG)",
    "RTDOSE": "dose distribution (RTDOSE)",
    "RTIMAGE": "radiotherapy image (RTIMAGE)",
    "RTPLAN": "radiotherapy plan (RTPLAN)",
    "RTRECORD": "treatment record (RTRECORD)",
    "RTSTRUCT": "structure set (RTSTRUCT)",
    "SEG": "segmentation (SEG)",
    "SMR": "stereometric relationship (SMR)",
    "SR": "report (SR)",
}
# The same by their class, where the modality is that of the scanner.
OBJECT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.3.12.2.1107.5.9.1": "raw data",
    "1.2.840.10008.5.1.4.1.1.104.1": "document (PDF)",
    RADIATION_DOSE: "dose report (SR)",
}
# Transfer syntaxes that GDCM decodes: none, deflate, JPEG, JPEG-LS, JPEG 2000 and RLE.
DECODED = {
    "1.2.840.10008.1.2",
    *(f"1.2.840.10008.1.2.{n}" for n in ("1", "2", "1.99", "5")),
    *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91)),
}
# The tags that are read. Everything else, private tags of a megabyte included, is skipped.
TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "SeriesInstanceUID", "SeriesNumber"),
    *("SeriesDescription", "AcquisitionNumber", "AcquisitionTime", "TemporalPositionIdentifier", "InstanceNumber"),
    *("Rows", "Columns", "NumberOfFrames", "SliceThickness"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "RescaleIntercept", "RescaleSlope", "PixelPaddingValue", "PixelPaddingRangeLimit"),
)
SHOWN_CHARACTERS = 40  # of a series description
DAMAGED = "a truncated, damaged or incomplete DICOM slice"


class Rescale(NamedTuple):
    """How stored values become HU: ``slope * stored + intercept``."""

    slope: float
    intercept: float


@dataclass(frozen=True)
class Header:
    """What every DICOM file says of itself.

    Attributes:
        path: The file.
        series: Identifier of its series.
        series_number: Number of the series, as text; empty if there is none.
        description: Description of the series; empty if there is none.
        modality: Such as CT, PT or SR.
        image_type: Such as ORIGINAL, PRIMARY, AXIAL.
    """

    path: Path
    series: str
    series_number: str
    description: str
    modality: str
    image_type: tuple[str, ...]


@dataclass(frozen=True)
class OtherObject(Header):
    """A file that is not a slice.

    Attributes:
        kind: What it is, as a phrase for messages.
        frames: Number of frames if it is a multi-frame image, else 0.
        unplaced: Whether it is an image that should be a slice, but does not say where it lies.
    """

    kind: str = ""
    frames: int = 0
    unplaced: bool = False


@dataclass(frozen=True)
class Slice(Header):
    """One slice of a scan.

    Attributes:
        identity: Identifier of this very image (SOP instance).
        size: Columns and rows.
        pixel_mm: Distances of columns and of rows in mm.
        position: Centre of the first pixel (x, y, z) in mm, shape (3,).
        orientation: Direction cosines of a row, then of a column, shape (6,).
        thickness: Thickness in mm, 0 if it is not given.
        storage: How values are stored: kind of object, samples, photometric interpretation, bits allocated, bits
            stored, highest bit, signed. Equal in all slices of a series.
        compression: UID of the transfer syntax; empty if the file does not give it.
        rescale: How they become HU; None if the header has no rescale.
        padding: Lowest and highest stored value that stands for no measurement; None if there is none.
        number: Within the series; 0 if the header does not give it.
        acquisition: Acquisition number, temporal position and acquisition time, as text.
    """

    identity: str = ""
    size: tuple[int, int] = (0, 0)
    pixel_mm: tuple[float, float] = (0.0, 0.0)
    position: np.ndarray = field(default_factory=lambda: np.zeros(3))
    orientation: np.ndarray = field(default_factory=lambda: np.zeros(6))
    thickness: float = 0.0
    storage: tuple[str, ...] = ()
    compression: str = ""
    rescale: Rescale | None = None
    padding: tuple[int, int] | None = None
    number: int = 0
    acquisition: tuple[str, str, str] = ("", "", "")

    @property
    def is_decoded(self) -> bool:
        """Whether GDCM decodes the way in which the pixels are compressed."""
        return not self.compression or self.compression in DECODED

    @property
    def normal(self) -> np.ndarray:
        """Direction (3,) perpendicular to the slice."""
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def height(self) -> float:
        """Position along the normal in mm."""
        return float(self.position @ self.normal)


def conversion(folder: Path) -> str:
    """Return the command that converts a DICOM folder to NIfTI."""
    return f"dcm2niix -z y -o OUTPUT {shlex.quote(str(folder))}"


def dicom_files(folder: Path) -> list[Path]:
    """List the DICOM files that lie directly in a folder, sorted by name.

    They are called .dcm or .ima, or carry DICOM's mark. Other files are ignored.

    Raises:
        InputError: If there is none, or a file that is called .dcm or .ima is empty, a web page or the like.
    """
    files = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
            continue
        named = path.suffix.lower() in DICOM_SUFFIXES
        if named or path.stat().st_size == 0:
            check_kind(path)
        with path.open("rb") as file:
            head = file.read(132)
        if named or head[128:] == MARK or head[:4] in BARE_STARTS:
            files.append(path)
    if not files:
        raise InputError(folder, "no DICOM slices in this folder", "give the folder that holds them directly")
    return files


def read_header(path: Path) -> Slice | OtherObject:
    """Read what a DICOM file says of itself, without its voxels.

    Raises:
        InputError: If the header is damaged, or the file may be a slice but lacks what makes one. Only what is
            certainly no slice becomes a ``OtherObject``: a damaged slice must never be passed over as one.
    """
    import pydicom  # takes half a second, which only those who read DICOM should wait for

    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # about values that break the standard but can be read
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS), force=True)
            _check_meta_information(dataset)
            header = _interpret(path, dataset)
            if isinstance(header, Slice):
                voxel_bytes = int(dataset.BitsAllocated) * int(_text(dataset, "SamplesPerPixel") or 1) // 8
                check_pixel_data(file, header.compression, header.size, voxel_bytes)
            return header
    except (InputError, OSError):
        raise
    except Exception as error:  # pydicom passes on whatever its parsers raise for a damaged file
        raise InputError(path, DAMAGED, AGAIN) from error


def _check_meta_information(dataset: "FileDataset") -> None:
    """Check the elements before the data set, in which GDCM would take text for a length and reserve a gigabyte.

    An element whose kind of value does not exist raises any exception.
    """
    if dataset.preamble and not dataset.file_meta:
        raise ValueError("the preamble is not followed by meta information")
    dataset.file_meta.walk(lambda _, element: element.value)


def _interpret(path: Path, dataset: "FileDataset") -> Slice | OtherObject:
    kind_uid, modality = _text(dataset, "SOPClassUID"), _text(dataset, "Modality").upper()
    header = Header(
        path=path,
        series=_text(dataset, "SeriesInstanceUID"),
        series_number=_text(dataset, "SeriesNumber"),
        description=_text(dataset, "SeriesDescription")[:SHOWN_CHARACTERS],
        modality=modality or ("CT" if kind_uid == CT_IMAGE else ""),
        image_type=tuple(word.upper() for word in _texts(dataset, "ImageType")),
    )
    is_image = "Rows" in dataset and "Columns" in dataset
    if kind_uid in OBJECT_CLASSES or (modality in OBJECTS and kind_uid != CT_IMAGE):
        return OtherObject(**vars(header), kind=OBJECT_CLASSES.get(kind_uid) or OBJECTS[modality])
    if is_image and kind_uid == SECONDARY_CAPTURE and "ImagePositionPatient" not in dataset:
        return OtherObject(**vars(header), kind="screenshot (secondary capture)")
    if not is_image or not kind_uid:
        raise InputError(path, DAMAGED, AGAIN)
    if (frames := int(_text(dataset, "NumberOfFrames") or 1)) > 1:
        return OtherObject(**vars(header), kind=f"multi-frame {modality} image", frames=frames)
    if "ImagePositionPatient" not in dataset or "ImageOrientationPatient" not in dataset:
        return OtherObject(**vars(header), kind="image without a position", unplaced=True)
    return _slice(header, kind_uid, dataset)


def _slice(header: Header, kind_uid: str, dataset: "FileDataset") -> Slice:
    """Read the tags of a slice; one that is missing or is not what it should be raises any exception."""
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    row_mm, column_mm = _numbers(dataset, "PixelSpacing", 2)
    orientation = np.array(_numbers(dataset, "ImageOrientationPatient", 6))
    size = int(dataset.Columns), int(dataset.Rows)
    if not header.series or min(row_mm, column_mm) <= 0 or min(size) < 1 or signed not in (0, 1) or bits < 1:
        raise ValueError
    if np.abs(np.linalg.norm(orientation.reshape(2, 3), axis=1) - 1).max() > 0.01:
        raise ValueError
    rescale = None
    if "RescaleIntercept" in dataset or "RescaleSlope" in dataset:
        slope = _numbers(dataset, "RescaleSlope", 1)[0] if "RescaleSlope" in dataset else 1.0
        rescale = Rescale(slope, _numbers(dataset, "RescaleIntercept", 1)[0])
        if slope == 0:
            raise ValueError
    number = _text(dataset, "InstanceNumber")
    words = ("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit")
    thickness = _text(dataset, "SliceThickness")
    return Slice(
        **vars(header),
        identity=_text(dataset, "SOPInstanceUID"),
        size=size,
        pixel_mm=(column_mm, row_mm),
        position=np.array(_numbers(dataset, "ImagePositionPatient", 3)),
        orientation=orientation,
        thickness=float(thickness or 0),
        storage=(kind_uid, *(_text(dataset, word) for word in words), str(signed)),
        compression=_text(dataset.file_meta, "TransferSyntaxUID"),
        rescale=rescale,
        padding=_padding(dataset, bits, bool(signed)),
        number=int(number) if number.isdecimal() else 0,
        acquisition=(
            _text(dataset, "AcquisitionNumber"),
            _text(dataset, "TemporalPositionIdentifier"),
            _text(dataset, "AcquisitionTime"),
        ),
    )


def _padding(dataset: "Dataset", bits: int, signed: bool) -> tuple[int, int] | None:
    """Return the range of stored values that are padding.

    Writers disagree on whether the tags are signed, so that -2000 may be written as 63536. The bits count: they are
    read as the pixels are.
    """
    values = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if text := _text(dataset, keyword):
            value = int(text) & ((1 << bits) - 1)
            values.append(value - (1 << bits) if signed and value >> (bits - 1) else value)
    return (min(values), max(values)) if values and "PixelPaddingValue" in dataset else None


def _text(dataset: "Dataset", keyword: str) -> str:
    """Return a value as text without control characters and outer blanks; empty if it is missing."""
    value = dataset.get(keyword)
    text = "" if value is None else str(value)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _texts(dataset: "Dataset", keyword: str) -> list[str]:
    value = dataset.get(keyword)
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(word) for word in value]


def _numbers(dataset: "Dataset", keyword: str, count: int) -> tuple[float, ...]:
    """Return so many finite numbers. Raises ValueError if the tag has others."""
    value = dataset[keyword].value
    numbers = tuple(float(v) for v in (value if count > 1 else [value]))
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(keyword)
    return numbers
