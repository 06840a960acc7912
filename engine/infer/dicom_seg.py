"""A mask as a DICOM segmentation object (SEG), which archives and viewers of a hospital show on the scan it belongs to.

The object is of type BINARY and has the pixels of the slices themselves, so that no voxel is resampled. Each of its
frames refers to the slice that it was made on. Patient and study are those of the scan.

Its segments have the numbers of the mask and do not overlap, because not all viewers show segments that do: "Pancreas"
is the gland without the tumour, which is the segment "Pancreatic tumour". The whole organ is both together. Only
segments with voxels are described.

References:
    DICOM PS3.3, A.51 Segmentation IOD; PS3.16, CID 7150 (categories), 7154 (organs) and 7159 (lesions).
"""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data.cases.labels import PANCREAS, TUMOUR, codes_in
from data.common.errors import InputError
from data.common.files import replacing
from data.common.program import COMMAND, install_command
from data.scans.dicom import find_slices
from engine.report.pictures import COLOURS

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.dataset import Dataset

SOFTWARE = COMMAND
VERSION = "0.1.0"  # of pyproject.toml
SERIES_OFFSET = 1000  # added to the number of the scan's series
NAMES = {PANCREAS: "Pancreas", TUMOUR: "Pancreatic tumour"}
MEANINGS = {PANCREAS: "The pancreas without its tumour, if it has one.", TUMOUR: "Tumours of the pancreas."}
SHORT_TEXT = 1024  # characters of a segment's description, by the standard
# Every slice has to have the first ones. The others may be unknown, but must be there (type 2).
NEEDED = {
    "StudyInstanceUID": "study",
    "SOPInstanceUID": "image",
    "FrameOfReferenceUID": "frame of reference",
}
COMMON = ("StudyInstanceUID", "FrameOfReferenceUID")  # to all slices
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
# What is needed of the slices after the first, whose whole header is read.
TAGS = (
    *NEEDED,
    *("SOPClassUID", "SeriesInstanceUID", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
)


class Source(NamedTuple):
    """The scan that a segmentation refers to.

    Attributes:
        folder: Its folder.
        images: The headers of its slices in the order of the file's array, without pixels.
        step_mm: Distance of two slices in mm.
    """

    folder: Path
    images: tuple["Dataset", ...]
    step_mm: float


class Origin(NamedTuple):
    """What a segmentation says of how it was made.

    Attributes:
        models: Hash of the models.
        caution: Why the mask is not reliable; empty if it is.
    """

    models: str
    caution: str = ""


NO_ORIGIN = Origin("")


def require_highdicom() -> None:
    """Check that segmentations can be written.

    Raises:
        InputError: If the package highdicom is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        problem = "writing DICOM segmentations needs the package highdicom"
        command = install_command("dicom", "highdicom")
        raise InputError("--dicom-seg", problem, "install it", command=command) from error


def read_source(folder: Path, series: str, step_mm: float) -> Source:
    """Read what a segmentation has to say of its scan.

    Args:
        folder: Folder of a DICOM series that has been read.
        series: Which series, as ``--series`` names it; empty for the only one.
        step_mm: Distance of two slices in mm.

    Raises:
        InputError: If a header lacks what a segmentation has to refer to, or holds values that must not be copied.
    """
    import pydicom

    images: list[Dataset] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that break the standard but can be read
        for path in find_slices(folder, series):
            tags = list(TAGS) if images else None
            image = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
            if missing := [meaning for keyword, meaning in NEEDED.items() if not image.get(keyword)]:
                problem = f"names no {missing[0]}, to which a DICOM segmentation has to refer"
                raise InputError(path, problem, "export the series again, or leave out --dicom-seg")
            first = images[0] if images else image
            if any(image[keyword] != first[keyword] for keyword in COMMON):
                problem = f"its study or frame of reference differs from that of {Path(str(first.filename)).name}"
                raise InputError(path, problem, "export the series again, or leave out --dicom-seg")
            if not image.get("SliceThickness"):
                image.SliceThickness = step_mm
            images.append(image)
    for keyword in MAY_BE_EMPTY:
        if keyword not in images[0]:
            setattr(images[0], keyword, "")
    # A header that cannot be referred to is found before the scan is segmented.
    _describe(Source(folder, tuple(images[:1]), step_mm), np.ones((1, images[0].Rows, images[0].Columns), np.uint8))
    return Source(folder, tuple(images), step_mm)


def write_segmentation(path: Path, mask: np.ndarray, source: Source, origin: Origin) -> bool:
    """Write a mask as a DICOM segmentation.

    Args:
        path: File to write.
        mask: Labels 0/1/2, uint8, in the order of the slices (slices, rows, columns).
        source: The scan.
        origin: How the mask was made.

    Returns:
        Whether it was written: an empty mask has no segment that could be described.

    Raises:
        InputError: If the mask does not have the shape of the scan.
    """
    first = source.images[0]
    if mask.shape != (len(source.images), first.Rows, first.Columns):
        problem = f"its slices are no longer those from which the mask of shape {mask.shape} was made"
        raise InputError(source.folder, problem, "segment it again into another folder")
    if not mask.any():
        return False
    made = _describe(source, mask, origin)
    with replacing(path) as unfinished:
        made.save_as(unfinished)
    return True


def _describe(source: Source, mask: np.ndarray, origin: Origin = NO_ORIGIN) -> "Segmentation":
    """Make the object of a mask (slices, rows, columns) that is not empty."""
    import highdicom
    from pydicom.uid import generate_uid

    first = source.images[0]
    logging.getLogger("highdicom").setLevel(logging.ERROR)  # its warnings concern names that are copied as they are
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            codes = [int(code) for code in codes_in(mask) if code]
            made = highdicom.seg.Segmentation(
                source_images=source.images,
                # A tumour without a pancreas around it is the first segment, because numbers must not leave one out.
                pixel_array=mask if codes[-1] == len(codes) else (mask > 0).astype(np.uint8),
                segmentation_type="BINARY",
                segment_descriptions=[_segment(number, code, origin) for number, code in enumerate(codes, start=1)],
                series_instance_uid=generate_uid(prefix=None),
                series_number=int(first.get("SeriesNumber") or 0) + SERIES_OFFSET,
                series_description=f"Pancreas and tumour, automatic{', UNRELIABLE' if origin.caution else ''}",
                sop_instance_uid=generate_uid(prefix=None),
                instance_number=1,
                manufacturer=SOFTWARE,
                manufacturer_model_name=SOFTWARE,
                software_versions=VERSION,
                device_serial_number=origin.models[:16] or "0",
                content_label="PANCREAS",
                content_description="Pancreas and pancreatic tumour",
                pixel_measures=highdicom.PixelMeasuresSequence(
                    pixel_spacing=first.PixelSpacing,
                    slice_thickness=first.SliceThickness,
                    spacing_between_slices=source.step_mm,
                ),
                specific_character_set=None,
            )
            # Copied as it is, because highdicom refuses an empty first value, which is usual in Japan.
            if "SpecificCharacterSet" in first:
                made.SpecificCharacterSet = first.SpecificCharacterSet
    except Exception as error:  # highdicom passes on whatever it finds wrong in the headers
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        problem = f"its headers cannot be copied into a DICOM segmentation ({reason})"
        raise InputError(source.folder, problem, "export the series again, or leave out --dicom-seg") from error
    return made


def _segment(number: int, code: int, origin: Origin) -> "SegmentDescription":
    """Describe a segment: what it is, in coded terms, how it was made, and the colour of the project's pictures."""
    import highdicom
    from pydicom.sr.codedict import codes

    is_tumour = code == TUMOUR
    segment = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=NAMES[code],
        segmented_property_category=codes.CID7150.MorphologicallyAbnormalStructure
        if is_tumour
        else codes.CID7150.AnatomicalStructure,
        segmented_property_type=codes.SCT.Neoplasm if is_tumour else codes.SCT.Pancreas,
        anatomic_regions=[codes.SCT.Pancreas] if is_tumour else None,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=SOFTWARE,
            family=codes.CID7162.ArtificialIntelligence,
            version=VERSION,
            parameters={"models": origin.models} if origin.models else None,
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*COLOURS["prediction", code]),
    )
    text = MEANINGS[code] + (f" Unreliable: {origin.caution}." if origin.caution else "")
    segment.SegmentDescription = text.encode("ascii", "replace").decode()[:SHORT_TEXT]
    return segment
