"""A training begins with the weights of a model that exists, and may keep its encoder."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.memory import measured_step
from data.common.errors import InputError
from data.common.files import REPOSITORY, sha256_of
from data.common.settings import from_record
from data.splits.split import Split
from engine.checkpoint import load_checkpoint
from engine.device import Execution
from engine.export import command as export
from engine.memory import step_memory
from engine.recipe import NetworkSettings, Recipe, Start, TrainSettings, new_network
from engine.stages import STAGES, with_variant
from engine.train import command as train_command
from engine.train.initial import describe_start, find_fitting, read_initial_weights
from engine.train.loop import train, train_one_epoch
from engine.train.options import parse
from engine.train.training import prepare_training
from tests.conftest import assert_clear
from tests.engine.export.made_runs import make_checkpoint, make_runs
from tests.engine.test_published import release_parameters
from tests.engine.train.test_train import make_cases, recipe_of

CPU = torch.device("cpu")
SETTINGS = TrainSettings(epochs=2, workers=0, batch_size=1, lr=2e-3, warm_up=0.0, validate_every=2)
ENCODER = re.compile(r"(stem|encoder\d|down\d)\.")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def model(runs) -> Path:
    path = runs["tumor_fine"].parents[2] / "model.zip"
    assert export.main([*map(str, runs.values()), "-o", str(path)]) == 0
    return path


def training_from(
    tmp_path, initial, freeze="none", settings=SETTINGS, folder="run", checkpoint=None, name="tumor_fine"
):
    """A training of a stage on two small cases."""
    cases = make_cases(tmp_path / "store")
    stage = STAGES[name]
    stage = replace(stage, sampling=replace(stage.sampling, target_mm=(2.5, 2.0, 2.0)))
    (tmp_path / folder).mkdir(exist_ok=True)
    return prepare_training(
        stage=stage,
        split=Split("none", tuple(c.key for c in cases[:2]), (cases[2].key,), ()),
        recipe=replace(recipe_of(stage, settings), start=Start(str(initial.path), initial.sha256, freeze)),
        train_cases=cases[:2],
        validation_cases=cases[2:],
        execution=Execution(CPU),
        folder=tmp_path / folder,
        checkpoint=checkpoint,
        initial=initial,
    )


@pytest.mark.parametrize(
    ("kind", "stage"),
    [*(("model file", stage) for stage in STAGES), ("run folder", "tumor_fine"), ("best.pt", "tumor_fine")],
)
def test_a_training_begins_with_the_weights_of_its_stage(tmp_path, runs, model, kind, stage):
    run = runs[stage]
    path = {"model file": model, "run folder": run, "best.pt": run / "best.pt"}[kind]
    initial = read_initial_weights(path, STAGES[stage])
    assert initial.sha256 == sha256_of(run / "best.pt") and initial.centres == ["south", "west"]
    training = training_from(tmp_path, initial, "encoder", replace(SETTINGS, ema_decay=0.9), name=stage)
    expected = load_checkpoint(run / "best.pt", stage).net
    for net in (training.net, training.average):
        assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
        assert all(value.requires_grad != bool(ENCODER.match(name)) for name, value in net.named_parameters())


def test_a_published_checkpoint_gives_what_fits(tmp_path):
    torch.save(release_parameters("tumor_coarse"), tmp_path / "release.pth")
    initial = read_initial_weights(tmp_path / "release.pth", STAGES["tumor_fine"])
    net = new_network(NetworkSettings(8), STAGES["tumor_fine"].method)
    fitting = find_fitting(initial, net)
    missing = {name.partition(".")[0] for name in net.state_dict() if name not in fitting}
    assert missing == {"head_input", "slice"}  # the normalisation that the release lacks, and a head that it had not
    assert initial.sha256 == sha256_of(tmp_path / "release.pth") and initial.recipe.network.width == 8
    as_published = new_network(NetworkSettings(8), STAGES["tumor_coarse"].published)
    assert find_fitting(initial, as_published).keys() == as_published.state_dict().keys()
    full, published = STAGES["tumor_coarse"], with_variant(STAGES["tumor_coarse"], "published")
    on_its_voxels = replace(published, sampling=replace(published.sampling, target_mm=(2.5, 0.8, 0.8)))
    said = [
        describe_start(initial, as_published, recipe_of(stage, SETTINGS)).partition(", type ")[2]
        for stage in (full, published, on_its_voxels)
    ]
    assert said == [
        "--head-input raw --target-mm 2.5,0.8,0.8",
        "--target-mm 2.5,0.8,0.8",
        "",
    ]


def test_weights_of_another_stage_fit_but_for_its_heads_and_those_are_named(study_store, tmp_path, runs, capsys):
    options = ["--store", str(study_store), "--path", str(tmp_path), "--data", "west", "--gpu", "cpu", "--width", "8"]
    argv = [*options, "--init", str(runs["pancreas_fine"]), "--dry-run"]
    assert train_command.main("tumor_fine", argv) == 0
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "begins with" in line]
    heads = "sdf.weight, sdf.bias, slice.norm.weight, slice.norm.bias, slice.hidden.weight, slice.hidden.bias"
    assert (
        f"drawn at random (the file has none that fit): {heads} and 2 more" in said
        and "not used" not in said
        and "frozen" not in said
    )
    assert not list((tmp_path / "tumor_fine").glob("*"))
    assert train_command.main("pancreas_fine", [*options, "--init", str(runs["tumor_fine"]), "--dry-run"]) == 0
    assert "; not used: sdf.weight, sdf.bias, slice" in capsys.readouterr().out


def test_settings_that_the_weights_rely_on_and_centres_they_have_seen_are_told(study_store, tmp_path, runs, capsys):
    options = ["--store", str(study_store), "--path", str(tmp_path), "--gpu", "cpu", "--width", "8", "--dry-run"]
    options += ["--init", str(runs["tumor_fine"]), "--target-mm", "3,2,2", "--lr", "0.5"]
    assert train_command.main("tumor_fine", options) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "warning" in line and "weights" in line]
    trained, _, used = said[0].partition(", but this run uses --target-mm 3,2,2,")
    assert trained.endswith("the model was trained with --target-mm 1.5,0.8,0.8") and "lr" not in said[0]
    assert used.endswith("to train as the model was, type --target-mm 1.5,0.8,0.8")
    assert [line.partition(", of which ")[2] for line in said[1:]] == [
        "west holds out cases: no evaluation on them is one of unseen cases"
    ]


def test_what_a_model_has_seen_is_adopted_unless_something_else_is_typed(study_store, tmp_path, capsys):
    seen = {"target_mm": (6.0, 5.0, 5.0), "hu_window": (-150.0, 250.0)}
    run = make_runs(tmp_path / "runs", **seen)["tumor_coarse"]
    stage, own = STAGES["tumor_coarse"], STAGES["tumor_coarse"].sampling
    typed = ["--width", "8", "--target-mm", "6,5,5", "--sampling", "hu_window=-150,250"]
    by_itself, by_hand = (parse(stage, ["--init", str(run), *words]) for words in ([], typed))
    assert by_itself.recipe([]) == by_hand.recipe([]) and by_hand.adopted == ()
    assert by_itself.stage.sampling == replace(own, **seen) and by_itself.network == NetworkSettings(8)
    assert by_itself.adopted == ("--width 8", "--target-mm 6,5,5", "--sampling hu_window=-150,250")
    other = parse(stage, ["--init", str(run), "--target-mm", "2,1,1", "--sampling", "rounds=2", "--width", "16"])
    assert other.stage.sampling == replace(own, target_mm=(2.0, 1.0, 1.0), hu_window=seen["hu_window"], rounds=2)
    assert other.network == NetworkSettings(16) and other.adopted == ("--sampling hu_window=-150,250",)
    assert parse(stage, []).stage.sampling == own and parse(stage, []).network == NetworkSettings()
    of_another = parse(STAGES["tumor_fine"], ["--init", str(run)])  # which looks at something else
    assert of_another.stage.sampling == STAGES["tumor_fine"].sampling and of_another.adopted == ("--width 8",)
    options = ["--store", str(study_store), "--path", str(tmp_path), "--gpu", "cpu", "--data", "west", "--dry-run"]
    assert train_command.main("tumor_coarse", [*options, "--init", str(run)]) == 0
    said = capsys.readouterr().out
    assert "adopts settings of that model: --width 8 --target-mm 6,5,5 --sampling hu_window=-150,250\n" in said
    assert "this run uses" not in said


def test_a_run_that_adopted_settings_goes_on_with_them(tmp_path, capsys):
    make_cases(tmp_path / "store", 3)
    theirs = make_runs(tmp_path / "runs", target_mm=(2.5, 2.0, 2.0))["pancreas_fine"]
    options = ["--store", str(tmp_path / "store"), "--path", str(tmp_path / "new"), "--data", "none", "--gpu", "cpu"]
    options += ["--workers", "0", "--epochs", "1"]
    assert train_command.main("pancreas_fine", [*options, "--init", str(theirs)]) == 0
    (run,) = (tmp_path / "new" / "pancreas_fine" / "none").iterdir()
    recipe = load_checkpoint(run / "last.pt", "pancreas_fine").recipe
    assert recipe.sampling.target_mm == (2.5, 2.0, 2.0) and recipe.network.width == 8
    capsys.readouterr()
    assert train_command.main("pancreas_fine", [*options, "--init", str(theirs), "--resume"]) == 0
    assert capsys.readouterr().out.endswith(f"{run}: already finished, 1 epochs\n")  # nothing differs


def test_what_does_not_fit_at_all_or_is_no_model_is_refused(study_store, tmp_path, runs, capsys):
    options = ["--store", str(study_store), "--path", str(tmp_path / "new"), "--data", "west", "--gpu", "cpu"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pt").write_text("no model")
    refused = {
        (str(runs["tumor_fine"]),): "none of its filters fits: its network has the width 8. Leave out --width, or type",
        (str(tmp_path / "empty"),): "not a finished run: it holds no best.pt",
        (str(tmp_path / "missing.zip"),): "no such file",
        (str(tmp_path / "text.pt"),): "is not opened",
    }
    for (path,), problem in refused.items():
        assert train_command.main("tumor_fine", [*options, "--width", "16", "--init", path]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {path}") and problem in said and said.count("\n") == 1
    assert not list((tmp_path / "new").glob("*/*/*"))
    with pytest.raises(InputError, match="would keep random weights") as caught:
        parse(STAGES["tumor_fine"], ["--freeze", "encoder"])
    assert_clear(caught.value, Path("--freeze encoder"))


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_a_frozen_encoder_stays_as_it_is_and_the_rest_learns(tmp_path, runs, optimiser):
    settings = replace(SETTINGS, ema_decay=0.5, optimiser=optimiser, weight_decay=0.1, clip_norm=1.0)
    initial = read_initial_weights(runs["tumor_fine"], STAGES["tumor_fine"])
    training = training_from(tmp_path, initial, "encoder", settings)
    begun = {name: value.clone() for name, value in training.net.state_dict().items()}
    train(training)
    last = load_checkpoint(training.folder / "last.pt", "tumor_fine")
    assert last.recipe.start == Start(str(runs["tumor_fine"]), sha256_of(runs["tumor_fine"] / "best.pt"), "encoder")
    frozen = {name for name in begun if ENCODER.match(name)}
    assert len(frozen) > 20
    for state in (last.net, last.average):
        assert {name for name, value in state.items() if torch.equal(value, begun[name])} == frozen


def test_a_training_with_a_frozen_encoder_goes_on_as_if_it_had_never_stopped(tmp_path, runs, monkeypatch):
    initial = read_initial_weights(runs["tumor_fine"], STAGES["tumor_fine"])
    settings = replace(SETTINGS, ema_decay=0.9, validate_every=1)
    whole = training_from(tmp_path, initial, "encoder", settings, "whole")
    train(whole)
    stopped = training_from(tmp_path, initial, "encoder", settings, "stopped")

    def cut(*_):
        if stopped.epochs_done == 1:
            raise KeyboardInterrupt
        return train_one_epoch(*_)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("engine.train.loop.train_one_epoch", cut)
        train(stopped)
    checkpoint = load_checkpoint(stopped.folder / "last.pt", "tumor_fine")
    other = replace(initial, parameters=make_checkpoint("tumor_fine", seed=9).net)  # which must not matter now
    resumed = training_from(tmp_path, other, "encoder", settings, "stopped", checkpoint)
    train(resumed)
    for ours, theirs in ((whole.net, resumed.net), (whole.average, resumed.average)):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_the_memory_estimate_knows_a_frozen_encoder(monkeypatch):
    network, method, shape = NetworkSettings(8), STAGES["tumor_fine"].method, (32, 32, 40)

    def frozen(*arguments):
        net = new_network(*arguments)
        net.freeze_encoder()
        return net

    monkeypatch.setattr("benchmarks.memory.new_network", frozen)
    measured, _ = measured_step(network, method, shape, batch_size=1, device=CPU)
    estimate, free = (
        step_memory(network, method, shape, batch_size=1, half=False, frozen=is_frozen) for is_frozen in (True, False)
    )
    assert estimate == pytest.approx(measured, rel=0.1) and estimate < 0.95 * free


def test_the_run_records_what_it_began_with_and_goes_on_without_it(tmp_path, runs, capsys):
    make_cases(tmp_path / "store", 3)
    options = ["--store", str(tmp_path / "store"), "--path", str(tmp_path / "new"), "--data", "none", "--gpu", "cpu"]
    options += ["--width", "8", "--workers", "0", "--target-mm", "2.5,2,2", "--epochs", "1"]
    argv = [*options, "--init", str(runs["tumor_fine"]), "--freeze", "encoder"]
    assert train_command.main("tumor_fine", argv) == 0
    (run,) = (tmp_path / "new" / "tumor_fine" / "none").iterdir()
    record = yaml.safe_load((run / "settings.yaml").read_text())
    assert record["start"]["path"] == str(runs["tumor_fine"]) and record["start"]["freeze"] == "encoder"
    counts = {part: sum(centres.values()) for part, centres in record["centres"].items()}
    assert counts["train"] + counts["validation"] == 3 and counts["test"] == 0
    best = load_checkpoint(run / "best.pt", "tumor_fine")
    begun = load_checkpoint(runs["tumor_fine"] / "best.pt", "tumor_fine").net
    assert torch.equal(best.net["stem.weight"], begun["stem.weight"])
    capsys.readouterr()
    for words in (options, argv):
        assert train_command.main("tumor_fine", [*words, "--resume"]) == 0
        said = capsys.readouterr().out
        assert "already finished" in said and "begins with" not in said
        assert (f"start.path {runs['tumor_fine']}" in said) == (words is options)


def test_a_record_of_an_earlier_version_began_with_random_weights():
    record = recipe_of(STAGES["tumor_fine"], SETTINGS).to_record()
    del record["start"]
    assert from_record(Recipe, record, complete=True).start == Start()


@pytest.mark.slow
def test_two_processes_share_the_steps_of_a_frozen_network_as_one_makes_them(tmp_path, runs):
    make_cases(tmp_path / "store", 4)
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(REPOSITORY)!r})\nimport torch\ntorch.set_num_threads(1)\n"
        "torch.nn.Dropout3d.forward = lambda self, x: x\n"  # whose draws differ between numbers of processes
        "from engine.train.command import main\nsys.exit(main('tumor_fine'))\n"
    )
    options = ["--store", str(tmp_path / "store"), "--data", "none", "--width", "8", "--workers", "0", "--gpu", "cpu"]
    options += ["--target-mm", "2.5,2,2", "--batch-size", "2", "--epochs", "1", "--lr", "1e-4", "--init"]
    options += [str(runs["tumor_fine"]), "--freeze", "encoder"]
    nets = []
    for count in (1, 2):
        path = tmp_path / str(count)
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), str(script)]
        done = subprocess.run(
            [sys.executable, *torchrun, *options, "--path", str(path)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("begins with") == 1
        (best,) = path.glob("tumor_fine/none/*/best.pt")
        nets.append(load_checkpoint(best, "tumor_fine").net)
    begun = load_checkpoint(runs["tumor_fine"] / "best.pt", "tumor_fine").net
    for name, value in nets[0].items():
        assert torch.allclose(value, nets[1][name], atol=1e-3), name
        assert torch.equal(nets[1][name], begun[name]) == bool(ENCODER.match(name)), name


def test_a_run_without_a_finished_epoch_goes_on_only_with_the_weights_that_it_was_begun_with(tmp_path):
    begun = Start("model.zip", "a" * 64)
    train_command.check_start(tmp_path, Start())  # nothing is recorded yet
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"start": vars(begun)}))
    train_command.check_start(tmp_path, begun)
    train_command.check_start(tmp_path, replace(begun, path="copied.zip"))
    for other in (Start(), replace(begun, sha256="b" * 64)):
        with pytest.raises(InputError, match=r"begun with the weights of model.zip") as raised:
            train_command.check_start(tmp_path, other)
        assert_clear(raised.value, tmp_path)
