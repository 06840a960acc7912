"""Finished runs of the four stages that nothing was trained for: random weights of a narrow network."""

import json
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from data.augment import Augmentation
from data.cases.preparation import Preparation
from engine.checkpoint import Checkpoint, save_checkpoint
from engine.infer.candidates import score_threshold_name
from engine.recipe import NetworkSettings, Recipe, TrainSettings
from engine.stages import STAGES

TIME = "2026_01_02_03_04_05"
CENTRES = {"train": {"west": 12, "south": 7}, "validation": {"west": 3}, "test": {"east": 4}}
COUNTS = {"cases": 12, "failed": 0}
DICE = {"mean": 0.8123, "sd": 0.1, "n": 12, "excluded": 0, "low": 0.7, "high": 0.9}


def make_checkpoint(stage: str, seed: int = 0, split: str = "east", threshold: float = 0.35, **sampling) -> Checkpoint:
    """A checkpoint of a stage at width 8; further arguments change its sampling."""
    torch.manual_seed(seed)
    chosen = STAGES[stage]
    recipe = Recipe(
        NetworkSettings(8),
        chosen.method,
        replace(chosen.sampling, **sampling),
        Augmentation(),
        TrainSettings(epochs=2),
        Preparation(),
    )
    return Checkpoint(
        stage=stage,
        split=split,
        split_hash="0123456789abcdef",
        data_hash="of the cases",
        recipe=recipe,
        spacing_range=[[2.0, 0.7, 0.7], [5.0, 0.9, 0.9]],
        epoch=2,
        net=recipe.build_network(torch.device("cpu")).state_dict(),
        thresholds={"segmentation": threshold}
        | ({"average": 0.45} if "sdf" in chosen.method.heads else {})
        | ({} if chosen.segments_pancreas else {score_threshold_name("segmentation"): 0.6125}),
        confirms=stage == "tumor_fine",
        best_dice=0.765,
    )


def make_runs(root: Path, split: str = "east", threshold: float = 0.35, **sampling) -> dict[str, Path]:
    """Write a run of every stage; return the run folders."""
    runs = {}
    for number, stage in enumerate(STAGES):
        runs[stage] = run = root / stage / split / TIME
        save_checkpoint(run / "best.pt", make_checkpoint(stage, number, split, threshold, **sampling))
        (run / "settings.yaml").write_text(yaml.safe_dump({"stage": stage, "centres": CENTRES}))
        (run / "evaluation_predicted").mkdir()
        summary = {"counts": COUNTS, "metrics": {"dice": DICE}}
        (run / "evaluation_predicted" / "summary.json").write_text(json.dumps(summary))
    return runs
