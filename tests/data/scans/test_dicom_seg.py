"""DICOM segmentation objects (SEG) as labels: voxels, place, names, overlap, and what is refused."""

import numpy as np
import pytest

from data.scans.dicom_seg import find_segmentation, read_segmentation
from data.scans.segments import code_names
from data.scans.volume import read_image, read_label, write_lps
from tests.conftest import SPACING, refused, save, tiny_scan
from tests.dicom_seg_files import slices, write_contours, write_seg

ORIGIN = (-40.0, -30.0, 100.0)
RANK = np.arange(256)


@pytest.fixture
def scan(tmp_path):
    """A scan of which the label below covers the slices 2 to 7 only."""
    write_lps(tmp_path / "ct.nii.gz", tiny_scan(0)[0], SPACING, ORIGIN)
    return read_image(tmp_path / "ct.nii.gz")


def masks(overlap: bool = False) -> dict[str, np.ndarray]:
    label = tiny_scan(0)[1]
    return {"tumor": label == 2, "pancreas": label > 0 if overlap else label == 1}


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("place", ["label.dcm", "label/IM1", "label.bin"])
def test_a_segmentation_is_read_onto_its_scan_without_the_slices_that_it_omits(tmp_path, scan, kind, place):
    path = write_seg(tmp_path / place, masks(), SPACING, ORIGIN, kind)
    given = path.parent if place == "label/IM1" else path
    label = read_label(given, like=scan)
    assert np.array_equal(label.array, np.choose(tiny_scan(0)[1], [0, 2, 1])) and label.array.dtype == np.uint8
    assert code_names(given) == {1: "tumor", 2: "pancreas"}


def test_the_voxels_lie_where_the_object_says(tmp_path):
    codes, grid, notes = read_segmentation(write_seg(tmp_path / "a.dcm", masks(), SPACING, ORIGIN))
    assert codes.shape == (6, 22, 26) and not notes
    spacing, origin, direction = grid.lps_frame()
    assert (
        np.allclose(spacing, SPACING)
        and np.allclose(origin, (-40, -30, 110))
        and np.allclose(direction, np.eye(3).ravel())
    )


def test_a_segment_on_a_single_slice_is_placed_by_its_thickness(tmp_path, scan):
    one = np.zeros(scan.array.shape, bool)
    one[4, 8:10, 9:12] = True
    path = write_seg(tmp_path / "a.dcm", {"pancreas": one}, SPACING, ORIGIN)
    assert np.array_equal(read_label(path, like=scan).array > 0, one)


@pytest.mark.parametrize("names", [("tumor", "pancreas"), ("pancreas", "tumor")])
def test_the_segment_of_higher_rank_hides_the_one_below(tmp_path, scan, names):
    made = masks(overlap=True)
    path = write_seg(tmp_path / "a.dcm", {name: made[name] for name in names}, SPACING, ORIGIN)
    number = {name: index for index, name in enumerate(names, start=1)}
    rank = np.zeros(256, np.uint8)
    rank[number["pancreas"]], rank[number["tumor"]] = 1, 2
    label = read_label(path, like=scan, rank=rank)
    assert np.array_equal(label.array == number["tumor"], made["tumor"]) and "segments overlap" in label.notes[0]
    assert np.array_equal(label.array > 0, made["pancreas"])
    refused(path, "segments 1 and 2 overlap", remedy="without overlap", read=read_label)


def test_what_is_no_segmentation_of_voxels_is_refused_by_its_name(tmp_path):
    refused(write_contours(tmp_path / "a.dcm"), "RTSTRUCT", remedy="plastimatch convert", read=read_label)
    write_contours(tmp_path / "b" / "1.dcm")
    refused(tmp_path / "b" / "1.dcm", "RTSTRUCT", remedy="SlicerRT", read=lambda path: read_label(path.parent))
    slices((1, 4, 5), SPACING, ORIGIN)[0].save_as(tmp_path / "c.dcm", enforce_file_format=True)
    refused(tmp_path / "c.dcm", "modality CT", remedy="SEG", read=read_label)
    soft = {name: mask * 0.5 for name, mask in masks().items()}
    path = write_seg(tmp_path / "d.dcm", soft, SPACING, ORIGIN, "FRACTIONAL")
    refused(path, "FRACTIONAL", remedy="BINARY", read=read_label)


def test_two_objects_in_a_folder_are_refused(tmp_path):
    for name in ("1.dcm", "2.dcm"):
        write_seg(tmp_path / "label" / name, masks(), SPACING, ORIGIN)
    refused(tmp_path / "label", "2 files", remedy="keep the one", read=read_label)


def test_other_files_are_no_segmentations(tmp_path):
    assert find_segmentation(save(tmp_path / "a.nii.gz")) is None
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("nothing")
    assert find_segmentation(tmp_path / "folder") is None and find_segmentation(tmp_path / "notes.txt") is None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_object_is_refused(tmp_path, share):
    path = write_seg(tmp_path / "a.dcm", masks(), SPACING, ORIGIN)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "cannot be read", remedy="again", read=read_label)


def test_a_flipped_byte_in_the_header_is_refused_or_changes_nothing_else(tmp_path):
    path = write_seg(tmp_path / "a.dcm", masks(), SPACING, ORIGIN)
    content, whole, rng = path.read_bytes(), read_segmentation(path), np.random.default_rng(0)
    voxels_from = len(content) - whole.codes.size * 2 // 8 - 16
    outcomes = {"read": 0, "refused": 0}
    for position in rng.integers(132, voxels_from, 60):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            read_label(path)
            outcomes["read"] += 1
        except Exception as error:
            assert type(error).__name__ == "InputError" and "\n" not in str(error), (position, error)
            outcomes["refused"] += 1
    assert outcomes["read"] and outcomes["refused"]
