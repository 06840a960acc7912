"""The report of scans that predict.py has segmented, with their masks, on one page: report.html."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from data.cases.labels import PANCREAS, TUMOUR
from data.scans.probability import read_probability
from data.scans.volume import read_image, read_label
from engine.infer.maps import HIGHEST, MEANING, PROBABILITY, SAVED, UNCERTAINTY
from engine.infer.models import StageModel, describe_models
from engine.infer.volumes import PredictionFolder
from engine.report.html.page import PAGE, Page, Picture, ViewableCase, shows_row, write_page
from engine.report.html.tables import Cell, Table, number_cell, relative_link
from engine.report.html.viewer import Layer, Map, View
from engine.report.pictures import COLOURS
from engine.report.tables import CaseRow, failed

MOST_PICTURES = 6  # the table leads to the others; every case with a 3-D view needs none


def write_prediction_page(
    path: Path,
    rows: Sequence[CaseRow],
    *,
    folder: PredictionFolder,
    series: str,
    models: Mapping[str, StageModel] | None = None,
) -> None:
    """Write the report of scans that were segmented. The files are read again for the 3-D views.

    Args:
        path: The HTML file.
        rows: The rows of the scans in the table of volumes.
        folder: Has the masks and pictures.
        series: As for ``read_image``.
        models: The models that the masks were made with, by the name of their stage; None if they are not known.

    Raises:
        OSError: If the file cannot be written.
    """
    ordered = sorted(rows, key=lambda row: (not failed(row), not row["unreliable"]))
    done = [row for row in ordered if not failed(row)]
    page = Page(
        title=f"Segmented scans in {folder.folder.absolute().name}",
        lead=[
            "These masks were drawn by a program, and nobody has corrected them. Scans that failed come first, then "
            "those whose mask is not reliable.",
        ],
        tables=[_scans_table(ordered, folder, path.parent)],
        summary="\n".join(["Models:", *describe_models(models)]) if models else "",
        pictures=[
            Picture(folder.picture_path(row["case"]), f"{row['case']}: contours of the prediction")
            for row in done[:MOST_PICTURES]
        ],
        cases=[
            ViewableCase(
                row["case"],
                _describe(row),
                partial(_read_view, Path(row["scan"]), row["case"], folder, series),
            )
            for row in done
        ],
    )
    write_page(path, page)


def remove_outdated_pages(name: str, folder: PredictionFolder) -> None:
    """Remove the reports that show a scan whose mask is about to be replaced, and say so.

    Args:
        name: Of the scan in the folder.
        folder: Has the masks. Processes that share the scans have a report each, which is kept if it shows others.
    """
    for path in (folder.folder / PAGE, *folder.folder.glob("report_*_of_*.html")):
        if path.is_file() and shows_row(path, name):
            path.unlink(missing_ok=True)
            print(f"{path}: removed, because {name}, which it shows, is segmented again")


def _scans_table(rows: Sequence[CaseRow], folder: PredictionFolder, here: Path) -> Table:
    lines = []
    for row in rows:
        name = row["case"]
        if failed(row):
            lines.append([Cell(name), Cell("failed", tag="bad"), *[Cell("-")] * 7])
            continue
        picture, candidates = folder.picture_path(name), folder.candidates_path(name)
        lines.append(
            [
                Cell(name, view=name),
                Cell("unreliable", tag="bad") if row["unreliable"] else Cell("segmented"),
                number_cell(float(row["pancreas_ml"]), ".2f"),
                number_cell(float(row["tumour_ml"]), ".2f"),
                number_cell(math.nan if row["tumour_score"] == "" else float(row["tumour_score"])),
                Cell(row["tumour_positive"] or "-"),
                Cell("mask", href=relative_link(folder.mask_path(name), here)),
                Cell("picture", href=relative_link(picture, here)) if picture.exists() else Cell("-"),
                Cell("candidates", href=relative_link(candidates, here)) if candidates.exists() else Cell("-"),
            ]
        )
    return Table(
        "Scans",
        [
            "scan",
            "result",
            "pancreas ml",
            "tumour ml",
            "tumour score",
            "positive",
            "mask",
            "picture",
            "candidates",
        ],
        lines,
        remarks=[row["error"] or row["note"] for row in rows],
        note="Click the name of a scan to open its 3-D view, and a heading to sort the table.",
        is_sortable=True,
    )


def _describe(row: CaseRow) -> str:
    caution = "UNRELIABLE. " if row["unreliable"] else ""
    note = f". {row['note']}" if row["note"] else ""
    return f"{row['case']}: {caution}pancreas {row['pancreas_ml']} ml, tumour {row['tumour_ml']} ml{note}"


def _read_view(scan: Path, name: str, folder: PredictionFolder, series: str) -> View:
    """Read a scan, its mask and the probabilities and uncertainties that are saved beside it.

    Raises:
        InputError: If one of them has been damaged or removed since.
    """
    volume = read_image(scan, series)
    label = read_label(folder.mask_path(name), volume).array
    layers = [
        Layer("pancreas", label > 0, COLOURS["prediction", PANCREAS]),
        Layer("tumour", label == TUMOUR, COLOURS["prediction", TUMOUR]),
    ]
    maps = [
        Map(f"{kind} of the {target}", read_probability(path, volume.grid), HIGHEST[kind], MEANING[kind])
        for target in SAVED.values()
        for kind in (PROBABILITY, UNCERTAINTY)
        if (path := folder.map_path(name, target, kind)).exists()
    ]
    return View(volume.array, volume.spacing, layers, maps)
