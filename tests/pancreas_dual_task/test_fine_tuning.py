"""The worked example of docs/fine_tuning.md: from the scans of an own centre to a model that segments a new one."""

from pathlib import Path

import pytest

from data.phantom.command import main as make_phantoms
from engine.export.command import main as export
from pancreas_dual_task.command import main
from tests.tiny_cascade import write_runs


@pytest.mark.slow
def test_five_commands_lead_from_own_scans_to_a_model_that_was_fine_tuned(tmp_path: Path, capsys):
    raw, store, runs, theirs, ours = (tmp_path / name for name in ("raw", "store", "runs", "model.zip", "own.zip"))
    assert make_phantoms([str(raw), "--centres", "west", "--cases", "6", "--seed", "5", "--quiet"]) == 0
    export([str(write_runs(tmp_path / "theirs")), "-o", str(theirs)])
    where = ["--store", str(store), "--path", str(runs)]
    tiny = ["--epochs", "1", "--workers", "0"]  # width and voxels are those of the model
    for words in (
        ["verify", "folder", str(raw / "west"), "--centre", "own", "--store", str(store)],
        ["prepare", "folder", str(raw / "west"), "--centre", "own", "--store", str(store)],
        ["train", "all", "--init", str(theirs), "--lr", "1e-4", *tiny, *where],
        ["evaluate", "all", *where],
        ["export", str(runs), "--data", "own_folds_1", "-o", str(ours)],
    ):
        assert main(words) == 0, " ".join(words)
    assert len(list(runs.glob("*/own_folds_1/*/evaluation*/report.html"))) == 4
    assert "own is the only prepared centre" in capsys.readouterr().out
    scan = next((raw / "west" / "images").iterdir())
    assert main(["predict", str(scan), "-o", str(tmp_path / "out"), "--model", str(ours)]) == 0
    assert (tmp_path / "out" / "volumes.csv").read_text().count("\n") == 2
