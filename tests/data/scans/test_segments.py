"""The names of codes in segmentations of 3D Slicer (NRRD)."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.scans.segments import code_names
from tests.conftest import VALUES, refused, save

TWO = [{"Name": "tumor", "LabelValue": "1", "Layer": "0"}, {"Name": "Pancréas", "LabelValue": "2", "Layer": "0"}]


def slicer(path: Path, segments: list[dict[str, str]], array: np.ndarray | None = None) -> Path:
    """Write a segmentation as 3D Slicer does: what it knows of its segments is in the header."""
    image = sitk.GetImageFromArray((VALUES % 3).astype(np.uint8) if array is None else array)
    for index, segment in enumerate(segments):
        for key, value in {"ID": f"Segment_{index + 1}", **segment}.items():
            image.SetMetaData(f"Segment{index}_{key}", value)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


@pytest.mark.parametrize("name", ["label.nrrd", "label.seg.nrrd", "LABEL.NRRD"])
def test_the_names_of_a_segmentation_belong_to_its_values(tmp_path, name):
    path = slicer(tmp_path / "made.nrrd", TWO).rename(tmp_path / name)
    assert code_names(path) == {1: "tumor", 2: "Pancréas"}


def test_files_without_segments_name_nothing(tmp_path):
    assert code_names(slicer(tmp_path / "plain.nrrd", [])) == {}
    assert code_names(save(tmp_path / "label.nii.gz")) == {}
    (tmp_path / "noise.nrrd").write_bytes(np.random.default_rng(0).bytes(5000))
    assert code_names(tmp_path / "noise.nrrd") == {}


def test_a_segment_without_a_name_is_called_by_its_identifier(tmp_path):
    assert code_names(slicer(tmp_path / "a.nrrd", [{"LabelValue": "3"}])) == {3: "Segment_1"}


@pytest.mark.parametrize(
    "segments, words",
    [
        ([TWO[0], {**TWO[1], "LabelValue": "1"}], "its code 1 has two names"),
        ([TWO[0], {**TWO[1], "LabelValue": "1", "Layer": "1"}], "overlap in several layers"),
        ([{"Name": "pancreas"}], 'which code the segment "pancreas" has'),
        ([{"Name": "pancreas", "LabelValue": "one"}], 'which code the segment "pancreas" has'),
    ],
)
def test_names_that_do_not_belong_to_one_code_each_are_refused(tmp_path, segments, words):
    refused(slicer(tmp_path / "a.nrrd", segments), words, remedy="3D Slicer", read=code_names)


def test_overlapping_segments_in_four_axes_are_refused_with_the_way_to_export_them(tmp_path):
    path = slicer(tmp_path / "a.seg.nrrd", TWO)
    head, _, voxels = path.read_bytes().partition(b"\n\n")
    path.write_bytes(head.replace(b"dimension: 3", b"dimension: 4") + b"\n\n" + voxels)
    refused(path, "overlap in several layers", remedy="Export visible segments to labelmap", read=code_names)
