"""What ``predict.py --save-probabilities`` writes beside the mask of a scan: maps, and a table of lesion candidates."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.scans.grid import Grid
from data.scans.probability import write_probability
from engine.infer.candidates import Candidates
from engine.infer.ensemble import DISAGREEMENT_LIMIT, NOWHERE, BoxProbability
from engine.infer.volumes import PredictionFolder
from engine.report.tables import CaseRow, write_case_table

# The stages whose probabilities are saved: the last one of each target.
SAVED = {"pancreas_fine": "pancreas", "tumor_fine": "tumour"}
PROBABILITY, UNCERTAINTY = "probability", "uncertainty"
COLUMNS = ("candidate", "confidence", "volume_ml", "diameter_mm", "x_mm", "y_mm", "z_mm")


def saved_paths(folder: PredictionFolder, name: str, *, ensemble: bool = True) -> list[Path]:
    """Return the files that belong to a scan; those of an ensemble have its uncertainty, too."""
    kinds = (PROBABILITY, UNCERTAINTY) if ensemble else (PROBABILITY,)
    maps = [folder.map_path(name, target, kind) for target in SAVED.values() for kind in kinds]
    return [*maps, folder.candidates_path(name)]


def save_maps(
    folder: PredictionFolder,
    name: str,
    grid: Grid,
    found: Mapping[str, BoxProbability],
    candidates: Candidates,
    spacing: tuple[float, float, float],
    *,
    ensemble: bool,
) -> None:
    """Write the maps of a scan and the table of its candidates.

    Args:
        folder: Of the predictions.
        name: Of the scan in it.
        grid: Of the scan.
        found: The probabilities by the name of the stage; a map is 0 everywhere where a stage had nothing to look at.
        candidates: Within the box of tumour fine.
        spacing: Voxel spacing (z, y, x) of the prepared scan in mm.
        ensemble: Whether several networks decided, so that there is an uncertainty.

    Raises:
        InputError: If a file cannot be written.
    """
    for stage, target in SAVED.items():
        there = found.get(stage, NOWHERE)
        write_probability(folder.map_path(name, target, PROBABILITY), there.values, there.box, grid)
        if ensemble:
            # Within a box without opinions nothing was computed: all members found nothing to look at.
            spread = there.opinions.spread if there.opinions else np.zeros(there.box.shape, np.float32)
            write_probability(folder.map_path(name, target, UNCERTAINTY), spread, there.box, grid)
    start = found.get("tumor_fine", NOWHERE).box.start
    frame = grid.prepared_grid().frame
    steps = np.array(frame.direction).reshape(3, 3) * frame.spacing[::-1]
    rows: list[CaseRow] = []
    for number, candidate in enumerate(candidates.found, start=1):
        voxel = np.add(start, candidate.peak)[::-1]
        place = np.array(frame.origin) + steps @ voxel
        diameter = np.cbrt(6000 * candidate.volume_ml / np.pi)
        facts = (number, round(candidate.confidence, 4), round(candidate.volume_ml, 3), round(float(diameter), 1))
        rows.append(dict(zip(COLUMNS, (*facts, *(round(float(mm), 1) for mm in place)), strict=True)))
    write_case_table(folder.candidates_path(name), rows, COLUMNS)


def describe_disagreement(found: Mapping[str, BoxProbability]) -> tuple[CaseRow, tuple[str, ...]]:
    """Describe how far the members of an ensemble agree on a scan.

    Returns:
        The columns of the table of volumes, and a doubt for each target on which they disagree.
    """
    row: CaseRow = {}
    doubts: Sequence[str] = ()
    for stage, target in SAVED.items():
        if (opinions := found.get(stage, NOWHERE).opinions) is None:
            continue
        row[f"{target}_disagreement"] = round(opinions.disagreement, 3)
        if opinions.disagreement > DISAGREEMENT_LIMIT:
            dice = f"mean Dice of two of them {1 - opinions.disagreement:.2f}, expected {1 - DISAGREEMENT_LIMIT:.1f}"
            doubts = (*doubts, f"the networks of the ensemble disagree on the {target} ({dice})")
    return row, tuple(doubts)
