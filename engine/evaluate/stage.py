"""The command behind the four evaluation scripts: segment the held-out cases with one stage, score and show them.

An evaluation leaves in its folder, which is in the run folder of the model:

    settings.yaml           what it was made with; another setting starts it anew
    cases.csv               the scores of every case
    summary.txt, .json      the scores over all cases
    report.html             all of it on one page, with the cases in 3-D
    detection.txt, .json    which tumours are found at how many false positives, and calibration (docs/detection.md)
    *.png                   the distribution of the scores; the best, the median and the worst case; ROC, FROC
    predictions/*.nii.gz    every mask on the grid of the scan's file
    masks/*.npz             every mask on the grid of the prepared case, for the later stages of the cascade
    scores/*.json           what became of the probabilities of every case
    probabilities/*.nii.gz  with --save-probabilities: every probability on the grid of the scan's file

``python -m engine.evaluate`` scores any folder of masks that exist already (``engine.evaluate.folder``).
"""

import contextlib
import csv
import shutil
import sys
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from data.cases.case import Case
from data.cases.store import digest, read_store
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import remove_unfinished, replacing
from data.common.progress import progress
from data.scans.probability import write_probability
from data.scans.volume import write_mask
from data.splits.frozen import select_splits
from data.splits.split import SYNTHETIC, Split, centres_with, held_out_cases, synthetic_split
from engine.checkpoint import stage_command
from engine.device import choose_device, naming_memory_errors
from engine.evaluate.earlier import (
    EarlierEvaluation,
    all_earlier,
    evaluation_folder,
    find_earlier_evaluations,
    read_masks,
    read_settings,
)
from engine.evaluate.lost import find_lost_stage
from engine.evaluate.masks import (
    mask_path,
    prediction_path,
    probability_path,
    read_prepared_mask,
    read_reference,
    score_prepared_mask,
    scores_path,
    write_prepared_mask,
)
from engine.evaluate.options import EvaluateOptions, parse
from engine.evaluate.scores import CaseScores, detections_of, score_probability, write_detection
from engine.infer.cascade import segment_stage, select_organ, select_roi
from engine.infer.models import StageModel, check_runs_folder, load_model, switched_on
from engine.infer.prepared import find_doubts
from engine.report.lost import is_lost
from engine.report.results import write_results
from engine.report.tables import CaseRow, failed, read_case_table, write_case_table
from engine.stages import STAGES

WORDS = ("unreliable", "note", "lost_in")  # the last columns of the table


@command
def main(stage_name: str, argv: Sequence[str] | None = None) -> int:
    """Evaluate a stage as the command line says.

    Returns:
        The exit code: 2 if a split or a case could not be evaluated, else 0.
    """
    options = parse(STAGES[stage_name], argv)
    target = options.stage.sampling.target
    device = choose_device(options.gpu)
    centres = read_store(options.store)
    check_runs_folder(options.path)
    if options.split == SYNTHETIC:
        splits = [synthetic_split(centres)]
    else:
        splits = select_splits(options.store, centres, options.split, centres_with(centres, target))
    faults = []
    for split in splits:
        try:
            cases = held_out_cases(split, centres, target)
            model = load_model(
                options.path,
                stage_name,
                split.name,
                device,
                at=options.time,
                threshold=options.threshold,
                readout=options.readout,
                fast=options.fast,
                store=options.store,
            )
            faults += run_evaluation(open_evaluation(replace(options, split=split.name), model, split, cases))
        except InputError as error:
            faults.append(str(error))
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one model on the held-out cases of its split.

    Attributes:
        options: With the name of the split.
        model: The trained stage.
        split: Holds out the cases.
        cases: The held-out cases.
        folder: Where the results are.
        earlier: The evaluations of the earlier stages around whose masks the stage looks, by the name of the stage.
    """

    options: EvaluateOptions
    model: StageModel
    split: Split
    cases: Sequence[Case]
    folder: Path
    earlier: dict[str, EarlierEvaluation]

    def read_mask(self, case: Case) -> np.ndarray:
        """Read a case's mask on the grid of the prepared case: boolean, shape (D, H, W).

        Raises:
            InputError: If the mask is missing or damaged; it names the command that makes it again.
        """
        path = mask_path(self.folder, self.split, case)
        return read_prepared_mask(path, case.shape, command=self.options.command())

    def prediction_path(self, case: Case) -> Path:
        """Return the file of a case's mask on the grid of its scan."""
        return prediction_path(self.folder, self.split, case)

    @property
    def judges_probability(self) -> bool:
        """Whether the probabilities are judged too: those of tumours always, others if they are saved."""
        return not self.model.stage.segments_pancreas or self.options.save_probabilities

    def scores_path(self, case: Case) -> Path:
        """Return the file of what became of the probabilities of a case."""
        return scores_path(self.folder, self.split, case)

    def probability_path(self, case: Case) -> Path:
        """Return the file of the probabilities of a case."""
        return probability_path(self.folder, self.split, case)

    def is_done(self, case: Case) -> bool:
        """Return whether everything that a case should have left can be read."""
        if self.options.save_probabilities and not self.probability_path(case).exists():
            return False
        with contextlib.suppress(InputError):
            if self.judges_probability:
                CaseScores.read(self.scores_path(case))
            return self.read_mask(case).shape == case.shape
        return False


def open_evaluation(options: EvaluateOptions, model: StageModel, split: Split, cases: Sequence[Case]) -> Evaluation:
    """Check that the model can be evaluated on these cases, and open the folder of the evaluation.

    Results of an evaluation with the same settings are kept; all others in the folder are removed.

    Raises:
        InputError: If the model was trained on another split, whose training cases could be among the test cases; if
            its training cases were prepared in another way than the test cases; or if an earlier stage has not been
            evaluated.
    """
    if model.split_hash != split.hash:
        problem = f"the model was trained before the split {split.name} was changed"
        again = stage_command(options.stage, "train", split=split.name, checkpoints=options.path, store=options.store)
        raise InputError(model.run, problem, "train it again", command=again)
    if split.kind != "synthetic" and (other := next((c for c in cases if c.preparation != model.preparation), None)):
        problem = f"trained on cases prepared with {model.preparation}, but {other.key} with {other.preparation}"
        raise InputError(model.run, problem, "give the store that the model was trained on with --store")
    evaluation = Evaluation(
        options=options,
        model=model,
        split=split,
        cases=cases,
        folder=evaluation_folder(model.run, options.roi, model.readout, options.threshold, fast=model.fast),
        earlier=find_earlier_evaluations(options, split.name),
    )
    settings = {
        "run": model.run.name,
        "epoch": model.epoch,
        "readout": model.readout,
        "threshold": model.threshold,
        "roi": options.roi,
        "cases": digest(cases),
        "before": {name: read_settings(earlier.folder) for name, earlier in evaluation.earlier.items()},
    } | dict.fromkeys(switched_on(model), True)
    if read_settings(evaluation.folder) != settings:
        shutil.rmtree(evaluation.folder, ignore_errors=True)
        with replacing(evaluation.folder / "settings.yaml") as unfinished:
            unfinished.write_text(yaml.safe_dump(settings, sort_keys=False))
    remove_unfinished([evaluation.folder, *evaluation.folder.glob("*/")])
    return evaluation


def run_evaluation(evaluation: Evaluation) -> list[str]:
    """Segment and score the cases that are not done yet, then write the tables and pictures of all.

    A case is done if it has a row in the table (``read_known_rows``), and its mask and scores can be read.

    Returns:
        A line for every case that failed.
    """
    model, options, split = evaluation.model, evaluation.options, evaluation.split
    title = f"{model.stage.title}, {split.title}" + (f", in the {options.roi} pancreas" if options.roi else "")
    table, by_key = evaluation.folder / "cases.csv", {case.key: case for case in evaluation.cases}
    known = read_known_rows(table, by_key) if table.exists() else []
    rows = [row for row in known if evaluation.is_done(by_key[row["case"]])]
    done = {row["case"] for row in rows}
    for case in progress([case for case in evaluation.cases if case.key not in done], title=title, unit="case"):
        try:
            size = "x".join(map(str, case.shape))
            with naming_memory_errors(f"{case.key}, a scan of {size} voxels", model.device, "use --gpu cpu"):
                rows.append(evaluate_case(evaluation, case))
        except InputError as error:
            rows.append({"case": case.key, "centre": case.centre, "error": str(error)})
        write_case_table(table, rows)
    scored = [by_key[row["case"]] for row in rows if not failed(row)]
    detection, scores = "", []
    if evaluation.judges_probability and scored:
        scores = [CaseScores.read(evaluation.scores_path(case)) for case in scored]
        detection = write_detection(evaluation.folder, scores, model.score_threshold, title)
    write_results(
        evaluation.folder,
        rows,
        cases=by_key,
        target=model.stage.sampling.target,
        title=title,
        heading=f"{title} ({model.run.name}, threshold {model.threshold:g})",
        read_prediction=evaluation.read_mask,
        find_mask=evaluation.prediction_path,
        find_probability=evaluation.probability_path,
        curves=model.run / "curves.png",
        detection=detection,
        scans=detections_of(scores),
    )
    return [f"{row['case']}: {row['error']}" for row in rows if failed(row)]


def read_known_rows(table: Path, keys: Container[str]) -> list[CaseRow]:
    """Read the rows of an earlier call that say all that a row says.

    Earlier versions wrote tables that do not say which masks are not reliable, or where a case was lost. Such rows are
    left out, so that their cases are evaluated again.

    Args:
        table: ``cases.csv``.
        keys: Of the cases that are evaluated.

    Raises:
        InputError: If the table is damaged.
    """
    rows = [row for row in read_case_table(table) if row["case"] in keys and not failed(row)]
    with table.open(newline="", encoding="utf-8") as file:
        columns = next(csv.reader(file))
    rows = [row for row in rows if "unreliable" in columns and (row.get("lost_in") or not is_lost(row))]
    # Reading leaves empty cells out, and a column that is empty in all of these rows would move to the end.
    words = [{name: row.get(name, "") for name in WORDS} for row in rows]
    return [
        {name: cell for name, cell in row.items() if name not in WORDS} | last
        for row, last in zip(rows, words, strict=True)
    ]


def evaluate_case(evaluation: Evaluation, case: Case) -> CaseRow:
    """Segment and score one case, and write its mask.

    Returns:
        The row of the case for the table.

    Raises:
        InputError: If the case or the mask of an earlier stage is missing or damaged.
    """
    model, options, split = evaluation.model, evaluation.options, evaluation.split
    stage = model.stage
    reference = read_reference(case, stage.sampling.target)
    masks = read_masks(evaluation.earlier, split, case)
    if options.roi == "reference":
        pancreas = np.asarray(case.label()) > 0
        masks |= {name: pancreas for name in stage.before if STAGES[name].segments_pancreas}
    start = time.monotonic()
    roi, fallback_note = select_roi(stage, masks, case.spacing)
    organ = select_organ(stage, masks)
    mask, note, doubt, found = segment_stage(
        model, case.image(), case.spacing, roi, organ, keep=evaluation.judges_probability
    )
    seconds = time.monotonic() - start
    score: CaseRow = {}
    if found is not None:
        candidates = None if stage.segments_pancreas else found.find_candidates(case.spacing, organ)
        score_probability(case, stage.sampling.target, found, reference, candidates).write(evaluation.scores_path(case))
        score = {} if candidates is None else {"tumour_score": candidates.score}
        if options.save_probabilities:
            write_probability(evaluation.probability_path(case), found.values, found.box, case.grid)
    write_mask(evaluation.prediction_path(case), mask.astype(np.uint8), case.grid)
    write_prepared_mask(mask_path(evaluation.folder, split, case), mask)
    doubts = [*find_doubts(case.image()), *filter(None, [doubt])]
    row = {
        "case": case.key,
        "centre": case.centre,
        **score_prepared_mask(mask, reference, stage.sampling.margin_mm),
        **score,
        "seconds": round(seconds, 2),
        "threshold": model.threshold,
        "unreliable": "yes" if doubts else "",
        "note": "; ".join(filter(None, (*doubts, fallback_note, note))),
        "lost_in": "",
    }
    return row | {"lost_in": lost_stage_of(evaluation, case)} if is_lost(row) else row


def lost_stage_of(evaluation: Evaluation, case: Case) -> str:
    """Return the name of the stage that lost a case: the evaluated one, or one on whose mask its box depends.

    Raises:
        InputError: If the mask of an earlier stage is missing or damaged.
    """
    masks = read_masks(all_earlier(evaluation.earlier), evaluation.split, case)
    chain = [STAGES[name] for name in STAGES if name in masks]
    return find_lost_stage([*chain, evaluation.model.stage], masks, np.asarray(case.label()), case.spacing)
