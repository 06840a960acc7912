"""Write report.html of an evaluation again, from what lies in its folder; nothing is segmented or scored anew.

The texts and pictures are those of the folder; only the page itself and its 3-D views are made.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.cases.case import Case
from data.cases.store import DEFAULT_STORE, read_store
from data.common.errors import InputError
from data.common.records import read_yaml
from data.splits.frozen import frozen_splits
from data.splits.split import SYNTHETIC, synthetic_split
from engine.evaluate.earlier import read_settings
from engine.evaluate.masks import mask_path, prediction_path, probability_path, read_prepared_mask, scores_path
from engine.evaluate.methods import stage_of_evaluation
from engine.evaluate.predictions import Predictions
from engine.evaluate.scores import CaseScores, detections_of
from engine.report.results import write_report
from engine.report.tables import failed, read_case_table
from engine.stages import STAGES

AGAIN = "run the evaluation again"


def rewrite_evaluation(folder: Path, store: Path | None = None) -> str:
    """Write the report of an evaluation again: that of a run, or that of masks of any program.

    Args:
        folder: Of the evaluation, which is finished.
        store: Folder of the prepared cases; None for that of the training, or the default if that is not recorded.

    Returns:
        Why the report could not be written, which was printed as a warning; empty if it was.

    Raises:
        InputError: If a table or record of the folder is missing or damaged, or the store lacks one of its cases.
    """
    rows = read_case_table(folder / "cases.csv")
    summary, detection = _read_text(folder / "summary.txt"), folder / "detection.txt"
    stage = stage_of_evaluation(folder.resolve())
    made_with = read_yaml(folder.resolve().parent / "settings.yaml") if stage else read_settings(folder)
    store = store or Path(made_with.get("store") or DEFAULT_STORE)  # a training without prepared cases has none
    centres = read_store(store)
    by_key = {case.key: case for cases in centres.values() for case in cases}
    if missing := [row["case"] for row in rows if row["case"] not in by_key]:
        problem = f"has the case {missing[0]}, which {store} does not have"
        raise InputError(folder / "cases.csv", problem, "give the store of this evaluation with --store")
    shared: dict[str, Any] = {"cases": by_key, "heading": summary.partition("\n")[0], "summary": summary}
    if not stage:
        predictions = _predictions_of(folder, made_with)
        return write_report(
            folder,
            rows,
            target=predictions.target,
            read_prediction=predictions.read_prepared_mask,
            find_mask=predictions.find_file,
            **shared,
        )
    name = str(made_with.get("split"))
    split = synthetic_split(centres) if name == SYNTHETIC else frozen_splits(store, centres, save=False).get(name)
    if split is None:
        problem = f"was made for the split {name}, which {store} does not have"
        raise InputError(folder, problem, "give the store of this evaluation with --store")

    def read_prediction(case: Case) -> np.ndarray:
        return read_prepared_mask(mask_path(folder, split, case), case.shape, command="")

    judged = [by_key[row["case"]] for row in rows if not failed(row)] if detection.exists() else []
    scores = [CaseScores.read(scores_path(folder, split, case)) for case in judged]
    return write_report(
        folder,
        rows,
        target=STAGES[stage].sampling.target,
        read_prediction=read_prediction,
        find_mask=lambda case: prediction_path(folder, split, case),
        find_probability=lambda case: probability_path(folder, split, case),
        curves=folder.resolve().parent / "curves.png",
        detection=_read_text(detection) if detection.exists() else "",
        scans=detections_of(scores),
        **shared,
    )


def is_evaluation(folder: Path) -> bool:
    """Return whether a folder is that of a finished evaluation, of a run or of masks of any program."""
    return all((folder / name).is_file() for name in ("cases.csv", "summary.txt", "settings.yaml"))


def _predictions_of(folder: Path, settings: Mapping[str, Any]) -> Predictions:
    """Return the masks that were scored, as the record of the folder describes them.

    Raises:
        InputError: If it does not.
    """
    try:
        return Predictions(Path(settings["predictions"]), settings["pattern"], settings["label"], settings["values"])
    except (KeyError, TypeError) as error:
        problem = "does not say of which masks this is the evaluation"
        raise InputError(folder / "settings.yaml", problem, AGAIN) from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"cannot be read ({error})", AGAIN) from error
