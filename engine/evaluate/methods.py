"""The folders of predictions that are scored together, and what is known about each without being told.

Masks of this project are recognised: an evaluation of a run, whose ``predictions`` are masks of what its stage
segments, and a folder of ``predict.py``, which holds labels under names of its own. For any other folder, options say
how its files are named and what their voxels mean, or it follows from the files.
"""

from collections.abc import Sequence
from pathlib import Path

from data.common.errors import InputError
from data.common.records import read_yaml
from data.common.text import is_valid_name
from engine.evaluate.predictions import LABELS, MASK, Predictions
from engine.infer.volumes import PredictionFolder
from engine.stages import STAGES


def read_methods(texts: Sequence[str], *, target: str, pattern: str | None, values: str) -> dict[str, Predictions]:
    """Read the values of ``--predictions``.

    Args:
        texts: Each [NAME=]DIR.
        target: What is scored, "pancreas" or "tumour".
        pattern: File name in all folders but evaluations; None for that of ``predict.py`` in its folders, and for
            either name of a case in others.
        values: Meaning of the voxels of folders that are not recognised.

    Returns:
        The folders by their names, in the order in which they were typed.

    Raises:
        InputError: If there is no such folder, it is the evaluation of a stage with another target, or the names do not
            distinguish the folders.
    """
    found: dict[str, Predictions] = {}
    for text in texts:
        named, separator, rest = text.partition("=")
        has_name = bool(separator) and not Path(text).is_dir()
        folder = Path(rest if has_name else text)
        if not folder.is_dir():
            raise InputError(folder, "no such folder", "give the folder of the masks with --predictions")
        name = named if has_name else folder.resolve().name
        example = "--predictions ours=DIR nnunet=DIR"
        if len(texts) > 1 and not is_valid_name(name):
            raise InputError(f"--predictions {text}", f"{name!r} cannot be the name of a folder", f"name it: {example}")
        if name in found:
            raise InputError(f"--predictions {text}", f"two folders are called {name}", f"name them: {example}")
        found[name] = recognise(folder, target=target, pattern=pattern, values=values)
    return found


def recognise(folder: Path, *, target: str, pattern: str | None, values: str) -> Predictions:
    """Return the predictions of a folder, as it was made by this project or else as the options say.

    Raises:
        InputError: If it is the evaluation of a stage with another target.
    """
    evaluation = folder.resolve().parent if folder.resolve().name == "predictions" else folder.resolve()
    if stage := stage_of_evaluation(evaluation):
        if STAGES[stage].sampling.target != target:
            problem = f"holds masks of the {STAGES[stage].sampling.target}, not of the {target}"
            raise InputError(folder, problem, "give the evaluation of a stage that segments it, or change --label")
        return Predictions(evaluation / "predictions", None, target, MASK)
    ours = PredictionFolder(folder)
    if ours.table.is_file():
        return Predictions(folder, pattern or ours.mask_path("{case}").name, target, LABELS)
    return Predictions(folder, pattern, target, values)


def stage_of_evaluation(folder: Path) -> str:
    """Return the name of the stage whose evaluation a folder is; empty if it is none."""
    if not (folder / "predictions").is_dir() or not (folder / "masks").is_dir():
        return ""
    try:
        stage = read_yaml(folder.parent / "settings.yaml").get("stage")
    except (OSError, ValueError, AttributeError):
        return ""
    return stage if stage in STAGES else ""
