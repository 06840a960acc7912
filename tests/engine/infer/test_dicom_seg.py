"""The mask of a DICOM series as a DICOM segmentation: every voxel on its slice, and what it says of scan and mask."""

import re
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, SegmentationStorage
from scipy.spatial.transform import Rotation

from data.cases.preparation import Preparation
from data.common.files import REPOSITORY
from data.scans.segments import code_names
from data.scans.volume import read_image, read_label
from engine.infer import dicom_seg, predict, prepared
from engine.infer import scan as scan_steps
from engine.infer.cascade import CascadeResult
from engine.report.pictures import COLOURS
from tests.conftest import affine_of, save, tiny_scan
from tests.dicom_files import AXIAL, CORONAL, write_slices
from tests.engine.infer.test_predict import rows_of, stand_in

highdicom = pytest.importorskip("highdicom")

IDENTITY = {
    "StudyInstanceUID": "1.2.3",
    "FrameOfReferenceUID": "1.2.9",
    "PatientID": "P7",
    "PatientName": "Doe^Jane",
    "PatientBirthDate": "19500102",
    "PatientSex": "F",
    "StudyID": "S1",
    "StudyDate": "20240102",
    "StudyTime": "101112",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "",
}
TURNED = Rotation.from_euler("xyz", (17, -9, 5), degrees=True).as_matrix()


def place(rows, columns, sign: float = 1.0, mm: float = 2.5) -> dict:
    """Orientation and step of slices whose rows and columns run in these directions."""
    step = sign * mm * np.cross(rows, columns)
    return {"orientation": tuple(np.round([*rows, *columns], 9)), "step": tuple(np.round(step, 9))}


PLACES = {
    "axial": place(AXIAL[:3], AXIAL[3:]),
    "from head to feet": place(AXIAL[:3], AXIAL[3:], -1),
    "rows upside down": place((1, 0, 0), (0, -1, 0)),
    "prone": place((-1, 0, 0), (0, -1, 0), -1),
    "coronal": place(CORONAL[:3], CORONAL[3:]),
    "oblique": place(TURNED[:, 0], TURNED[:, 1]),
    "oblique and flipped": place(-TURNED[:, 0], TURNED[:, 1], -1),
}


@pytest.fixture
def series(tmp_path):
    """Return a function that writes a series of tissue with a bright tumour in the middle of it."""

    def write(name: str = "ct", drop: int | None = None, **tags) -> Path:
        image, label = tiny_scan(0)
        tags = {"PatientPosition": "HFS", "SeriesNumber": 4, **IDENTITY, **tags}
        tags = {keyword: value for keyword, value in tags.items() if value is not None}
        array = np.choose(label, [np.full_like(image, -1000), 40, 900]).astype(np.int16)
        (tmp_path / name).mkdir()
        paths = write_slices(tmp_path / name, array, **tags)
        if drop is not None:
            paths[drop].unlink()
        return tmp_path / name

    return write


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that runs predict.py with --dicom-seg; a threshold segments in the place of the models."""
    calls = []

    def segment(models, image, spacing, **_):
        calls.append(spacing)
        return CascadeResult((image > -300).astype(np.uint8) + (image > 300), ())

    model = stand_in(tmp_path, Preparation(crop="body"))
    monkeypatch.setattr(predict, "load_models", lambda options: {"pancreas_coarse": model})
    monkeypatch.setattr(prepared, "segment_scan", segment)
    monkeypatch.setattr(scan_steps, "draw_overlay", lambda path, *_, **__: path.touch())

    def call(*scans: Path, option: str = "--dicom-seg") -> int:
        calls.clear()
        return predict.main([*map(str, scans), "-o", str(tmp_path / "out"), *filter(None, [option])])

    call.model, call.calls, call.out = model, calls, tmp_path / "out"
    return call


def on_its_slices(folder: Path, path: Path) -> np.ndarray:
    """The codes that the object gives to the pixels of each slice, found by the slice that its frames refer to."""
    seg = highdicom.seg.segread(path)
    headers = [pydicom.dcmread(file) for file in sorted(folder.iterdir())]
    return seg.get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in headers],
        segment_numbers=seg.segment_numbers,
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )


@pytest.mark.parametrize("name", PLACES)
def test_every_voxel_lies_where_it_was_segmented(run, series, name):
    folder = series(**PLACES[name])
    assert run(folder) == 0
    path = run.out / "ct_seg.dcm"
    assert np.array_equal(on_its_slices(folder, path), tiny_scan(0)[1])
    scan, mask = read_image(folder), read_label(run.out / "ct_pancreas_tumour.nii.gz")
    assert np.array_equal(read_label(path, like=scan).array, mask.array) and set(np.unique(mask.array)) == {0, 1, 2}
    # What another reader knows without the scan: the positions of the object's own voxels.
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    where = np.argwhere(volume.array == 2) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    size = np.array(scan.spacing[::-1]) * np.array(scan.direction).reshape(3, 3)
    expected = np.argwhere(mask.array == 2)[:, ::-1] @ size.T + scan.origin
    assert np.allclose(sorted(where.tolist()), sorted(expected.tolist()), atol=1e-3)


def test_rounded_positions_and_slices_thicker_than_their_distance_are_read_back(run, series):
    def rounded(made, index):
        made.ImagePositionPatient = [-10, -20, round(index * 0.6667, 2)]

    folder = series(edit=rounded, SliceThickness=1.0)
    assert run(folder) == 0
    read = read_label(run.out / "ct_seg.dcm", like=read_image(folder))
    assert np.array_equal(read.array, tiny_scan(0)[1])


def test_a_mask_of_two_parts_with_empty_slices_between_them_is_read_back(run, series, monkeypatch):
    def two_parts(models, image, spacing, **_):
        label = np.zeros(image.shape, np.uint8)
        label[1, 4:9, 4:9], label[5:7, 4:9, 4:9] = 1, 2
        return CascadeResult(label, ())

    monkeypatch.setattr(prepared, "segment_scan", two_parts)
    folder = series()
    run.model.preparation = Preparation(crop="none")
    assert run(folder) == 0
    label = read_label(run.out / "ct_seg.dcm", like=read_image(folder)).array
    assert [int(plane.max()) for plane in label] == [0, 1, 0, 0, 0, 2, 2, 0, 0, 0]


def test_it_refers_to_scan_patient_and_study_and_says_what_and_by_what(run, series, monkeypatch):
    monkeypatch.setattr(prepared, "find_doubts", lambda scan: ("the voxels are coarse",))
    folder = series(PatientName="M\u00fcller^J\u00fcrgen", SpecificCharacterSet="ISO_IR 100")
    assert run(folder) == 0
    made = pydicom.dcmread(run.out / "ct_seg.dcm")
    assert made.SOPClassUID == SegmentationStorage and made.SegmentationType == "BINARY" and made.Modality == "SEG"
    assert made.PatientName == "M\u00fcller^J\u00fcrgen"
    assert all(getattr(made, keyword) == value for keyword, value in IDENTITY.items() if keyword != "PatientName")
    (referenced,) = made.ReferencedSeriesSequence
    instances = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    headers = [pydicom.dcmread(path) for path in folder.iterdir()]
    assert referenced.SeriesInstanceUID == "1.2.3.4" and instances == {header.SOPInstanceUID for header in headers}
    assert {item.ReferencedSOPClassUID for item in referenced.ReferencedInstanceSequence} == {CTImageStorage}
    assert made.SeriesInstanceUID != "1.2.3.4" and made.SeriesNumber == 1004
    assert made.SeriesDescription.endswith("UNRELIABLE") and made.SoftwareVersions == dicom_seg.VERSION
    pancreas, tumour = made.SegmentSequence
    assert (pancreas.SegmentNumber, tumour.SegmentNumber) == (1, 2)
    for segment, code, meaning in ((pancreas, 1, codes.SCT.Pancreas), (tumour, 2, codes.SCT.Neoplasm)):
        (kind,) = segment.SegmentedPropertyTypeCodeSequence
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == (meaning.value, "SCT")
        assert segment.SegmentAlgorithmType == "AUTOMATIC" and "the voxels are coarse" in segment.SegmentDescription
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmName == dicom_seg.SOFTWARE and algorithm.AlgorithmVersion == dicom_seg.VERSION
        colour = highdicom.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
        assert np.abs(np.subtract(colour, COLOURS["prediction", code])).max() <= 2
    (category,) = tumour.SegmentedPropertyCategoryCodeSequence
    assert category.CodeValue == codes.CID7150.MorphologicallyAbnormalStructure.value
    assert tumour.AnatomicRegionSequence[0].CodeValue == codes.SCT.Pancreas.value
    assert code_names(run.out / "ct_seg.dcm") == {1: "Pancreas", 2: "Pancreatic tumour"}


@pytest.mark.parametrize(
    ("characters", "name"),
    [("ISO_IR 192", "\u738b^\u5c0f\u6771"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce")],
)
def test_names_in_other_alphabets_are_kept(run, series, characters, name):
    assert run(series(SpecificCharacterSet=characters, PatientName=name)) == 0
    assert pydicom.dcmread(run.out / "ct_seg.dcm").PatientName == name


def test_a_scan_without_names_dates_thickness_and_number_of_the_series_gets_one_too(run, series):
    def bare(made, index):
        del made.SeriesNumber, made.SliceThickness

    folder = series(edit=bare, **dict.fromkeys(dicom_seg.MAY_BE_EMPTY))
    assert run(folder) == 0
    made = pydicom.dcmread(run.out / "ct_seg.dcm")
    assert made.PatientID == "" and made.SeriesNumber == 1000
    assert made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness == 2.5
    assert np.array_equal(read_label(run.out / "ct_seg.dcm", like=read_image(folder)).array, tiny_scan(0)[1])


def another_frame(made, index):
    made.FrameOfReferenceUID = "1.2.10" if index == 5 else "1.2.9"


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"FrameOfReferenceUID": None}, "IM000.dcm: names no frame of reference"),
        ({"StudyInstanceUID": None}, "IM000.dcm: names no study"),
        ({"edit": another_frame}, "IM005.dcm: its study or frame of reference differs from that of IM000.dcm"),
        ({"PatientSex": "X"}, "'X' is not a valid PatientSexValues"),
        ({"step": (0, 0.6, 2.5)}, "gantry tilted by"),
        ({"drop": 4}, "not evenly spaced"),
    ],
)
def test_what_cannot_be_referred_to_is_refused_before_it_is_segmented(run, series, capsys, tags, reason):
    assert run(series(**tags)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and reason in line and not run.calls
    assert not list(run.out.glob("*.dcm")) and not list(run.out.glob("*.nii.gz"))


def test_without_highdicom_the_option_is_refused_and_nothing_else_needs_it(run, series, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    folder = series()
    assert run(folder) == 2
    assert capsys.readouterr().err == (
        "error: --dicom-seg: writing DICOM segmentations needs the package highdicom. "
        "Install it: pip install highdicom\n"
    )
    assert not run.out.exists() and run(folder, option="") == 0 and not list(run.out.glob("*.dcm"))


def test_a_scan_of_another_format_gets_its_mask_and_a_note(run, series, tmp_path):
    scan = np.full((20, 20, 12), -1000, np.int16)
    scan[5:15, 5:15, 3:9] = 40
    other = save(tmp_path / "b.nii.gz", scan, affine_of(zooms=(2.0, 2.0, 5.0)))
    assert run(series(), other) == 0
    assert sorted(path.name for path in run.out.glob("*.dcm")) == ["ct_seg.dcm"]
    notes = {row["case"]: row["note"] for row in rows_of(run.out)}
    assert "not a DICOM series" in notes["b"] and "DICOM" not in notes["ct"]


@pytest.mark.parametrize("found", [0, 2])
def test_segments_without_voxels_are_not_described(run, series, monkeypatch, found):
    def segment(models, image, spacing, **_):
        return CascadeResult((image > 300).astype(np.uint8) * found, ())

    monkeypatch.setattr(prepared, "segment_scan", segment)
    assert run(series()) == 0
    assert (run.out / "ct_seg.dcm").exists() == bool(found)
    assert ("because nothing was found" in rows_of(run.out)[0]["note"]) == (not found)
    if found:
        assert code_names(run.out / "ct_seg.dcm") == {1: "Pancreatic tumour"}


def test_it_is_added_to_a_finished_scan_and_never_older_than_its_mask(run, series):
    folder = series()
    path = run.out / "ct_seg.dcm"
    assert run(folder, option="") == 0 and len(run.calls) == 1 and not path.exists()
    assert run(folder) == 0 and not run.calls  # made from the mask that is there
    assert np.array_equal(on_its_slices(folder, path), tiny_scan(0)[1])
    before = path.read_bytes()
    assert run(folder) == 0 and path.read_bytes() == before
    run.model.threshold = 0.7
    assert run(folder, option="") == 0 and len(run.calls) == 1 and not path.exists()


def test_the_version_is_that_of_the_project():
    project = (REPOSITORY / "pyproject.toml").read_text()
    assert all(
        re.search(f'^{key} = "{value}"$', project, re.MULTILINE)
        for key, value in (("name", dicom_seg.SOFTWARE), ("version", dicom_seg.VERSION))
    )
