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
from data.scans.grid import Grid, volume_ml
from data.scans.hounsfield import find_hu_problem
from data.scans.volume import Volume
from data.sources.plausible import LARGEST_GLAND_ML
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
    def doubts(self) -> tuple[str, ...]:
        """Why the mask is not reliable; empty if nothing speaks against it."""
        disputed = find_disputed(self.result.probabilities)
        return (*self.scan.doubts, *find_doubts_of_size(self.pancreas_ml), *self.result.doubts, *disputed)


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
        doubts=find_doubts(volume.array),
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
    """Return a note if the segmented pancreas is far too large."""
    if pancreas_ml <= LARGEST_GLAND_ML:
        return ()
    return (f"{pancreas_ml:.0f} ml are too much for a pancreas, the model may not have been trained enough",)
