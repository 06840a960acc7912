"""The adapters: which files, which codes, whose; and the label map of the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.common.errors import InputError
from data.scans.volume import write_lps
from data.sources.catalogue import SOURCES, Entry, LabelMap, load_entry, remarks
from data.verify.command import main as verify
from tests.conftest import SPACING, tiny_scan


def touch(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def names(entries: list[Entry]) -> list[str]:
    return [entry.name for entry in entries]


def faults(entries: list[Entry]) -> dict[str, str]:
    return {entry.name: entry.fault for entry in entries if entry.fault}


def test_label_map_turns_codes_into_ours():
    raw = np.array([[0, 10, 11, 7]], np.uint8)
    assert LabelMap.parse("10=1,11=2,*=0").apply(Path("x"), raw).tolist() == [[0, 1, 2, 0]]
    assert LabelMap.parse(" 10 = 1 , 11=1,7=2").apply(Path("x"), raw).tolist() == [[0, 1, 1, 2]]
    with pytest.raises(InputError, match=r"x: has label codes 7, 11, .* 0=0,10=1 .*\*=0"):
        LabelMap.parse("10=1").apply(Path("x"), raw)


@given(st.dictionaries(st.integers(1, 255), st.integers(0, 2)), st.sampled_from([None, 0, 1, 2]))
def test_a_label_map_survives_being_printed(codes, rest):
    made = LabelMap(tuple(sorted({0: 0, **codes}.items())), rest)
    assert LabelMap.parse(str(made)) == made


@pytest.mark.parametrize("text", ["", "10", "10=3", "x=1", "-1=1", "300=1", "1=1,,2=2", "10=1;11=2"])
def test_a_label_map_that_makes_no_sense_is_refused(text):
    with pytest.raises(ValueError, match="is not a pair code=label"):
        LabelMap.parse(text)


def test_folder_pairs_by_name_and_names_what_is_missing(tmp_path):
    for name in ("a.nii.gz", "b.nrrd", "c.mha", "._a.nii.gz", ".DS_Store", "notes.txt", "d/1.dcm", "e.nii", "e.mha"):
        touch(tmp_path / "images" / name)
    for name in ("a.nii.gz", "b.nii.gz", "d.nii.gz", "e.nii.gz", "z.nii.gz", "._q.nii.gz"):
        touch(tmp_path / "labels" / name)
    entries = SOURCES["folder"].entries(tmp_path)
    assert names(entries) == ["a", "b", "c", "d", "e", "z"]
    assert entries[3].image == tmp_path / "images" / "d"
    wrong = faults(entries)
    assert set(wrong) == {"c", "e", "z"}
    assert "c.mha: has no label" in wrong["c"] and "z.nii.gz: has no image" in wrong["z"] and "e.nii" in wrong["e"]
    assert str(SOURCES["folder"].codes(tmp_path)) == "0=0,1=1,2=2"
    with pytest.raises(InputError, match="no such folder"):
        SOURCES["folder"].entries(tmp_path / "images")


def test_msd_goes_by_its_list(tmp_path):
    listed = ["pancreas_004", "pancreas_001"]
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in [*listed, "._junk"]]
    touch(tmp_path / "dataset.json", json.dumps({"training": training, "test": ["./imagesTs/pancreas_002.nii.gz"]}))
    touch(tmp_path / "imagesTr" / "._pancreas_001.nii.gz")
    entries = SOURCES["msd"].entries(tmp_path)
    assert names(entries) == ["pancreas_001", "pancreas_004"]
    assert entries[0].label == tmp_path / "labelsTr" / "pancreas_001.nii.gz" and entries[0].patient == "pancreas_001"


@pytest.mark.parametrize("text", ["not json", "[1, 2]", "{}", '{"training": [1]}'])
def test_a_broken_list_is_one_line(tmp_path, text):
    touch(tmp_path / "dataset.json", text)
    with pytest.raises(InputError, match=r"dataset\.json"):
        SOURCES["msd"].entries(tmp_path)
    with pytest.raises(InputError, match=r"no such file"):
        SOURCES["nnunet"].codes(tmp_path / "nowhere")


def nnunet(root: Path, labels: dict, ending: str = ".nii.gz") -> Path:
    touch(root / "dataset.json", json.dumps({"labels": labels, "file_ending": ending, "channel_names": {"0": "CT"}}))
    for case in ("a_1", "b"):
        touch(root / "imagesTr" / f"{case}_0000{ending}")
        touch(root / "labelsTr" / f"{case}{ending}")
    return root


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_nnunet_pairs_by_channel_and_ending(tmp_path, ending):
    root = nnunet(tmp_path, {"background": 0, "pancreas": 2, "lesion": 1}, ending)
    touch(root / "imagesTr" / f"c_0000{ending}")
    touch(root / "labelsTr" / f"d{ending}")
    entries = SOURCES["nnunet"].entries(root)
    assert names(entries) == ["a_1", "b", "c", "d"] and set(faults(entries)) == {"c", "d"}
    assert entries[0].image == root / "imagesTr" / f"a_1_0000{ending}"
    assert str(SOURCES["nnunet"].codes(root)) == "0=0,1=2,2=1"
    touch(root / "imagesTr" / f"b_0001{ending}")
    with pytest.raises(InputError, match="channel"):
        SOURCES["nnunet"].entries(root)


def test_msd_given_as_nnunet_is_called_that(tmp_path):
    root = nnunet(tmp_path, {"pancreas": 1})
    for case in ("a_1", "b"):
        (root / "imagesTr" / f"{case}_0000.nii.gz").rename(root / "imagesTr" / f"{case}.nii.gz")
    with pytest.raises(InputError, match=r"imagesTr/a_1\.nii\.gz: .* ends in _0000\.nii\.gz, .*is this SOURCE msd\?"):
        SOURCES["nnunet"].entries(root)


@pytest.mark.parametrize(
    "labels, codes",
    [
        ({"background": 0, "Pancreas": 1, "Tumor": 2}, "0=0,1=1,2=2"),
        ({"0": "background", "1": "pancreas", "2": "cancer"}, "0=0,1=1,2=2"),
        ({"background": 0, "pancreas": 4, "pancreatic lesion": 9}, "0=0,4=1,9=2"),
        ({"background": 0, "pancreas": 10, "liver": 3, "liver tumor": 4}, "0=0,10=1"),
    ],
)
def test_nnunet_codes_come_from_the_names(tmp_path, labels, codes):
    assert str(SOURCES["nnunet"].codes(nnunet(tmp_path, labels))) == codes


@pytest.mark.parametrize(
    "labels", [{"background": 0, "liver": 1}, {"pancreas": 1, "tumour": 2, "lesion": 3}, {"pancreas": [1, 2]}, {}]
)
def test_nnunet_codes_that_only_a_person_can_read_are_asked_for(tmp_path, labels):
    with pytest.raises(InputError, match="--labels"):
        SOURCES["nnunet"].codes(nnunet(tmp_path, labels))


def test_load_entry_gives_image_labels_and_what_was_mended(tmp_path):
    image, label = tiny_scan(0)
    write_lps(tmp_path / "image.mha", image, SPACING)
    write_lps(tmp_path / "label.nii.gz", label * 5, SPACING)
    entry = Entry("case", "case", tmp_path / "image.mha", tmp_path / "label.nii.gz")
    volume, ours, notes = load_entry(entry, LabelMap.parse("5=1,10=2"))
    assert np.array_equal(volume.array, image) and np.array_equal(ours, label) and ours.dtype == np.uint8
    assert all(note.startswith(("image ", "label ")) for note in notes)
    with pytest.raises(InputError, match=r"label\.nii\.gz: has label codes 5, 10"):
        load_entry(entry, LabelMap.parse("1=1"))


def test_a_table_of_cases_says_files_patients_and_centres(tmp_path):
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
    entries = SOURCES["folder"].entries(tmp_path)
    assert entries == SOURCES["folder"].entries(table)
    assert names(entries) == ["b", "c", "last", "one"] and set(faults(entries)) == {"c", "last"}
    one = entries[3]
    assert (one.patient, one.image, one.label) == ("P7", tmp_path / "a/ct.nii.gz", tmp_path / "a/mask.nii.gz")
    assert one.columns == (("centre", "north"), ("scanner", "GE")) and entries[0].patient == "P7"
    assert "c_mask.mha: no such file" in faults(entries)["c"] and "line 5 names no image" in faults(entries)["last"]


def test_a_column_of_centres_that_is_not_asked_for_is_pointed_out(tmp_path, capsys):
    touch(tmp_path / "cases.csv", "image,label,centre\na.nii.gz,x.nii.gz,north\nb.nii.gz,y.nii.gz,south\n")
    argv = ["folder", str(tmp_path), "--centre", "c", "--store", str(tmp_path / "store"), "--workers", "1"]
    for more, told in (([], True), (["--centre-by", "centre"], False)):
        assert verify([*argv, *more]) == 2
        assert ("note: the column centre of the table has 2 values, but" in capsys.readouterr().out) is told


@pytest.mark.parametrize(
    "text, word",
    [
        ("", "empty"),
        ("image,mask\na,b\n", "no column 'label'"),
        ("image,label\np1/ct.nii,p1/l.nii\np2/ct.nii,p2/l.nii\n", "column 'case'"),
        ("image,label,case\na.nii,b.nii,../x\n", "folder's name"),
        ('image,label\n"a,b\n', "not readable as a table"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path, text, word):
    touch(tmp_path / "cases.csv", text)
    with pytest.raises(InputError, match=word):
        SOURCES["folder"].entries(tmp_path)
    with pytest.raises(InputError, match="not readable as a table"):
        SOURCES["folder"].entries(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("source", ["msd", "folder", "pants"])
def test_an_archive_as_root_is_one_line(source, tmp_path, capsys):
    archive = touch(tmp_path / "Task07.tar")
    assert verify([source, str(archive), "--centre", "c", "--store", str(tmp_path / "store")]) == 2
    assert capsys.readouterr().err == (
        f"error: {archive}: an archive or another file, not a folder. Unpack it and give the folder as ROOT.\n"
    )


def test_the_folder_of_images_as_root_is_one_floor_too_low(tmp_path):
    touch(tmp_path / "images" / "a.nii.gz")
    with pytest.raises(InputError, match=rf"one floor up there is; give {tmp_path} as ROOT"):
        SOURCES["folder"].entries(tmp_path / "images")


def test_a_folder_of_several_centres_as_root_names_them(tmp_path):
    for name in ("north", "south", "west"):
        touch(tmp_path / name / "images" / "a.nii.gz")
    with pytest.raises(InputError, match=rf"3 folders have one \(north, south, west\); .* such as {tmp_path}/north"):
        SOURCES["folder"].entries(tmp_path)


def test_archives_beside_a_set_are_pointed_out(tmp_path):
    for name in ("images/a.nii", "labels/a.nii", "batch_1.zip", "labels.zip"):
        touch(tmp_path / name)
    (line,) = remarks("folder", tmp_path)
    assert "1 archives such as" in line and "batch_1.zip" in line


def test_a_tumour_that_the_table_knows_must_be_drawn(tmp_path):
    image, label = tiny_scan(1)
    write_lps(tmp_path / "image.mha", image, SPACING)
    write_lps(tmp_path / "label.nii.gz", label, SPACING)
    entry = Entry("case", "case", tmp_path / "image.mha", tmp_path / "label.nii.gz", tumour=True)
    with pytest.raises(InputError, match="case has a tumour, and its label draws none"):
        load_entry(entry, LabelMap.parse("1=1,2=2"))
    assert load_entry(entry, LabelMap.parse("1=1,2=1"))[1].max() == 1  # who reads no tumours misses none
