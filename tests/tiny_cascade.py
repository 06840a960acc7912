"""Four untrained stages and a scan for them: small enough that the whole cascade takes a second."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data.augment import Augmentation
from data.cases.preparation import Preparation
from data.scans.grid import Grid
from data.scans.volume import write_image
from engine.checkpoint import Checkpoint, save_checkpoint
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES

TARGET_MM = (6.0, 6.0, 6.0)
# At these, the untrained networks find something nearly everywhere.
THRESHOLDS = {"pancreas_coarse": 0.012, "pancreas_fine": 0.1, "tumor_coarse": 0.15, "tumor_fine": 0.4}
OBLIQUE = Grid.of((30, 28, 14), (3.0, 3.0, 5.0), (-40.0, 17.0, 300.0), (-1.0, 0, 0, 0, 0.8, -0.6, 0, 0.6, 0.8))


def write_runs(folder: Path, split: str = "none") -> Path:
    """Write a finished run of every stage; the weights are random, but the same every time."""
    for number, stage in enumerate(STAGES.values()):
        recipe = Recipe(
            network=NetworkSettings(width=8),
            method=stage.method,
            sampling=replace(stage.sampling, target_mm=TARGET_MM),
            augmentation=Augmentation(),
            training=TrainSettings(epochs=1),
            preparation=Preparation(crop="body", spacing=(5.0, 4.0, 4.0)),
        )
        torch.manual_seed(number)
        net = recipe.build_network(torch.device("cpu"))
        checkpoint = Checkpoint(
            stage=stage.name,
            split=split,
            split_hash="",
            data_hash="",
            recipe=recipe,
            spacing_range=None,
            epoch=1,
            net=net.state_dict(),
            thresholds=dict.fromkeys(("segmentation", "average"), THRESHOLDS[stage.name]),
        )
        save_checkpoint(folder / stage.name / split / "2026_01_01_00_00_00" / "best.pt", checkpoint)
    return folder


def write_scan(path: Path) -> Path:
    """Write an oblique scan of noise with a bright block in air, along axes that are not those of the patient."""
    rng = np.random.default_rng(0)
    image = np.full(OBLIQUE.lps_shape, -1000.0)
    image[2:-2, 3:-3, 3:-3] = rng.normal(40, 20, np.subtract(OBLIQUE.lps_shape, (4, 6, 6)))
    image[4:10, 8:20, 8:20] += 100
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image.astype(np.int16), OBLIQUE)
    return path
