"""The export is a data set of nnU-Net with our split, and our own reader reads it back voxel by voxel."""

import json
import pickle
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.cases.case import read_case, write_case
from data.cases.store import read_store
from data.duplicates.pairs import find_duplicates
from data.export import command as export
from data.prepare import command as prepare
from data.scans.volume import read_image, read_label
from data.sources.catalogue import SOURCES, load_entry
from data.splits.frozen import frozen_splits
from tests.conftest import affine_of, edit_manifest, save, tiny_scan

# The scans of each centre have another orientation: permuted axes, mirrored, oblique.
AXES = {
    "east": ((0, 1, 2), (1, 1, 1), (0.0, 0.0, 0.0)),
    "west 2": ((2, 0, 1), (-1, 1, -1), (4.0, -6.0, 9.0)),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Two centres of four cases, prepared from files of other orientations; one name is not plain ASCII."""
    root = tmp_path_factory.mktemp("scans")
    for number, (centre, (order, signs, degrees)) in enumerate(AXES.items()):
        for index in range(4):
            name = "münchen 3" if (number, index) == (1, 3) else f"case_{index}"
            for kind, array in zip(("images", "labels"), tiny_scan(10 * number + index), strict=True):
                folder = root / centre / kind
                folder.mkdir(parents=True, exist_ok=True)
                save(folder / f"{name}.nii.gz", array.T, affine_of(order, signs, degrees, (3.0, 4.0, 5.0)))
        for name, way in {"store": ["--crop", "none"], "part": ["--spacing", "4", "4", "4"]}.items():
            options = ["--centre", centre.split()[0], "--workers", "1", "--store", str(root / name), *way]
            assert prepare.main(["folder", str(root / centre), *options]) == 0
    return root / "store"


@pytest.fixture(scope="module")
def part(store) -> Path:
    """The same cases cropped to the body and resampled."""
    return store.parent / "part"


def exported(out: Path, store: Path, *options: str) -> Path:
    assert export.main([str(out), "--store", str(store), *options]) == 0
    return out / "Dataset901_Pancreas"


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_the_layout_is_that_of_nnunet_with_our_split(store, tmp_path):
    folder = exported(tmp_path / "raw", store, "--data", "west")
    described = json.loads((folder / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "CT"} and described["file_ending"] == ".nii.gz"
    assert described["labels"] == {"background": 0, "pancreas": 1, "tumour": 2} and described["numTraining"] == 4
    split = frozen_splits(store, read_store(store))["west"]
    (fold,) = json.loads((folder / "splits_final.json").read_text())
    names = {case.key: case.file_name for cases in read_store(store).values() for case in cases}
    assert fold == {
        "train": [names[key] for key in split.train],
        "val": [names[key] for key in split.validation],
    }
    assert split.validation and not set(fold["train"]) & set(fold["val"])
    for part, keys in (("Tr", split.train + split.validation), ("Ts", split.test)):
        images = {path.name.removesuffix("_0000.nii.gz") for path in (folder / f"images{part}").iterdir()}
        labels = {path.name.removesuffix(".nii.gz") for path in (folder / f"labels{part}").iterdir()}
        assert images == labels == {names[key] for key in keys}


def test_a_leak_is_refused_unless_allowed(store, tmp_path, capsys):
    leaking = tmp_path / "leaking"
    shutil.copytree(store, leaking, ignore=shutil.ignore_patterns("thumbnail*"))
    shutil.copytree(leaking / "east" / "case_0", leaking / "west" / "case_0", dirs_exist_ok=True)
    edit_manifest(leaking / "west" / "case_0", centre="west")
    options = [str(tmp_path / "raw"), "--store", str(leaking), "--data", "west"]
    assert export.main(options) == 2
    message = capsys.readouterr().err
    assert "east/case_0" in message and "--allow-duplicates" in message and not (tmp_path / "raw").exists()
    assert export.main([*options, "--allow-duplicates"]) == 0
    assert "warning: east/case_0" in capsys.readouterr().out


def test_none_held_out_exports_every_case_for_training(store, tmp_path):
    folder = exported(tmp_path, store)
    assert len(list((folder / "imagesTr").iterdir())) == 8 and not (folder / "imagesTs").exists()


@pytest.mark.parametrize("kind", ["store", "part"])
def test_our_nnunet_source_reads_the_export_back_voxel_for_voxel(kind, store, tmp_path):
    store = store.parent / kind
    folder = exported(tmp_path, store)
    source = SOURCES["nnunet"]
    cases = {case.file_name: case for centre in read_store(store).values() for case in centre}
    entries = source.entries(folder)
    assert {entry.name for entry in entries} == set(cases)
    for entry in entries:
        case = cases[entry.name]
        image, label, _ = load_entry(entry, source.codes(folder))
        assert np.array_equal(image.array, case.image()) and np.array_equal(label, case.label())
        assert image.spacing == pytest.approx(case.spacing)
        assert kind == "part" or image.grid.order == case.grid.order
    assert (
        prepare.main(["nnunet", str(folder), "--centre", "back", "--workers", "1", "--store", str(tmp_path / "s")]) == 0
    )
    for name, case in cases.items():
        again = read_case(tmp_path / "s" / "back" / name)
        assert np.array_equal(again.image(), case.image()) and np.array_equal(again.label(), case.label())
        assert again.tumour_box == case.tumour_box


def test_nibabel_finds_the_exported_scan_at_its_original_position(store, tmp_path):
    folder = exported(tmp_path, store, "--data", "west")
    for case in read_store(store)["west"]:
        there = nib.load(folder / "imagesTs" / f"{case.file_name}_0000.nii.gz")
        original = nib.load(case.source["image"])
        assert np.array_equal(np.asarray(there.dataobj), np.asarray(original.dataobj))
        assert np.allclose(there.affine, original.affine, atol=1e-4)
        mask = nib.load(folder / "labelsTs" / f"{case.file_name}.nii.gz")
        assert np.array_equal(mask.affine, there.affine) and mask.get_data_dtype() == np.uint8


def test_a_cropped_case_is_exported_at_its_position_in_the_scan(store, part, tmp_path):
    folder = exported(tmp_path, part, "--data", "west")
    for case in read_store(part)["west"]:
        there = read_image(folder / "imagesTs" / f"{case.file_name}_0000.nii.gz")
        scan, box = read_image(case.source["image"]), case.grid.part
        assert there.array.shape == case.shape == box.shape != scan.array.shape
        to_voxels = np.linalg.inv(np.array(scan.direction).reshape(3, 3))
        faces = (there.corners(0.5) - np.array(scan.origin)) @ to_voxels.T / scan.spacing[::-1]
        assert np.allclose(faces[0], np.array(box.start[::-1]) - 0.5, atol=1e-3)
        assert np.allclose(faces[-1], np.array(box.stop[::-1]) - 0.5, atol=1e-3)


def test_an_interrupted_export_is_continued_and_written_files_are_not_touched(store, tmp_path):
    folder = exported(tmp_path, store, "--data", "west")
    whole = contents(folder)
    lost = folder / "labelsTr" / "east__case_1.nii.gz"
    lost.unlink()
    (folder / "dataset.json").unlink()
    (folder / "imagesTr" / ".77.unfinished.east__case_1_0000.nii.gz").write_bytes(b"half")
    exported(tmp_path, store, "--data", "west")
    again = contents(folder)
    assert {path: content for path, (_, content) in again.items()} == {p: content for p, (_, content) in whole.items()}
    described = {folder / "dataset.json", folder / "splits_final.json", lost}
    assert all(again[path] == whole[path] for path in whole if path not in described)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--data", "north"], "--data north: no centre or split has this name"),
        (["--id", "1000"], "--id 1000: nnU-Net's data sets have numbers of three digits"),
        (["--name", "my set"], "--name my set: this cannot be used as the name of a data set"),
        (
            ["--name", "Other"],
            "Dataset901_Pancreas is there already, and nnU-Net accepts one data set per number. Choose another --id",
        ),
        (["--data", "east"], "the folder holds an export of other cases or of another split. Delete it"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line_and_changes_nothing(store, tmp_path, capsys, options, complaint):
    folder = exported(tmp_path, store, "--data", "west")
    before = contents(folder)
    assert export.main([str(tmp_path), "--store", str(store), *options]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ") and complaint in message
    assert contents(folder) == before


def test_a_folder_with_other_files_is_not_touched(store, tmp_path, capsys):
    other = tmp_path / "Dataset901_Pancreas" / "imagesTr" / "case_0000.nii.gz"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"years of work")
    assert export.main([str(tmp_path), "--store", str(store)]) == 2
    assert "the folder is not empty and was not made by this command" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.*")) == [other]


def test_a_damaged_case_is_named_and_the_others_are_exported(store, tmp_path, capsys):
    shutil.copytree(store, tmp_path / "store")
    find_duplicates(
        case for cases in read_store(tmp_path / "store").values() for case in cases
    )  # before one is damaged
    damaged = tmp_path / "store" / "east" / "case_2" / "image.npy"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert export.main([str(tmp_path / "raw"), "--store", str(tmp_path / "store")]) == 2
    assert f"failed: east/case_2: {damaged}: " in capsys.readouterr().err
    folder = tmp_path / "raw" / "Dataset901_Pancreas"
    assert len(list((folder / "labelsTr").iterdir())) == 7 and not (folder / "dataset.json").exists()
    assert export.main([str(tmp_path / "raw2"), "--store", str(store)]) == 0


def test_a_centre_without_labelled_tumours_is_tested_on_but_not_trained_on(store, tmp_path, capsys):
    shutil.copytree(store, tmp_path / "store", ignore=shutil.ignore_patterns("splits*"))
    for case in read_store(store)["east"]:
        image, label = case.image() + 1, np.minimum(np.asarray(case.label()), 1)  # not the same scan
        grid = {"spacing": case.spacing, "grid": case.grid, "preparation": case.preparation}
        write_case(tmp_path / "store", "organs", case.name, image, label, patient="p", source={}, **grid)
    folder = exported(tmp_path / "raw", tmp_path / "store", "--data", "west")
    assert "not exported for training, as no tumour is labelled there: organs" in capsys.readouterr().out
    assert {path.name.split("__")[0] for path in (folder / "imagesTr").iterdir()} == {"east"}
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 4
    exported(tmp_path / "raw2", tmp_path / "store", "--data", "organs")
    assert len(list((tmp_path / "raw2").glob("*/imagesTs/organs__*"))) == 4


def test_what_is_sent_to_a_process_does_not_grow_with_the_number_of_cases(store, tmp_path, monkeypatch):
    sent = []

    def run_here(work, items, workers, title):
        sent.extend(len(pickle.dumps((work, item))) for item in items)
        return map(work, items)

    monkeypatch.setattr(export, "in_parallel", run_here)
    exported(tmp_path, store)
    assert len(sent) == 8 and 2 * max(sent) < len(pickle.dumps(read_store(store)))


def test_file_names_are_ascii_and_distinct(store):
    west = {case.name: case.file_name for case in read_store(store)["west"]}
    assert west["case_0"] == "west__case_0"
    assert west["münchen 3"].startswith("west__m-nchen-3-") and west["münchen 3"].isascii()


def test_images_and_labels_have_exactly_the_same_grid(store, tmp_path):
    folder = exported(tmp_path, store, "--data", "west")
    for path in (folder / "imagesTs").iterdir():
        image = read_image(path)
        label = read_label(folder / "labelsTs" / path.name.replace("_0000", ""), like=image)
        assert not any("header" in note or "resampled" in note for note in label.notes)
