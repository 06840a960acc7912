"""What becomes of the probabilities of a scan: maps, a table of candidates, and where an ensemble disagrees."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data.common.memory import zeros
from data.scans.grid import Grid, ball_diameter
from data.scans.probability import write_probability
from engine.infer.cascade import CascadeResult
from engine.infer.ensemble import DISAGREEMENT_LIMIT, NOWHERE, BoxProbability
from engine.infer.volumes import PredictionFolder
from engine.report.tables import CaseRow, write_case_table

LAST = "tumor_fine"  # in its box lie the candidates
# The stages whose probabilities are saved: the last one of each target.
SAVED = {"pancreas_fine": "pancreas", LAST: "tumour"}
PROBABILITY, UNCERTAINTY = "probability", "uncertainty"
HIGHEST = {PROBABILITY: 1.0, UNCERTAINTY: 0.5}  # no standard deviation of values in [0, 1] is larger
MEANING = {
    PROBABILITY: "",
    UNCERTAINTY: "how far the networks disagree (0.5: half say no, half say yes)",
}
COLUMNS = ("candidate", "confidence", "volume_ml", "diameter_mm", "x_mm", "y_mm", "z_mm")


def saved_paths(folder: PredictionFolder, name: str, *, ensemble: bool = True) -> list[Path]:
    """Return the files that belong to a scan; those of an ensemble have its uncertainty, too."""
    kinds = (PROBABILITY, UNCERTAINTY) if ensemble else (PROBABILITY,)
    maps = [folder.map_path(name, target, kind) for target in SAVED.values() for kind in kinds]
    return [*maps, folder.candidates_path(name)]


def save_maps(
    folder: PredictionFolder,
    name: str,
    result: CascadeResult,
    *,
    grid: Grid,
    ensemble: bool,
) -> None:
    """Write the maps of a scan and the table of its candidates.

    Args:
        folder: Of the predictions.
        name: Of the scan in it.
        result: Of the cascade, with the probabilities of ``SAVED``; a map is 0 everywhere where a stage had nothing to
            look at.
        grid: Of the scan.
        ensemble: Whether several networks decided, so that there is an uncertainty.

    Raises:
        InputError: If a file cannot be written.
    """
    for stage, target in SAVED.items():
        there = result.probabilities.get(stage, NOWHERE)
        write_probability(folder.map_path(name, target, PROBABILITY), there.values, there.box, grid)
        if ensemble:
            # Within a box without opinions nothing was computed: all members found nothing to look at.
            spread = there.opinions.spread if there.opinions else np.zeros(there.box.shape, np.float32)
            write_probability(folder.map_path(name, target, UNCERTAINTY), spread, there.box, grid)
    start = result.probabilities.get(LAST, NOWHERE).box.start
    frame = grid.prepared_grid().frame
    steps = np.array(frame.direction).reshape(3, 3) * frame.spacing[::-1]
    rows: list[CaseRow] = []
    for number, candidate in enumerate(result.candidates.found, start=1):
        voxel = np.add(start, candidate.peak)[::-1]
        place = np.array(frame.origin) + steps @ voxel
        diameter = ball_diameter(candidate.volume_ml)
        facts = (number, round(candidate.confidence, 4), round(candidate.volume_ml, 3), round(float(diameter), 1))
        rows.append(dict(zip(COLUMNS, (*facts, *(round(float(mm), 1) for mm in place)), strict=True)))
    write_case_table(folder.candidates_path(name), rows, COLUMNS)


def find_confidences(result: CascadeResult) -> np.ndarray:
    """Return the confidence of each lesion candidate in its voxels, and 0 elsewhere: float32, shape of the scan.

    Args:
        result: Of the cascade, with the probabilities of tumour fine.
    """
    whole = zeros(result.label.shape, np.float32)
    confidences = np.array([0.0, *(candidate.confidence for candidate in result.candidates.found)], np.float32)
    whole[result.probabilities.get(LAST, NOWHERE).box.slices] = confidences[result.candidates.numbers]
    return whole


def measure_disagreement(found: Mapping[str, BoxProbability]) -> dict[str, float]:
    """Return by target how far the members of an ensemble disagree on a scan; nothing for single networks.

    Args:
        found: The probabilities of ``SAVED`` by the name of the stage.
    """
    opinions = {target: found.get(stage, NOWHERE).opinions for stage, target in SAVED.items()}
    return {target: opinion.disagreement for target, opinion in opinions.items() if opinion is not None}


def find_disputed(found: Mapping[str, BoxProbability]) -> tuple[str, ...]:
    """Return a doubt for each target on which the members of an ensemble disagree.

    Args:
        found: As in ``measure_disagreement``.
    """
    return tuple(
        f"the networks of the ensemble disagree on the {target} (mean Dice of two of them {1 - disagreement:.2f}, "
        f"expected {1 - DISAGREEMENT_LIMIT:.1f})"
        for target, disagreement in measure_disagreement(found).items()
        if disagreement > DISAGREEMENT_LIMIT
    )
