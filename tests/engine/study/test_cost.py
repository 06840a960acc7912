"""How long the runs of a study will take, from earlier runs or from measured steps."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from engine.stages import STAGES, with_variant
from engine.study import command as study
from engine.study import cost as study_cost
from engine.study.cost import finish_time
from engine.study.runs import Run
from tests.study_parts import fake_run, options

FEW = ("--variants", "baseline", "full", "--centres", "west")
DRY = (*FEW, "--dry-run", "--validate-every", "1")


def time_of(store: Path, folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    """Return the lines about time of a dry run."""
    assert study.main(options(store, folder, *DRY, *more)) == 0
    _, found, text = capsys.readouterr().out.partition("  time on a machine")
    return (found + text).splitlines()


def begin_run(folder: Path, run: Run, machine: str, seconds: list[float], finished: bool = False) -> None:
    """Write the files of a run that has made some epochs on a machine."""
    made = fake_run(folder, run, [])
    rows = "".join(f"{epoch},0.9,{duration}\n" for epoch, duration in enumerate(seconds, 1))
    (made / "losses.csv").write_text(f"epoch,loss,seconds\n{rows}")
    settings = yaml.safe_load((made / "settings.yaml").read_text())
    (made / "settings.yaml").write_text(yaml.safe_dump({**settings, "machine": machine}))
    for path in (made / "evaluation_reference").iterdir():
        path.unlink()
    if not finished:
        (made / "best.pt").unlink()


def start(store: Path, folder: Path) -> None:
    """Make the record of a study of these runs."""
    assert study.main(options(store, folder, *FEW, "--validate-every", "1", "--slurm")) == 0


def test_each_variant_is_measured_once_with_its_own_method(study_store, tmp_path, measured_costs, capsys):
    lines = time_of(study_store, tmp_path / "new", capsys, "--seeds", "1", "2")
    stage = STAGES["tumor_coarse"]
    assert [work.stage.method for work in measured_costs] == [with_variant(stage, v).method for v in FEW[1:3]]
    assert all(work.recipe.method == work.stage.method and work.split.name == "west" for work in measured_costs)
    # 4 steps of 2 s, and 2 cases in 2 validations and for the thresholds
    assert lines == [
        "  time on a machine, without the evaluation of the held-out cases:",
        "    baseline: 2.0 s a step (measured now), up to 14 s a run",
        "    full: 2.0 s a step (measured now), up to 14 s a run",
        "    in total 56 s for 4 run(s)",
    ]
    assert not (tmp_path / "new").exists()


def test_epochs_on_the_same_machine_count_instead(study_store, tmp_path, measured_costs, capsys):
    start(study_store, tmp_path)
    begin_run(tmp_path, Run("baseline", 2022, "west"), "a machine", [60.0])
    begin_run(tmp_path, Run("full", 2022, "west"), "another machine", [600.0])
    lines = time_of(study_store, tmp_path, capsys)
    assert [work.stage.method.views for work in measured_costs] == [STAGES["tumor_coarse"].method.views]
    assert lines[1] == "    baseline: 30 s a step (of 1 earlier run(s)), up to 2.0 min a run"
    # Half of the first run is done, and of the second, wherever it was.
    assert lines[3] == "    in total 67 s for 2 run(s)"


def test_a_run_that_only_lacks_its_evaluation_takes_no_more_time(study_store, tmp_path, capsys):
    start(study_store, tmp_path)
    begin_run(tmp_path, Run("baseline", 2022, "west"), "a machine", [60.0, 80.0], finished=True)
    (losses,) = tmp_path.glob("baseline/**/losses.csv")
    lines = time_of(study_store, tmp_path, capsys)
    assert "baseline: 35 s a step" in lines[1] and lines[3] == "    in total 14 s for 2 run(s)"
    losses.write_text("epoch,seconds\n1,many\n")
    assert "baseline: 2.0 s a step (measured now)" in time_of(study_store, tmp_path, capsys)[1]


def test_a_finished_study_measures_nothing(study_store, tmp_path, fake_scripts, measured_costs, capsys):
    fake_scripts()
    assert study.main(options(study_store, tmp_path, *FEW, "--validate-every", "1")) == 0
    assert len(measured_costs) == 2 and "time on a machine" in capsys.readouterr().out
    assert time_of(study_store, tmp_path, capsys) == [] and len(measured_costs) == 2


def test_the_time_is_given_for_several_gpus(study_store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    fits = SimpleNamespace(sampling=STAGES["tumor_coarse"].sampling, recomputed=0)
    monkeypatch.setattr(study_cost, "fit_step", lambda *_: fits)
    lines = time_of(study_store, tmp_path, capsys, "--gpu", "all", "--seeds", "1", "2")
    assert lines[-1] == "    in total 56 s for 4 run(s), 28 s on 2 GPUs, 28 s on 3 GPUs, 14 s on 4 GPUs"
    assert time_of(study_store, tmp_path, capsys, "--gpu", "cpu", "--jobs", "2")[-1].endswith(", 14 s with 2 at a time")


@pytest.mark.parametrize(("at_once", "wanted"), [(1, 14.0), (2, 7.0), (3, 5.0), (9, 5.0)])
def test_each_job_starts_when_one_before_it_ends(at_once, wanted):
    assert finish_time([5.0, 4.0, 3.0, 1.0, 1.0], at_once) == wanted
