"""The first steps of every stage give the losses that were recorded: a refactoring changes nothing that is computed.

``python -m tests.test_golden`` records them again, after a change that is meant.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.augment import Augmentation
from data.cases.store import read_store
from data.phantom import command as phantom
from data.splits.split import Split
from engine.device import Execution
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES
from engine.train.loader import derive_seed
from engine.train.step import prepare_step, train_step
from engine.train.training import prepare_training

RECORD = Path(__file__).with_name("golden.json")
STEPS = 3
TARGET_MM = (4.0, 4.0, 4.0)  # coarser than the voxels of synthetic cases, so that a step takes little time
# Machines sum in different orders. Adam turns what differs in the last digits of a gradient into steps of other signs.
TOLERANCE = (1e-3, 1e-2, 1e-1)  # of each step; at its temperature the contrast amplifies rounding


def render(folder: Path) -> Path:
    """A store of two synthetic cases with a tumour."""
    assert phantom.main([str(folder), "--prepared", "--centres", "north", "--cases", "2", "--seed", "5"]) == 0
    return folder


def first_steps(stage_name: str, store: Path, folder: Path) -> list[dict[str, float]]:
    """The loss, every term and the norm of the gradient of each of the first steps."""
    cases = read_store(store)["north"]
    assert all(case.tumour_box for case in cases)
    sampling = replace(STAGES[stage_name].sampling, target_mm=TARGET_MM)
    stage = replace(STAGES[stage_name], sampling=sampling)
    training = prepare_training(
        stage=stage,
        split=Split("none", tuple(case.key for case in cases), (), ()),
        recipe=Recipe(
            network=NetworkSettings(width=8),
            method=stage.method,
            sampling=stage.sampling,
            augmentation=Augmentation(),
            training=TrainSettings(epochs=4, batch_size=1, workers=0, lr=1e-4),  # at higher rates rounding is amplified
            preparation=cases[0].preparation,
        ),
        train_cases=cases,
        validation_cases=[],
        execution=Execution(torch.device("cpu")),
        folder=folder,
    )
    training.net.train()
    torch.manual_seed(1)
    steps = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(derive_seed(1, step))
        terms = train_step(training, prepare_step(training, [training.boxes[1, step % 2]], [generator]), step)
        steps.append({name: float(value) for name, value in terms.items()})
    return steps


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return render(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("stage", STAGES)
def test_the_first_steps_give_the_recorded_losses(stage, store, tmp_path):
    recorded = json.loads(RECORD.read_text())[stage]
    for ours, theirs, tolerance in zip(first_steps(stage, store, tmp_path), recorded, TOLERANCE, strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose([ours[name] for name in theirs], list(theirs.values()), rtol=tolerance, atol=1e-5)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        prepared = render(Path(temporary) / "store")
        record = {stage: first_steps(stage, prepared, Path(temporary)) for stage in STAGES}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
