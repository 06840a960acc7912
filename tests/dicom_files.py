"""Small DICOM files as scanners and workstations write them, made with pydicom."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

DOSE_REPORT = "1.2.840.10008.5.1.4.1.1.88.67"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
AXIAL, CORONAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1)


def write_object(path: Path, kind: str, modality: str, series: str = "", **tags: object) -> FileDataset:
    """Write a DICOM object without pixels, such as a dose report, and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = kind, meta.MediaStorageSOPInstanceUID, modality
    made.SeriesInstanceUID = series or generate_uid()
    for name, value in tags.items():
        setattr(made, name, value)
    made.save_as(path, enforce_file_format=True)
    return made


def write_slices(
    folder: Path,
    array: np.ndarray,
    *,
    series: str = "1.2.3.4",
    orientation: tuple[float, ...] = AXIAL,
    step: tuple[float, float, float] = (0.0, 0.0, 2.5),
    intercept: float = -1024,
    slope: float = 1.0,
    signed: bool = False,
    prefix: str = "IM",
    edit: Callable[[FileDataset, int], None] | None = None,
    **tags: object,
) -> list[Path]:
    """Write the slices of a series and return their paths.

    Args:
        folder: Folder to write into.
        array: HU (D, H, W).
        series: Identifier of the series.
        orientation: Direction cosines of a row and a column.
        step: From one slice to the next (x, y, z) in mm.
        intercept: Rescale intercept.
        slope: Rescale slope.
        signed: Whether values are stored with a sign.
        prefix: Of the file names.
        edit: Changes slice number i before it is saved.
        tags: Further tags of all slices, by their keyword.
    """
    paths = []
    for index, plane in enumerate(array):
        stored = np.rint((plane.astype(float) - intercept) / slope).astype(np.int16 if signed else np.uint16)
        path = folder / f"{prefix}{index:03d}.dcm"
        usual = {
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "SeriesNumber": 1,
            "InstanceNumber": index + 1,
            "ImagePositionPatient": [-10 + step[0] * index, -20 + step[1] * index, step[2] * index],
            "ImageOrientationPatient": list(orientation),
            "PixelSpacing": [0.8, 0.8],
            "SliceThickness": 2.5,
            "Rows": plane.shape[0],
            "Columns": plane.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": int(signed),
            "RescaleIntercept": f"{intercept:g}",
            "RescaleSlope": f"{slope:g}",
            "PixelData": stored.tobytes(),
        }
        made = write_object(path, CTImageStorage, "CT", series, **(usual | tags))
        if edit:
            edit(made, index)
            made.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def stored_values(made: FileDataset) -> np.ndarray:
    """Return the stored values of a slice, to be changed and given to ``store``."""
    dtype = np.int16 if made.PixelRepresentation else np.uint16
    return np.frombuffer(made.PixelData, dtype).reshape(made.Rows, made.Columns).copy()
