"""The study: its runs and their order, what it refuses, how it counts, what its tables say."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data import phantom
from data.errors import InputError
from data.grid import Grid
from data.store import REPOSITORY, write_case
from engine import study, study_jobs, train_command
from engine.plots import study_figure
from engine.report import read_cases, write_cases, write_summary
from engine.stages import STAGES, VARIANTS
from engine.study_report import Results, collect, missed, pair, per_case, variant_row, write_report
from engine.study_runs import Run, read_studies

NAN = math.nan
CENTRES = ("east", "north", "west")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Three centres of three prepared cases with a tumour, too small to train on."""
    root = tmp_path_factory.mktemp("store")
    label = np.zeros((4, 8, 8), np.uint8)
    label[1:3, 2:6, 2:6], label[2, 3:5, 3:5] = 1, 2
    for centre in CENTRES:
        for index in range(3):
            name, spacing = f"case{index}", (3.0, 2.0, 2.0)
            grid = Grid.plain(label.shape, spacing).to_json()
            image = np.full(label.shape, index, np.int16)
            write_case(root, centre, name, image, label, patient=name, spacing=spacing, grid=grid, source={})
    return root


def case(name: str, dice: float, hd95: float = 5.0, reference_ml: float = 2.0, found_ml: float = 2.0) -> dict:
    row = {"case": name, "centre": name.split("/")[0], "dice": dice, "recall": dice, "precision": dice}
    row |= {"nsd_2mm": dice, "hd95_mm": hd95, "reference_ml": reference_ml, "prediction_ml": found_ml}
    return row | {"reference_lesions": 1, "detected_lesions": 1, "false_positive_components": 0}


def fake_run(folder: Path, run: Run, rows: list[dict], evaluation: str = "evaluation_reference") -> Path:
    """What a training and its evaluation leave behind."""
    place = folder / run.variant / f"seed_{run.seed}" / "tumor_coarse" / run.centre / "2026_01_01_00_00_00"
    (place / evaluation).mkdir(parents=True)
    (place / "best.pt").touch()
    write_cases(place / evaluation / "cases.csv", rows)
    write_summary(place / evaluation / "summary.json", rows)
    return place


def options(store: Path, folder: Path, *more: str) -> list[str]:
    common = ["--store", str(store), "--gpu", "cpu", "--epochs", "2", "--width", "8", "--workers", "0"]
    return ["run", str(folder), *common, *more]


# A stand-in for the scripts: it puts what they leave behind where it belongs.
FAKE = """
import shutil, sys
run, made, folder, failing = sys.argv[1:]
with open(folder + "/order", "a") as file: print(run, file=file)
if failing: sys.exit("error: no luck")
shutil.copytree(made, folder, dirs_exist_ok=True)
"""


@pytest.fixture
def fake_scripts(monkeypatch, tmp_path_factory):
    """``fake_scripts(failing="full")``: children that finish at once, those of one variant without success."""

    def install(failing: str = "") -> None:
        def commands(study, run, gpu, workers):
            made = tmp_path_factory.mktemp("made")
            fake_run(made, run, [case(f"{run.centre}/case{i}", 0.5 + 0.1 * i) for i in range(3)])
            fails = "yes" if run.variant == failing else ""
            return [[sys.executable, "-c", FAKE, str(run), str(made), str(study.folder), fails]]

        monkeypatch.setattr(study_jobs, "commands", commands)

    return install


# --- how cases and seeds are counted


def results(*triples: tuple[int, str, float]) -> Results:
    rows = {(seed, name): case(name, dice) for seed, name, dice in triples}
    return Results(rows=rows, runs=sorted({(seed, name.split("/")[0]) for seed, name, _ in triples}))


def test_a_case_counts_once_however_many_seeds_it_has():
    ours = results((1, "e/a", 0.6), (2, "e/a", 0.8), (1, "e/b", 0.5), (2, "e/b", 0.7))
    theirs = results((1, "e/a", 0.5), (2, "e/a", 0.5), (1, "e/b", 0.6), (2, "e/b", 0.8))
    comparison, seeds = pair(ours, theirs)
    assert (comparison.n, seeds) == (2, [1, 2])  # not 4
    assert comparison.mean_difference == pytest.approx(((0.7 - 0.5) + (0.6 - 0.7)) / 2)
    assert comparison.low == pytest.approx(-0.1) and comparison.high == pytest.approx(0.2)


def test_only_seeds_and_centres_that_both_have_are_compared():
    ours = results((1, "e/a", 0.9), (2, "e/a", 0.1), (1, "w/a", 0.7), (2, "n/a", 0.3))
    theirs = results((1, "e/a", 0.6), (3, "e/a", 0.0), (1, "w/a", 0.6), (1, "n/a", 0.3))
    comparison, seeds = pair(ours, theirs)
    assert (comparison.n, seeds) == (2, [1])
    assert comparison.mean_difference == pytest.approx(((0.9 - 0.6) + (0.7 - 0.6)) / 2)


def test_a_mean_over_seeds_takes_the_defined_ones_and_says_how_many():
    rows = {(1, "e/a"): case("e/a", 0.5, hd95=4.0), (2, "e/a"): case("e/a", 0.0, hd95=NAN)}
    rows |= {(1, "e/b"): case("e/b", 0.0, hd95=NAN), (2, "e/b"): case("e/b", 0.4, hd95=8.0)}
    rows |= {(seed, "e/none"): case("e/none", NAN, NAN, reference_ml=0.0) for seed in (1, 2)}
    values = per_case(rows, "hd95_mm")
    assert (values["e/a"], values["e/b"]) == (4.0, 8.0) and math.isnan(values["e/none"])
    row = variant_row({"full": Results(rows, [(1, "e"), (2, "e")])}, "full", "full")
    assert (row["hd95_mm"], row["hd95_defined"], row["evaluations"], row["cases"]) == (6.0, 2, 4, 2)
    assert row["dice"] == pytest.approx((0.25 + 0.2) / 2)  # the case without a tumour has no Dice
    assert (row["missed"], row["missed_share"]) == (2, 0.5)


@pytest.mark.parametrize(
    ("row", "is_missed"),
    [
        (case("e/a", 0.0, found_ml=0.0), True),
        (case("e/a", 0.0, found_ml=3.0), True),  # something was found, elsewhere
        (case("e/a", 0.01), False),
        (case("e/a", NAN, reference_ml=0.0, found_ml=3.0), False),
        (case("e/a", NAN, reference_ml=0.0, found_ml=0.0), False),
    ],
)
def test_missed_is_no_overlapping_voxel_where_there_was_something_to_find(row, is_missed):
    assert missed(row) is is_missed


# --- the runs


def test_all_variants_of_the_first_seed_and_centre_come_first(store, tmp_path, fake_scripts):
    fake_scripts()
    more = ["--variants", "baseline", "full", "--centres", "west", "east", "--seeds", "7", "5"]
    assert study.main(options(store, tmp_path, *more)) == 0
    wanted = [Run(v, seed, centre) for seed in (7, 5) for centre in ("west", "east") for v in ("baseline", "full")]
    assert (tmp_path / "order").read_text().splitlines() == list(map(str, wanted))


def test_by_default_every_variant_with_every_centre(store, tmp_path, capsys):
    assert study.main(options(store, tmp_path / "new", "--dry-run")) == 0
    out = capsys.readouterr().out
    assert f"{len(VARIANTS)} variant(s) x 1 seed(s) x 3 centre(s) = {3 * len(VARIANTS)} run(s), 0 finished" in out
    assert (
        "variants: baseline, full" in out and "hold out north: train on 4 cases" in out and "1 at a time on cpu" in out
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_the_scripts_understand_what_they_are_given(store, tmp_path, stage):
    """And of two variants, only the one with a distance head is read out as the mean of both tasks."""
    averaged = ["--average"] if stage.startswith("tumor") else []
    more = ["--stage", stage, "--variants", "baseline", "full", "--centres", "west", "--lr", "3e-3", *averaged]
    made, _ = study.plan(study.parse(options(store, tmp_path, *more)), "")
    for variant in ("baseline", "full"):
        train, evaluate = study_jobs.commands(made, Run(variant, 5, "west"), "cpu", 0)
        assert train[1].endswith(f"train_sh_{stage}.py") and evaluate[1].endswith(f"evaluate_sh_{stage}.py")
        assert Path(train[1]).exists() and Path(evaluate[1]).exists()
        args = train_command.parse(STAGES[stage], train[2:])
        assert (args.variant, args.seed, args.data, args.epochs, args.lr) == (variant, 5, "west", 2, 3e-3)
        assert args.resume and args.path == tmp_path / variant / "seed_5" and args.store == store
        assert ("--average" in evaluate) is (variant == "full" and stage.startswith("tumor"))
        assert ("--roi" in evaluate) is (stage != "pancreas_coarse")


def test_a_finished_run_is_not_made_again_and_more_may_be_added(store, tmp_path, fake_scripts, capsys):
    fake_scripts()
    few = ["--variants", "baseline", "--centres", "west"]
    assert study.main(options(store, tmp_path, *few)) == 0
    assert study.main(options(store, tmp_path, *few)) == 0
    assert "1 finished, 0 to do" in capsys.readouterr().out
    assert study.main(options(store, tmp_path, "--variants", "sdf", "--centres", "east", "west", "--seeds", "3")) == 0
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
def test_other_settings_are_refused_in_one_line(store, tmp_path, fake_scripts, capsys, change, words):
    fake_scripts()
    few = ["--variants", "baseline", "--centres", "west"]
    assert study.main(options(store, tmp_path, *few)) == 0
    capsys.readouterr()
    assert study.main(options(store, tmp_path, *few, *change)) == 2
    message = capsys.readouterr().err
    assert words in message and "choose another folder" in message and message.count("\n") == 1


def test_other_cases_and_another_method_are_refused(store, tmp_path, fake_scripts, capsys):
    fake_scripts()
    few = ["--variants", "baseline", "--centres", "west"]
    folder, other = tmp_path / "study", tmp_path / "store"
    assert study.main(options(store, folder, *few)) == 0
    shutil.copytree(store, other)
    assert study.main(options(other, folder, *few)) == 0  # merely moved
    manifest = other / "west" / "case0" / "case.json"
    manifest.write_text(manifest.read_text().replace('"source": {}', '"source": {"new": 1}'))
    assert study.main(options(other, folder, *few)) == 2
    assert "other prepared cases" in capsys.readouterr().err
    record = folder / "study.yaml"
    record.write_text(record.read_text().replace("bce: 1", "bce: 5"))
    assert study.main(options(store, folder, *few)) == 2
    assert "defines the variant baseline otherwise" in capsys.readouterr().err
    record.write_text("tumor_coarse: [")
    assert study.main(["report", str(folder)]) == 2
    assert "study.yaml: not a record of a study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--centres", "south"], "no such centre is prepared"),
        (["--centres", "none"], "holds no centre out"),
        (["--jobs", "0"], "--jobs 0: must be 1 or more"),
        (["--width", "12"], "--width 12: must be a multiple of 8"),
        (["--against", "view"], "--against view: not in this study"),
        (["--average", "--variants", "baseline"], "no variant of tumor coarse has a distance head"),
        (["--stage", "tumor_fine"], "run python -m engine.study run"),
        (["--seeds", "1", "-1"], "--seed -1: must be zero or more"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(store, tmp_path, capsys, change, words):
    assert study.main(options(store, tmp_path / "new", *change)) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and not (tmp_path / "new").exists()


def test_a_failed_run_is_listed_with_its_log_and_the_others_go_on(store, tmp_path, fake_scripts, capsys):
    fake_scripts(failing="full")
    more = ["--variants", "full", "baseline", "--centres", "west", "--jobs", "2"]
    assert study.main(options(store, tmp_path, *more)) == 2
    said = capsys.readouterr()
    log = tmp_path / "full" / "seed_2022" / "tumor_coarse_west.log"
    assert said.err.splitlines()[-1].startswith("error: full, seed 2022, west held out")
    assert str(log) in said.err and "error: no luck" in log.read_text()
    assert "| baseline" in said.out and "Dice 0.600 over 3 cases" in said.out
    assert study.main(options(store, tmp_path, *more, "--against", "full")) == 2
    assert "full, seed 2022, west held out" in capsys.readouterr().err  # also where there is nothing to report against


def test_children_share_the_cores_and_the_folder_is_locked(store, tmp_path, monkeypatch, capsys):
    code = "import os; print('threads', os.environ['OMP_NUM_THREADS'])"
    monkeypatch.setattr(study_jobs, "commands", lambda *_: [[sys.executable, "-c", code]])
    assert study.main(options(store, tmp_path, "--variants", "full", "--centres", "west")) == 0
    threads = (tmp_path / "full" / "seed_2022" / "tumor_coarse_west.log").read_text().splitlines()[-1]
    assert threads == f"threads {torch.get_num_threads()}"
    with study_jobs.alone(tmp_path):
        assert study.main(options(store, tmp_path, "--variants", "full", "--centres", "west")) == 2
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
from engine import study, study_jobs
if {deaf}: signal.signal(signal.SIGINT, signal.SIG_IGN)
code = "import time; print('asleep', flush=True); time.sleep(60)"
study_jobs.commands = lambda *_: [[sys.executable, "-c", code]]
sys.exit(study.main({arguments!r}))
"""


@pytest.mark.parametrize(("number", "deaf"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)])
def test_ctrl_c_ends_the_children_and_says_how_to_go_on(store, tmp_path, number, deaf):
    arguments = options(store, tmp_path, "--variants", "full", "--centres", "west", "east", "--jobs", "2")
    code = STUDY_OF_SLEEPERS.format(root=str(REPOSITORY), arguments=arguments, deaf=deaf)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    logs = [tmp_path / "full" / "seed_2022" / f"tumor_coarse_{centre}.log" for centre in ("west", "east")]
    while not all(log.exists() and "\nasleep" in log.read_text() for log in logs) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "the same command goes on from there" in said and "Traceback" not in said
    with study_jobs.alone(tmp_path):  # the children are gone: they held the lock too
        assert all(deaf or "KeyboardInterrupt" in log.read_text() for log in logs)


# --- the report


@pytest.fixture
def finished(store, tmp_path, fake_scripts) -> Path:
    """A study with made-up results: full is better than baseline by 0.1 on every case, and misses one."""
    fake_scripts()
    assert study.main(options(store, tmp_path, "--variants", "baseline", "--centres", "west", "--seeds", "1")) == 0
    shutil.rmtree(tmp_path / "baseline")
    record = yaml.safe_load((tmp_path / "study.yaml").read_text())
    entry = record["tumor_coarse"]
    entry["variants"]["full"], entry["readouts"]["full"] = entry["variants"]["baseline"], "segmentation"
    entry["seeds"], entry["steps"] = [1, 2], {"west": 8, "east": 6}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
    for seed, centre in ((1, "west"), (1, "east"), (2, "west")):
        values = [0.5, 0.6, 0.7] if centre == "west" else [0.2, 0.3]
        for variant, gain in (("baseline", 0.0), ("full", 0.1)):
            rows = [case(f"{centre}/case{i}", value + gain) for i, value in enumerate(values)]
            if variant == "full" and centre == "east":
                rows.append(case("east/lost", 0.0, NAN, found_ml=0.0))
                rows.append({"case": "east/broken", "centre": "east", "error": "cannot be read"})
            fake_run(tmp_path, Run(variant, seed, centre), rows)
    return tmp_path


def parse_tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables of a text, as rows of cells."""
    tables, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            assert line.endswith("|")
            rows.append([cell.strip() for cell in line[1:-1].split("|")])
        elif rows:
            assert {len(row) for row in rows} == {len(rows[0])} and all(set(cell) == {"-"} for cell in rows[1])
            tables.append([rows[0], *rows[2:]])
            rows = []
    return tables


def test_the_markdown_table_holds_the_numbers(finished, capsys):
    assert study.main(["report", str(finished)]) == 0
    text = (finished / "tumor_coarse_table.md").read_text()
    assert text in capsys.readouterr().out
    first, second = parse_tables(text)
    assert first[0][8] == "Dice - baseline"
    baseline, full = first[1:]
    assert baseline[:8] == ["baseline", "3", "2", "5", "0.460", "0.460", "5.0 (8 of 8)", "0 % (0 of 8)"]
    assert full[:8] == ["full", "3", "2", "6", "0.467", "0.467", "5.0 (8 of 9)", "11 % (1 of 9)"]
    assert full[8:10] == ["+0.100", "+0.100 to +0.100"] and full[11] == "5"
    assert second == [["variant", "east", "west"], ["baseline", "0.250", "0.600"], ["full", "0.233", "0.700"]]
    for words in (
        "seeds 1, 2",
        "steps by held-out centre: west 8, east 6",
        "epochs 2",
        "width 8",
        "6 cases",
        "2022"[:2],
    ):
        assert words in text
    assert "reference mask of pancreas fine" in text and "python -m engine.study run" in text
    assert "Not evaluated, left out: full, seed 1, east held out: east/broken" in text


def test_the_csv_holds_the_same_and_against_turns_it_round(finished):
    (made,) = read_studies(finished).values()
    write_report(made, "full")
    lines = {line.split(",")[0]: line for line in (finished / "tumor_coarse_table.csv").read_text().splitlines()}
    header, baseline = lines["variant"].split(","), lines["baseline"].split(",")
    row = dict(zip(header, baseline, strict=True))
    assert float(row["difference"]) == pytest.approx(-0.1) and row["against"] == "full" and row["n"] == "5"
    assert float(row["dice_east"]) == pytest.approx(0.25)
    with pytest.raises(InputError, match="--against sdf: has no finished run; choose one of baseline, full"):
        write_report(made, "sdf")


def test_without_a_finished_run_the_report_says_what_to_do(finished, tmp_path, capsys):
    for variant in ("baseline", "full"):
        shutil.rmtree(finished / variant)
    assert study.main(["report", str(finished)]) == 2
    assert "no finished run of tumor coarse; go on with python -m engine.study run" in capsys.readouterr().err
    assert study.main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no study.yaml" in capsys.readouterr().err


def test_a_run_with_a_failed_case_is_not_finished_but_reported(finished):
    (made,) = read_studies(finished).values()
    assert not made.finished(Run("full", 1, "east")) and made.finished(Run("full", 1, "west"))
    assert len(collect(made)["full"].faults) == 1


@pytest.mark.parametrize("number", [1, 7])
def test_the_figure_of_few_and_many_variants(tmp_path, number):
    rng = np.random.default_rng(0)
    variants = sorted(VARIANTS, key=lambda name: name != "baseline")[:number]
    dice = {v: [(f"centre{i % 3}", float(value)) for i, value in enumerate(rng.uniform(size=12))] for v in variants}
    differences = {v: (0.1, -0.1, 0.2) for v in variants[1:]} | ({variants[-1]: (0.1, NAN, NAN)} if number > 1 else {})
    study_figure(tmp_path / "figure.png", dice, differences, variants[0], "title")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.size[0] > 1200 and np.asarray(picture.convert("L")).std() > 5


# --- compare


def test_compare_of_two_tables(tmp_path, capsys):
    ours, theirs = tmp_path / "a.csv", tmp_path / "b" / "b.csv"
    shared = ([0.6, 0.8, 0.0], [0.5, 0.9, 0.3])
    write_cases(ours, [case(f"e/{i}", v, NAN if v == 0 else 4.0) for i, v in enumerate(shared[0])] + [case("e/x", 0.9)])
    write_cases(theirs, [case(f"e/{i}", v) for i, v in enumerate(shared[1])])
    assert study.main(["compare", str(ours), str(theirs)]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert lines["dice"][1:4] == ["0.467", "0.567", "-0.100"] and lines["dice"][-1] == "3"
    assert lines["hd95_mm"][1:4] == ["4.000", "5.000", "-1.000"] and lines["hd95_mm"][-1] == "2"
    assert "3 cases in both" in out and "missed, no voxel found: 1 of 3 in A, 0 of 3 in B" in out
    assert "only in A: e/x" in out and "only in B" not in out


def test_compare_takes_the_evaluation_that_both_runs_have(tmp_path, capsys):
    rows = [case("west/a", 0.5), case("west/b", 0.6)]
    first = fake_run(tmp_path / "1", Run("full", 1, "west"), rows, "evaluation_predicted")
    second = fake_run(tmp_path / "2", Run("full", 1, "west"), rows, "evaluation_reference")
    arguments = ["compare", str(first), str(second)]
    assert study.main(arguments) == 2
    assert "no evaluation of the same kind" in capsys.readouterr().err
    shutil.copytree(first / "evaluation_predicted", second / "evaluation_predicted")
    assert study.main(arguments) == 0
    assert f"B: {second / 'evaluation_predicted' / 'cases.csv'}" in capsys.readouterr().out
    shutil.copytree(second / "evaluation_reference", first / "evaluation_reference")
    assert study.main(arguments) == 2
    message = capsys.readouterr().err
    assert "both have evaluation_predicted, evaluation_reference" in message and message.count("\n") == 1
    assert study.main([*arguments, "--roi", "reference"]) == 0
    assert study.main(["compare", str(first / "evaluation_reference"), str(second)]) == 0
    assert study.main(["compare", str(tmp_path), str(second)]) == 2
    assert "run the stage's evaluation script" in capsys.readouterr().err


def test_compare_of_other_cases_is_refused(tmp_path, capsys):
    write_cases(tmp_path / "a.csv", [case("east/a", 0.5)])
    write_cases(tmp_path / "b.csv", [case("west/a", 0.5)])
    write_cases(tmp_path / "c.csv", [case("west/a", 0.5), case("west/a", 0.6)])
    assert study.main(["compare", str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]) == 2
    assert "no case in common" in capsys.readouterr().err
    assert study.main(["compare", str(tmp_path / "b.csv"), str(tmp_path / "c.csv")]) == 2
    assert "c.csv: a case stands in it twice" in capsys.readouterr().err


# --- all of it, with the scripts themselves


@pytest.mark.slow
def test_a_miniature_study(tmp_path, capsys):
    store, folder = tmp_path / "store", tmp_path / "study"
    assert phantom.main([str(store), "--prepared", "--cases", "3", "--workers", "1"]) == 0
    more = ["--variants", "baseline", "full", "--centres", "west", "--jobs", "2", "--lr", "1e-3", "--epochs", "1"]
    assert study.main(options(store, folder, *more)) == 0
    out = capsys.readouterr().out
    assert "baseline, seed 2022, west held out: Dice" in out and "2 to do" in out
    runs = sorted(folder.glob("*/seed_2022/tumor_coarse/west/*/evaluation_reference/summary.json"))
    assert len(runs) == 2 and json.loads(runs[0].read_text())["counts"]["failed"] == 0
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/**/*")}
    assert study.main(options(store, folder, *more)) == 0
    assert "2 finished, 0 to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/**/*")}
    assert study.main(["report", str(folder)]) == 0
    tables = parse_tables((folder / "tumor_coarse_table.md").read_text())
    assert [row[0] for row in tables[0][1:]] == ["baseline", "full"]
    places = [str(path.parents[1]) for path in runs]
    assert study.main(["compare", *places]) == 0
    assert len(read_cases(runs[0].with_name("cases.csv"))) == 3
