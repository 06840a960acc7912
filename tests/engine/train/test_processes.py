"""Training with several processes, started by torchrun as users do; gloo takes the place of the library of GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data.common.files import REPOSITORY
from engine.checkpoint import load_checkpoint
from tests.engine.train.test_train import make_cases, read_losses

# The dropout of a process draws for its own boxes, so that runs with other numbers of processes differ by its draws.
SCRIPT = """
import os, sys
sys.path.insert(0, {repository!r})
import torch
torch.set_num_threads(1)
torch.nn.Dropout3d.forward = lambda self, x: x
from engine.train import loop
save = loop.save_epoch
def save_and_die(training, epoch, best):
    save(training, epoch, best)
    if str(epoch) == os.environ.get("DIE_AFTER") and os.environ["RANK"] == "0":
        os._exit(9)
loop.save_epoch = save_and_die
from engine.train.command import main
sys.exit(main("tumor_fine"))
"""
OPTIONS = ["--data", "none", "--width", "8", "--workers", "0", "--gpu", "cpu", "--validate-every", "2"]
OPTIONS += ["--target-mm", "2.5,2,2", "--batch-size", "2", "--seed", "3", "--lr", "1e-4", "--epochs", "3"]
OPTIONS += ["--weight", "tissue_contrast=0.1"]  # whose memory holds the anchors of all processes


@pytest.fixture
def store(tmp_path) -> Path:
    """Six cases with a tumour and two without, so that some steps have a share of each kind."""
    make_cases(tmp_path / "store", 6)
    make_cases(tmp_path / "store", 2, lesion=False)
    return tmp_path / "store"


def run(store: Path, checkpoints: Path, *options: str, processes: int, die_after: str = "") -> tuple[int, str]:
    """Train with so many processes; return exit code and output."""
    script = checkpoints.parent / "train.py"
    script.write_text(SCRIPT.format(repository=str(REPOSITORY)))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *torchrun, str(script), "--store", str(store), "--path", str(checkpoints), *OPTIONS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DIE_AFTER": die_after}
    result = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, timeout=300)
    return result.returncode, result.stdout + result.stderr


def test_two_processes_train_as_one_does_which_may_go_on_where_they_were_killed(tmp_path, store):
    """Losses, validation Dice and weights are the same but for rounding, and one process speaks for both."""
    code, output = run(store, tmp_path / "one", processes=1)
    assert code == 0, output
    code, output = run(store, tmp_path / "two", processes=2, die_after="2")
    assert code != 0 and output.count("tumor fine: 1 run(s) on cpu, 2 processes") == 1
    code, output = run(store, tmp_path / "two", "--resume", processes=1)
    assert code == 0 and output.count("goes on after epoch 2") == output.count("validation Dice") == 1
    (one,), (two,) = ((tmp_path / name / "tumor_fine" / "none").glob("2*") for name in ("one", "two"))
    for alone, shared in zip(read_losses(one), read_losses(two), strict=True):
        del alone["seconds"], shared["seconds"]
        assert shared.keys() == alone.keys()
        for name, value in alone.items():  # of the gradients of single terms, rounding is a larger part
            near = {"rel": 1e-2, "abs": 0.05 if name.startswith(("share_", "cosine_")) else 2e-3}
            assert shared[name] == pytest.approx(value, **near), name
    of_one, of_two = (load_checkpoint(folder / "best.pt", "tumor_fine") for folder in (one, two))
    assert of_one.recipe == of_two.recipe
    for name, weight in of_one.net.items():
        assert torch.allclose(weight, of_two.net[name], atol=1e-3), name


def test_a_batch_that_cannot_be_shared_equally_is_refused(tmp_path, store):
    code, output = run(store, tmp_path / "runs", "--batch-size", "3", processes=2)
    assert code != 0 and "--batch-size 3: 2 processes cannot share as many boxes equally" in output
