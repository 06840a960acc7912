"""The raw layout of nnU-Net: files by channel and ending, codes by the names in dataset.json."""

import json
from pathlib import Path

import pytest

from data.common.errors import InputError
from data.sources.nnunet import NnUNet
from tests.data.sources.entry_helpers import faults, names, touch


def nnunet(root: Path, labels: dict, ending: str = ".nii.gz") -> Path:
    touch(root / "dataset.json", json.dumps({"labels": labels, "file_ending": ending, "channel_names": {"0": "CT"}}))
    for case in ("a_1", "b"):
        touch(root / "imagesTr" / f"{case}_0000{ending}")
        touch(root / "labelsTr" / f"{case}{ending}")
    return root


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_images_and_labels_are_paired_by_channel_and_ending(tmp_path, ending):
    root = nnunet(tmp_path, {"background": 0, "pancreas": 2, "lesion": 1}, ending)
    touch(root / "imagesTr" / f"c_0000{ending}")
    touch(root / "labelsTr" / f"d{ending}")
    entries = NnUNet().entries(root)
    assert names(entries) == ["a_1", "b", "c", "d"] and set(faults(entries)) == {"c", "d"}
    assert entries[0].image == root / "imagesTr" / f"a_1_0000{ending}"
    assert str(NnUNet().codes(root)) == "0=0,1=2,2=1"
    touch(root / "imagesTr" / f"b_0001{ending}")
    with pytest.raises(InputError, match="1 cases have more than one channel"):
        NnUNet().entries(root)


def test_msd_given_as_nnunet_is_recognised(tmp_path):
    root = nnunet(tmp_path, {"pancreas": 1})
    for case in ("a_1", "b"):
        (root / "imagesTr" / f"{case}_0000.nii.gz").rename(root / "imagesTr" / f"{case}.nii.gz")
    with pytest.raises(InputError, match=r"ends in _0000\.nii\.gz") as error:
        NnUNet().entries(root)
    assert error.value.path == root / "imagesTr" / "a_1.nii.gz" and "msd" in error.value.remedy


@pytest.mark.parametrize(
    "labels, codes",
    [
        ({"background": 0, "Pancreas": 1, "Tumor": 2}, "0=0,1=1,2=2"),
        ({"0": "background", "1": "pancreas", "2": "cancer"}, "0=0,1=1,2=2"),
        ({"background": 0, "pancreas": 4, "pancreatic lesion": 9}, "0=0,4=1,9=2"),
        ({"background": 0, "pancreas": 10, "liver": 3, "liver tumor": 4}, "0=0,3=0,4=0,10=1"),
        ({"pancreas head": 1, "pancreas tail": 2, "Cyst": 3, "lesion": 4}, "0=0,1=1,2=1,3=2,4=2"),
    ],
)
def test_codes_come_from_the_names_of_the_labels(tmp_path, labels, codes):
    assert str(NnUNet().codes(nnunet(tmp_path, labels))) == codes


@pytest.mark.parametrize(
    "labels",
    [
        {"pancreas": 1, "ignore": 2},
        {"pancreas": 1, "tumour": 1},
        {"pancreas": 0},
        {"pancreas": [1, 2]},
        {"pancreas": 300},
        {},
        "pancreas",
    ],
)
def test_codes_that_the_names_do_not_tell_are_asked_for(tmp_path, labels):
    with pytest.raises(InputError) as error:
        NnUNet().codes(nnunet(tmp_path, labels))
    assert error.value.path == tmp_path / "dataset.json" and "--labels" in error.value.remedy


def test_a_missing_description_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        NnUNet().codes(tmp_path / "nowhere")


def test_images_that_are_not_ct_are_refused_by_the_name_of_their_channel(tmp_path):
    root = tmp_path / "set"
    for folder, name in (("imagesTr", "a_0000.nii.gz"), ("labelsTr", "a.nii.gz")):
        touch(root / folder / name)
    touch(root / "dataset.json", json.dumps({"labels": {"pancreas": 1}, "channel_names": {"0": "T1"}}))
    with pytest.raises(InputError, match='the images are "T1", not CT'):
        NnUNet().entries(root)


def test_a_data_set_without_a_pancreas_gets_no_map_as_a_remedy(tmp_path):
    touch(tmp_path / "dataset.json", json.dumps({"labels": {"background": 0, "liver": 1}}))
    with pytest.raises(InputError, match="none of its codes is a pancreas") as caught:
        NnUNet().codes(tmp_path)
    assert "--labels" not in str(caught.value)
