"""The data sets of many organs: what they leave out, their columns, and labels of another data set."""

import shutil

import pytest

from data.common.errors import InputError
from data.sources.catalogue import SOURCES, load_entry, remarks
from tests import miniatures
from tests.miniature_scan import prepared, save, scan


def test_amos_leaves_out_mri_and_images_without_labels(tmp_path):
    root = tmp_path / "amos"
    miniatures.amos(root)
    assert remarks("amos", root) == ["left out: 1 cases numbered from 0500, which are MRI scans"]
    assert dict(SOURCES["amos"].entries(root)[0].columns)["Site"] == "2"
    shutil.rmtree(root / "labelsVa")
    assert "left out: imagesVa, because there is no labelsVa" in remarks("amos", root)


def test_totalsegmentator_knows_the_institute_of_each_scan(tmp_path):
    miniatures.totalsegmentator(tmp_path)
    columns = {entry.name: dict(entry.columns)["institute"] for entry in SOURCES["totalsegmentator"].entries(tmp_path)}
    assert columns == {"s0000": "B", "s0011": "A", "s1429": "A"}


@pytest.mark.parametrize("source", ["amos", "btcv", "word", "totalsegmentator", "nih", "panorama-pancreas"])
def test_data_sets_for_the_pancreas_give_no_tumours(source, tmp_path):
    assert not SOURCES[source].codes(tmp_path).gives_tumour


@pytest.mark.parametrize("source, folder", [("amos", "labelsTr"), ("word", "labelsTr"), ("btcv", "label")])
def test_labels_of_another_data_set_are_refused(source, folder, tmp_path):
    miniatures.BUILDERS[source](tmp_path)
    entry = SOURCES[source].entries(tmp_path)[0]
    save(entry.label, miniatures.organ_codes(scan(1), 10, (1, 17)))
    with pytest.raises(InputError, match="it has label codes 17") as error:
        load_entry(entry, SOURCES[source].codes(tmp_path))
    assert error.value.path == entry.label
    for path in [*(tmp_path / folder).iterdir()]:
        path.rename(path.with_name(path.name.replace("0", "7")))
    with pytest.raises(InputError, match="no label belongs to an image"):
        SOURCES[source].entries(tmp_path)


@pytest.mark.parametrize("labels", [None, "1=1"])
def test_many_organs_read_as_a_plain_folder_are_refused_without_a_guess(tmp_path, capsys, labels):
    """Code 1 of AMOS is the spleen: no message may suggest a map that makes it the pancreas."""
    miniatures.amos(tmp_path / "amos")
    for old, new in (("imagesTr", "images"), ("labelsTr", "labels")):
        (tmp_path / "amos" / old).rename(tmp_path / "amos" / new)
    code, cases = prepared("folder", tmp_path / "amos", tmp_path / "store", *(["--labels", labels] if labels else []))
    err = capsys.readouterr().err
    assert code == 2 and not cases and "it has label codes" in err
    assert "--labels 1" not in err and '"1=1' not in err and "1=1,*" not in err
