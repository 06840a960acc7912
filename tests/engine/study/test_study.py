"""The study: its runs and their order, and what it refuses."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from data.common.files import REPOSITORY, exclusive_lock
from data.phantom import command as phantom
from engine.report.tables import read_case_table
from engine.stages import STAGES, VARIANTS
from engine.study import command as study
from engine.study import jobs as study_jobs
from engine.study.runs import Run, read_studies
from engine.train import command as train_command
from tests.study_parts import CENTRES, fake_run, options, parse_tables

NAN = math.nan


def test_all_variants_of_the_first_seed_and_centre_come_first(study_store, tmp_path, fake_scripts):
    fake_scripts()
    more = ["--variants", "baseline", "full", "--centres", "west", "east", "--seeds", "7", "5"]
    assert study.main(options(study_store, tmp_path, *more)) == 0
    wanted = [Run(v, seed, centre) for seed in (7, 5) for centre in ("west", "east") for v in ("baseline", "full")]
    assert (tmp_path / "order").read_text().splitlines() == list(map(str, wanted))


def test_by_default_every_variant_with_every_centre(study_store, tmp_path, capsys):
    assert study.main(options(study_store, tmp_path / "new", "--dry-run")) == 0
    out = capsys.readouterr().out
    assert f"{len(VARIANTS)} variant(s) x 1 seed(s) x 3 centre(s) = {3 * len(VARIANTS)} run(s), 0 finished" in out
    assert (
        "variants: baseline, full" in out and "hold out north: train on 4 cases" in out and "1 at a time on cpu" in out
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_the_scripts_understand_what_they_are_given(study_store, tmp_path, stage):
    """And of two variants, only the one with a distance head is read out as the mean of both tasks."""
    averaged = ["--average"] if stage.startswith("tumor") else []
    more = ["--stage", stage, "--variants", "baseline", "full", "--centres", "west", "--lr", "3e-3", *averaged]
    made, _ = study.plan(study.parse(options(study_store, tmp_path, *more)), "")
    for variant in ("baseline", "full"):
        train, evaluate = study_jobs.commands(made, Run(variant, 5, "west"), "cpu", ["--workers", "0"])
        assert train[1].endswith(f"train_sh_{stage}.py") and evaluate[1].endswith(f"evaluate_sh_{stage}.py")
        assert Path(train[1]).exists() and Path(evaluate[1]).exists()
        args = train_command.parse(STAGES[stage], train[2:])
        assert (args.variant, args.seed, args.data, args.epochs, args.lr) == (variant, 5, "west", 2, 3e-3)
        assert args.resume and args.path == tmp_path / variant / "seed_5" and args.store == study_store
        assert ("--average" in evaluate) is (variant == "full" and stage.startswith("tumor"))
        assert ("--roi" in evaluate) is (stage != "pancreas_coarse")


def test_a_finished_run_is_not_made_again_and_more_may_be_added(study_store, tmp_path, fake_scripts, capsys):
    fake_scripts()
    few = ["--variants", "baseline", "--centres", "west"]
    assert study.main(options(study_store, tmp_path, *few)) == 0
    assert study.main(options(study_store, tmp_path, *few)) == 0
    assert "1 finished, 0 to do" in capsys.readouterr().out
    assert (
        study.main(options(study_store, tmp_path, "--variants", "sdf", "--centres", "east", "west", "--seeds", "3"))
        == 0
    )
    assert len((tmp_path / "order").read_text().splitlines()) == 3
    (made,) = read_studies(tmp_path).values()
    assert (list(made.variants), made.seeds, list(made.steps)) == (["baseline", "sdf"], (2022, 3), ["west", "east"])
    assert len(made.runs()) == 3 and made.steps["west"] == 2 * 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--epochs", "3"], "started with --epochs 2, not 3"),
        (["--lr", "1e-3", "--width", "16"], "started with --lr 0.0001, not 0.001; started with --width 8, not 16"),
        (["--average", "--variants", "sdf"], "started without --average"),
    ],
)
def test_other_settings_are_refused_in_one_line(study_store, tmp_path, fake_scripts, capsys, change, words):
    fake_scripts()
    few = ["--variants", "baseline", "--centres", "west"]
    assert study.main(options(study_store, tmp_path, *few)) == 0
    capsys.readouterr()
    assert study.main(options(study_store, tmp_path, *few, *change)) == 2
    message = capsys.readouterr().err
    assert words in message and "choose another folder" in message and message.count("\n") == 1


def test_other_cases_and_another_method_are_refused(study_store, tmp_path, fake_scripts, capsys):
    fake_scripts()
    few = ["--variants", "baseline", "--centres", "west"]
    folder, other = tmp_path / "study", tmp_path / "store"
    assert study.main(options(study_store, folder, *few)) == 0
    shutil.copytree(study_store, other)
    assert study.main(options(other, folder, *few)) == 0  # merely moved
    manifest = other / "west" / "case0" / "case.json"
    manifest.write_text(manifest.read_text().replace('"source": {}', '"source": {"new": 1}'))
    assert study.main(options(other, folder, *few)) == 2
    assert "other prepared cases" in capsys.readouterr().err
    record = folder / "study.yaml"
    record.write_text(record.read_text().replace("bce: 1", "bce: 5"))
    assert study.main(options(study_store, folder, *few)) == 2
    assert "defines the variant baseline otherwise" in capsys.readouterr().err
    record.write_text("tumor_coarse: [")
    assert study.main(["report", str(folder)]) == 2
    assert "study.yaml: not a record of a study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--centres", "south"], "split south: no split has this name"),
        (["--centres", "none"], "holds no centre out"),
        (["--jobs", "0"], "--jobs 0: must be 1 or more"),
        (["--width", "12"], "--width 12: must be a multiple of 8"),
        (["--against", "view"], "--against view: not in this study"),
        (["--average", "--variants", "baseline"], "no variant of tumor coarse has a distance head"),
        (["--stage", "tumor_fine"], "run python -m engine.study run"),
        (["--seeds", "1", "-1"], "--seed -1: must be zero or more"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(study_store, tmp_path, capsys, change, words):
    assert study.main(options(study_store, tmp_path / "new", *change)) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and not (tmp_path / "new").exists()


def test_a_centre_without_a_labelled_tumour_is_refused_before_anything_is_trained(without_tumours, tmp_path, capsys):
    assert study.main(options(without_tumours, tmp_path / "new", "--centres", CENTRES[0])) == 2
    message = capsys.readouterr().err
    assert (
        "no tumour is labelled in the centres of its test cases" in message
        and message.count("\n") == 1
        and not (tmp_path / "new").exists()
    )
    pancreas = ["--centres", CENTRES[0], "--stage", "pancreas_coarse", "--dry-run"]
    assert study.main(options(without_tumours, tmp_path / "new", *pancreas)) == 0


def test_a_run_of_which_no_case_has_a_dice_has_its_line(study_store, tmp_path):
    run = Run("full", 2022, "west")
    fake_run(tmp_path, run, [{"case": "west/a", "centre": "west", "error": "cannot be read"}])
    made, _ = study.plan(study.parse(options(study_store, tmp_path, "--centres", "west")), "")
    assert study_jobs.result_line(made, run) == f"{run}: no Dice to tell"


def test_a_leak_is_refused_unless_allowed_and_the_scripts_are_told(leaking_store, tmp_path, monkeypatch, capsys):
    few = ["--variants", "full", "--centres", "west"]
    assert study.main(options(leaking_store, tmp_path / "new", *few)) == 2
    message = capsys.readouterr().err
    assert "east/case0" in message and "--allow-duplicates" in message and message.count("\n") == 1
    assert not (tmp_path / "new").exists()
    told = []
    monkeypatch.setattr(study_jobs, "commands", lambda study, run, gpu, more: told.append(more) or [])
    assert study.main(options(leaking_store, tmp_path / "new", *few, "--allow-duplicates")) == 0
    assert "warning: east/case0" in capsys.readouterr().out and told == [["--workers", "0", "--allow-duplicates"]]


def test_a_dry_run_leaves_nothing_in_the_store(leaking_store, tmp_path):
    before = set(leaking_store.rglob("*"))
    dry = ["--dry-run", "--allow-duplicates"]
    assert study.main(options(leaking_store, tmp_path / "new", *dry)) == 0
    script = ["--store", str(leaking_store), "--path", str(tmp_path / "new"), "--gpu", "cpu", *dry]
    assert train_command.main("tumor_coarse", script) == 0
    assert set(leaking_store.rglob("*")) == before


def test_scans_are_compared_once_for_all_splits(study_store, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("data.duplicates.pairs.match_thumbnails", lambda *thumbnails: calls.append(thumbnails) or [])
    script = ["--store", str(study_store), "--path", str(tmp_path), "--gpu", "cpu", "--dry-run"]
    assert train_command.main("tumor_coarse", script) == 0
    assert len(calls) == 1


def test_a_failed_run_is_listed_with_its_log_and_the_others_go_on(study_store, tmp_path, fake_scripts, capsys):
    fake_scripts(failing="full")
    more = ["--variants", "full", "baseline", "--centres", "west", "--jobs", "2"]
    assert study.main(options(study_store, tmp_path, *more)) == 2
    said = capsys.readouterr()
    log = tmp_path / "full" / "seed_2022" / "tumor_coarse_west.log"
    assert said.err.splitlines()[-1].startswith("error: full, seed 2022, west held out")
    assert str(log) in said.err and "error: no luck" in log.read_text()
    assert "| baseline" in said.out and "Dice 0.600 over 3 cases" in said.out
    assert study.main(options(study_store, tmp_path, *more, "--against", "full")) == 2
    assert "full, seed 2022, west held out" in capsys.readouterr().err  # also where there is nothing to report against


def test_children_share_the_cores_and_the_folder_is_locked(study_store, tmp_path, monkeypatch, capsys):
    code = "import os; print('threads', os.environ['OMP_NUM_THREADS'])"
    monkeypatch.setattr(study_jobs, "commands", lambda *_: [[sys.executable, "-c", code]])
    assert study.main(options(study_store, tmp_path, "--variants", "full", "--centres", "west")) == 0
    threads = (tmp_path / "full" / "seed_2022" / "tumor_coarse_west.log").read_text().splitlines()[-1]
    assert threads == f"threads {torch.get_num_threads()}"
    with exclusive_lock(tmp_path, "wait"):
        assert study.main(options(study_store, tmp_path, "--variants", "full", "--centres", "west")) == 2
    assert "cannot be locked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "gpu", "wanted"),
    [
        (2, "auto", "0 1 0"),
        (1, "auto", "0 0 0"),
        (2, "1", "1 1 1"),
        (0, "auto", "cpu cpu cpu"),
        (2, "cpu", "cpu cpu cpu"),
    ],
)
def test_runs_at_the_same_time_take_the_gpus_in_turn(monkeypatch, count, gpu, wanted):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    assert study.places(gpu, 3) == wanted.split()


STUDY_OF_SLEEPERS = """
import signal, sys; sys.path.insert(0, {root!r})
from engine.study import command as study
from engine.study import jobs as study_jobs
if {deaf}: signal.signal(signal.SIGINT, signal.SIG_IGN)
code = "import time; print('asleep', flush=True); time.sleep(60)"
study_jobs.commands = lambda *_: [[sys.executable, "-c", code]]
sys.exit(study.main({arguments!r}))
"""


@pytest.mark.parametrize(("number", "deaf"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)])
def test_ctrl_c_ends_the_children_and_says_how_to_go_on(study_store, tmp_path, number, deaf):
    arguments = options(study_store, tmp_path, "--variants", "full", "--centres", "west", "east", "--jobs", "2")
    code = STUDY_OF_SLEEPERS.format(root=str(REPOSITORY), arguments=arguments, deaf=deaf)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 300  # it has to import torch, on a machine that may be busy
    logs = [tmp_path / "full" / "seed_2022" / f"tumor_coarse_{centre}.log" for centre in ("west", "east")]
    while not all(log.exists() and "\nasleep" in log.read_text() for log in logs) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "Run the same command again" in said and "Traceback" not in said
    with exclusive_lock(tmp_path, "wait"):  # the children are gone: they held the lock too
        assert all(deaf or "KeyboardInterrupt" in log.read_text() for log in logs)


@pytest.mark.slow
def test_a_miniature_study(tmp_path, capsys):
    study_store, folder = tmp_path / "store", tmp_path / "study"
    assert phantom.main([str(study_store), "--prepared", "--cases", "3", "--workers", "1"]) == 0
    more = ["--variants", "baseline", "full", "--centres", "west", "--jobs", "2", "--lr", "1e-3", "--epochs", "1"]
    assert study.main(options(study_store, folder, *more)) == 0
    out = capsys.readouterr().out
    assert "baseline, seed 2022, west held out: Dice" in out and "2 to do" in out
    runs = sorted(folder.glob("*/seed_2022/tumor_coarse/west/*/evaluation_reference/summary.json"))
    assert len(runs) == 2 and json.loads(runs[0].read_text())["counts"]["failed"] == 0
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/**/*")}
    assert study.main(options(study_store, folder, *more)) == 0
    assert "2 finished, 0 to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/**/*")}
    assert study.main(["report", str(folder)]) == 0
    tables = parse_tables((folder / "tumor_coarse_table.md").read_text())
    assert [row[0] for row in tables[0][1:]] == ["baseline", "full"]
    places = [str(path.parents[1]) for path in runs]
    assert study.main(["compare", *places]) == 0
    assert len(read_case_table(runs[0].with_name("cases.csv"))) == 3
    for experiment in ("lesion_erased", "term_gradients"):
        of_run = ["--store", study_store, "--path", folder / "full" / "seed_2022", "--data", "west"]
        subprocess.run([sys.executable, REPOSITORY / "experiments" / f"{experiment}.py", *of_run], check=True)
