"""The model card: what a model was made from, what it is for and what it cannot do, from the records of its runs."""

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.common.errors import InputError
from data.common.files import REPOSITORY
from data.common.program import COMMAND, IS_INSTALLED
from data.splits.split import NONE_HELD_OUT, SPLIT_PARTS
from engine.checkpoint import Checkpoint
from engine.export.runs import StageRun
from engine.infer.candidates import score_threshold_name
from engine.infer.cascade import FAMILIAR_SPACING_FACTOR
from engine.stages import STAGES
from engine.statistics import FEWEST_CASES, NO_INTERVAL

UNKNOWN = "not recorded"


def write_card(name: str, runs: Mapping[str, StageRun]) -> str:
    """Return the model card as Markdown.

    Args:
        name: Of the model file.
        runs: The run of every stage by the name of the stage.
    """
    sections = {
        f"Model card: {name}": _describe_model(name),
        "Training data": _describe_data(runs),
        "Training": _describe_training(runs),
        "Results": _describe_results(runs),
        "Intended use": _INTENDED_USE,
        "Limits": "\n".join(f"- {limit}" for limit in find_limits(runs)),
        "Licence": _describe_licence(),
    }
    first, *others = (f"# {title}\n\n{text}\n" for title, text in sections.items())
    return "\n".join([first, *(f"#{section}" for section in others)])


_INTENDED_USE = (
    "Research on the segmentation of the pancreas and its tumours in CT, and as a start for training on other data. "
    "It is not a medical device. It must not be used to decide on the diagnosis or the treatment of a patient, and "
    "every mask has to be checked by someone who can read the scan."
)


def _describe_model(name: str) -> str:
    stages = ", ".join(stage.title for stage in STAGES.values())
    return (
        f"A cascade of four networks ({stages}) that segments the pancreas and its tumours in abdominal CT. It reads "
        "Hounsfield units and writes a mask on the voxels of the scan: 0 background, 1 pancreas, 2 tumour. The method "
        "is described in arXiv:2505.01644.\n\n"
        f"```sh\n{COMMAND} predict scan.nii.gz -o out --model {name}\n```\n\n"
        "In a checkout of the repository, without an installation, write `python predict.py` for "
        f"`{COMMAND} predict`."
    )


def _describe_data(runs: Mapping[str, StageRun]) -> str:
    rows = []
    for stage, run in runs.items():
        checkpoint = run.checkpoint
        counts = run.centres.counts
        cases = [_count(counts.get(part, {})) if counts else UNKNOWN for part in SPLIT_PARTS]
        split = f"{checkpoint.split} ({checkpoint.split_hash or 'no hash'})"
        rows.append([STAGES[stage].title, split, *cases, _range(checkpoint.spacing_range)])
    header = [
        "stage",
        "split (hash)",
        "training cases",
        "validation",
        "held out",
        "voxels of the training (z, y, x) in mm",
    ]
    held_out = {run.checkpoint.split for run in runs.values()} - {NONE_HELD_OUT}
    said = (
        "Number of cases by centre. The epoch and the threshold were chosen on the validation cases, none of which was "
        "trained on."
    )
    if held_out:
        said += " The held-out cases had no part in the training."
    if synthetic := sorted({centre for run in runs.values() for centre in run.centres.synthetic}):
        said += f" The scans of {', '.join(synthetic)} are synthetic: no patient was scanned."
    return f"{_table(header, rows)}\n\n{said}"


def _describe_training(runs: Mapping[str, StageRun]) -> str:
    rows = []
    for stage, run in runs.items():
        recipe, checkpoint = run.checkpoint.recipe, run.checkpoint
        low, high = recipe.sampling.hu_window
        begun = recipe.start
        start = f"{Path(begun.path).name} ({begun.sha256[:12]})" if begun.path else "random weights"
        start += f", {begun.freeze} frozen" if begun.freeze != "none" else ""
        rows.append(
            [
                STAGES[stage].title,
                str(recipe.network.width),
                f"{checkpoint.epoch} of {recipe.training.epochs}",
                " x ".join(f"{mm:g}" for mm in recipe.sampling.target_mm),
                f"{low:g} to {high:g}",
                ", ".join(recipe.method.weights.active),
                start,
                f"{checkpoint.thresholds.get('segmentation', 0.5):g}",
                _operating_point(checkpoint),
                "yes" if checkpoint.confirms else "no",
            ]
        )
    header = [
        "stage",
        "width",
        "epoch",
        "voxels that it sees (mm)",
        "HU window",
        "loss terms",
        "began with",
        "threshold",
        "operating point of the tumour score",
        "confirmed around the pancreas",
    ]
    said = (
        "Scans whose tumour score reaches the operating point of the last stage are called positive; it was chosen on "
        "the validation cases (`docs/detection.md` of the repository). What a stage with confirmation finds counts "
        "only if it is found in a box around the pancreas, too. All settings are in `model.json`, under `recipe` of "
        "each stage."
    )
    return f"{_table(header, rows)}\n\n{said}"


def _operating_point(checkpoint: Checkpoint) -> str:
    """Return the threshold of the tumour score of a stage that segments tumours, if one was chosen."""
    if STAGES[checkpoint.stage].segments_pancreas:
        return ""
    chosen = checkpoint.thresholds.get(score_threshold_name("segmentation"))
    return "none" if chosen is None else f"{chosen:.3f}"


def _describe_results(runs: Mapping[str, StageRun]) -> str:
    rows = []
    for stage, run in runs.items():
        validation = run.checkpoint.best_dice
        if validation is not None:
            rows.append([STAGES[stage].title, "validation cases, in training", "", f"{validation:.3f}", "", ""])
        for name, summary in run.evaluations.items():
            rows.append([STAGES[stage].title, name, *_figures(summary)])
    if not rows:
        return "No evaluation is recorded with these runs, so it is unknown how well the model works."
    header = [
        "stage",
        "evaluation",
        "cases",
        "Dice (95 % interval, n)",
        "HD95 in mm",
        "without a tumour: nothing found",
    ]
    said = (
        "The epoch was chosen by the Dice of the validation cases, which is therefore optimistic. An evaluation is on "
        "the held-out cases; n is the number of those in which the Dice is defined. "
        f"{NO_INTERVAL} `docs/glossary.md` of the repository defines the metrics, and `model.json` has all of them."
    )
    return f"{_table(header, rows)}\n\n{said}"


def _figures(summary: Mapping[str, Any]) -> list[str]:
    dice, hd95 = (summary["metrics"].get(name, {}) for name in ("dice", "hd95_mm"))
    has_interval = dice.get("low") is not None and dice["n"] >= FEWEST_CASES  # earlier versions gave one for two cases
    interval = f"{dice['low']:.3f} to {dice['high']:.3f}, " if has_interval else ""
    free = summary.get("tumour_free", {})
    return [
        str(summary["counts"]["cases"]),
        f"{dice['mean']:.3f} ({interval}n = {dice['n']})" if dice.get("mean") is not None else "",
        f"{hd95['mean']:.1f}" if hd95.get("mean") is not None else "",
        f"{free['found_nothing']} of {free['cases']}" if free.get("cases") else "",
    ]


def find_limits(runs: Mapping[str, StageRun]) -> list[str]:
    """Return what the model cannot do, or what is not known of it, one sentence each."""
    checkpoints = [run.checkpoint for run in runs.values()]
    limits = []
    if only_synthetic := [STAGES[stage].title for stage, run in runs.items() if run.centres.only_synthetic]:
        which = f", in {', '.join(only_synthetic)}" if len(only_synthetic) < len(runs) else ""
        limits.append(f"It was trained on synthetic scans only{which}. Do not rely on it for real scans.")
    limits += [
        "Scans unlike those of the training (other contrast phases, after surgery, of children) were not tested unless "
        "the tables above name them. Every centre differs: evaluate the model on your own scans before you rely on it.",
        "It may miss a tumour, and it may find one where there is none. Probabilities are not calibrated.",
    ]
    ranges = [c.spacing_range for c in checkpoints if c.spacing_range]
    if ranges:
        coarsest = " x ".join(
            f"{FAMILIAR_SPACING_FACTOR * max(mm):.2g}" for mm in zip(*(r[1] for r in ranges), strict=True)
        )
        limits.append(f"Masks of scans with voxels coarser than about {coarsest} mm are marked as unreliable.")
    if not any(run.evaluations for run in runs.values()):
        limits.append("No evaluation on held-out cases is recorded.")
    if unmeasured := [STAGES[stage].title for stage, run in runs.items() if run.checkpoint.best_dice is None]:
        limits.append(f"Without validation cases: the last epoch was kept in {', '.join(unmeasured)}.")
    splits = {(c.split, c.split_hash) for c in checkpoints}
    if len(splits) > 1:
        limits.append(
            "The stages were trained on different splits, so a case that was held out from one of them may have been a "
            "training case of another."
        )
    last = checkpoints[-1]
    if last.thresholds.get(score_threshold_name("segmentation")) is None:
        limits.append("No operating point of the tumour score was chosen, so it does not call a scan positive.")
    if any(c.recipe.start.path for c in checkpoints):
        limits.append(
            "It began with the weights of another model, whose training cases are not listed here: see the card of "
            "that model."
        )
    if any(not run.centres.counts for run in runs.values()):
        limits.append("The training centres of some stages are not recorded.")
    return limits


def read_licence() -> str:
    """Return the licence of this project, which an installed package keeps among its metadata.

    Raises:
        InputError: If the package was installed without it.
    """
    if not IS_INSTALLED:
        return (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    text = importlib.metadata.distribution(COMMAND).read_text("licenses/LICENSE")
    if text is None:
        raise InputError(COMMAND, "its licence, which the model card quotes, is missing", "install the package again")
    return text


def _describe_licence() -> str:
    title, _, holder = read_licence().splitlines()[:3]
    return (
        f"{title} ({holder}), as the code of this project. The data that the weights were trained on have licences of "
        "their own, several of which exclude commercial use or ask for attribution; whoever passes the weights on has "
        "to comply with them as well (`docs/data.md` of the repository names them)."
    )


def _count(centres: Mapping[str, int]) -> str:
    return ", ".join(f"{centre} {count}" for centre, count in centres.items()) or "none"


def _range(spacing_range: Sequence[Sequence[float]] | None) -> str:
    if spacing_range is None:
        return UNKNOWN
    sides = [(f"{low:.2g}", f"{high:.2g}") for low, high in zip(*spacing_range, strict=True)]
    return " x ".join(low if low == high else f"{low}-{high}" for low, high in sides)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
