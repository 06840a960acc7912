"""The phantom command: what it writes, how it resumes, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest

from data.cases.store import read_store
from data.phantom.command import DEFAULT_CENTRES, main
from data.phantom.scanner import SCANNERS, render_case
from data.prepare import command as prepare
from data.scans.volume import read_image, read_label
from data.synthesis.patient import render_patient
from data.synthesis.settings import Synthesis


@pytest.fixture
def low_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans of a third of the height, for tests that do not depend on the voxels; in this process only."""
    monkeypatch.setattr("data.phantom.scanner.SMALL_HEIGHT_MM", (50.0, 60.0))


def _label_map(path: Path) -> Path:
    """A made-up label map: a block of gland with an aorta behind it, in a scan of 16 slices."""
    labels = np.zeros((10, 25, 30), np.uint8)
    labels[2:8, 3:12, 5:25] = 4
    labels[:, 18:24, 17:23] = 3
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, labels=labels, box_start=[3, 40, 35], scan_shape=[16, 100, 104], spacing=[3.0, 3.0, 3.0])
    return path


def test_the_result_does_not_depend_on_the_number_of_workers(tmp_path: Path, capsys) -> None:
    for workers in ("1", "2"):
        assert main([str(tmp_path / workers), "--cases", "1", "--seed", "5", "--workers", workers]) == 0
    assert "spacing" in capsys.readouterr().out
    for scanner in (scanner for scanner in SCANNERS if scanner.name in DEFAULT_CENTRES):
        name, expected = scanner.name, render_case(scanner, 0, seed=5)
        for workers in ("1", "2"):
            image = read_image(tmp_path / workers / name / "images" / f"{name}_000.nii.gz")
            label = read_label(tmp_path / workers / name / "labels" / f"{name}_000.nii.gz", like=image)
            assert np.array_equal(image.array, expected[0]) and np.array_equal(label.array, expected[1])
            assert image.spacing == pytest.approx(expected[2], abs=1e-6)


def test_the_command_resumes_where_it_stopped(low_scans: None, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "out"), "--centres", "south", "--workers", "1"]
    assert main([*arguments, "--cases", "1"]) == 0
    first = tmp_path / "out" / "south" / "images" / "south_000.nii.gz"
    before = first.stat().st_mtime_ns
    assert main([*arguments, "--cases", "2"]) == 0
    assert first.stat().st_mtime_ns == before
    assert (tmp_path / "out" / "south" / "labels" / "south_001.nii.gz").exists()


def test_prepared_cases_are_known_to_be_synthetic_which_changes_nothing_else(low_scans, tmp_path: Path) -> None:
    out, store = tmp_path / "out", tmp_path / "store"
    assert main([str(out), "--centres", "south", "--workers", "1", "--cases", "1"]) == 0
    mark = out / "phantom.json"
    mark.rename(tmp_path / "kept")  # as if the scans were those of a hospital
    arguments = ["folder", str(out / "south"), "--centre", "south", "--store", str(store), "--workers", "1"]
    assert prepare.main(arguments) == 0
    (before,) = read_store(store)["south"]
    written, content = (before.folder / "image.npy").stat().st_mtime_ns, before.content()
    (tmp_path / "kept").rename(mark)
    assert prepare.main(arguments) == 0
    (after,) = read_store(store)["south"]
    assert after.is_synthetic and not before.is_synthetic
    assert after.content() == content and (after.folder / "image.npy").stat().st_mtime_ns == written
    assert main([str(tmp_path / "as cases"), "--centres", "south", "--workers", "1", "--cases", "1", "--prepared"]) == 0
    assert read_store(tmp_path / "as cases")["south"][0].is_synthetic


def test_a_case_with_a_missing_label_is_written_again(low_scans: None, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "out"), "--centres", "south", "--workers", "1", "--cases", "1"]
    assert main(arguments) == 0
    label = tmp_path / "out" / "south" / "labels" / "south_000.nii.gz"
    before = read_label(label).array
    label.unlink()
    assert main(arguments) == 0
    assert np.array_equal(read_label(label).array, before)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--seed", "1"], "other settings"),
        (["--centres", "nowhere"], "Choose from"),
        (["--anatomy", "{}/empty"], "no sub-folder"),
    ],
)
def test_wrong_options_are_refused(low_scans: None, tmp_path: Path, capsys, extra: list[str], words: str) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [str(tmp_path / "out"), "--cases", "1", "--workers", "1"]
    if words == "other settings":
        assert main([*arguments, "--centres", "south"]) == 0
    assert main([*arguments, *(word.format(tmp_path) for word in extra)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.strip().splitlines()[-1].startswith("error: ")


def test_a_folder_with_other_content_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch")
    assert main([str(tmp_path), "--cases", "1"]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_damaged_label_maps_are_named_and_the_others_are_rendered(tmp_path: Path, capsys, workers: str) -> None:
    good = _label_map(tmp_path / "maps" / "here" / "good.npz")
    damaged = [good.with_name(f"{name}.npz") for name in ("early", "late")]
    for path in damaged:
        path.write_bytes(good.read_bytes()[:300])
    out = tmp_path / "out"
    assert main([str(out), "--anatomy", str(tmp_path / "maps"), "--workers", workers]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert [str(path) in line for path, line in zip(damaged, errors, strict=True)] == [True, True]
    assert (out / "here" / "labels" / "good.nii.gz").exists()


def _organ_map(path: Path, gland: int = 8) -> Path:
    """A made-up label map of organs: blocks of liver, spleen and pancreas."""
    labels = np.zeros((30, 40, 60), np.uint8)
    labels[14:24, 12:30, 6:22] = 5
    labels[16:22, 24:32, 46:54] = 1
    labels[13:17, 20:24, 22:44] = gland
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, labels=labels, spacing=[6.0, 5.0, 5.0])
    return path


def test_randomised_patients_around_label_maps_are_a_centre(tmp_path: Path, capsys) -> None:
    path = _organ_map(tmp_path / "maps" / "one.npz")
    out, options = tmp_path / "out", ["--abdomen", f"{path.parent}:btcv", "--workers", "1", "--seed", "2"]
    assert main([str(out), "--cases", "1", *options]) == 0
    assert "abdomen" in capsys.readouterr().out
    image = read_image(out / "abdomen" / "images" / "abdomen_000.nii.gz")
    label = read_label(out / "abdomen" / "labels" / "abdomen_000.nii.gz", like=image)
    expected = render_patient((2, 0), Synthesis(labels=f"{path.parent}:btcv"), (3.0, 3.0, 3.0))
    assert np.array_equal(image.array, expected[0]) and np.array_equal(label.array, expected[1])
    assert main([str(out), "--cases", "1", "--workers", "1", "--seed", "2", "--abdomen"]) == 2  # procedural ones
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--abdomen", "{}/maps"], "codes.json"),
        (["--abdomen", "{}/maps:btcv"], "has no pancreas"),
        (["--abdomen", "{}/maps:btcv", "--size", "full"], "without --anatomy"),
    ],
)
def test_label_maps_that_cannot_be_used_are_one_line(tmp_path: Path, capsys, extra: list[str], words: str) -> None:
    _organ_map(tmp_path / "maps" / "one.npz", gland=6)
    arguments = [str(tmp_path / "out"), "--cases", "1", "--workers", "1"]
    assert main([*arguments, *(word.format(tmp_path) for word in extra)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert words in lines[-1] and lines[-1].startswith("error: ")
    assert not list(tmp_path.rglob("*.nii.gz"))
