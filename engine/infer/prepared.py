"""A scan that has been read becomes labels: it is prepared like the training cases, and segmented by the cascade.

Both ``predict.py`` (``engine.infer.scan``) and the library (``pancreas_dual_task.api``) take these two steps.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.cases.labels import TUMOUR
from data.cases.resample import apply_preparation
from data.common.memory import require_memory
from data.scans.boxes import Box, bounding_box, triple
from data.scans.grid import Grid, volume_ml
from data.scans.hounsfield import find_hu_problem
from data.scans.volume import Volume
from data.sources.plausible import LARGEST_GLAND_ML, SHORTEST_SCAN_MM, SMALLEST_GLAND_ML, name_touched_ends
from engine.infer.cascade import CascadeResult, segment_scan
from engine.infer.dicom_seg import Source
from engine.infer.maps import SAVED, find_disputed
from engine.infer.models import StageModel

WORK_BYTES = 4  # per voxel of a scan, for masks of three stages, the label and its copy while it is written


class PreparedScan(NamedTuple):
    """A scan that has been read.

    Attributes:
        image: int16 HU, prepared like the training cases of the models, shape (D, H, W).
        spacing: Voxel spacing (z, y, x) of the image in mm.
        grid: Where the image lies in the scan.
        voxels: Number of voxels of the scan itself.
        doubts: Why its mask will not be reliable.
        notes: What a reader of the mask should know.
        source: What a DICOM segmentation refers to; None if none is to be written.
    """

    image: np.ndarray
    spacing: tuple[float, float, float]
    grid: Grid
    voxels: int
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    source: Source | None = None


class SegmentedScan(NamedTuple):
    """A scan that has been segmented.

    Attributes:
        scan: The scan.
        result: What the cascade made of it.
    """

    scan: PreparedScan
    result: CascadeResult

    @property
    def pancreas_ml(self) -> float:
        """Volume of the pancreas with its tumours, in ml."""
        return volume_ml(self.result.label > 0, self.scan.spacing)

    @property
    def tumour_ml(self) -> float:
        """Volume of the tumours in ml."""
        return volume_ml(self.result.label == TUMOUR, self.scan.spacing)

    @property
    def shows_pancreas(self) -> bool:
        """Whether a pancreas of plausible size was found."""
        return self.pancreas_ml > 0 and not find_doubts_of_size(self.pancreas_ml)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the mask is not reliable; empty if nothing speaks against it."""
        size, place = find_doubts_of_size(self.pancreas_ml), find_doubts_of_place(self.result.label, self.scan.grid)
        disputed = find_disputed(self.result.probabilities)
        return (*self.scan.doubts, *size, *place, *self.result.doubts, *disputed)


def prepare_scan(models: Mapping[str, StageModel], volume: Volume, path: Path | None = None) -> PreparedScan:
    """Prepare a scan like the training cases of the models.

    Args:
        models: The models by the name of their stage, in the order of the cascade.
        volume: The scan in HU.
        path: File or folder of the scan; None if it comes from neither.

    Raises:
        InputError: If the memory does not suffice.
    """
    require_memory(path or "the image", WORK_BYTES * volume.array.size)
    preparation = next(iter(models.values())).preparation
    image, spacing, part = apply_preparation(volume.array, volume.spacing, preparation)
    return PreparedScan(
        image=image,
        spacing=spacing,
        grid=replace(volume.grid, part=part),
        voxels=volume.array.size,
        doubts=(*find_doubts(volume.array), *find_doubts_of_length(volume.grid), *find_doubts_of_training(models)),
        notes=volume.notes if path and path.is_dir() else (),  # others concern the header of a file only
    )


def segment_prepared(
    models: Mapping[str, StageModel], scan: PreparedScan, *, keep: Collection[str] = ()
) -> SegmentedScan:
    """Segment a scan; an ensemble also keeps what tells how far its members agree.

    Args:
        models: As for ``prepare_scan``.
        scan: Prepared for these models.
        keep: As for ``engine.infer.cascade.segment_scan``.
    """
    kept = SAVED if is_ensemble(models) else keep
    return SegmentedScan(scan, segment_scan(models, scan.image, scan.spacing, keep=kept))


def is_ensemble(models: Mapping[str, StageModel]) -> bool:
    """Return whether several networks decide together."""
    return any(model.members for model in models.values())


def find_doubts(scan: np.ndarray) -> tuple[str, ...]:
    """Return a note if the values of a scan do not look like HU."""
    problem = find_hu_problem(scan)
    return (": ".join(problem),) if problem else ()


def find_doubts_of_size(pancreas_ml: float) -> tuple[str, ...]:
    """Return a note if the segmented pancreas is far too large or too small; that there is none says the cascade."""
    if pancreas_ml > LARGEST_GLAND_ML:
        return (f"{pancreas_ml:.0f} ml are too much for a pancreas, the model may not have been trained enough",)
    if 0 < pancreas_ml < SMALLEST_GLAND_ML:
        return (f"{pancreas_ml:.2g} ml are too little for a pancreas, it may have been missed or lie outside the scan",)
    return ()


def find_doubts_of_place(label: np.ndarray, grid: Grid) -> tuple[str, ...]:
    """Return a note if the segmented pancreas reaches an end of the scan.

    Args:
        label: Labels 0/1/2 of the prepared image, shape (D, H, W).
        grid: Where it lies in the scan. The end of a crop is not that of the scan.
    """
    box = bounding_box(label)
    if box is None:
        return ()
    start, stop = (grid.part.start, grid.part.stop) if grid.part else ((0, 0, 0), grid.lps_shape)
    # In voxels of the label; beyond it where it is a crop, however far.
    first = triple(0 if voxel == 0 else -1 for voxel in start)
    last = triple(n if b == size else n + 1 for n, b, size in zip(label.shape, stop, grid.lps_shape, strict=True))
    where = name_touched_ends(box, Box(first, last))
    return (f"the pancreas found touches the {where} end of the scan, a part of it may be missing",) if where else ()


def find_doubts_of_length(grid: Grid) -> tuple[str, ...]:
    """Return a note if a scan is too short to show a whole pancreas."""
    length_mm = grid.frame.shape[0] * grid.frame.spacing[0]
    if length_mm >= SHORTEST_SCAN_MM:
        return ()
    least = f"{SHORTEST_SCAN_MM:.0f} mm or more"
    return (f"the scan is {length_mm:.0f} mm long, too short for a whole pancreas, which nearly always spans {least}",)


def find_doubts_of_training(models: Mapping[str, StageModel]) -> tuple[str, ...]:
    """Return a note if models were trained on synthetic scans only."""
    synthetic = [model.stage.title for model in models.values() if model.only_synthetic]
    if not synthetic:
        return ()
    which = f" in {', '.join(synthetic)}" if len(synthetic) < len(models) else ""
    return (f"the model was trained on synthetic scans only{which}, do not rely on it for real scans",)
