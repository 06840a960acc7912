"""A new scan is prepared like the training cases of the models, and its mask is written on its own voxels."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from data.cases.preparation import Preparation
from data.common.files import REPOSITORY
from engine.infer import predict, prepared
from engine.infer import scan as scan_steps
from engine.infer.cascade import CascadeResult
from engine.infer.loading import load_models
from engine.infer.volumes import UNFINISHED
from engine.report import drawing
from engine.stages import STAGES
from tests.conftest import affine_of, save
from tests.dicom_files import write_slices

PREPARED = (4.0, 3.0, 3.0)  # (z, y, x) mm


def stand_in(run, preparation: Preparation) -> SimpleNamespace:
    """What a command reads of a model whose network is never asked."""
    return SimpleNamespace(
        preparation=preparation,
        device=torch.device("cpu"),
        stage=SimpleNamespace(title="x", sampling=STAGES["pancreas_coarse"].sampling),
        fast=False,
        confirms=False,
        members=(),
        only_synthetic=False,
        run=run,
        sha256="of the network",
        readout="segmentation",
        threshold=0.5,
    )


@pytest.fixture
def seen(monkeypatch, tmp_path) -> dict:
    """What the models are given. In their place a threshold segments: tissue is pancreas, bone is tumour."""
    seen = {}

    def segment(models, image, spacing, **_):
        seen.update(shape=image.shape, spacing=spacing)
        return CascadeResult((image > -300).astype(np.uint8) + (image > 300), ())

    preparation = Preparation(crop="body", spacing=PREPARED)
    seen["model"] = model = stand_in(tmp_path, preparation)
    monkeypatch.setattr(predict, "load_models", lambda options: {"pancreas_coarse": model})
    monkeypatch.setattr(prepared, "segment_scan", segment)
    return seen


@pytest.mark.parametrize(
    "affine",
    [affine_of(zooms=(2.0, 2.0, 5.0)), affine_of((2, 0, 1), (-1, 1, -1), (4.0, -6.0, 9.0), (5.0, 2.0, 2.0))],
    ids=["plain", "turned and oblique"],
)
def test_the_models_see_their_own_spacing_and_the_mask_lies_on_the_scan(seen, tmp_path, affine):
    thick = int(np.argmax(np.linalg.norm(affine[:3, :3], axis=0)))  # the axis of the array along the patient
    patient = np.full((80, 70, 24), -1000, np.int16)
    patient[20:60, 15:55, :] = 40
    patient[30:42, 25:37, 8:16] = 900
    scan = np.moveaxis(patient, 2, thick)
    path = save(tmp_path / "scan.nii.gz", scan, affine)
    assert predict.main([str(path), "-o", str(tmp_path / "out")]) == 0
    assert seen["spacing"] == pytest.approx(PREPARED, rel=0.02)
    assert np.prod(seen["shape"]) < 0.7 * scan.size * (2 * 2 * 5) / np.prod(PREPARED)  # the air was cropped
    mask = nib.load(tmp_path / "out" / "scan_pancreas_tumour.nii.gz")
    assert mask.shape == scan.shape and np.allclose(mask.affine, affine, atol=1e-4)
    expected = (scan > -300).astype(int) + (scan > 300)
    assert all((np.asarray(mask.dataobj) == code)[expected == code].mean() > 0.9 for code in (0, 1, 2))


def test_a_label_map_instead_of_a_scan_and_a_whole_body_as_pancreas_get_a_note(seen, tmp_path, capsys):
    label = np.zeros((60, 60, 40), np.int16)
    label[20:40, 20:40, 10:30] = 2
    path = save(tmp_path / "label.nii.gz", label, affine_of(zooms=(2.0, 2.0, 5.0)))
    assert predict.main([str(path), "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "values 0 to 2 are 8-bit grey values, not HU: give the scan itself" in printed
    assert "ml are too much for a pancreas, the model may not have been trained enough" in printed


def test_a_slab_with_a_bit_of_gland_and_a_synthetic_model_is_unreliable_in_table_and_report(seen, tmp_path, capsys):
    scan = np.full((60, 60, 8), -1000, np.int16)
    scan[20:30, 20:28, 4:] = 40
    path = save(tmp_path / "slab.nii.gz", scan, affine_of(zooms=(2.0, 2.0, 5.0)))
    seen["model"].only_synthetic = True
    assert predict.main([str(path), "-o", str(tmp_path / "out"), "--report"]) == 0
    (row,) = rows_of(tmp_path / "out")
    printed, page = capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text()
    assert row["unreliable"] == "yes" and "unreliable: " in printed
    for doubt in (
        "the scan is 40 mm long, too short for a whole pancreas",
        "the model was trained on synthetic scans only, do not rely on it for real scans",
        "ml are too little for a pancreas",
        "touches the upper end of the scan",
    ):
        assert doubt in row["note"] and doubt in printed and doubt in page


def test_for_a_folder_of_scan_files_the_error_asks_for_the_files(seen, tmp_path, capsys):
    folder, empty = tmp_path / "scans", tmp_path / "empty"
    folder.mkdir()
    empty.mkdir()
    save(folder / "a.nii.gz", np.zeros((9, 9, 9), np.int16), affine_of())
    assert predict.main([str(folder), str(empty), "-o", str(tmp_path / "out")]) == 2
    first, second = capsys.readouterr().err.strip().splitlines()[-2:]
    advice = "The folder holds scans as files; give these"
    assert first.endswith(f"{advice}: {folder}/*.nii.gz") and advice not in second


def test_if_models_are_missing_the_error_names_the_splits_that_have_all_of_them(tmp_path, capsys):
    for stage in STAGES:
        for centre in ("north", "west", "half")[: 2 if stage == "tumor_fine" else 3]:
            run = tmp_path / "runs" / stage / centre / "2026_01_01_00_00_00"
            run.mkdir(parents=True)
            (run / "best.pt").touch()
    options = ["scan.nii.gz", "-o", str(tmp_path / "out"), "--gpu", "cpu", "--data", "south"]
    assert predict.main([*options, "--path", str(tmp_path / "runs")]) == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == len(STAGES) + 1  # one line per stage, then the choice
    assert message.endswith(
        f"{tmp_path / 'runs'}: 4 of the 4 stages have no usable model for --data south. "
        "Train them with the commands above, or use the models of another split: --data north or --data west.\n"
    )
    (tmp_path / "empty").mkdir()
    assert predict.main([*options, "--path", str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.endswith("Train them with the commands above, or use a model file.\n")
    assert predict.main([*options, "--path", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.endswith("trained models with --path, or a model file with --model.\n")


def blocks(root: Path, *names: str) -> list[str]:
    """Write scans of tissue in air and return their paths."""
    scan = np.full((40, 40, 12), -1000, np.int16)
    scan[10:30, 10:30, 3:9] = 40
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        save(root / name, scan, affine_of(zooms=(2.0, 2.0, 5.0)))
    return [str(root / name) for name in names]


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "volumes.csv").open() as file:
        return list(csv.DictReader(file))


def test_one_call_a_scan_collects_all_rows_and_refuses_another_scan_of_the_same_name(seen, tmp_path, capsys):
    out = tmp_path / "out"
    first, second, other = blocks(tmp_path, "p1/ct.nii.gz", "p2/ct.nii.gz", "p2/other.nii.gz")
    assert [predict.main([scan, "-o", str(out)]) for scan in (first, other, first)] == [0, 0, 0]
    assert [(row["case"], row["scan"]) for row in rows_of(out)] == [("ct", first), ("other", other)]
    before = (out / "ct_pancreas_tumour.nii.gz").read_bytes()
    capsys.readouterr()
    assert predict.main([second, "-o", str(out)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "another scan of the same name" in message and first in message
    assert (out / "ct_pancreas_tumour.nii.gz").read_bytes() == before
    assert predict.main([first, second, "-o", str(out)]) == 0  # one call names them by their folders
    assert [row["case"] for row in rows_of(out)] == ["ct", "other", "p2_ct"]


def test_an_interruption_keeps_the_rows_of_the_scans_that_are_done(seen, tmp_path, monkeypatch):
    scans = blocks(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    segment = prepared.segment_scan

    started = []

    def interrupt_the_second(models, image, spacing, **_):
        started.append(spacing)
        if len(started) == 2:
            raise KeyboardInterrupt
        return segment(models, image, spacing)

    monkeypatch.setattr(prepared, "segment_scan", interrupt_the_second)
    assert predict.main([*scans, "-o", str(tmp_path / "out")]) == 130
    first, second = rows_of(tmp_path / "out")
    assert float(first["pancreas_ml"]) > 0 and second["error"] == UNFINISHED
    monkeypatch.setattr(prepared, "segment_scan", segment)
    assert predict.main([*scans, "-o", str(tmp_path / "out")]) == 0
    assert [row["error"] for row in rows_of(tmp_path / "out")] == ["", "", ""]


def test_a_scan_that_fails_has_its_row_in_order_and_stops_no_other(seen, tmp_path, capsys):
    scans = blocks(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii.gz")
    Path(scans[1]).write_bytes(b"x")
    Path(scans[3]).unlink()
    for again in (False, True):
        assert predict.main([*scans, "-o", str(tmp_path / "out")]) == 2
        assert [(row["case"], bool(row["error"])) for row in rows_of(tmp_path / "out")] == [
            ("a", False),
            ("b", True),
            ("c", False),
            ("d", True),
        ]
        printed = capsys.readouterr()
        assert [line.split(":")[1].strip() for line in printed.err.splitlines()] == [scans[1], scans[3]]
        assert [line.split()[0] for line in printed.out.splitlines()[-4:]] == ["a", "b", "c", "d"]
        assert printed.out.count("already segmented") == (2 if again else 0)


def test_what_could_not_be_read_beside_another_scan_is_read_again_alone(seen, tmp_path, monkeypatch):
    scans, reads = blocks(tmp_path, "a.nii.gz", "b.nii.gz"), []
    read = scan_steps.read_image

    def no_memory_for_two(path, series):
        reads.append(path.name)
        if reads == ["a.nii.gz", "b.nii.gz"]:
            raise MemoryError
        return read(path, series)

    monkeypatch.setattr(scan_steps, "read_image", no_memory_for_two)
    assert predict.main([*scans, "-o", str(tmp_path / "out")]) == 0
    assert reads == ["a.nii.gz", "b.nii.gz", "b.nii.gz"]


def test_without_memory_for_other_scans_each_has_the_memory_for_itself(seen, tmp_path, monkeypatch):
    scans, events = blocks(tmp_path, "a.nii.gz", "b.nii.gz"), []
    read, segment, write = scan_steps.read_image, prepared.segment_scan, scan_steps.write_mask
    monkeypatch.setattr(scan_steps, "read_image", lambda *given: (events.append("read"), read(*given))[1])
    monkeypatch.setattr(prepared, "segment_scan", lambda *given, **_: (events.append("segment"), segment(*given))[1])
    monkeypatch.setattr(scan_steps, "write_mask", lambda *given: (events.append("write"), write(*given))[1])
    monkeypatch.setattr(scan_steps, "free_memory", lambda: 10**6)
    assert predict.main([*scans, "-o", str(tmp_path / "out")]) == 0
    assert events == ["read", "segment", "write"] * 2


def test_shards_divide_the_scans_and_name_them_alike(seen, tmp_path):
    out = tmp_path / "out"
    scans = blocks(tmp_path, "p1/ct.nii.gz", "p2/ct.nii.gz", "p3/ct.nii.gz", "x.nii.gz", "y.nii.gz")
    for shard, expected in (("2/3", {"p2_ct", "y"}), ("1/3", {"p1_ct", "x"}), ("3/3", {"p3_ct"})):
        before = {row["case"] for row in rows_of(out)} if out.exists() else set()
        assert predict.main([*scans, "-o", str(out), "--shard", shard]) == 0
        assert {row["case"] for row in rows_of(out)} - before == expected
    assert {row["scan"] for row in rows_of(out)} == set(scans)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "1/0", "-1/2", "1/2/3", "a/b", "\u0661/2"])
def test_what_is_no_shard_is_refused(shard, capsys):
    with pytest.raises(SystemExit) as caught:
        predict.parse(["scan.nii.gz", "-o", "out", f"--shard={shard}"])
    assert caught.value.code == 2 and "such as 1/4" in capsys.readouterr().err


def test_processes_with_a_shard_each_fill_one_folder(tmp_path):
    """Two processes at once; a threshold segments in the place of the models."""
    scans = blocks(tmp_path, *(f"p{number}/ct.nii.gz" for number in range(6)))
    code = """
import sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np, torch
from data.cases.preparation import Preparation
from engine.infer import predict, prepared
from engine.infer.cascade import CascadeResult
from engine.stages import STAGES
stage, root = STAGES["pancreas_coarse"], Path(sys.argv[1])
model = SimpleNamespace(preparation=Preparation(), device=torch.device("cpu"), stage=stage, run=root,
                        readout="segmentation", threshold=0.5, members=(), fast=False, confirms=False,
                        sha256="of the network", only_synthetic=False)
predict.load_models = lambda options: {"pancreas_coarse": model}
prepared.segment_scan = lambda models, image, spacing, **_: CascadeResult((image > -300).astype(np.uint8), ())
sys.exit(predict.main(sys.argv[2:]))
"""
    arguments = [str(tmp_path), *scans, "--path", str(tmp_path), "-o", str(tmp_path / "out"), "--quiet", "--shard"]
    command = [sys.executable, "-c", code, *arguments]
    processes = [subprocess.Popen([*command, f"{number}/2"], cwd=REPOSITORY) for number in (1, 2)]
    assert [process.wait() for process in processes] == [0, 0]
    rows = rows_of(tmp_path / "out")
    assert {row["case"]: row["scan"] for row in rows} == {f"p{n}_ct": scan for n, scan in enumerate(scans)}
    assert not any(row["error"] for row in rows)
    assert all(
        (tmp_path / "out" / f"p{n}_ct{end}").exists() for n in range(6) for end in (".png", "_pancreas_tumour.nii.gz")
    )


def test_a_result_without_flips_is_never_taken_for_one_with_them(seen, tmp_path, capsys):
    (scan,) = blocks(tmp_path, "a.nii.gz")
    arguments, origins = [scan, "-o", str(tmp_path / "out")], []
    for fast in (False, True, True, False):
        seen["model"].fast = fast
        assert predict.main(arguments) == 0
        (row,) = rows_of(tmp_path / "out")
        assert ("without flips (--fast)" in row["note"]) == fast
        assert ("threshold 0.5, without flips" in capsys.readouterr().out) == fast
        origins.append(row["made_from"])
    assert origins[0] == origins[3] != origins[1] == origins[2]


def test_doubts_of_the_cascade_are_flagged_in_the_table(seen, tmp_path, monkeypatch, capsys):
    (scan,) = blocks(tmp_path, "a.nii.gz")
    segment = prepared.segment_scan
    monkeypatch.setattr(prepared, "find_doubts", lambda scan: ())
    monkeypatch.setattr(prepared, "find_doubts_of_size", lambda pancreas_ml: ())
    doubtful = {"doubts": ("the voxels are unlike those of the training",), "notes": ("tumour fine: nothing found",)}
    monkeypatch.setattr(prepared, "segment_scan", lambda *given, **_: segment(*given)._replace(**doubtful))
    assert predict.main([scan, "-o", str(tmp_path / "out")]) == 0
    (row,) = rows_of(tmp_path / "out")
    assert row["unreliable"] == "yes"
    assert row["note"] == "the voxels are unlike those of the training; tumour fine: nothing found"
    assert "unreliable: the voxels are unlike" in capsys.readouterr().out
    monkeypatch.setattr(prepared, "segment_scan", lambda *given, **_: segment(*given)._replace(notes=doubtful["notes"]))
    assert predict.main([scan, "-o", str(tmp_path / "certain")]) == 0
    assert rows_of(tmp_path / "certain")[0]["unreliable"] == ""


def test_a_scan_is_segmented_again_only_if_it_or_a_model_has_changed(seen, tmp_path, capsys):
    (scan,) = blocks(tmp_path, "a.nii.gz")
    arguments = [scan, "-o", str(tmp_path / "out")]

    def is_segmented() -> bool:
        seen.pop("shape", None)
        assert predict.main(arguments) == 0
        said = "a: already segmented by these models" in capsys.readouterr().out
        assert said == ("shape" not in seen)
        return "shape" in seen

    assert is_segmented() and not is_segmented()
    seen["model"].threshold = 0.7
    assert is_segmented() and not is_segmented()
    os.utime(scan, (1, 1))
    assert is_segmented() and not is_segmented()
    (tmp_path / "out" / "a_pancreas_tumour.nii.gz").unlink()
    assert is_segmented()
    assert len(rows_of(tmp_path / "out")) == 1


def test_a_picture_that_cannot_be_drawn_does_not_cost_the_mask(seen, tmp_path, monkeypatch, capsys):
    (scan,) = blocks(tmp_path, "a.nii.gz")
    monkeypatch.setattr(drawing, "FORGIVEN", (Exception,))
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    assert predict.main([scan, "-o", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"warning: {tmp_path / 'out' / 'a.png'} was not drawn (Is a directory)\n"
    assert (tmp_path / "out" / "a_pancreas_tumour.nii.gz").exists()
    assert "a.png was not drawn" in rows_of(tmp_path / "out")[0]["note"] and "a.png was not drawn" in captured.out


@pytest.mark.parametrize("problem", ["a foreign table", "a file as folder", "no folder of models"])
def test_what_would_fail_at_the_end_is_refused_before_any_scan_is_read(seen, tmp_path, monkeypatch, capsys, problem):
    (scan,) = blocks(tmp_path, "a.nii.gz")
    out, options = tmp_path / "out", []
    if problem == "a foreign table":
        out.mkdir()
        (out / "volumes.csv").write_text("name,volume\nx,1\n")
    elif problem == "a file as folder":
        out.write_text("x")
    else:
        options = ["--path", str(tmp_path / "nowhere")]
        monkeypatch.setattr(predict, "load_models", load_models)  # the real one again
    assert predict.main([scan, "-o", str(out), *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and "shape" not in seen


def test_the_series_of_a_dicom_folder_is_chosen_and_what_was_passed_over_is_noted(seen, tmp_path, capsys):
    scan = np.full((12, 40, 40), -1000, np.int16)
    scan[:, 10:30, 10:30] = 40
    for number in (1, 2):
        write_slices(
            tmp_path / "scan", scan[:, :, ::number], series=f"1.{number}", prefix=str(number), SeriesNumber=number
        )
    argv = [str(tmp_path / "scan"), "-o", str(tmp_path / "out")]
    assert predict.main(argv) == 2
    assert "holds 2 CT series" in capsys.readouterr().err
    assert predict.main([*argv, "--series", "2"]) == 0
    assert "passed over: 1 CT series" in capsys.readouterr().out
    assert nib.load(tmp_path / "out" / "scan_pancreas_tumour.nii.gz").shape == (20, 40, 12)
