"""DICOM folders as hospitals fill them: which series is read, what is passed over, how stored values become HU."""

import numpy as np
import pytest
from pydicom.uid import CTImageStorage, RLELossless, SecondaryCaptureImageStorage

from data.common.errors import InputError
from data.scans.dicom import summarise_series
from data.scans.volume import read_image, read_label
from tests.conftest import NOISE, refused
from tests.dicom_files import (
    CORONAL,
    DOSE_REPORT,
    PRESENTATION_STATE,
    STRUCTURE_SET,
    stored_values,
    write_object,
    write_slices,
)

LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
DERIVED = ["DERIVED", "SECONDARY", "AXIAL", "MPR"]
PASSED = "read from a folder with other files, passed over: "


def assert_read(folder, expected=NOISE, series="", note=None):
    volume = read_image(folder, series)
    assert np.array_equal(volume.array, expected)
    assert volume.notes == ((PASSED + note,) if note else ())


def test_objects_without_slices_are_passed_over_by_name(tmp_path):
    write_slices(tmp_path, NOISE)
    write_object(tmp_path / "SR1.dcm", DOSE_REPORT, "SR")
    write_object(tmp_path / "RS.dcm", STRUCTURE_SET, "RTSTRUCT")
    write_object(tmp_path / "PR1.dcm", PRESENTATION_STATE, "PR", series="1.2.3.4")  # said to be of the series itself
    write_object(tmp_path / "PR2.dcm", PRESENTATION_STATE, "PR")
    write_object(tmp_path / "SC.dcm", SecondaryCaptureImageStorage, "CT", Rows=8, Columns=8)
    assert_read(
        tmp_path,
        note="1 dose report (SR), 2 presentation state (PR), 1 screenshot (secondary capture), "
        "1 structure set (RTSTRUCT)",
    )
    assert summarise_series(tmp_path).distance_mm == 2.5


def test_localizers_are_passed_over_in_their_own_series_and_in_that_of_the_scan(tmp_path):
    write_slices(tmp_path / "same", NOISE)
    write_slices(tmp_path / "same", NOISE[:1, :5], prefix="S", orientation=CORONAL, ImageType=LOCALIZER)
    assert_read(tmp_path / "same", note="1 localizer")
    assert_read(tmp_path / "same", series="1.2.3.4", note="1 localizer")
    write_slices(tmp_path / "own", NOISE)
    write_slices(tmp_path / "own", NOISE[:2], series="9", prefix="S", orientation=CORONAL, ImageType=LOCALIZER)
    assert_read(tmp_path / "own", note="1 localizer")
    for path in (tmp_path / "own").glob("IM*"):
        path.unlink()
    refused(tmp_path / "own", "no CT series, only 1 localizer")


def test_derived_short_and_foreign_series_are_passed_over(tmp_path):
    write_slices(tmp_path, NOISE)
    write_slices(tmp_path, NOISE, series="5", prefix="D", ImageType=DERIVED)
    write_slices(tmp_path, NOISE[:3], series="6", prefix="B")
    write_slices(tmp_path, NOISE[:, :9], series="7", prefix="C", orientation=CORONAL, step=(0, 2.5, 0))
    write_slices(tmp_path, NOISE, series="8", prefix="P", Modality="PT")
    assert_read(tmp_path, note="1 CT series in another view, 1 PET series, 1 derived CT series, 1 short CT series")
    assert_read(tmp_path, NOISE[:3], series="6", note="3 CT series, 1 PET series")


def test_a_series_of_another_modality_is_refused_by_its_name(tmp_path):
    write_slices(tmp_path, NOISE, Modality="PT")
    refused(tmp_path, "1 PET series", "not Hounsfield units", remedy="CT series")


def test_a_label_may_be_of_any_modality(tmp_path):
    label = (NOISE > 0).astype(np.int16)
    write_slices(tmp_path, label, intercept=0, Modality="OT", PixelPaddingValue=0)
    assert np.array_equal(read_label(tmp_path).array, label)


def test_two_candidates_are_listed_with_the_option_that_chooses(tmp_path):
    write_slices(tmp_path, NOISE, series="1.2.77", SeriesNumber=3, SeriesDescription="Abdomen arterial")
    later = NOISE[::-1]
    write_slices(tmp_path, later, series="1.2.88", prefix="V", SeriesNumber=4, SeriesDescription="Abdomen venous\n1.0")
    words = ("2 CT series", "3 'Abdomen arterial' (9 slices of 2.5 mm, ...1.2.77)", "4 'Abdomen venous 1.0'")
    refused(tmp_path, *words, remedy="--series 3")
    for choice in ("4", "VENOUS", "2.88", "1.2.88"):
        assert_read(tmp_path, later, series=choice, note="1 CT series")
    refused(tmp_path, "names 2 of its series", series="abdomen")
    refused(tmp_path, "has no series portal; it holds 3 'Abdomen arterial'", remedy="--series", series="portal")


def test_two_phases_in_one_series_are_two_candidates(tmp_path):
    write_slices(tmp_path, NOISE, AcquisitionNumber=1)
    write_slices(tmp_path, NOISE[::-1], prefix="V", AcquisitionNumber=2)
    refused(tmp_path, "2 scans in one series", "'acquisition 1'", "'acquisition 2'", remedy="--series")
    assert_read(tmp_path, NOISE[::-1], series="acquisition 2", note="1 CT series")
    assert_read(tmp_path, NOISE, series="4#1", note="1 CT series")
    refused(tmp_path, "names 2 of its series", series="acquisition")


def test_two_phases_that_no_tag_distinguishes_are_refused_as_such(tmp_path):
    write_slices(tmp_path, NOISE)
    write_slices(tmp_path, NOISE[::-1], prefix="V")
    refused(tmp_path, "two images of one place (at 0.0 mm)", remedy="two phases")


def test_acquisitions_that_follow_each_other_are_one_scan(tmp_path):
    write_slices(tmp_path, NOISE, edit=lambda made, i: setattr(made, "AcquisitionNumber", 1 + i // 5))
    assert_read(tmp_path)


def test_an_acquisition_that_continues_another_is_not_left_out(tmp_path):
    write_slices(tmp_path, NOISE, AcquisitionNumber=1)
    write_slices(tmp_path, NOISE[:2], prefix="R", AcquisitionNumber=2)  # the first slices once more
    assert_read(tmp_path, note="1 short CT series")

    def higher(made, index):
        made.AcquisitionNumber, made.ImagePositionPatient = 2, [-10, -20, 2.5 * (index + 7)]

    write_slices(tmp_path, NOISE[:3], prefix="R", edit=higher)
    refused(tmp_path, "2 scans in one series", "(3 slices of 2.5 mm", remedy="--series")


def test_a_slice_under_another_series_is_not_left_out(tmp_path):
    paths = write_slices(
        tmp_path, NOISE, edit=lambda made, i: setattr(made, "SeriesInstanceUID", "1.2.3.5" if i == 8 else "1.2.3.4")
    )
    error = refused(tmp_path, "continues the slices", "another series", remedy="--series .3.4")
    assert str(paths[8]) in error
    assert_read(tmp_path, NOISE[:8], series="1.2.3.4", note="1 single CT slice")
    write_slices(tmp_path / "all", NOISE, edit=lambda made, i: setattr(made, "SeriesInstanceUID", f"1.2.{i}"))
    refused(tmp_path / "all", "each of its 9 slices names a series of its own", remedy="export")


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PixelRepresentation": 1}, "1 instead of 0"),
        ({"BitsStored": 12}, "12 instead of 16"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "1.2.840.10008.5.1.4.1.1.7"),
        ({"Modality": "MR"}, "modality"),
        ({"RescaleSlope": None, "RescaleIntercept": None}, "rescale"),
    ],
)
def test_a_slice_that_is_stored_unlike_the_others_is_refused(tmp_path, tags, words):
    def edit(made, index):
        for name, value in tags.items() if index == 4 else ():
            setattr(made, name, value) if value is not None else delattr(made, name)

    paths = write_slices(tmp_path, NOISE, edit=edit)
    error = refused(tmp_path, words, remedy="export")
    assert str(paths[4]) in error and "download" not in error.lower()


def test_what_cannot_be_read_is_refused_with_the_command_that_converts_it(tmp_path):
    write_slices(tmp_path / "tilt", NOISE, step=(0.0, 0.67, 2.5))
    refused(tmp_path / "tilt", "gantry tilted by 15.0 degrees", remedy=f"dcm2niix -z y -o OUTPUT {tmp_path / 'tilt'}")
    write_object(tmp_path / "multi" / "E.dcm", CTImageStorage, "CT", Rows=9, Columns=9, NumberOfFrames=20)
    refused(tmp_path / "multi", "multi-frame", remedy="dcm2niix")
    write_slices(tmp_path / "multi", NOISE)
    refused(tmp_path / "multi", "1 series of slices and a multi-frame scan, E.dcm", remedy="--series 1")
    assert_read(tmp_path / "multi", series="1", note="1 multi-frame CT image")
    write_slices(tmp_path / "inverted", NOISE, PhotometricInterpretation="MONOCHROME1")
    refused(tmp_path / "inverted", "MONOCHROME1", remedy="dcm2niix")


def test_a_slice_without_a_position_is_refused(tmp_path):
    def edit(made, index):
        if index == 8:
            del made.ImagePositionPatient

    paths = write_slices(tmp_path, NOISE, edit=edit)
    assert str(paths[8]) in refused(tmp_path, "does not say where it lies", remedy="ImagePositionPatient")


def test_numbers_are_compared_as_numbers(tmp_path):
    def edit(made, index):
        if index % 2:
            made.RescaleSlope, made.RescaleIntercept, made.PixelSpacing = "1.0", "-1024.000", ["0.80", "8e-1"]

    write_slices(tmp_path, NOISE, edit=edit)
    assert_read(tmp_path)


def test_every_slice_has_its_own_rescale(tmp_path):
    def edit(made, index):
        if index % 3 == 0:
            made.PixelData = (stored_values(made) * 2 + 500).astype(np.uint16).tobytes()
            made.RescaleSlope, made.RescaleIntercept = "0.5", "-1274"

    write_slices(tmp_path, NOISE, edit=edit)
    volume = read_image(tmp_path)
    assert np.array_equal(volume.array, NOISE) and "rescaled differently" in volume.notes[0]


@pytest.mark.parametrize("slope", [1.0, 2.0])
@pytest.mark.parametrize(
    ("signed", "padding", "limit", "written", "kind"),
    [
        (False, (63536,), None, 63536, "US"),
        (False, (63536,), None, -2000, "SS"),  # the same bits
        (True, (-2000,), None, -2000, "SS"),
        (True, (-2000,), None, 63536, "US"),
        (True, (-2000, -1800), -1700, -2000, "SS"),  # a range
    ],
)
def test_padding_becomes_air(tmp_path, signed, padding, limit, written, kind, slope):
    scan = NOISE // 2 * 2
    places = [(0, slice(None)), (slice(None), -1)]

    def edit(made, index):
        values = stored_values(made)
        for place, value in zip(places, padding, strict=False):
            values[place] = value
        made.PixelData = values.tobytes()
        made.add_new("PixelPaddingValue", kind, written)
        if limit is not None:
            made.add_new("PixelPaddingRangeLimit", kind, limit)

    write_slices(tmp_path, scan, edit=edit, signed=signed, slope=slope)
    expected = scan.copy()
    for place, _ in zip(places, padding, strict=False):
        expected[(slice(None), *place)] = -1024
    assert_read(tmp_path, expected)


def test_a_value_of_tissue_is_not_taken_for_padding(tmp_path):
    scan = np.full_like(NOISE, 40)
    write_slices(tmp_path, scan, signed=True, intercept=0, PixelPaddingValue=40)
    volume = read_image(tmp_path)
    assert (volume.array == 40).all() and "padding of 40 HU not read as air" in volume.notes[0]


def test_compressed_slices_and_files_without_preamble_are_read(tmp_path):
    write_slices(tmp_path / "rle", NOISE, edit=lambda made, _: made.compress(RLELossless))
    assert_read(tmp_path / "rle")
    for path in write_slices(tmp_path / "bare", NOISE):
        path.with_suffix("").write_bytes(path.read_bytes()[132:])
        path.unlink()
    assert_read(tmp_path / "bare")


@pytest.mark.parametrize("cut", [2, 100, 400])
@pytest.mark.parametrize("compressed", [False, True])
def test_pixels_that_are_missing_are_noticed_before_any_is_decoded(tmp_path, cut, compressed):
    paths = write_slices(tmp_path, NOISE, edit=lambda made, _: made.compress(RLELossless) if compressed else None)
    paths[3].write_bytes(paths[3].read_bytes()[:-cut])
    assert str(paths[3]) in refused(tmp_path, "truncated", remedy="again")


@pytest.mark.parametrize("tail", [bytes(512), b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0abcd"])
def test_zeros_and_padding_behind_the_pixels_are_no_damage_but_anything_else_is(tmp_path, tail):
    paths = write_slices(tmp_path, NOISE)
    content = paths[3].read_bytes()
    paths[3].write_bytes(content + tail)
    assert_read(tmp_path)
    for damage in (bytes(128) + content[128:900], content[300:600], b"\xfc\xff\xfc\xffOB\0\0\xff\xff\xff\x7f"):
        paths[3].write_bytes(content + damage)
        assert str(paths[3]) in refused(tmp_path, "damaged")


def test_pixels_that_do_not_fill_the_slice_are_refused(tmp_path):
    paths = write_slices(
        tmp_path, NOISE, edit=lambda made, i: setattr(made, "PixelData", made.PixelData[: -2 * (i == 3) or None])
    )
    assert str(paths[3]) in refused(tmp_path, "damaged")


def test_rows_and_columns_that_are_almost_at_right_angles_are_squared(tmp_path):
    write_slices(tmp_path / "a", NOISE, orientation=(1, 0, 0, 5e-4, 1, 0))
    direction = np.reshape(read_image(tmp_path / "a").direction, (3, 3))
    assert np.allclose(direction @ direction.T, np.eye(3), atol=1e-12)
    write_slices(tmp_path / "b", NOISE, orientation=(1, 0, 0, 5e-3, 1, 0))
    with pytest.raises(InputError, match=r"cosine 0\.005, tolerance 0\.001"):
        read_image(tmp_path / "b")
