"""Preparing many and large scans: killed runs, cropping, resampling, moved data sets, several centres from one."""

import csv
import json
import pickle
import random
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.cases.case import read_case, write_case
from data.cases.store import digest, read_store
from data.common.errors import InputError
from data.common.files import REPOSITORY
from data.duplicates.thumbnail import load_thumbnails
from data.prepare import command as prepare
from data.prepare import disk, provenance
from data.scans.grid import Grid
from data.scans.volume import read_label, write_lps, write_mask
from tests.conftest import SPACING, tiny_scan
from tests.miniature_scan import dicom, save, scan

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def run(tmp_path, capsys):
    """``run(root, ...)`` prepares into tmp_path/store in this process and returns exit code, stdout and stderr."""

    def prepared(root: Path, *more: str, centre: str = "here"):
        store = str(tmp_path / "store")
        code = prepare.main(["folder", str(root), "--centre", centre, "--store", store, "--workers", "1", *more])
        return code, *capsys.readouterr()

    return prepared


def patient_in_air(index: int, air: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """The tiny scan with ``air`` voxels of air around it in the plane."""
    image, label = tiny_scan(index)
    around = ((0, 0), (air, air), (air, air))
    return np.pad(image, around, constant_values=-1000), np.pad(label, around)


def write_centre_in_air(root: Path, cases: int, air: int = 20) -> Path:
    """Write a centre of ``patient_in_air`` in the folder layout."""
    for index in range(cases):
        for kind, array in zip(("images", "labels"), patient_in_air(index, air), strict=True):
            write_lps(root / kind / f"case_{index}.nii.gz", array, SPACING, (0.0, 0.0, 50.0 * index))
    return root


def voxels(centre: Path) -> dict[str, bytes]:
    """The arrays of the stored cases of a centre."""
    files = (path for name in ("image", "label") for path in centre.glob(f"[!.]*/{name}.npy"))
    return {str(path.relative_to(centre)): path.read_bytes() for path in files}


def test_a_run_killed_repeatedly_ends_with_the_same_store_as_an_undisturbed_one(run, tmp_path):
    root, store = write_centre_in_air(tmp_path / "in", cases=10, air=120), tmp_path / "killed"
    assert run(root)[0] == 0
    undisturbed = voxels(tmp_path / "store" / "here")
    argv = [sys.executable, "-m", "data.prepare", "folder", str(root), "--centre", "here", "--store", str(store)]
    kills, rng = 0, random.Random(4)
    while kills < 4:
        process = subprocess.Popen([*argv, "--workers", "1"], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        while process.poll() is None and not list(store.glob("here/.*.unfinished")):
            time.sleep(0.001)  # until it writes a case
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        if process.wait() == 0:
            break
        kills += 1
        seen = voxels(store / "here")
        assert all(undisturbed[name] == content for name, content in seen.items())
        assert all((path.parent / "label.npy").is_file() for path in store.glob("here/[!.]*/case.json"))
    assert kills
    assert subprocess.run([*argv, "--workers", "1"], cwd=REPOSITORY, stdout=subprocess.DEVNULL).returncode == 0
    assert voxels(store / "here") == undisturbed and not list(store.rglob(".*unfinished*"))


def test_scans_are_cropped_to_the_body_and_masks_are_written_on_the_whole_scan(run, tmp_path):
    root = write_centre_in_air(tmp_path / "in", cases=2)
    assert run(root)[0] == 0
    for index, case in enumerate(read_store(tmp_path / "store")["here"]):
        image, label = patient_in_air(index)
        grid = case.grid
        assert case.shape[0] == 10 and case.image().size < 0.5 * image.size and case.preparation.crop == "body"
        assert np.array_equal(case.image(), image[grid.part.slices])
        assert np.array_equal(case.label(), label[grid.part.slices]) and (case.label() > 0).sum() == (label > 0).sum()
        write_mask(tmp_path / "mask.nii.gz", np.asarray(case.label()), grid)
        mask, source = nib.load(tmp_path / "mask.nii.gz"), nib.load(root / "labels" / f"case_{index}.nii.gz")
        assert np.array_equal(mask.dataobj, source.dataobj) and np.allclose(mask.affine, source.affine)
        assert np.array_equal(grid.to_prepared(read_label(tmp_path / "mask.nii.gz").array), case.label())


def test_scans_and_their_masks_are_resampled(run, tmp_path):
    root = write_centre_in_air(tmp_path / "in", cases=1)
    code, out, _ = run(root, "--crop", "none", "--spacing", "2.5", "4", "6")
    assert code == 0 and "--crop none --spacing 2.5 4 6" in out
    (case,) = read_store(tmp_path / "store")["here"]
    image, label = patient_in_air(0)
    assert case.shape == (20, 62, 33) and np.allclose(case.spacing, (2.5, 4.0, 6.0))
    assert set(np.unique(case.label())) == {0, 1, 2}
    assert np.array_equal(case.label()[::2], label[:, :, 1::2])
    assert np.abs(case.image()[0] - (image[0, :, ::2] / 2 + image[0, :, 1::2] / 2)).max() <= 1
    write_mask(tmp_path / "mask.nii.gz", np.asarray(case.label()), case.grid)
    back = read_label(tmp_path / "mask.nii.gz").array
    assert back.shape == label.shape and (back == label).mean() > 0.995


def test_a_case_whose_tumour_would_vanish_fails(run, tmp_path):
    root = write_centre_in_air(tmp_path / "in", cases=2)
    label = np.zeros(patient_in_air(0)[1].shape, np.uint8)
    label[2:8, 30:40, 30:40], label[4, 34, 34] = 1, 2
    write_lps(root / "labels" / "case_0.nii.gz", label, SPACING, (0.0, 0.0, 0.0))
    code, out, err = run(root, "--spacing", "10", "10", "10")
    assert code == 2 and "1 prepared" in out and "the tumour is too small for the voxels of --spacing" in err


def test_all_centres_of_a_store_are_prepared_in_the_same_way(run, tmp_path):
    root, other = write_centre_in_air(tmp_path / "in", cases=1), write_centre_in_air(tmp_path / "other", cases=1)
    run(root)
    code, _, err = run(other, "--crop", "none", centre="there")
    assert code == 2 and "centre here of this store was prepared with --crop body, not --crop none" in err
    assert err.count("\n") == 1
    assert "note: replaces" not in run(root)[1]
    out = run(root, "--spacing", "5", "5", "5")[1]  # a single centre may be prepared in another way
    assert "1 prepared" in out and "note: replaces the cases of here that were prepared with --crop body (1)\n" in out
    assert "1 prepared" in run(other, "--spacing", "5", "5", "5", centre="there")[1]
    assert list(read_store(tmp_path / "store")) == ["here", "there"]


def test_a_case_that_fails_while_the_store_changes_its_preparation_is_reported_as_a_mixture(run, tmp_path):
    root = write_centre_in_air(tmp_path / "in", cases=2)
    run(root)
    (root / "images" / "case_1.nii.gz").write_bytes(b"")
    code, _, err = run(root, "--crop", "none")
    assert code == 2 and "earlier version of this case, prepared with --crop body" in err
    assert f"{tmp_path / 'store' / 'here' / 'case_1'} is deleted" in err
    with pytest.raises(InputError):
        read_store(tmp_path / "store")


def test_disk_use_is_printed_and_a_run_that_does_not_fit_is_refused(run, tmp_path, monkeypatch):
    root = write_centre_in_air(tmp_path / "in", cases=4)
    one = 3 * patient_in_air(0)[0].size
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: Usage(0, 0, 3 * one))
    code, out, err = run(root)
    assert code == 2 and "4 scans to prepare" in err and "--fill-disk" in err and not (tmp_path / "store").exists()
    assert run(root, "--spacing", "10", "8", "6")[0] == 0  # an eighth of the voxels
    code, out, _ = run(root, "--fill-disk")
    assert code == 0 and "4 scans to prepare" in out and "may not be enough" in out
    assert "disk: 0 scans to prepare, at most 0.0 GB" in run(root)[1]


def test_the_space_for_a_dicom_folder_and_for_unreadable_files(shared, tmp_path):
    slab = shared / "real_ct" / "amos_0013_slab"
    (tmp_path / "broken.nii.gz").write_bytes(b"no")
    images = (slab / "dicom", slab / "ct.nii.gz", tmp_path / "broken.nii.gz", tmp_path / "none")
    sizes = [disk.estimate_case_bytes(image, prepare.Preparation()) for image in images]
    assert sizes == [3 * 512 * 512 * 11, 3 * 512 * 512 * 11, 0, 0]


@pytest.mark.parametrize("spacing", [(5.0, 1.6, 1.6), (1.0, 0.8, 0.8)])
def test_the_space_for_a_resampled_dicom_folder_equals_that_for_its_volume(spacing, tmp_path):
    made = scan(0)
    dicom(tmp_path / "slices", made, "1.2.3")
    for number, path in enumerate(sorted((tmp_path / "slices").iterdir())):
        path.rename(path.with_name(f"{number * 7 % 23:02d}.dcm"))  # names that do not follow the heights
    (tmp_path / "slices" / "LICENSE").write_text("free")
    save(tmp_path / "volume.nii.gz", made.hu)
    preparation = prepare.Preparation(spacing=spacing)
    slices, volume = (disk.estimate_case_bytes(tmp_path / name, preparation) for name in ("slices", "volume.nii.gz"))
    assert slices == volume > 0


def test_a_moved_data_set_is_reported_and_accepted_with_the_option(run, tmp_path):
    root = write_centre_in_air(tmp_path / "in", cases=2)
    run(root)
    root = root.rename(tmp_path / "moved")
    code, _, err = run(root)
    assert code == 2 and f"from {tmp_path / 'in'}, which no longer exists" in err and "Add --moved" in err
    before = digest(read_store(tmp_path / "store")["here"])
    code, out, _ = run(root, "--moved")
    assert code == 0 and "2 already there" in out
    cases = read_store(tmp_path / "store")["here"]
    assert {case.source["root"] for case in cases} == {str(root)} and digest(cases) == before
    code, out, _ = run(root)  # the new place is recorded
    assert code == 0 and "2 already there" in out


def test_another_data_set_is_not_accepted_as_a_moved_one(run, tmp_path):
    root, other = write_centre_in_air(tmp_path / "in", cases=1), write_centre_in_air(tmp_path / "other", cases=1)
    run(root)
    code, _, err = run(other, "--moved")
    assert code == 2 and f"from {root}, which still exists" in err and err.count("\n") == 1
    assert "Choose another --centre, or delete" in err and run(root, "--moved")[0] == 0


def test_thumbnails_are_made_while_preparing(run, tmp_path):
    root = write_centre_in_air(tmp_path / "in", cases=2)
    run(root)
    (kept,) = (tmp_path / "store" / "here" / "case_1").glob("thumbnail.*.npy")
    kept.unlink()
    run(root)
    for path in (tmp_path / "store").rglob("image.npy"):
        path.unlink()  # only thumbnails can be read from now on
    assert len(load_thumbnails(read_store(tmp_path / "store")["here"])) == 2


def test_unchanged_files_are_not_read_again(run, tmp_path, monkeypatch):
    root = write_centre_in_air(tmp_path / "in", cases=2)
    run(root)
    (root / "images" / "case_1.nii.gz").touch()
    read = []
    hash_it = provenance.fingerprint
    monkeypatch.setattr(provenance, "fingerprint", lambda path: read.append(path) or hash_it(path))
    assert "2 already there" in run(root)[1]
    assert read == [root / "images" / "case_1.nii.gz"]
    assert "2 already there" in run(root)[1] and len(read) == 1  # its new date has been recorded
    root = root.rename(tmp_path / "moved")
    for _ in range(2):
        assert "2 already there" in run(root, "--moved")[1] and len(read) == 5


def test_the_work_sent_to_a_process_does_not_grow_with_the_centre(run, tmp_path, monkeypatch):
    sent = []

    def in_this_process(work, items, workers, title):
        sent.append(len(pickle.dumps(work)))
        return map(work, items)

    monkeypatch.setattr(prepare, "in_parallel", in_this_process)
    for cases in (1, 6):
        run(write_centre_in_air(tmp_path / f"in_{cases}", cases=cases), centre=f"of_{cases}")
    assert sent[0] == sent[1]


def write_table(root: Path, scanners: list[str]) -> None:
    with (root / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "label", "patient", "scanner"))
        for index, scanner in enumerate(scanners):
            name = f"case_{index}.nii.gz"
            rows.writerow((f"images/{name}", f"labels/{name}", f"p{index}", scanner))


def test_one_data_set_gives_a_centre_per_scanner(run, tmp_path):
    root = write_centre_in_air(tmp_path / "in", cases=5)
    write_table(root, ["Siemens AG", "Philips", "Siemens AG", "", "Philips"])
    code, _, err = run(root, "--centre-by", "scanner")
    centres = {name: [c.name for c in cases] for name, cases in read_store(tmp_path / "store").items()}
    assert centres == {"here_Philips": ["case_1", "case_4"], "here_Siemens-AG": ["case_0", "case_2"]}
    assert code == 2 and "case_3.nii.gz: the case has no value in column scanner" in err
    code, _, err = run(root, "--centre-by", "vendor")
    assert code == 2 and "no such column" in err and "scanner" in err and err.count("\n") == 1


def test_two_values_that_would_give_one_name_are_refused(run, tmp_path):
    root = write_centre_in_air(tmp_path / "in", cases=2)
    write_table(root, ["A B", "A-B"])
    code, _, err = run(root, "--centre-by", "scanner")
    assert code == 2 and "A B" in err and "A-B" in err and err.count("\n") == 1


def test_the_complete_cases_of_a_partly_downloaded_set_are_prepared(run, tmp_path):
    root = write_centre_in_air(tmp_path / "in", cases=4)
    write_table(root, ["x"] * 4)
    (root / "images" / "case_1.nii.gz").unlink()
    (root / "labels" / "case_2.nii.gz").write_bytes((root / "labels" / "case_2.nii.gz").read_bytes()[:100])
    code, out, err = run(root)
    failed = [line.split(":")[1].strip() for line in err.splitlines()]
    assert code == 2 and "2 prepared" in out and failed == ["case_1", "case_2"]


def test_a_scan_too_large_for_the_memory_fails_only_its_own_case(run, tmp_path, monkeypatch):
    root, load = write_centre_in_air(tmp_path / "in", cases=2), prepare.load_entry

    def full(entry, labels, *, accept):
        if entry.name == "case_0":
            raise MemoryError
        return load(entry, labels, accept=accept)

    monkeypatch.setattr(prepare, "load_entry", full)
    code, out, err = run(root)
    assert code == 2 and "1 prepared" in out and "case_0.nii.gz: the scan is too large for the memory" in err


def test_the_list_of_data_sets_needs_no_other_argument(capsys):
    with pytest.raises(SystemExit) as ended:
        prepare.main(["--list"])
    out = capsys.readouterr().out
    assert not ended.value.code and all(name in out for name in ("msd", "panorama", "CC BY-SA"))


def test_an_uncropped_phantom_and_a_cropped_centre_are_not_mixed(run, tmp_path):
    image, label = tiny_scan(0)
    grid = Grid.plain(image.shape, SPACING)
    folder = write_case(
        tmp_path / "store", "north", "one", image, label, patient="p", spacing=SPACING, grid=grid, source={}
    )
    root = write_centre_in_air(tmp_path / "in", cases=1)
    assert "centre north of this store was prepared with --crop none" in run(root)[2]
    assert run(root, "--crop", "none")[0] == 0
    assert json.loads((folder / "case.json").read_text())["preparation_hash"] == read_case(folder).preparation.hash
