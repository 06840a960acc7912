"""The evaluations that an evaluation is made from: those of the earlier stages around whose masks its stage looks."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.cases.case import Case
from data.common.errors import InputError
from data.common.records import read_yaml
from data.splits.split import Split
from engine.checkpoint import find_run
from engine.evaluate.masks import mask_path, read_prepared_mask
from engine.evaluate.options import EvaluateOptions
from engine.stages import STAGES


@dataclass(frozen=True)
class EarlierEvaluation:
    """The evaluation of an earlier stage, as a later one needs it.

    Attributes:
        folder: Where its results are.
        command: The command that runs it again.
        before: The evaluations that it was made from, by the name of the stage.
    """

    folder: Path
    command: str
    before: dict[str, "EarlierEvaluation"]


def all_earlier(evaluations: dict[str, EarlierEvaluation]) -> dict[str, EarlierEvaluation]:
    """Return evaluations with all those that they were made from, by the name of the stage."""
    made_from = (all_earlier(evaluation.before) for evaluation in evaluations.values())
    return {name: found for before in (*made_from, evaluations) for name, found in before.items()}


def read_masks(evaluations: dict[str, EarlierEvaluation], split: Split, case: Case) -> dict[str, np.ndarray]:
    """Read the masks of a case in the evaluations of earlier stages, by the name of the stage.

    Raises:
        InputError: If one is missing or damaged.
    """
    return {
        name: read_prepared_mask(mask_path(earlier.folder, split, case), case.shape, command=earlier.command)
        for name, earlier in evaluations.items()
    }


def evaluation_folder(
    run: Path, roi: str | None, readout: str, threshold: float | None = None, *, fast: bool = False
) -> Path:
    """Return the folder for the results of a run; each kind of evaluation has its own.

    Args:
        run: The run folder.
        roi: The pancreas around which the stage looks, "predicted" or "reference"; None for the first stage.
        readout: Name in ``engine.infer.box.READOUTS``.
        threshold: The threshold if it was typed. Later stages never read such a folder.
        fast: As in ``StageModel``.
    """
    averaged = "average" if readout == "average" else None
    typed = None if threshold is None else f"thresh_{threshold:g}"
    parts = ["evaluation", roi, averaged, typed, "fast" if fast else None]
    return run / "_".join(filter(None, parts))


def find_earlier_evaluations(options: EvaluateOptions, split: str) -> dict[str, EarlierEvaluation]:
    """Find the evaluations of the earlier stages around whose masks a stage looks, those of the newest runs.

    A stage that looks around the reference pancreas needs none of a pancreas stage.

    Raises:
        InputError: If one is missing, or older than the evaluations that it was made from; it names the command that
            makes it.
    """
    found = {}
    for name in options.stage.before:
        stage = STAGES[name]
        earlier = replace(options, stage=stage, split=split, time=None, threshold=None, save_probabilities=False)
        if stage.segments_pancreas:
            if options.roi == "reference":
                continue
            earlier = replace(earlier, roi="predicted" if stage.predecessor else None, readout="segmentation")
        folder = evaluation_folder(
            find_run(options.path, stage, split, store=options.store), earlier.roi, earlier.readout, fast=earlier.fast
        )
        if not (folder / "summary.json").exists():
            problem = f"the stage {stage.title} has not been evaluated yet"
            raise InputError(folder, problem, "evaluate it first", command=earlier.command())
        before = find_earlier_evaluations(earlier, split)
        made_from = {n: read_settings(e.folder) for n, e in before.items()}
        if read_settings(folder).get("before") != made_from:
            problem = "older than the evaluations that it was made from"
            raise InputError(folder, problem, "evaluate this stage again", command=earlier.command())
        found[name] = EarlierEvaluation(folder, earlier.command(), before)
    return found


def read_settings(folder: Path) -> dict[str, Any]:
    """Read what an evaluation was made with; empty if there is no readable record."""
    try:
        settings = read_yaml(folder / "settings.yaml")
    except (OSError, ValueError):
        return {}
    return settings
