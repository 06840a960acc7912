"""Your own scans: folders of images and labels, or a table of cases."""

import pytest

from data.common.errors import InputError
from data.scans.volume import read_image
from data.sources.folder import Folder
from tests.data.sources.entry_helpers import faults, names, touch


def test_images_and_labels_are_paired_by_name_and_missing_ones_are_faults(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    for name in ("a.nii.gz", "b.nrrd", "c.mha", "._a.nii.gz", ".DS_Store", "notes.txt", "d/1.dcm", "e.nii", "e.mha"):
        touch(images / name)
    for name in ("a.nii.gz", "b.nii.gz", "d.nii.gz", "e.nii.gz", "z.nii.gz", "._q.nii.gz"):
        touch(labels / name)
    entries = Folder().entries(tmp_path)
    assert names(entries) == ["a", "b", "c", "d", "e", "z"]
    assert entries[3].files() == (images / "d", labels / "d.nii.gz")
    found = {name: (fault.path, fault.problem) for name, fault in faults(entries).items()}
    assert found == {
        "c": (images / "c.mha", f"it has no label in {labels}"),
        "e": (images / "e.mha", "e.nii is the same case"),
        "z": (labels / "z.nii.gz", f"it has no image in {images}"),
    }
    assert str(Folder().codes(tmp_path)) == "0=0,1=1,2=2"
    with pytest.raises(InputError, match="no such folder"):
        Folder().entries(images)


def test_a_segmentation_of_slicer_pairs_with_its_scan_and_pairs_of_files_are_not_overlooked(tmp_path):
    for name in ("images/p.nrrd", "labels/p.seg.nrrd", "images/q.Nii.Gz", "labels/q.NII", "labels/q.hdr"):
        touch(tmp_path / name)
    for name in ("images/r.hdr", "images/r.img", "labels/r.nhdr"):
        touch(tmp_path / name)
    entries = Folder().entries(tmp_path)
    assert names(entries) == ["p", "q", "r"] and not faults(entries)
    assert entries[0].files()[1] == tmp_path / "labels" / "p.seg.nrrd"
    assert entries[1].files()[1] == tmp_path / "labels" / "q.NII"
    for path, words in zip(entries[2].files(), ("half of an Analyze or NIfTI pair", "detached NRRD"), strict=True):
        with pytest.raises(InputError, match=words):
            read_image(path)


def test_labels_of_which_none_belongs_to_an_image_are_refused(tmp_path):
    touch(tmp_path / "images" / "a.nii.gz")
    touch(tmp_path / "labels" / "b.nii.gz")
    with pytest.raises(InputError, match=r"no label belongs .*\(images such as a, labels such as b\)") as error:
        Folder().entries(tmp_path)
    assert error.value.path == tmp_path / "labels"


def test_a_table_gives_files_patients_and_further_columns(tmp_path):
    for name in ("a/ct.nii.gz", "a/mask.nii.gz", "b.nrrd", "b_mask.nrrd", "c.mha"):
        touch(tmp_path / name)
    lines = ["case;image;label;patient;centre;scanner", "one;a/ct.nii.gz;a/mask.nii.gz;P7;north;GE"]
    lines += [
        f";{tmp_path / 'b.nrrd'};b_mask.nrrd;P7;south;",
        ";c.mha;c_mask.mha;;north;",
        "last;;c.mha;;north;",
        ";;;;;",
    ]
    table = touch(tmp_path / "cases.csv", "\ufeff" + "\n".join(lines))
    entries = Folder().entries(tmp_path)
    assert names(entries) == ["b", "c", "last", "one"] == names(Folder().entries(table))
    one = entries[3]
    assert (one.patient, one.image, one.label) == ("P7", tmp_path / "a/ct.nii.gz", tmp_path / "a/mask.nii.gz")
    assert one.columns == (("centre", "north"), ("scanner", "GE")) and entries[0].patient == "P7"
    found = {name: (fault.path, fault.problem) for name, fault in faults(entries).items()}
    assert found == {"c": (tmp_path / "c_mask.mha", "no such file"), "last": (table, "line 5 names no image")}


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "empty"),
        ("image,mask\na,b\n", "no column 'label'"),
        ("image,label\np1/ct.nii,p1/l.nii\np2/ct.nii,p2/l.nii\n", "case names appear in several rows, such as ct"),
        ("image,label,case\na.nii,b.nii,../x\n", "cannot be the name of a folder"),
        ('image,label\n"a,b\n', "not readable as a table"),
    ],
)
def test_a_table_that_does_not_describe_cases_is_refused(text, words, tmp_path):
    table = touch(tmp_path / "cases.csv", text)
    with pytest.raises(InputError) as error:
        Folder().entries(tmp_path)
    assert error.value.path == table and words in error.value.problem


def test_a_table_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match="not readable as a table") as error:
        Folder().entries(tmp_path / "nowhere.csv")
    assert error.value.path == tmp_path / "nowhere.csv"
