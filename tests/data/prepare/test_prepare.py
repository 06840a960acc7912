"""The prepare command: what it stores, what it skips, and how it reports what fails."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.cases.store import read_store
from data.common.errors import InputError
from data.common.files import REPOSITORY, exclusive_lock
from data.prepare import command as prepare
from data.prepare.command import main
from data.prepare.provenance import fingerprint
from data.scans.volume import read_image, write_lps, write_mask
from data.splits.frozen import frozen_splits
from tests.conftest import tiny_scan


@pytest.fixture
def run(tmp_path, capsys):
    """``run(root, ...)`` prepares into tmp_path/store in this process and returns exit code, stdout and stderr."""

    def prepared(root: Path, *more: str, kind: str = "folder", centre: str = "here"):
        argv = [kind, str(root), "--centre", centre, "--store", str(tmp_path / "store"), "--workers", "1", *more]
        return main(argv), *capsys.readouterr()

    return prepared


def modification_times(store: Path) -> dict[str, int]:
    """Nanoseconds at which the image of each stored case was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.glob("*/[!.]*/image.npy")}


def test_prepared_cases_equal_the_scans_and_can_be_written_back_on_their_grid(run, write_centre, tmp_path):
    root = write_centre(cases=2)
    code, out, _ = run(root)
    assert code == 0 and "2 cases" in out.splitlines()[1] and "2 prepared" in out
    cases = read_store(tmp_path / "store")["here"]
    assert [case.name for case in cases] == ["case_0", "case_1"]
    for index, case in enumerate(cases):
        image, label = tiny_scan(index)
        assert np.array_equal(case.image(), image) and np.array_equal(case.label(), label)
        assert np.allclose(case.spacing, (5, 4, 3)) and (case.tumour_box is None) == (index == 1)
        write_mask(tmp_path / "back.nii.gz", np.asarray(case.label()), case.grid)
        back, source = nib.load(tmp_path / "back.nii.gz"), nib.load(root / "labels" / f"{case.name}.nii.gz")
        assert np.array_equal(back.dataobj, source.dataobj) and np.allclose(back.affine, source.affine, atol=1e-5)


def test_only_what_changed_is_prepared_again(run, write_centre, tmp_path):
    root = write_centre(cases=3)
    run(root)
    before = modification_times(tmp_path / "store")
    os.utime(root / "images" / "case_0.nii.gz")  # a new date on the same content
    label = nib.load(root / "labels" / "case_2.nii.gz")
    nib.save(nib.Nifti1Image(np.minimum(label.dataobj, 1), label.affine), root / "labels" / "case_2.nii.gz")
    shutil.rmtree(tmp_path / "store" / "here" / "case_1")
    code, out, _ = run(root)
    after = modification_times(tmp_path / "store")
    assert code == 0 and "2 prepared, 1 already there, 0 failed" in out
    assert after["case_0"] == before["case_0"] and after["case_1"] > before["case_1"]
    assert read_store(tmp_path / "store")["here"][2].tumour_box is None
    _, out, _ = run(root, "--labels", "1=1,2=1")
    assert "3 prepared, 0 already there" in out
    assert read_store(tmp_path / "store")["here"][0].tumour_box is None


def test_cases_missing_from_the_splits_are_reported(run, write_centre, tmp_path):
    root = write_centre(cases=2)
    assert "splits.json" not in run(root)[1]
    frozen_splits(tmp_path / "store", read_store(tmp_path / "store"))
    assert "splits.json" not in run(root)[1]
    last = run(root, centre="there")[1].splitlines()[-1]
    assert "splits.json was drawn without 2 cases of the store, such as there/case_0; delete it" in last


def test_an_outdated_or_damaged_case_is_prepared_again(run, write_centre, tmp_path):
    root = write_centre(cases=1)
    run(root)
    manifest = tmp_path / "store" / "here" / "case_0" / "case.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"preparation_hash": "other"}))
    assert "1 prepared" in run(root)[1]
    manifest.write_text("{ cut short")
    assert "1 prepared" in run(root)[1]


def test_an_interruption_keeps_the_finished_cases(run, write_centre, tmp_path, monkeypatch):
    root, write, written = write_centre(cases=4), prepare.write_case, []

    def stop_at_the_third(*args, **kwargs):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write(*args, **kwargs))

    monkeypatch.setattr(prepare, "write_case", stop_at_the_third)
    assert run(root)[0] == 130
    (tmp_path / "store" / "here" / ".case_2.123.unfinished").mkdir()
    monkeypatch.setattr(prepare, "write_case", write)
    code, out, _ = run(root)
    assert code == 0 and "2 prepared, 2 already there" in out
    left = [".lock", *(f"case_{i}" for i in range(4))]
    assert sorted(p.name for p in (tmp_path / "store" / "here").iterdir()) == left


def test_a_second_concurrent_run_is_refused_and_removes_nothing(run, write_centre, tmp_path):
    root, folder = write_centre(cases=1), tmp_path / "store" / "here"
    with exclusive_lock(folder, "wait"):
        (folder / ".case_0.123.unfinished").mkdir()
        code, _, err = run(root)
        assert code == 2 and f"{folder}: " in err and "ait for the other run" in err
        assert err.count("\n") == 1 and (folder / ".case_0.123.unfinished").is_dir()
        assert run(root, centre="there")[0] == 0
    assert run(root)[0] == 0 and sorted(path.name for path in folder.iterdir()) == [".lock", "case_0"]


def test_a_killed_run_resumes_where_it_stopped(write_centre, tmp_path, run):
    root, store = write_centre(cases=12), tmp_path / "store"
    argv = ["folder", str(root), "--centre", "here", "--store", str(store), "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-m", "data.prepare", *argv], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    while process.poll() is None and not modification_times(store):
        time.sleep(0.002)
    process.kill()
    process.wait()
    before = modification_times(store)
    assert run(root)[0] == 0
    after = modification_times(store)
    assert len(after) == 12 and before and all(after[name] == before[name] for name in before)


def test_bad_cases_are_listed_and_the_others_are_stored(run, write_centre, tmp_path):
    root = write_centre(cases=7)
    images, labels = root / "images", root / "labels"
    (images / "case_1.nii.gz").write_bytes((images / "case_1.nii.gz").read_bytes()[:900])
    (images / "case_2.nii.gz").write_text("<html>login</html>")
    (labels / "case_3.nii.gz").unlink()
    (images / "case_4.nii.gz").unlink()
    odd = nib.load(labels / "case_5.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(odd.dataobj) * 3, odd.affine), labels / "case_5.nii.gz")
    (images / "._case_0.nii.gz").write_bytes(b"\x00\x05\x16\x07")
    code, out, err = run(root)
    assert code == 2 and "2 prepared, 0 already there, 5 failed" in out
    lines = [line for line in err.splitlines() if line.startswith("failed")]
    words = ["truncated", "web page", "has no label", "has no image", "has label codes 3"]
    assert len(lines) == 5
    for line, index, word in zip(lines, range(1, 6), words, strict=True):
        assert line.startswith(f"failed: case_{index}: ") and word in line and f"case_{index}.nii.gz" in line
    assert [case.name for case in read_store(tmp_path / "store")["here"]] == ["case_0", "case_6"]


def test_notes_of_the_readers_are_printed_once_with_the_number_of_cases(run, write_centre):
    root = write_centre(cases=3)
    for index in range(2):
        label = root / "labels" / f"case_{index}.nii.gz"
        write_lps(label, tiny_scan(index)[1].repeat(2, 2), (5.0, 4.0, 1.5), (-40.75, -30.0, 100.0 + index))
    scan = nib.load(root / "images" / "case_2.nii.gz")
    nib.save(nib.as_closest_canonical(scan), root / "images" / "case_2.nii.gz")
    notes = [line for line in run(root)[1].splitlines() if line.startswith("note: ")]
    assert len(notes) == 2
    assert notes[0].startswith("note: label resampled") and notes[0].endswith(": case_0 and 1 more")
    assert notes[1].startswith("note: image turned from RAS") and notes[1].endswith(": case_2")


def test_a_resampled_label_is_reported_and_a_failed_case_keeps_its_earlier_version(run, write_centre, tmp_path):
    root = write_centre(cases=2)
    label = root / "labels" / "case_0.nii.gz"
    write_lps(label, tiny_scan(0)[1].repeat(2, 2), (5.0, 4.0, 1.5), (-40.75, -30.0, 100.0))
    (note,) = (line for line in run(root)[1].splitlines() if line.startswith("note: label resampled"))
    assert note.endswith(": case_0")
    label.write_bytes(b"")
    code, _, err = run(root)
    assert code == 2 and "keeps an earlier version" in err
    assert np.array_equal(read_store(tmp_path / "store")["here"][0].label(), tiny_scan(0)[1])


def test_two_processes_give_the_same_result_as_one(run, write_centre, tmp_path):
    root = write_centre(cases=3)
    (root / "images" / "case_1.nii.gz").write_bytes(b"")
    code, out, err = run(root, "--workers", "2")
    assert code == 2 and "2 prepared" in out and "case_1.nii.gz: the file is empty" in err
    assert [case.name for case in read_store(tmp_path / "store")["here"]] == ["case_0", "case_2"]


def test_each_wrong_option_gives_one_line(run, write_centre, tmp_path):
    root, other = write_centre("first", cases=1), write_centre("second", cases=1)
    run(root)
    empty = tmp_path / "empty"
    (empty / "images").mkdir(parents=True)
    (empty / "labels").mkdir()
    (tmp_path / "file").write_text("x")
    for code, out, err in (
        run(other),  # this name belongs to another data set
        run(tmp_path / "nowhere", centre="b"),
        run(empty, centre="b"),
        run(tmp_path, centre="b"),
        run(root, kind="msd", centre="b"),
        run(root, centre="none"),
        run(root, centre="../b"),
        run(root, "--workers", "0"),
        run(root, "--spacing", "1", "1", "0"),
        run(root, "--labels", "1:1"),
        run(root, "--store", str(tmp_path / "file" / "store")),
    ):
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and "prepared" not in out, err
    assert list(read_store(tmp_path / "store")) == ["here"]


def test_a_full_disk_gives_one_line_and_leaves_nothing_unfinished(run, write_centre, tmp_path, monkeypatch):
    root = write_centre(cases=2)

    def short_write(file, array):
        Path(file).write_bytes(b"half")
        raise OSError("5720 requested and 512 written")  # numpy's words on a full disk

    monkeypatch.setattr(np, "save", short_write)
    code, _, err = run(root)
    assert code == 2 and "ree some space" in err and "Traceback" not in err
    assert sorted(path.name for path in (tmp_path / "store" / "here").iterdir()) == [".lock", "refused.txt"]


def test_a_centre_whose_preparation_was_interrupted_is_not_trained_on(run, write_centre, tmp_path, monkeypatch):
    root = write_centre(cases=3)
    prepare_first = prepare.prepare_entry

    def fill_the_disk(entry, **given):
        if entry.name == "case_1":
            raise OSError(errno.ENOSPC, "No space left on device", "here")
        return prepare_first(entry, **given)

    monkeypatch.setattr(prepare, "prepare_entry", fill_the_disk)
    assert run(root)[0] == 2
    with pytest.raises(InputError, match=r"its preparation is not finished\. Finish it with the same call"):
        read_store(tmp_path / "store")
    monkeypatch.setattr(prepare, "prepare_entry", prepare_first)
    assert run(root)[0] == 0
    assert len(read_store(tmp_path / "store")["here"]) == 3


def test_cases_that_the_source_no_longer_holds_are_named(run, write_centre):
    root = write_centre(cases=2)
    run(root)
    for kind in ("images", "labels"):
        (root / kind / "case_1.nii.gz").unlink()
    code, out, _ = run(root)
    assert code == 0 and "still in the store: case_1" in out


def test_the_fingerprint_depends_on_the_content_only(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "slice").write_bytes(b"abc")
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    assert fingerprint(tmp_path / "one" / "slice").startswith("ba7816bf")  # SHA-256 of abc, FIPS 180-4
    (tmp_path / "two" / "slice").write_bytes(b"abd")
    assert fingerprint(tmp_path / "one") != fingerprint(tmp_path / "two")


def test_a_real_slab_with_a_label_map(run, shared, tmp_path):
    root = tmp_path / "amos"
    (root / "labels").mkdir(parents=True)
    source = shared / "real_ct" / "amos_0013_slab"
    shutil.copytree(source / "dicom", root / "images" / "slab")
    shutil.copy(source / "label.nii.gz", root / "labels" / "slab.nii.gz")
    code, _, err = run(root)
    assert code == 2 and "has label codes 3, 4" in err
    assert run(root, "--labels", "10=1,*=0")[0] == 0
    (case,) = read_store(tmp_path / "store")["here"]
    part = case.grid.part
    assert 0.2 < np.prod(case.shape) / (11 * 512 * 512) < 0.6 and case.tumour_box is None  # of 400 mm, half is air
    whole = read_image(source / "ct.nii.gz").array
    assert np.array_equal(case.image(), whole[part.slices])
    assert whole[:, : part.start[1]].max() < -300 and case.image()[:, 40:-40, 40:-40].max() > 1000
    assert (case.label() == 1).sum() == (np.asarray(nib.load(source / "label.nii.gz").dataobj) == 10).sum()
