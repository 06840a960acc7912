"""Each public data set in miniature goes through the commands of docs/data.md, up to a training step."""

from pathlib import Path

import pytest

from data.prepare import command as prepare
from data.splits import command as split_kinds
from data.verify import command as verify
from engine.train import command as train_command
from tests import miniatures

WITH_FAULTS = {"pants"}  # tumours that its table flags but its labels do not show: exit code 2, other cases go on
WITH_TUMOURS = {"msd", "panorama", "pants"}


@pytest.mark.parametrize("source", miniatures.BUILDERS)
def test_from_a_download_to_a_training_step(source: str, tmp_path: Path, capsys) -> None:
    root, store = tmp_path / "download", tmp_path / "store"
    miniatures.BUILDERS[source](root)
    centre = [source, str(root), "--centre", "here", "--store", str(store), "--workers", "1"]
    assert verify.main(centre) in (0, 2)  # it warns that the miniatures are smaller than patients
    assert prepare.main(centre) == (2 if source in WITH_FAULTS else 0)
    assert split_kinds.main(["--store", str(store)]) == 0
    capsys.readouterr()
    step = [
        "--data",
        "none",
        "--epochs",
        "1",
        "--width",
        "8",
        "--workers",
        "0",
        "--gpu",
        "cpu",
        "--sampling",
        "target_mm=5,3,3",
    ]
    places = ["--store", str(store), "--path", str(tmp_path / "runs"), "--allow-duplicates"]
    assert train_command.main("pancreas_fine", [*step, *places]) == 0
    assert list((tmp_path / "runs").glob("pancreas_fine/none/*/best.pt"))
    code = train_command.main("tumor_coarse", [*step, *places, "--dry-run"])
    assert code == (0 if source in WITH_TUMOURS else 2), "the tumour stages need labelled tumours"
