"""The two voxel grids of an evaluation.

A stage segments on the grid of the *prepared case*, and the next stage looks around its mask on the same grid. Masks
are therefore kept on it, as files of packed bits. The written predictions cannot replace them, because they have the
voxels of the scan: if the store was resampled to finer voxels, a mask that went through its prediction would come back
changed (with a Dice of about 0.95 to itself).

A mask is scored on the *scan's own voxels*, within the part of the scan that was prepared, against the label as it was
drawn. On the voxels of the store, a mask would not be charged for the detail that the store has lost.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.cases.case import Case
from data.cases.labels import target_mask
from data.common.errors import InputError
from data.common.files import ARCHIVE_ERRORS, replacing
from data.samples import MARGIN_MM
from data.scans.grid import resample_nearest
from data.splits.split import Split
from engine.metrics import case_metrics


class Reference(NamedTuple):
    """The reference of a case on the scan's own voxels, within the part of the scan that was prepared.

    Attributes:
        mask: uint8 mask of the target, shape (D, H, W).
        spacing: Spacing (z, y, x) of these voxels in mm.
    """

    mask: np.ndarray
    spacing: tuple[float, float, float]


def read_reference(case: Case, target: str) -> Reference:
    """Read the mask of the target ("pancreas", which includes the tumour, or "tumour") that a case is scored against.

    Raises:
        InputError: If the label is missing or damaged.
    """
    label = np.asarray(case.scan_label())
    was_resampled = label.shape != case.shape
    return Reference(target_mask(label, target), case.scan_spacing if was_resampled else case.spacing)


def score_prepared_mask(
    mask: np.ndarray, reference: Reference, margin_mm: tuple[float, float, float] = MARGIN_MM
) -> dict[str, float]:
    """Score a mask on the grid of the prepared case against the reference on the scan's own voxels.

    Args:
        mask: Boolean mask, shape (D, H, W) of the prepared case. If the case was resampled, its nearest voxels are
            taken, as in the written prediction.
        reference: The reference of the case.
        margin_mm: Margin (z, y, x) in mm of the next stage's region of interest.

    Returns:
        The metrics by name (``engine.metrics``).
    """
    return case_metrics(resample_nearest(mask, reference.mask.shape), reference.mask, reference.spacing, margin_mm)


def write_prepared_mask(path: Path, mask: np.ndarray) -> None:
    """Write a boolean mask, shape (D, H, W), as packed bits; the file at ``path`` is complete at all times."""
    with replacing(path) as unfinished:
        np.savez_compressed(unfinished, bits=np.packbits(mask), shape=np.array(mask.shape))


def read_prepared_mask(path: Path, shape: tuple[int, int, int], *, command: str) -> np.ndarray:
    """Read what ``write_prepared_mask`` wrote.

    Args:
        path: The file.
        shape: Shape (D, H, W) of the prepared case.
        command: The command that evaluates the case again.

    Returns:
        Boolean mask, shape (D, H, W).

    Raises:
        InputError: If the file is missing or damaged, or belongs to a case of another shape.
    """
    remedy = "run this evaluation again"
    try:
        with np.load(path) as archive:
            bits, stored_shape = archive["bits"], tuple(archive["shape"].tolist())
    except FileNotFoundError as error:
        raise InputError(path, "no such mask", remedy, command=command) from error
    except ARCHIVE_ERRORS as error:
        raise InputError(path, f"the mask is damaged ({error})", remedy, command=command) from error
    voxels = int(np.prod(shape))
    if stored_shape != shape or bits.shape != (-(-voxels // 8),):
        problem = f"holds a mask of shape {stored_shape}, expected {shape}"
        raise InputError(path, problem, remedy, command=command)
    return np.unpackbits(bits, count=voxels).astype(bool).reshape(shape)


def file_stem(split: Split, case: Case) -> str:
    """Return the name of a case's files; in a split with several test centres it includes the centre."""
    return case.name if case.centre == split.name else case.file_name


def mask_path(folder: Path, split: Split, case: Case) -> Path:
    """Return the file of a case's mask on the grid of the prepared case, in the folder of an evaluation."""
    return folder / "masks" / f"{file_stem(split, case)}.npz"


def prediction_path(folder: Path, split: Split, case: Case) -> Path:
    """Return the file of a case's mask on the grid of its scan, in the folder of an evaluation."""
    return folder / "predictions" / f"{file_stem(split, case)}.nii.gz"


def probability_path(folder: Path, split: Split, case: Case) -> Path:
    """Return the file of a case's probabilities on the grid of its scan, in the folder of an evaluation."""
    return folder / "probabilities" / f"{file_stem(split, case)}.nii.gz"


def scores_path(folder: Path, split: Split, case: Case) -> Path:
    """Return the file of what became of the probabilities of a case, in the folder of an evaluation."""
    return folder / "scores" / f"{file_stem(split, case)}.json"
