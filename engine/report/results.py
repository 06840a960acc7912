"""What an evaluation leaves in its folder once every case has its row: the summary to read and the pictures to see."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.cases.labels import PANCREAS, TUMOUR, target_mask
from data.cases.store import Case
from data.common.files import replacing
from engine.report.pictures import overlay
from engine.report.plots import distributions
from engine.report.tables import CaseRow, failed, pick_cases, summary_table, write_summary

PLOTTED = ("dice", "nsd_2mm", "hd95_mm", "volume_error_ml")


def write_results(
    folder: Path,
    rows: Sequence[CaseRow],
    cases: Mapping[str, Case],
    target: str,
    titles: tuple[str, str],
    prediction: Callable[[Case], np.ndarray],
) -> None:
    """Write and print the summary (.txt, .json), draw the distributions and the best, median and worst case.

    Args:
        rows: one a case; ``cases.csv`` holds them already.
        cases: those of the rows, by key.
        target: what was segmented, "pancreas" or "tumour".
        titles: of the pictures, of the summary.
        prediction: a case -> its predicted mask (D, H, W), bool.
    """
    title, heading = titles
    text = summary_table(rows, heading, lesions=target != "pancreas")
    with replacing(folder / "summary.txt") as unfinished:
        unfinished.write_text(text)
    write_summary(folder / "summary.json", rows)
    scored = [row for row in rows if not failed(row)]
    if scored:
        distributions(folder / "distributions.png", scored, PLOTTED, title)
    code = PANCREAS if target == "pancreas" else TUMOUR
    for rank, row in pick_cases(rows)._asdict().items():
        if row is None:
            continue
        case = cases[row["case"]]
        drawn = [mask * np.uint8(code) for mask in (target_mask(np.asarray(case.label()), target), prediction(case))]
        caption = f"{title}: {rank}, {case.name}, Dice {row['dice']:.2f}"
        overlay(folder / f"{rank}.png", np.asarray(case.image()), *drawn, case.spacing, caption)
    print(f"\n{text}\nper case: {folder / 'cases.csv'}\npictures: {folder}/*.png")
