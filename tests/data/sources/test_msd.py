"""MSD: the cases that dataset.json lists."""

import json

import pytest

from data.common.errors import InputError
from data.sources.msd import MSD
from tests import miniatures
from tests.data.sources.entry_helpers import names, touch
from tests.miniature_scan import prepared


def test_the_cases_are_those_of_the_list(tmp_path):
    listed = ["pancreas_004", "pancreas_001"]
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in [*listed, "._junk"]]
    touch(tmp_path / "dataset.json", json.dumps({"training": training, "test": ["./imagesTs/pancreas_002.nii.gz"]}))
    touch(tmp_path / "imagesTr" / "._pancreas_001.nii.gz")
    entries = MSD().entries(tmp_path)
    assert names(entries) == ["pancreas_001", "pancreas_004"]
    assert entries[0].label == tmp_path / "labelsTr" / "pancreas_001.nii.gz" and entries[0].patient == "pancreas_001"


@pytest.mark.parametrize("text", ["not json", "[1, 2]", "{}", '{"training": [1]}'])
def test_a_damaged_list_is_named(tmp_path, text):
    path = touch(tmp_path / "dataset.json", text)
    with pytest.raises(InputError) as error:
        MSD().entries(tmp_path)
    assert error.value.path == path


def test_a_listed_file_that_is_missing_is_named_and_the_other_cases_are_prepared(tmp_path, capsys):
    root = tmp_path / "msd"
    known = miniatures.msd(root)
    (root / "imagesTr" / "pancreas_004.nii.gz").unlink()
    code, cases = prepared("msd", root, tmp_path / "store")
    out = "".join(capsys.readouterr())
    assert code == 2 and set(cases) == set(known) - {"pancreas_004"}
    assert "imagesTr/pancreas_004.nii.gz: no such file. " in out
