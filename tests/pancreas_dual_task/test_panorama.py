"""The entry point of the container reads and writes the files that the interfaces of the challenge name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.common.files import REPOSITORY
from engine.export import command as export
from engine.infer import prepared
from engine.infer.cascade import CascadeResult
from pancreas_dual_task import panorama
from tests.tiny_cascade import write_runs, write_scan


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return write_runs(tmp_path_factory.mktemp("runs"))


def words(root: Path, runs: Path) -> list[str]:
    return ["--input", str(root / "input"), "--output", str(root / "output"), "--path", str(runs), "--gpu", "cpu"]


def test_as_a_process_it_writes_the_map_on_the_scan_and_a_number(tmp_path, runs):
    scan = write_scan(tmp_path / "input" / "images" / "venous-ct" / "0a1b.mha")
    command = [sys.executable, "-m", "pancreas_dual_task", "panorama", *words(tmp_path, runs)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    image = sitk.ReadImage(str(scan))
    found = sitk.ReadImage(str(tmp_path / "output" / "images" / "pdac-detection-map" / "detection_map.mha"))
    assert found.GetSize() == image.GetSize() and found.GetPixelID() == sitk.sitkFloat32
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(found, get)(), getattr(image, get)())
    likelihood = json.loads((tmp_path / "output" / "pdac-likelihood.json").read_text())
    assert isinstance(likelihood, float)
    assert likelihood == pytest.approx(sitk.GetArrayFromImage(found).max(), abs=1e-6) and 0 < likelihood <= 1


def test_the_model_may_be_a_model_file(tmp_path, runs):
    """As in the container that is built with MODEL=model.zip."""
    assert export.main([str(runs), "-o", str(tmp_path / "model.zip")]) == 0
    write_scan(tmp_path / "input" / "images" / "venous-ct" / "0a1b.mha")
    found = []
    for model in (runs, tmp_path / "model.zip"):
        assert panorama.main(words(tmp_path, model)) == 0
        found.append((tmp_path / "output" / panorama.LIKELIHOOD).read_text())
    assert found[0] == found[1]


def test_a_split_cannot_be_chosen_in_a_model_file(tmp_path, capsys):
    (tmp_path / "model.zip").touch()
    assert panorama.main([*words(tmp_path, tmp_path / "model.zip"), "--data", "west"]) == 2
    model = tmp_path / "model.zip"
    problem = f"error: --data west: {model} is a model file, so that there are no runs to choose among"
    assert capsys.readouterr().err == f"{problem}. Leave it out, or give the folder of the runs with --path.\n"


def test_a_scan_without_a_pancreas_has_an_empty_map_and_the_likelihood_0(tmp_path, runs, capsys, monkeypatch):
    doubt = "no pancreas found: the mask is empty"

    def find_nothing(models, image, spacing, **_):
        return CascadeResult(np.zeros(image.shape, np.uint8), (), (doubt,))

    monkeypatch.setattr(prepared, "segment_scan", find_nothing)
    scan = write_scan(tmp_path / "input" / "images" / "venous-ct" / "0a1b.mha")
    assert panorama.main(words(tmp_path, runs)) == 0
    assert doubt in capsys.readouterr().out
    assert json.loads((tmp_path / "output" / "pdac-likelihood.json").read_text()) == 0.0
    found = sitk.ReadImage(str(tmp_path / "output" / panorama.DETECTION_MAP))
    assert found.GetSize() == sitk.ReadImage(str(scan)).GetSize() and not sitk.GetArrayFromImage(found).any()


def test_no_scan_and_two_scans_are_refused_in_one_line(tmp_path, runs, capsys):
    assert panorama.main(words(tmp_path, runs)) == 2
    assert "venous-ct: holds 0 files *.mha, not 1. Put exactly one scan there." in capsys.readouterr().err
    for name in ("a", "b"):
        write_scan(tmp_path / "input" / "images" / "venous-ct" / f"{name}.mha")
    assert panorama.main(words(tmp_path, runs)) == 2
    assert "holds 2 files" in capsys.readouterr().err and not (tmp_path / "output").exists()
