"""Training on patients from a library of painted torsos, as a user types it."""

import shutil
from pathlib import Path

import pytest

from data.phantom.command import main as phantom
from data.synthesis.torso_library import check_library, list_torsos
from engine.checkpoint import find_run, load_checkpoint
from engine.stages import STAGES
from engine.train import command as train_command
from engine.train import synthetic
from engine.train.step import train_step
from tests.engine.train.interruption import PowerCut

SMALL = ["--target-mm", "6,6,6", "--width", "8", "--workers", "0", "--gpu", "cpu", "--batch-size", "1", "--quiet"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torsos")
    assert phantom([str(folder), "--abdomen", "--torsos", "--cases", "2", "--workers", "1", "--quiet"]) == 0
    return folder


def forget() -> None:
    """Read libraries again, as the next process does."""
    list_torsos.cache_clear()
    check_library.cache_clear()


@pytest.fixture
def torsos(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the library, of which a run validates on two patients."""
    monkeypatch.setattr(synthetic, "VALIDATION_PATIENTS", 2)
    forget()
    return shutil.copytree(made, tmp_path / "torsos")


def options_of(torsos: Path) -> list[str]:
    few = ["--boxes-per-epoch", "2", "--epochs", "2", "--validate-every", "1"]
    return [*SMALL, *few, "--train-on", f"synthetic:{torsos}:torsos", "--path", str(torsos.parent / "runs")]


@pytest.mark.parametrize("stage", ["pancreas_coarse", "tumor_fine"])
def test_a_network_is_trained_on_the_torsos_of_a_library(stage: str, torsos: Path, tmp_path: Path):
    negatives = ["--negatives", "0.5"] if stage == "tumor_fine" else []
    assert train_command.main(stage, [*options_of(torsos), *negatives]) == 0
    checkpoint = load_checkpoint(find_run(tmp_path / "runs", STAGES[stage], "synthetic") / "best.pt", stage)
    assert checkpoint.recipe.synthesis.labels == f"{torsos}:torsos" and checkpoint.best_dice is not None


def test_a_run_is_resumed_with_the_same_torsos_only(
    torsos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    steps = iter(range(100))

    def cut(*arguments):
        if next(steps) == 3:  # in the second epoch
            raise PowerCut
        return train_step(*arguments)

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr("engine.train.loop.train_step", cut)
        train_command.main("pancreas_fine", options_of(torsos))
    resume = [*options_of(torsos), "--resume"]
    moved = torsos.rename(torsos.with_name("moved"))
    more = ["--abdomen", "--torsos", "--cases", "3", "--workers", "1", "--quiet"]
    assert phantom([str(shutil.copytree(moved, torsos)), *more]) == 0
    forget()
    assert train_command.main("pancreas_fine", resume) == 2
    assert "drawn in another way" in capsys.readouterr().err
    (torsos / "torso_00002_tumour.npz").unlink()
    forget()
    assert train_command.main("pancreas_fine", resume) == 0


def test_a_damaged_torso_is_refused_before_the_training(torsos: Path, capsys: pytest.CaptureFixture):
    damaged = torsos / "torso_00001_tumour.npz"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    assert train_command.main("pancreas_fine", options_of(torsos)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert damaged.name in line and "delete it" in line.lower() and not (torsos.parent / "runs").exists()
