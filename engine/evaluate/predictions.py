"""A folder of masks that any program has written, as predictions of prepared cases.

A mask is found by the name of its case and checked against the grid of its scan. What its voxels mean is said by the
user or follows from the values in the files; it is never guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.cases.labels import PANCREAS, TUMOUR, codes_in
from data.cases.store import Case
from data.common.errors import InputError
from data.scans.grid import Grid
from data.scans.volume import SAME_GRID_MM, WRITTEN_SUFFIXES, Volume, read_label

LABELS, MASK = "labels", "mask"


class PredictedMask(NamedTuple):
    """The predicted mask of a case.

    Attributes:
        mask: Boolean mask of the target in LPS.
        on_scan_grid: Whether it has the voxels of the whole scan; otherwise it has those of the prepared case.
    """

    mask: np.ndarray
    on_scan_grid: bool


@dataclass(frozen=True)
class Predictions:
    """A folder of predictions.

    Attributes:
        folder: The folder.
        pattern: File name with ``{case}`` or ``{export}`` in it; None to find a file by either name in any format.
        target: What is scored, "pancreas" or "tumour".
        values: What the voxels mean: "labels" 0/1/2, or a "mask" of the target.
    """

    folder: Path
    pattern: str | None
    target: str
    values: str

    def candidate_paths(self, case: Case) -> list[Path]:
        """Return the files that would be used as the prediction of a case."""
        if self.pattern:
            name = self.pattern.replace("{case}", case.name).replace("{export}", case.file_name)
            return [self.folder / name]
        return [self.folder / f"{name}{suffix}" for name in (case.name, case.file_name) for suffix in WRITTEN_SUFFIXES]

    def expected_names(self, case: Case) -> str:
        """Return the names that a prediction of a case may have, for messages."""
        return " or ".join(dict.fromkeys(path.name for path in self.candidate_paths(case)[:: len(WRITTEN_SUFFIXES)]))

    def find_file(self, case: Case) -> Path:
        """Return the file that holds the prediction of a case.

        Raises:
            InputError: If there is none, or more than one.
        """
        found = [path for path in self.candidate_paths(case) if path.is_file()]
        if not found:
            problem = f"no prediction of {case.key} ({self.expected_names(case)})"
            raise InputError(self.folder, problem, "add the file, or describe the file names with --pattern")
        if len(found) > 1:
            raise InputError(found[0], f"{found[1].name} is a prediction of the same case", "keep one of them")
        return found[0]

    def read(self, case: Case) -> Volume:
        """Read the prediction of a case.

        Raises:
            InputError: If the file is missing or damaged, or is neither on the grid of the scan nor on that of the
                prepared case, which ``data.export`` writes.
        """
        path, grid = self.find_file(case), case.grid
        volume = read_label(path)
        if not any(lies_on(grid, volume) for grid in (grid, grid.prepared_grid())):
            size, image = "x".join(map(str, grid.size)), case.source.get("image", "the store")
            problem = f"not on its scan's grid: prediction {volume.describe()}, scan {size} voxels as in {image}"
            raise InputError(path, problem, "write it on the grid of the scan")
        return volume

    def read_mask(self, case: Case) -> PredictedMask:
        """Read the predicted mask of the target.

        Raises:
            InputError: If the file cannot be read, or holds other values than those that it should.
        """
        volume = self.read(case)
        codes = volume.array
        present = codes_in(codes).tolist()
        is_valid = len({*present} - {0}) <= 1 if self.values == MASK else {*present} <= {0, PANCREAS, TUMOUR}
        if not is_valid:
            remedy = f"give labels 0/1/2 (--values {LABELS}) or masks of a single value (--values {MASK})"
            raise InputError(self.find_file(case), f"has the values {', '.join(map(str, present))}", remedy)
        mask = codes > 0 if self.values == MASK or self.target == "pancreas" else codes == TUMOUR
        return PredictedMask(mask, lies_on(case.grid, volume))

    def read_prepared_mask(self, case: Case) -> np.ndarray:
        """Read the predicted mask of the target on the grid of the prepared case: boolean, shape (D, H, W).

        Raises:
            InputError: As ``read_mask``.
        """
        predicted = self.read_mask(case)
        return case.grid.to_prepared(predicted.mask) if predicted.on_scan_grid else predicted.mask


def lies_on(grid: Grid, volume: Volume) -> bool:
    """Return whether a volume has the voxels of a whole grid, to 1e-3 mm."""
    expected = Volume(np.broadcast_to(np.uint8(0), grid.lps_shape), *grid.lps_frame(), grid)
    if volume.array.shape != grid.lps_shape:
        return False
    return bool(np.abs(volume.corners() - expected.corners()).max() <= SAME_GRID_MM)


def infer_values(predictions: Predictions, cases: Sequence[Case]) -> str:
    """Infer what the voxels mean from the first file that leaves no doubt: LABELS or MASK.

    Files that cannot be read are skipped; they are reported when they are scored.

    Raises:
        InputError: If no file distinguishes masks of the tumour from labels of cases without a tumour.
    """
    has_ones = False
    for case in cases:
        try:
            present = set(codes_in(predictions.read(case).array).tolist()) - {0}
        except InputError:
            continue
        if len(present) == 1 and max(present) > TUMOUR:
            return MASK
        if TUMOUR in present or (present and predictions.target == "pancreas"):
            return LABELS  # for the pancreas, a mask of ones is read like labels
        has_ones |= PANCREAS in present
    if has_ones:
        problem = "the files hold only 0 and 1, which can mean the tumour or the pancreas"
        remedy = f"add --values {MASK} if they are masks of the tumour, --values {LABELS} if no tumour was found"
        raise InputError(predictions.folder, problem, remedy)
    return LABELS
