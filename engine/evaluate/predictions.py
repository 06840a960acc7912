"""A folder of masks that anybody made, as predictions of prepared cases: found by name, placed by grid, not guessed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.cases.labels import PANCREAS, TUMOUR, codes_in
from data.cases.store import Case
from data.common.errors import InputError
from data.scans.grid import Grid
from data.scans.volume import SAME_GRID_MM, WRITTEN_SUFFIXES, Volume, read_label

LABELS, MASK = "labels", "mask"


@dataclass(frozen=True)
class Predictions:
    """A folder of predictions. ``values`` says what its voxels mean: "labels" 0/1/2, or a "mask" of the target."""

    folder: Path
    pattern: str | None
    target: str
    values: str

    def path(self, case: Case) -> Path:
        """The file of a case. Raises InputError where there is none, or more than one."""
        found = [path for path in self.candidates(case) if path.is_file()]
        if not found:
            looked_for = self.named(case)
            raise InputError(f"{self.folder}: no prediction of {case.key} ({looked_for}); add it, or say --pattern")
        if len(found) > 1:
            raise InputError(f"{found[0]}: {found[1].name} is a prediction of the same case; keep one of them")
        return found[0]

    def candidates(self, case: Case) -> list[Path]:
        """The files that would be taken for a prediction of a case."""
        if self.pattern:
            named = self.pattern.replace("{case}", case.name).replace("{export}", case.file_name)
            return [self.folder / named]
        return [self.folder / f"{name}{suffix}" for name in (case.name, case.file_name) for suffix in WRITTEN_SUFFIXES]

    def named(self, case: Case) -> str:
        """What a prediction of a case may be called, for messages."""
        candidates = self.candidates(case)
        return " or ".join(dict.fromkeys(path.name for path in candidates[:: len(WRITTEN_SUFFIXES)]))

    def read(self, case: Case) -> Volume:
        """The prediction of a case. Raises InputError where it lies neither on the scan's grid nor on the export's."""
        path, scan = self.path(case), case.grid
        predicted = read_label(path)
        if not any(same_grid(predicted, grid) for grid in (scan, scan.prepared_grid())):
            shape = "x".join(map(str, scan.size))
            where = (
                f"prediction {predicted.describe()}, scan {shape} voxels as in {case.source.get('image', 'the store')}"
            )
            raise InputError(f"{path}: not on its scan's grid: {where}; write it on the grid of the scan")
        return predicted

    def mask(self, case: Case) -> tuple[np.ndarray, bool]:
        """Where a case's target was predicted (bool, (D, H, W), LPS), and whether that is on the scan's own grid."""
        predicted = self.read(case)
        codes = predicted.array
        present = codes_in(codes).tolist()
        wrong = len(set(present) - {0}) > 1 if self.values == MASK else bool(set(present) - {0, PANCREAS, TUMOUR})
        if wrong:
            remedy = f"give labels 0/1/2 (--values {LABELS}) or masks of a single value (--values {MASK})"
            raise InputError(f"{self.path(case)}: has the values {', '.join(map(str, present))}; {remedy}")
        mask = codes > 0 if self.values == MASK or self.target == "pancreas" else codes == TUMOUR
        return mask, same_grid(predicted, case.grid)

    def prepared(self, case: Case) -> np.ndarray:
        """The same on the grid of the prepared case."""
        mask, scanned = self.mask(case)
        return case.grid.to_prepared(mask) if scanned else mask


def same_grid(volume: Volume, grid: Grid) -> bool:
    """Whether each voxel of ``volume`` lies where the whole ``grid`` has one, to 1e-3 mm."""
    like = Volume(np.broadcast_to(np.uint8(0), grid.lps_shape), *grid.lps_frame(), grid)
    return volume.array.shape == grid.lps_shape and np.abs(volume.corners() - like.corners()).max() <= SAME_GRID_MM


def settle_values(predictions: Predictions, cases: Sequence[Case]) -> str:
    """What the voxels mean where the command line does not say: as the first file that tells has them, not guessed.

    Raises InputError where no file tells a mask of the tumour from labels without any tumour.
    """
    ones = False
    for case in cases:
        try:
            present = set(codes_in(predictions.read(case).array).tolist()) - {0}
        except InputError:
            continue  # its own row will say so
        if len(present) == 1 and max(present) > TUMOUR:
            return MASK
        if TUMOUR in present or (present and predictions.target == "pancreas"):
            return LABELS  # a mask of ones reads the same for the pancreas
        ones |= PANCREAS in present
    if ones:
        ask = f"say --values {MASK} if they are masks of the tumour, --values {LABELS} if no tumour was found"
        raise InputError(f"{predictions.folder}: holds 0 and 1 alone, tumour or pancreas? {ask}")
    return LABELS
