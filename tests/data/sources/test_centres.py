"""The options that name a data set and its centres."""

import argparse
from pathlib import Path

import pytest

from data.common.errors import InputError
from data.sources.centres import CentreOptions, add_centre_arguments, find_centres, notes_on
from data.sources.label_map import LabelMap


def parse(*argv: str) -> CentreOptions:
    parser = argparse.ArgumentParser()
    add_centre_arguments(parser)
    return CentreOptions.from_args(parser.parse_args(argv))


def write_table(root: Path, *values: str) -> Path:
    """A table with one case per value of the column ``centre``; the files need not exist."""
    lines = [f"{index}.nii.gz,{index}_mask.nii.gz,{value}" for index, value in enumerate(values)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "cases.csv").write_text("\n".join(["image,label,centre", *lines]))
    return root


def test_options_are_parsed_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = parse("msd", "x", "--centre", "here", "--labels", "10=1", "--workers", "3", "--store", "~/store")
    assert options == CentreOptions(
        source="msd",
        root=tmp_path / "x",
        centre="here",
        centre_by=None,
        store=Path.home() / "store",
        labels=LabelMap.parse("10=1"),
        accept_labels=False,
        series="",
        moved=False,
        workers=3,
    )
    assert options.labels is not None and options.labels.given
    assert parse("msd", "x", "--centre", "here").labels is None
    assert parse("msd", "x", "--centre", "here", "--accept-labels").accept_labels


@pytest.mark.parametrize(
    "option, value, words",
    [
        ("--centre", "none", "not a valid name"),
        ("--centre", "../b", "not a valid name"),
        ("--workers", "0", "at least one process"),
        ("--labels", "1:1", '"1:1" is not a pair code=label'),
        ("--labels", "300=1", '"300=1" is not a pair code=label'),
    ],
)
def test_values_that_are_not_valid_are_refused_with_their_option(option, value, words):
    centre = [] if option == "--centre" else ["--centre", "here"]
    with pytest.raises(InputError) as error:
        parse("msd", "x", *centre, option, value)
    assert error.value.path == f"{option} {value}" and words in error.value.problem and error.value.remedy


@pytest.mark.parametrize("source", ["msd", "folder", "pants"])
def test_an_archive_as_root_is_refused(source, tmp_path):
    archive = tmp_path / "Task07.tar"
    archive.write_text("x")
    with pytest.raises(InputError) as error:
        find_centres(parse(source, str(archive), "--centre", "c"))
    assert (error.value.path, error.value.problem) == (archive, "an archive or another file, not a folder")
    assert error.value.remedy == "unpack it and give the folder as ROOT"


def test_a_column_makes_a_centre_per_value_and_its_empty_cells_are_faults(tmp_path):
    root = write_table(tmp_path / "in", "north", "south hall", "", "north")
    options = parse("folder", str(root), "--centre", "c", "--centre-by", "centre", "--store", str(tmp_path / "store"))
    north, south = find_centres(options)
    assert (north.name, south.name) == ("c_north", "c_south-hall")
    assert [entry.name for entry in north.entries] == ["0", "3", "2"] and len(south.entries) == 1
    assert north.folder == tmp_path / "store" / "c_north"


def test_the_fault_of_a_case_without_a_centre_names_the_column(tmp_path):
    root = write_table(tmp_path / "in", "north", "")
    for name in ("1.nii.gz", "1_mask.nii.gz"):
        (root / name).touch()
    (north,) = find_centres(parse("folder", str(root), "--centre", "c", "--centre-by", "centre"))
    fault = north.entries[1].fault
    assert fault.path == root / "1.nii.gz" and fault.problem == "the case has no value in column centre of the table"


@pytest.mark.parametrize(
    "values, column, words",
    [
        (("north",), "scanner", "no such column"),
        (("", ""), "centre", "the column is empty"),
        (("a b", "a-b"), "centre", "the values 'a b' and 'a-b' would both give the centre c_a-b"),
    ],
)
def test_a_column_that_makes_no_centres_is_refused(values, column, words, tmp_path):
    root = write_table(tmp_path, *values)
    with pytest.raises(InputError) as error:
        find_centres(parse("folder", str(root), "--centre", "c", "--centre-by", column))
    assert error.value.path == f"--centre-by {column}" and words in error.value.problem


def test_a_column_of_centres_that_is_not_used_is_pointed_out(tmp_path):
    root = write_table(tmp_path, "north", "south")
    for option, expected in ([], 1), (["--centre-by", "centre"], 0):
        options = parse("folder", str(root), "--centre", "c", *option)
        notes = notes_on(find_centres(options), options.centre_by)
        assert len(notes) == expected
        assert all(note.startswith("the column centre of the table has 2 values") for note in notes)
