"""The runs of a model: one finished run of every stage, with what is recorded beside its checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.common.errors import InputError
from data.common.records import to_json
from engine.checkpoint import BEST, Checkpoint, find_run, load_checkpoint, parse_checkpoint
from engine.infer.loading import find_complete_splits, name_splits
from engine.report.tables import read_summary
from engine.stages import STAGES
from engine.training_centres import TrainingCentres, read_centres


class StageRun(NamedTuple):
    """A finished run of a stage.

    Attributes:
        folder: The run folder.
        checkpoint: Its best weights, with their thresholds.
        centres: Those of its cases.
        evaluations: The summaries of its evaluations by the name of their folder.
    """

    folder: Path
    checkpoint: Checkpoint
    centres: TrainingCentres
    evaluations: Mapping[str, Mapping[str, Any]]

    def to_record(self) -> dict[str, Any]:
        """Return what ``model.json`` says of the stage: plain values."""
        checkpoint = self.checkpoint
        return {
            "run": self.folder.name,
            "split": checkpoint.split,
            "split_hash": checkpoint.split_hash,
            "data_hash": checkpoint.data_hash,
            **self.centres.to_record(),
            "spacing_range_mm": checkpoint.spacing_range,
            "epoch": checkpoint.epoch,
            "thresholds": checkpoint.thresholds,
            "confirms": checkpoint.confirms,
            "validation_dice": checkpoint.best_dice,
            "evaluations": self.evaluations,
            "recipe": to_json(checkpoint.recipe.to_record()),
        }


def choose_runs(paths: Sequence[Path], split: str, until: str | None) -> dict[str, StageRun]:
    """Choose the run of every stage.

    Args:
        paths: A folder of runs, of which the newest finished run of each stage is taken; or a run folder for each
            stage, in any order.
        split: In a folder of runs, the split that the models were trained on.
        until: In a folder of runs, only runs that were started at this time or before; None for all.

    Returns:
        The runs by the name of their stage, in the order of the cascade.

    Raises:
        InputError: If a stage has no usable run, or more than one; or the runs were trained on cases that were prepared
            in different ways.
    """
    if len(paths) == 1 and not (paths[0] / BEST).exists():
        if not paths[0].is_dir():
            raise InputError(paths[0], "no such folder", "give the folder of the trained models")
        found = find_stages(paths[0], split, until)
        runs = {name: read_run(folder, load_checkpoint(folder / BEST, name)) for name, folder in found.items()}
    else:
        runs = {}
        for folder in paths:
            if not (folder / BEST).is_file():
                remedy = "give one finished run of each stage, or the folder of all runs"
                raise InputError(folder, f"not a finished run: it holds no {BEST}", remedy)
            run = read_run(folder, parse_checkpoint(folder / BEST, folder / BEST, None, "give another run"))
            if other := runs.get(run.checkpoint.stage):
                title = STAGES[run.checkpoint.stage].title
                raise InputError(folder, f"a run of {title}, as is {other.folder}", "give one run of each stage")
            runs[run.checkpoint.stage] = run
    if missing := [stage.title for name, stage in STAGES.items() if name not in runs]:
        raise InputError(", ".join(map(str, paths)), f"no run of {', '.join(missing)}", "give one run of each stage")
    first, *others = runs.values()
    ours = first.checkpoint.recipe.preparation
    if other := next((run for run in others if run.checkpoint.recipe.preparation != ours), None):
        ways = f"{other.checkpoint.recipe.preparation}, but {first.folder} with {ours}"
        raise InputError(
            other.folder, f"trained on cases prepared with {ways}", "give runs that were trained on one store"
        )
    return {name: runs[name] for name in STAGES}


def find_stages(checkpoints: Path, split: str, until: str | None) -> dict[str, Path]:
    """Return the newest finished run of every stage in a folder of runs, by the name of the stage.

    Args:
        checkpoints: The folder.
        split: As for ``choose_runs``.
        until: As for ``choose_runs``.

    Raises:
        InputError: If a stage has none. If all stages were trained on other splits, it names these.
    """
    try:
        return {name: find_run(checkpoints, stage, split, until=until) for name, stage in STAGES.items()}
    except InputError as error:
        complete = [other for other in find_complete_splits(checkpoints) if other != split]
        if not complete:
            raise
        remedy = f"export the models of another split ({name_splits(complete)}), or train one"
        raise InputError(error.path, error.problem, remedy, command=error.command) from error


def read_run(folder: Path, checkpoint: Checkpoint) -> StageRun:
    """Read what is recorded beside the checkpoint of a run.

    Raises:
        InputError: If a record is damaged.
    """
    summaries = sorted(folder.glob("evaluation*/summary.json"))
    evaluations = {path.parent.name: read_summary(path) for path in summaries}
    return StageRun(folder, checkpoint, read_centres(folder), evaluations)
