"""What an evaluation leaves in its folder once every case has a row: summaries to read and pictures to look at."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.cases.case import Case
from data.cases.labels import PANCREAS, TUMOUR, target_mask
from data.common.files import replacing
from engine.detection.match import ScanDetection
from engine.metrics import TOLERANCE_SLACK_MM
from engine.report.drawing import drawing
from engine.report.html.evaluation import write_evaluation_page
from engine.report.html.page import PAGE, Picture
from engine.report.lost import has_target
from engine.report.pictures import draw_overlay
from engine.report.plots import draw_distributions
from engine.report.tables import CaseRow, failed, pick_cases, pick_false_positive, summary_table, write_summary
from engine.stages import STAGES

DETECTION = {
    "detection.png": "How well scans with a tumour and lesions are found",
    "calibration.png": "How often voxels belong to the target, by their probability",
}
PLOTTED = ("dice", "nsd_2mm", "hd95_mm", "volume_error_ml")


def write_results(
    folder: Path,
    rows: Sequence[CaseRow],
    *,
    cases: Mapping[str, Case],
    target: str,
    title: str,
    heading: str,
    read_prediction: Callable[[Case], np.ndarray],
    find_mask: Callable[[Case], Path],
    find_probability: Callable[[Case], Path] | None = None,
    curves: Path | None = None,
    detection: str = "",
    scans: Sequence[ScanDetection] = (),
) -> None:
    """Write and print the summary, draw pictures of it and of some cases, and put everything into report.html.

    The pictures show the distributions, the best, median and worst case and the false positive.

    Args:
        folder: Gets summary.txt, summary.json, report.html and the pictures; ``cases.csv`` is there already.
        rows: One row per case.
        cases: The cases of the rows by their key.
        target: What was segmented, "pancreas" or "tumour".
        title: Title of the pictures.
        heading: Title of the summary.
        read_prediction: Reads the predicted mask of a case on the grid of the prepared case: boolean, shape (D, H, W).
        find_mask: Returns the file of a case's prediction, for the link in the report.
        find_probability: Returns the file of a case's probabilities, for the report, which shows those that exist.
        curves: The picture of the losses of the training, if the report is to show it.
        detection: Detection and calibration as lines to read; the report then shows their pictures, too.
        scans: What was detected in each case, for the table of candidates in the report.

    A picture that cannot be drawn is reported and left out.
    """
    scored = [row for row in rows if not failed(row)]
    faults = []
    if scored:
        with drawing(folder / "distributions.png") as picture:
            draw_distributions(folder / "distributions.png", scored, PLOTTED, title)
        faults.append(picture.fault)
    lesions = target != "pancreas"
    for rank, row in pick_shown(rows, target).items():
        if row is not None:
            path, of = folder / f"{rank}.png", f"{title}: {rank.replace('_', ' ')}"
            case = cases[row["case"]]
            faults.append(draw_case(path, row, case, target=target, title=of, read_prediction=read_prediction))
    text = summary_table(rows, heading, lesions=lesions, remarks=explain_surface_dice(rows, cases))
    with replacing(folder / "summary.txt") as unfinished:
        unfinished.write_text(text)
    fault = write_report(
        folder,
        rows,
        cases=cases,
        target=target,
        heading=heading,
        summary=text,
        read_prediction=read_prediction,
        find_mask=find_mask,
        find_probability=find_probability,
        curves=curves,
        detection=detection,
        scans=scans,
    )
    write_summary(folder / "summary.json", rows, lesions=lesions)  # the last file: it marks a finished evaluation
    missing = sum(map(bool, faults))
    print(f"\n{text}\nper case: {folder / 'cases.csv'}")
    print(f"report: {fault or folder / PAGE}")
    print(f"pictures: {folder}/*.png" + (f"; {missing} could not be drawn, see the warnings" if missing else ""))
    print(f"\n{detection}" if detection else "", end="")


def pick_shown(rows: Sequence[CaseRow], target: str) -> dict[str, CaseRow | None]:
    """Pick the cases that get a picture, by what they are shown for; None where there is no such case."""
    spurious = {} if target == "pancreas" else {"false_positive": pick_false_positive(rows)}
    return pick_cases(rows)._asdict() | spurious


def write_report(
    folder: Path,
    rows: Sequence[CaseRow],
    *,
    cases: Mapping[str, Case],
    target: str,
    heading: str,
    summary: str,
    read_prediction: Callable[[Case], np.ndarray],
    find_mask: Callable[[Case], Path],
    find_probability: Callable[[Case], Path] | None = None,
    curves: Path | None = None,
    detection: str = "",
    scans: Sequence[ScanDetection] = (),
) -> str:
    """Put the summary, the pictures in the folder and the cases in 3-D into report.html.

    Args:
        folder: As for ``write_results``, as are the others that are not described here.
        rows: One row per case.
        cases: The cases of the rows by their key.
        target: What was segmented.
        heading: Title of the report.
        summary: Text of ``summary.txt``.
        read_prediction: Reads the predicted mask of a case.
        find_mask: Returns the file of a case's prediction.
        find_probability: Returns the file of a case's probabilities.
        curves: The picture of the losses of the training.
        detection: Detection and calibration as lines to read.
        scans: What was detected in each case.

    Returns:
        Why the report could not be written, which was printed as a warning; empty if it was.
    """
    shown = [Picture(folder / "distributions.png", "Distribution of the scores over the cases")]
    shown += [Picture(folder / name, caption) for name, caption in DETECTION.items() if detection]
    shown += [Picture(curves, "Losses and validation Dice of the training")] if curves else []
    shown += [
        Picture(folder / f"{rank}.png", f"{rank.replace('_', ' ').capitalize()}: {row['case']}")
        for rank, row in reversed(pick_shown(rows, target).items())
        if row is not None
    ]
    with drawing(folder / PAGE) as page:
        write_evaluation_page(
            folder / PAGE,
            rows,
            cases=cases,
            target=target,
            heading=heading,
            summary="\n\n".join(filter(None, (summary.partition("\n\n")[2], detection))),
            pictures=shown,
            read_prediction=read_prediction,
            find_mask=find_mask,
            find_probability=find_probability,
            scans=scans,
        )
    return page.fault


def draw_case(
    path: Path,
    row: CaseRow,
    case: Case,
    *,
    target: str,
    title: str,
    read_prediction: Callable[[Case], np.ndarray],
) -> str:
    """Draw the reference and the prediction of a case, with what is to be said of it.

    Returns:
        Why the picture could not be drawn, which was printed as a warning; empty if it was.
    """
    said = f"Dice {row['dice']:.2f}" if has_target(row) else f"no tumour, {row['prediction_ml']:.2f} ml found"
    said += f", lost in {STAGES[row['lost_in']].title}" if row.get("lost_in") in STAGES else ""
    remarks = tuple(filter(None, [row.get("note")]))
    code = np.uint8(PANCREAS if target == "pancreas" else TUMOUR)
    with drawing(path) as picture:
        draw_overlay(
            path,
            np.asarray(case.image()),
            reference=target_mask(np.asarray(case.label()), target) * code,
            prediction=read_prediction(case) * code,
            spacing=case.spacing,
            title=f"{title}, {case.name}, {said}",
            doubts=remarks if row.get("unreliable") else (),
            notes=() if row.get("unreliable") else remarks,
        )
    return picture.fault


def explain_surface_dice(rows: Sequence[CaseRow], cases: Mapping[str, Case]) -> tuple[str, ...]:
    """Say in how many cases the voxels are too large to tell the tolerances of 1 and 2 mm apart.

    If the shortest side of the voxels is longer than 2 mm, two surface voxels either coincide or lie further apart than
    both tolerances, so that ``nsd_1mm`` and ``nsd_2mm`` are the same.

    Args:
        rows: One row per case.
        cases: The cases of the rows by their key.

    Returns:
        One sentence; empty if there are no such cases.
    """
    scored = [cases[row["case"]] for row in rows if not failed(row) and row["case"] in cases and has_target(row)]
    coarse = sum(min(case.scan_spacing) > 2 + TOLERANCE_SLACK_MM for case in scored)
    if not coarse:
        return ()
    return (
        f"nsd_1mm equals nsd_2mm in {coarse} of {len(scored)} cases: their voxels are longer than 2 mm along every\n"
        "axis, so that surface voxels either coincide or lie more than 2 mm apart.",
    )
