"""Every benchmark runs in seconds with --tiny, and what it prints and writes is complete."""

import json
from pathlib import Path

import pytest
import torch

import benchmarks.trainings
from benchmarks import augmentation, gpu_session, input_pipeline, scaling, signed_distance, training_step
from benchmarks.trainings import make_step, make_steps, random_training
from data.common.errors import InputError
from data.common.files import REPOSITORY
from engine.stages import STAGES

ALONE = ["--peers", "none"]


def rehearse(benchmark, folder: Path, *options: str) -> dict:
    """Run a benchmark at its smallest and return what it writes."""
    file = folder / "figures.json"
    assert benchmark.main(["--tiny", "--threads", "1", "--json", str(file), *options]) == 0
    record = json.loads(file.read_text())
    assert record["machine"]["processor"] and record["machine"]["torch"] and record["options"]["tiny"] is True
    return record["tables"]


def test_the_training_step_has_a_row_of_each_form(tmp_path, capsys):
    tables = rehearse(training_step, tmp_path, "--stages", "pancreas_fine", *ALONE)
    rows = {row["form"]: row for row in tables["Training step"]}
    assert list(rows) == ["step", "step, plain", "network"] and rows["step, plain"]["x plain"] == 1
    assert all(row["s"] > 0 and row["images"] == 1 and row["x nnU-Net"] is None for row in rows.values())
    # The operations of one step over its seconds, which differ between the forms, are those of one network.
    operations = [row["GFLOP/s"] * row["s"] for row in rows.values()]
    assert operations == pytest.approx([operations[0]] * 3)
    assert {"Convolutions at full resolution", "Peak"} < tables.keys()
    assert "a rehearsal, no figures" in capsys.readouterr().out


@pytest.mark.parametrize("stage", STAGES)
def test_the_plain_form_of_a_step_computes_the_same(stage):
    losses = []
    for plain in (False, True):
        training, samples = random_training(
            STAGES[stage], torch.device("cpu"), (16, 16, 24), width=8, batch_size=1, plain=plain
        )
        assert samples[0].mask.any()
        for step in range(2):
            torch.manual_seed(step)  # of the dropout
            losses.append(float(make_step(training, samples, step)["loss"]))
    assert losses[2:] == pytest.approx(losses[:2], rel=1e-3) and losses[0] != losses[1]


def test_all_terms_act_in_steps_that_follow_each_other_too(monkeypatch):
    training, samples = random_training(STAGES["tumor_fine"], torch.device("cpu"), (16, 16, 24), width=8, batch_size=1)
    train_step, progress = benchmarks.trainings.train_step, []

    def noted(training, step, done):
        progress.append(done / training.steps)
        return train_step(training, step, done)

    monkeypatch.setattr(benchmarks.trainings, "train_step", noted)
    make_step(training, samples, 0)
    make_steps(training, samples, 3, 0)
    assert progress == pytest.approx([0.6] * 4)


def test_the_augmentation_alone(tmp_path):
    (rows,) = rehearse(augmentation, tmp_path, *ALONE).values()
    assert [row["package"] for row in rows] == ["ours"] and rows[0]["s"] > 0


def test_the_signed_distance_is_that_of_scipy(tmp_path):
    (rows,) = rehearse(signed_distance, tmp_path, *ALONE).values()
    assert [row["package"] for row in rows] == ["ours", "scipy"] and rows[0]["difference"] < 1e-6


def test_the_input_pipeline_with_and_without_processes(tmp_path):
    (rows,) = rehearse(input_pipeline, tmp_path).values()
    assert [row["workers"] for row in rows] == [0, 1, 2]
    assert all(0 < row["s waited"] < row["s a step"] for row in rows)


@pytest.mark.slow  # it starts two training scripts
def test_scaling(tmp_path):
    tables = rehearse(scaling, tmp_path)
    sizes = tables["Size of a step"]
    assert [row["batch"] for row in sizes] == [1, 2, 1, 2] and sizes[-1]["peak GB"] >= sizes[0]["peak GB"]
    assert [row["cases"] for row in tables["Start of a training"]] == [6]
    assert [row["processes"] for row in tables["Processes"]] == [1, 2]


def test_the_stores_of_the_benchmark_can_be_trained_on(tmp_path):
    scaling.fill_store(tmp_path, 4)
    scaling.fill_store(tmp_path, 9)  # keeps the first four
    centres = scaling.read_store(tmp_path)
    assert {name: len(cases) for name, cases in centres.items()} == {"east": 3, "north": 3, "west": 3}
    cases = [case for centre in centres.values() for case in centre]
    assert len({case.image().tobytes() for case in cases}) == 9 and all(case.tumour_box for case in cases)
    assert len({case.patient for case in cases}) == 9


def test_a_start_that_fails_names_its_store(tmp_path):
    with pytest.raises(InputError, match="no centre is prepared here"):
        scaling.start_training(STAGES["tumor_fine"], tmp_path)


@pytest.mark.parametrize("benchmark", [augmentation, input_pipeline, scaling, signed_distance, training_step])
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused_in_one_line(benchmark, capsys):
    assert benchmark.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("error: --device cuda: this machine has no GPU")


def test_waiting_cannot_be_timed_by_the_processor(capsys):
    assert input_pipeline.main(["--clock", "cpu"]) == 2
    assert "does not count waiting" in capsys.readouterr().err


def test_a_session_on_a_gpu_names_scripts_that_exist_and_ends_what_takes_too_long(tmp_path):
    for device in ("cpu", "cuda"):
        parts = gpu_session.list_parts(tmp_path, device, tiny=device == "cpu")
        assert all((REPOSITORY / part.arguments[0]).is_file() for part in parts if part.arguments[0] != "-m")
        assert {*STAGES, "tests", "training_step"} < {part.name for part in parts}
    hanging = gpu_session.Part("hanging", ["-c", "print('begun', flush=True); import time; time.sleep(60)"], 60)
    assert gpu_session.run_part(hanging, tmp_path, 3) == "took too long"
    assert (tmp_path / "hanging.log").read_text() == "begun\n"
    failing = gpu_session.Part("failing", ["-c", "raise SystemExit(3)"], 60)
    assert gpu_session.run_part(failing, tmp_path, 60) == "failed with exit code 3"
