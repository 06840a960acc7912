"""The report of an evaluation, report.html: its summary, its cases with the worst first, and their 3-D views."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.cases.case import Case
from data.cases.labels import PANCREAS, TUMOUR, target_mask
from data.scans.probability import read_probability
from engine.detection.match import MIN_IOU, ScanDetection
from engine.metrics import outcome
from engine.report.html.page import LeftOut, Page, Picture, ViewableCase, write_page
from engine.report.html.tables import Cell, Table, number_cell, relative_link
from engine.report.html.viewer import Layer, Map, View
from engine.report.pictures import COLOURS
from engine.report.tables import CaseRow, failed, format_interval, lacks_interval, summarise_metrics
from engine.statistics import NO_INTERVAL

NAMES = {
    "dice": "Dice",
    "nsd_2mm": "NSD 2 mm",
    "nsd_1mm": "NSD 1 mm",
    "hd95_mm": "HD95 mm",
    "asd_mm": "ASD mm",
    "roi_recall": "ROI recall",
    "roi_recall_margin": "ROI recall with margin",
    "reference_ml": "reference ml",
    "prediction_ml": "predicted ml",
    "volume_error_ml": "error ml",
    "tumour_score": "tumour score",
}
# Columns of the table of cases; the others are in cases.csv.
COLUMNS = (
    "dice",
    "nsd_2mm",
    "hd95_mm",
    "recall",
    "precision",
    "reference_ml",
    "prediction_ml",
    "volume_error_ml",
    "tumour_score",
)
FORMS = {"hd95_mm": ".1f", "reference_ml": ".2f", "prediction_ml": ".2f", "volume_error_ml": "+.2f"}
TAGS = {"missed": "bad", "false_positive": "bad", "failed": "bad", "correctly_empty": "good", "hit": "good"}
MOST_CANDIDATES = 500  # rows of their table, about 0.1 MB
CONTEXT_COLOUR = (64, 190, 224)  # of the pancreas around a tumour


def write_evaluation_page(
    path: Path,
    rows: Sequence[CaseRow],
    *,
    cases: Mapping[str, Case],
    target: str,
    heading: str,
    summary: str,
    pictures: Sequence[Picture],
    read_prediction: Callable[[Case], np.ndarray],
    find_mask: Callable[[Case], Path],
    find_probability: Callable[[Case], Path] | None = None,
    scans: Sequence[ScanDetection] = (),
) -> list[LeftOut]:
    """Write the report of an evaluation.

    Args:
        path: The HTML file.
        rows: One row per case.
        cases: The cases of the rows by their key.
        target: What was segmented, "pancreas" or "tumour".
        heading: Title of the report.
        summary: Lines of plain text below the means.
        pictures: PNG files to show.
        read_prediction: Reads the predicted mask of a case on the grid of the prepared case.
        find_mask: Returns the file of a case's prediction, for a link.
        find_probability: Returns the file of a case's probabilities, which are shown if it exists; None if there are
            none of any case.
        scans: What was detected in each case, if that is known.

    Returns:
        What was left out of the page.

    Raises:
        OSError: If the file cannot be written.
    """
    ordered = sorted(rows, key=badness)

    def reader(case: Case) -> Callable[[], View]:
        return lambda: view_case(case, read_prediction(case), target, find_probability and find_probability(case))

    viewable = [
        ViewableCase(row["case"], describe_case(row), reader(cases[row["case"]])) for row in ordered if not failed(row)
    ]
    page = Page(
        title=heading,
        lead=[
            f"Segmented: the {target}{' with its tumour' if target == 'pancreas' else ''}. The cases with the worst "
            "results come first. The views show the voxels of the prepared cases; the scores were computed on those "
            "of the scans."
        ],
        tables=[means_table(rows), cases_table(ordered, cases, path.parent, find_mask), *candidates_tables(scans)],
        summary=summary,
        pictures=pictures,
        cases=viewable,
    )
    return write_page(path, page)


def badness(row: CaseRow) -> tuple[int, float, float, str]:
    """Return a key that sorts rows by how bad their result is, the worst first.

    Cases that failed come first, then tumours that were missed or invented, larger ones before smaller ones, then the
    others by their Dice, and cases in which rightly nothing was found last.
    """
    if failed(row):
        return 0, 0.0, 0.0, row["case"]
    kind = outcome(row)
    if kind == "correctly_empty":
        return 3, 0.0, 0.0, row["case"]
    dice = 0.0 if kind == "false_positive" else float(row["dice"])
    largest = max(float(row["reference_ml"]), float(row["prediction_ml"]))
    return (1 if dice == 0 else 2), dice, -largest, row["case"]


def describe_case(row: CaseRow) -> str:
    """Return a line about a case that was evaluated."""
    dice = "" if math.isnan(row["dice"]) else f"Dice {row['dice']:.3f}, "
    volumes = f"reference {row['reference_ml']:.2f} ml, predicted {row['prediction_ml']:.2f} ml"
    note = f". {row['note']}" if row.get("note") else ""
    return f"{row['case']}: {outcome(row).replace('_', ' ')}, {dice}{volumes}{note}"


def means_table(rows: Sequence[CaseRow]) -> Table:
    """Return the table of the means over all cases."""
    lines = []
    metrics = summarise_metrics(rows)
    for name, s in metrics.items():
        form = FORMS.get(name, ".3f")
        numbers = [number_cell(s.mean, form), number_cell(s.sd, form.replace("+", ""))]
        lines.append(
            [
                Cell(NAMES.get(name, name)),
                *numbers,
                Cell(format_interval(s.low, s.high, form)),
                Cell(str(s.n), s.n),
                Cell(str(s.excluded), s.excluded),
            ]
        )
    columns = ["metric", "mean", "sd", "95 % interval", "cases", "left out"]
    return Table("Means over the cases", columns, lines, below=[NO_INTERVAL] if lacks_interval(metrics) else [])


def cases_table(
    rows: Sequence[CaseRow], cases: Mapping[str, Case], folder: Path, find_mask: Callable[[Case], Path]
) -> Table:
    """Return the table of the cases, in the order of the rows; the columns that no row has are left out."""
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    lost = any(row.get("lost_in") for row in rows)
    lines = []
    for row in rows:
        kind = "failed" if failed(row) else outcome(row)
        line = [Cell(row["case"], view=row["case"]), Cell(kind.replace("_", " "), tag=TAGS.get(kind, ""))]
        line += [number_cell(float(row.get(name, math.nan)), FORMS.get(name, ".3f")) for name in columns]
        line += [Cell((row.get("lost_in") or "-").replace("_", " "))] if lost else []
        mask = Cell("-") if failed(row) else Cell("mask", href=relative_link(find_mask(cases[row["case"]]), folder))
        lines.append([*line, mask])
    return Table(
        "Cases",
        [
            "case",
            "result",
            *(NAMES.get(name, name) for name in columns),
            *(["lost in"] if lost else []),
            "file",
        ],
        lines,
        remarks=[row.get("error") or row.get("note") or "" for row in rows],
        note="Click the name of a case to open its 3-D view, and a heading to sort the table.",
        is_sortable=True,
    )


def candidates_tables(scans: Sequence[ScanDetection], most: int = MOST_CANDIDATES) -> list[Table]:
    """Return the table of the lesion candidates, the most confident first; none if there is no candidate.

    Args:
        scans: What was detected.
        most: The largest number of rows; less confident candidates are counted below the table.
    """
    found = [(hit.confidence, scan.case, "hit", hit.iou, hit.diameter_mm) for scan in scans for hit in scan.hits]
    found += [
        (confidence, scan.case, "false_positive", math.nan, math.nan)
        for scan in scans
        for confidence in scan.false_positives
    ]
    if not found:
        return []
    found.sort(key=lambda candidate: (-candidate[0], *candidate[1:3]))
    lines = [
        [
            Cell(case, view=case),
            Cell(kind.replace("_", " "), tag=TAGS[kind]),
            number_cell(confidence),
            number_cell(iou),
            number_cell(diameter, ".1f"),
        ]
        for confidence, case, kind, iou, diameter in found[:most]
    ]
    below = [
        f"A hit overlaps a lesion with an IoU of at least {MIN_IOU:g}; the diameter is that of the lesion. A candidate "
        "that overlaps a lesion as much, but beside another one that counts as its hit, is not listed."
    ]
    if left_out := len(found) - len(lines):
        below.insert(0, f"{left_out} less confident candidates of {len(found)} are left out of this table.")
    return [
        Table("Candidates", ["case", "result", "confidence", "IoU", "lesion mm"], lines, below=below, is_sortable=True)
    ]


def view_case(case: Case, prediction: np.ndarray, target: str, probability: Path | None = None) -> View:
    """Return the scan of a prepared case with its reference, its prediction and, if they are saved, probabilities.

    Args:
        case: The prepared case.
        prediction: Boolean mask of the target, shape (D, H, W).
        target: "pancreas" or "tumour"; around a tumour, the reference pancreas is a layer of its own.
        probability: File of the probabilities on the grid of the scan, which need not exist.

    Raises:
        InputError: If a file of the case is damaged.
    """
    label = np.asarray(case.label())
    code = TUMOUR if target == "tumour" else PANCREAS
    layers = [
        Layer("reference", target_mask(label, target) > 0, COLOURS["reference", code]),
        Layer("prediction", prediction > 0, COLOURS["prediction", code]),
    ]
    if target == "tumour":
        layers.insert(0, Layer("pancreas (reference)", label > 0, CONTEXT_COLOUR))
    maps = []
    if probability and probability.exists():
        maps.append(Map("probability", read_probability(probability, case.grid)))
    return View(np.asarray(case.image()), case.spacing, layers, maps)
