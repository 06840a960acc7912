"""Small DICOM segmentation objects (SEG) for tests, written with highdicom."""

from pathlib import Path

import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid


def slices(shape: tuple[int, int, int], spacing: tuple[float, float, float], origin: tuple[float, float, float]):
    """Headers of an axial CT series of this shape (D, H, W), spacing (z, y, x) and first voxel (x, y, z)."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    made = []
    for index in range(shape[0]):
        data = _object(CTImageStorage, "CT")
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.SeriesNumber, data.InstanceNumber = 1, index + 1
        data.ImagePositionPatient = [origin[0], origin[1], origin[2] + index * spacing[0]]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [spacing[1], spacing[2]], spacing[0]
        data.Rows, data.Columns = shape[1:]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PixelData = np.zeros(shape[1:], np.int16).tobytes()
        made.append(data)
    return made


def write_seg(
    path: Path,
    masks: dict[str, np.ndarray],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    kind: str = "BINARY",
) -> Path:
    """Write one segment per mask (D, H, W), numbered from 1; slices without a segment are omitted.

    A LABELMAP has no overlap: later masks replace earlier ones.
    """
    stack = np.stack(list(masks.values()), axis=-1).astype(np.float32 if kind == "FRACTIONAL" else np.uint8)
    pixels = np.max(stack * np.arange(1, len(masks) + 1, dtype=np.uint8), axis=-1) if kind == "LABELMAP" else stack
    described = [
        SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Pancreas,
            algorithm_type=SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(masks, start=1)
    ]
    series = slices(stack.shape[:3], spacing, origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    Segmentation(
        series, pixels, kind, described, generate_uid(), 1, generate_uid(), 1, "maker", "model", "1", "serial"
    ).save_as(path)
    return path


def write_contours(path: Path) -> Path:
    """Write a DICOM object of modality RTSTRUCT without contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _object(RTStructureSetStorage, "RTSTRUCT").save_as(path, enforce_file_format=True)
    return path


def _object(storage: str, modality: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = storage, meta.MediaStorageSOPInstanceUID, modality
    data.PatientID, data.PatientName = "synthetic", "Synthetic^"
    data.PatientBirthDate = data.PatientSex = data.StudyID = data.AccessionNumber = data.ReferringPhysicianName = ""
    data.StudyDate, data.StudyTime = "20200101", "120000"
    return data
