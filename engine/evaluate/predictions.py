"""A folder of masks that any program has written, as predictions of prepared cases.

A mask is found by the name of its case and checked against the grid of its scan. What its voxels mean is said by the
user or follows from the values in the files; it is never guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.cases.case import Case
from data.cases.labels import PANCREAS, TUMOUR, codes_in
from data.common.errors import InputError
from data.scans.bytes import REFUSED_SUFFIXES, refused_suffix
from data.scans.volume import Volume, place_label, read_label
from data.sources.base import case_name

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

    def name_of(self, file_name: str) -> str:
        """Return what ``names`` gives for the case of a file: its name, without suffix unless there is a pattern."""
        return file_name if self.pattern else case_name(file_name)

    def names(self, case: Case) -> tuple[str, ...]:
        """Return the names that a prediction of a case may have, without suffix unless there is a pattern."""
        if self.pattern:
            return (self.pattern.replace("{case}", case.name).replace("{export}", case.file_name),)
        return tuple(dict.fromkeys((case.name, case.file_name)))

    def expected_names(self, case: Case) -> str:
        """Return the names that a prediction of a case may have, for messages."""
        return " or ".join(name if self.pattern else f"{name}.nii.gz" for name in self.names(case))

    def find_file(self, case: Case) -> Path:
        """Return the file that holds the prediction of a case.

        Raises:
            InputError: If there is none, or more than one.
        """
        names = self.names(case)
        found = sorted(path for path in self.folder.iterdir() if self.name_of(path.name) in names and path.is_file())
        for path in self.folder.iterdir() if not found else ():
            if (suffix := refused_suffix(path.name)) and path.name[: -len(suffix)] in names:
                raise InputError(path, *REFUSED_SUFFIXES[suffix])
        if not found:
            problem = f"no prediction of {case.key} ({self.expected_names(case)})"
            raise InputError(self.folder, problem, "add the file, or describe the file names with --pattern")
        if len(found) > 1:
            raise InputError(found[0], f"{found[1].name} is a prediction of the same case", "keep one of them")
        return found[0]

    def read(self, case: Case) -> Volume:
        """Read the prediction of a case.

        It may cover a part of the scan's voxels; then it is put in its place (``data.scans.volume.place_label``).

        Returns:
            The prediction on the grid of the whole scan or, if it has that grid, on that of the prepared case.

        Raises:
            InputError: If the file is missing or damaged, or is neither on the grid of the scan nor on that of the
                prepared case, which ``data.export`` writes.
        """
        path = self.find_file(case)
        volume = read_label(path)
        if placed := place_label(path, volume, case.grid):
            return placed
        as_prepared = volume.array.shape == case.grid.prepared_shape
        if as_prepared and (placed := place_label(path, volume, case.grid.prepared_grid())):
            return placed
        problem = (
            f"not on its scan's grid: prediction {volume.describe()}, scan {case.grid.frame.describe()} as in "
            f"{case.source.get('image', 'the store')}; {volume.frame.describe_offset(case.grid.frame)}"
        )
        raise InputError(path, problem, "write it on the grid of the scan")

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
        return PredictedMask(mask, volume.frame == case.grid.frame)

    def read_prepared_mask(self, case: Case) -> np.ndarray:
        """Read the predicted mask of the target on the grid of the prepared case: boolean, shape (D, H, W).

        Raises:
            InputError: As ``read_mask``.
        """
        predicted = self.read_mask(case)
        return case.grid.to_prepared(predicted.mask) if predicted.on_scan_grid else predicted.mask


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
