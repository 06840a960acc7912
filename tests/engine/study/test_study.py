"""Making a study: which runs, in which order, on which device, and what is refused before hours are spent."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data.augment import Augmentation
from data.common.errors import InputError
from data.common.files import REPOSITORY
from data.phantom import command as phantom
from engine.report.tables import read_case_table
from engine.stages import STAGES, VARIANTS, with_variant
from engine.study import command as study
from engine.study import jobs as study_jobs
from engine.study.plan import plan_study
from engine.study.runs import SHARED_PARTS, Run, merge_with_record, read_studies
from engine.train import command as train_command
from tests.conftest import edit_manifest
from tests.study_parts import CENTRES, fake_run, options, parse_tables


def plan(arguments: list[str]):
    return plan_study(study.parse(arguments)).study


def refusal(arguments: list[str]) -> InputError:
    """The error by which a study is refused before anything is made."""
    with pytest.raises(InputError) as error:
        study.run_study(study.parse(arguments))
    assert "\n" not in str(error.value)
    return error.value


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
        "variants: baseline, full" in out and "north held out: train on 4 cases" in out and "1 at a time on cpu" in out
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_the_scripts_understand_their_command_lines(study_store, tmp_path, stage):
    """Of two variants, only the one with a distance head is read out as the mean of both tasks."""
    averaged = ["--average"] if stage.startswith("tumor") else []
    more = ["--stage", stage, "--variants", "baseline", "full", "--centres", "west", "--lr", "3e-3", *averaged]
    more += ["--augment", "rotation_degrees=5", "--sampling", "hu_window=-50,150"]
    asked = study.parse(options(study_store, tmp_path, *more))
    made = plan_study(asked).study
    for variant in ("baseline", "full"):
        run = Run(variant, 5, "west")
        train, evaluate = study_jobs.build_commands(made, run, "cpu", asked.training_options)
        assert train[1] == str(REPOSITORY / STAGES[stage].script_path("train")) and Path(train[1]).exists()
        assert evaluate[1] == str(REPOSITORY / STAGES[stage].script_path("evaluate")) and Path(evaluate[1]).exists()
        understood = train_command.parse(STAGES[stage], train[2:])
        assert understood.stage.method == with_variant(STAGES[stage], variant).method
        assert understood.stage.sampling == asked.stage.sampling and understood.augmentation == asked.augmentation
        assert asked.stage.sampling.hu_window == (-50, 150) and asked.augmentation != Augmentation()
        training = understood.training
        assert (training.seed, training.epochs, training.lr, training.workers) == (5, 2, 3e-3, 0)
        assert understood.split == "west" and understood.network.width == 8 and understood.resume
        assert understood.path == tmp_path / variant / "seed_5" and understood.store == study_store
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
    assert sum(made.is_finished(run) for run in made.runs) == 3 and made.steps["west"] == 2 * 4 / 2


def test_the_record_holds_everything_that_the_runs_share(study_store, tmp_path, fake_scripts):
    fake_scripts()
    few = ["--variants", "baseline", "--centres", "west", "--augment", "rotation_degrees=5"]
    assert study.main(options(study_store, tmp_path, *few)) == 0
    recipe = yaml.safe_load((tmp_path / "study.yaml").read_text())["tumor_coarse"]["recipe"]
    assert list(recipe) == list(SHARED_PARTS)
    assert (
        recipe["network"] == {"width": 8, "groups": 8, "leak": 0.0} and recipe["augmentation"]["rotation_degrees"] == 5
    )
    assert recipe["sampling"]["hu_window"] == list(STAGES["tumor_coarse"].sampling.hu_window)
    assert recipe["preparation"]["orientation"] == "LPS"
    assert recipe["training"]["epochs"] == 2 and not {"seed", "workers"} & recipe["training"].keys()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (["--epochs", "3"], "started with training.epochs 2, now training.epochs 3"),
        (
            ["--lr", "2e-3", "--width", "16"],
            "started with network.width 8, training.lr 0.001, now network.width 16, training.lr 0.002",
        ),
        (
            ["--augment", "rotation_degrees=5"],
            f"started with augmentation.rotation_degrees {Augmentation().rotation_degrees}, "
            "now augmentation.rotation_degrees 5.0",
        ),
        (["--sampling", "rounds=2"], "started with sampling.rounds 1, now sampling.rounds 2"),
        (["--average", "--variants", "sdf"], "started without --average"),
    ],
)
def test_runs_of_another_recipe_are_refused(study_store, tmp_path, fake_scripts, change, problem):
    fake_scripts()
    few = ["--variants", "baseline", "--centres", "west"]
    assert study.main(options(study_store, tmp_path, *few)) == 0
    error = refusal(options(study_store, tmp_path, *few, *change))
    assert (error.path, error.problem) == (tmp_path / "study.yaml", problem)
    assert error.remedy == "go on as it was started, or choose another folder"


def test_cases_that_were_prepared_in_another_way_are_refused(study_store, tmp_path, fake_scripts):
    fake_scripts()
    few = ["--variants", "baseline", "--centres", "west"]
    assert study.main(options(study_store, tmp_path, *few)) == 0
    record = tmp_path / "study.yaml"
    record.write_text(record.read_text().replace("crop: none", "crop: body"))
    error = refusal(options(study_store, tmp_path, *few))
    assert error.problem == "started with preparation.crop body, now preparation.crop none"


def test_other_cases_and_another_method_are_refused(study_store, tmp_path, fake_scripts, capsys):
    fake_scripts()
    few = ["--variants", "baseline", "--centres", "west"]
    folder, other = tmp_path / "study", tmp_path / "store"
    assert study.main(options(study_store, folder, *few)) == 0
    shutil.copytree(study_store, other)
    assert study.main(options(other, folder, *few)) == 0  # the store was only moved
    edit_manifest(other / "west" / "case0", source={"new": 1})
    assert "other prepared cases" in refusal(options(other, folder, *few)).problem
    record = folder / "study.yaml"
    record.write_text(record.read_text().replace("bce: 1", "bce: 5"))
    problem = refusal(options(study_store, folder, *few)).problem
    assert problem == "started with weights.bce 5 in the variant baseline, which is now defined with weights.bce 1"
    record.write_text("tumor_coarse: [")
    assert study.main(["report", str(folder)]) == 2
    assert "study.yaml: not the record of a study" in capsys.readouterr().err


OLD_RECORD = """
tumor_coarse:
  store: bench
  cases: 2cee4fdc44114223
  splits: 856023e1b4d85e0b f9bfda7fca4f2872
  settings: {epochs: 24, batch_size: 1, lr: 0.002, width: 8}
  average: false
  variants: {baseline: {weights: {dice: 1}, views: none}}
  readouts: {baseline: segmentation}
  seeds: [2022]
  steps: {west: 1536}
  commands: [python -m engine.study run docs/study]
"""


def test_a_record_without_the_whole_recipe_can_be_reported_but_not_continued(study_store, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(OLD_RECORD)
    fake_run(tmp_path, Run("baseline", 2022, "west"), [{"case": "west/a", "centre": "west", "error": "damaged"}])
    (old,) = read_studies(tmp_path).values()
    assert old.recipe == {"network": {"width": 8}, "training": {"epochs": 24, "batch_size": 1, "lr": 0.002}}
    assert old.data_hash == "2cee4fdc44114223" and old.split_hashes == ("856023e1b4d85e0b", "f9bfda7fca4f2872")
    assert study.main(["report", str(tmp_path)]) == 2
    assert "no run of tumor coarse is finished" in capsys.readouterr().err
    with pytest.raises(InputError) as error:
        merge_with_record(plan(options(study_store, tmp_path, "--centres", "west")))
    assert error.value.problem.endswith("which did not record sampling, augmentation, preparation")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--centres", "south"], "--centres south: no centre or split has this name"),
        (["--centres", "none"], "--centres none: holds no centre out"),
        (["--jobs", "0"], "--jobs 0: fewer than one run at a time"),
        (["--width", "12"], "--width 12: not a multiple of the 8 groups"),
        (["--against", "view"], "--against view: not a variant of this study"),
        (["--average", "--variants", "baseline"], "no variant of tumor coarse in this study has a distance head"),
        (["--stage", "tumor_fine"], "python -m engine.study run"),
        (["--seeds", "1", "-1"], "--seed -1: out of range"),
        (["--augment", "rotation=5"], "--augment rotation=5: no such setting"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(study_store, tmp_path, capsys, change, words):
    assert study.main(options(study_store, tmp_path / "new", *change)) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and not (tmp_path / "new").exists()


def test_a_stage_that_needs_an_earlier_one_names_the_command_that_makes_it(study_store, tmp_path):
    error = refusal(options(study_store, tmp_path / "my study", "--stage", "tumor_fine", "--variants", "full"))
    assert error.path == tmp_path / "my study" and "no finished run of full, seed 2022" in error.problem
    start = f"python -m engine.study run '{tmp_path}/my study' --stage tumor_coarse --store {study_store}"
    assert error.command == f"{start} --variants full --centres {' '.join(CENTRES)} --seeds 2022"


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


def test_a_finished_run_without_any_dice_is_described(study_store, tmp_path):
    run = Run("full", 2022, "west")
    fake_run(tmp_path, run, [{"case": "west/a", "centre": "west", "error": "cannot be read"}])
    made = plan(options(study_store, tmp_path, "--centres", "west"))
    assert study_jobs.describe_result(made, run) == f"{run}: no case has a Dice"


def test_a_leak_is_refused_unless_allowed_and_the_scripts_get_the_option(leaking_store, tmp_path, monkeypatch, capsys):
    few = ["--variants", "full", "--centres", "west"]
    assert study.main(options(leaking_store, tmp_path / "new", *few)) == 2
    message = capsys.readouterr().err
    assert "east/case0" in message and "--allow-duplicates" in message and message.count("\n") == 1
    assert not (tmp_path / "new").exists()
    given = []
    monkeypatch.setattr(study_jobs, "build_commands", lambda study, run, gpu, more: given.append(more) or [])
    assert study.main(options(leaking_store, tmp_path / "new", *few, "--allow-duplicates")) == 0
    assert "warning: east/case0" in capsys.readouterr().out and given == [["--workers", "0", "--allow-duplicates"]]


def test_a_dry_run_leaves_nothing_in_the_store(leaking_store, tmp_path):
    before = set(leaking_store.rglob("*"))
    dry = ["--dry-run", "--allow-duplicates"]
    assert study.main(options(leaking_store, tmp_path / "new", *dry)) == 0
    script = ["--store", str(leaking_store), "--path", str(tmp_path / "new"), "--gpu", "cpu", *dry]
    assert train_command.main("tumor_coarse", script) == 0
    assert set(leaking_store.rglob("*")) == before


def test_scans_are_compared_once_for_all_splits(study_store, tmp_path, monkeypatch):
    calls = []
    (study_store / "duplicates.json").unlink(missing_ok=True)  # what an earlier command has found
    monkeypatch.setattr("data.duplicates.pairs.match_thumbnails", lambda *thumbnails: calls.append(thumbnails) or [])
    script = ["--store", str(study_store), "--path", str(tmp_path), "--gpu", "cpu", "--dry-run"]
    assert train_command.main("tumor_coarse", script) == 0
    assert len(calls) == 1


@pytest.mark.slow
def test_a_miniature_study(tmp_path, capsys):
    study_store, folder = tmp_path / "store", tmp_path / "study"
    assert phantom.main([str(study_store), "--prepared", "--cases", "3", "--workers", "1"]) == 0
    more = ["--variants", "baseline", "full", "--centres", "west", "--jobs", "2", "--lr", "1e-3", "--epochs", "1"]
    more += ["--augment", "rotation_degrees=5"]
    assert study.main(options(study_store, folder, *more)) == 0
    out = capsys.readouterr().out
    assert "baseline, seed 2022, west held out: Dice" in out and "2 to do" in out
    runs = sorted(folder.glob("*/seed_2022/tumor_coarse/west/*/evaluation_reference/summary.json"))
    assert len(runs) == 2 and json.loads(runs[0].read_text())["counts"]["failed"] == 0
    assert yaml.safe_load((runs[0].parents[1] / "settings.yaml").read_text())["augmentation"]["rotation_degrees"] == 5
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/**/*")}
    assert study.main(options(study_store, folder, *more)) == 0
    assert "2 finished, 0 to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/**/*")}
    assert study.main(["report", str(folder)]) == 0
    text = (folder / "tumor_coarse_table.md").read_text()
    assert [row[0] for row in parse_tables(text)[0][1:]] == ["baseline", "full"]
    assert study.main(["condense", str(folder), str(tmp_path / "condensed")]) == 0
    assert study.main(["report", str(tmp_path / "condensed")]) == 0
    assert parse_tables((tmp_path / "condensed" / "tumor_coarse_table.md").read_text()) == parse_tables(text)
    assert study.main(["compare", *(str(path.parents[1]) for path in runs)]) == 0
    assert len(read_case_table(runs[0].with_name("cases.csv"))) == 3
    for experiment in ("lesion_erased", "term_gradients"):
        of_run = ["--store", study_store, "--path", folder / "full" / "seed_2022", "--data", "west"]
        subprocess.run([sys.executable, REPOSITORY / "experiments" / f"{experiment}.py", *of_run], check=True)
