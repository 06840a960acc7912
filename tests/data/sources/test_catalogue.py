"""Reading a case of any data set, the remarks on a data set, and the listing of all of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.common.errors import InputError
from data.scans.volume import write_lps
from data.sources.base import Entry, missing_file
from data.sources.catalogue import SOURCES, listing, load_entry, remarks
from data.sources.label_map import LabelMap
from tests import miniatures
from tests.conftest import SPACING, tiny_scan
from tests.data.sources.entry_helpers import touch
from tests.miniature_scan import check, prepared

EXCLUDED = {  # the simple data sets, with the cases of their miniatures that are left out or have a fault
    "msd": set(),
    "amos": {"amos_0507"},
    "btcv": set(),
    "word": set(),
    "totalsegmentator": set(),
    "pants": {"PanTS_00000003", "PanTS_00000005"},
}


def write_case(root: Path, index: int = 0, factor: int = 1) -> Entry:
    image, label = tiny_scan(index)
    write_lps(root / "image.mha", image, SPACING)
    write_lps(root / "label.nii.gz", label * factor, SPACING)
    return Entry("case", "case", root / "image.mha", root / "label.nii.gz")


def test_a_case_is_read_with_its_label_mapped_and_notes_on_both(tmp_path):
    entry = write_case(tmp_path, factor=5)
    volume, label, notes = load_entry(entry, LabelMap.parse("5=1,10=2"))
    assert np.array_equal(volume.array, tiny_scan(0)[0]) and np.array_equal(label, tiny_scan(0)[1])
    assert label.dtype == np.uint8 and all(note.startswith(("image ", "label ")) for note in notes)
    with pytest.raises(InputError, match="it has label codes 5, 10") as error:
        load_entry(entry, LabelMap.parse("1=1"))
    assert error.value.path == entry.label


def test_the_fault_of_a_case_is_raised_when_it_is_read(tmp_path):
    fault = missing_file(tmp_path / "image.mha")
    entry = Entry("case", "case", tmp_path / "image.mha", None, fault)
    with pytest.raises(InputError) as error:
        load_entry(entry, LabelMap.parse("1=1"))
    assert error.value is fault


def test_a_tumour_that_the_data_set_states_must_be_labelled(tmp_path):
    entry = replace(write_case(tmp_path, index=1), has_tumour=True)
    with pytest.raises(InputError, match="case case has a tumour, but its label shows none") as error:
        load_entry(entry, LabelMap.parse("1=1,2=2"))
    assert error.value.path == entry.label
    assert load_entry(entry, LabelMap.parse("1=1,2=1"))[1].max() == 1  # a map without tumours does not miss any


@pytest.mark.parametrize("source", EXCLUDED)
def test_a_data_set_as_downloaded_is_prepared_voxel_for_voxel(source, tmp_path, capsys):
    root = tmp_path / "download" / source
    known = miniatures.BUILDERS[source](root)
    code, cases = prepared(source, root, tmp_path / "store")
    out = "".join(capsys.readouterr())
    assert set(cases) == set(known) - EXCLUDED[source], out
    assert code == (2 if source == "pants" else 0)
    for name, case in cases.items():
        check(case, known[name])


def test_archives_that_are_not_unpacked_are_pointed_out(tmp_path):
    for name in ("images/a.nii", "labels/a.nii", "batch_1.zip", "labels.zip"):
        touch(tmp_path / name)
    assert remarks("folder", tmp_path) == [
        f"{tmp_path / 'batch_1.zip'} is not unpacked; unpack it if cases are missing"
    ]
    touch(tmp_path / "batch_2.tar.gz")
    (line,) = remarks("folder", tmp_path)
    assert line.startswith(f"2 archives such as {tmp_path / 'batch_1.zip'} are not unpacked")


def test_the_listing_documents_every_source():
    text = listing()
    for name, source in SOURCES.items():
        assert name in text and source.about.licence and type(source).__doc__
        assert max(source.about.download.split(), key=len) in text  # an address is never broken in two
    assert max(map(len, text.splitlines())) < 160
