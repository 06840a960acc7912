"""The cascade as a Python library: load the trained stages once, then segment scan after scan.

Everything is computed by the modules behind ``predict``, so that the masks and volumes are the same.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.common.errors import InputError
from data.scans.grid import Grid
from data.scans.volume import from_image, read_image, write_image, write_mask
from data.splits.split import NONE_HELD_OUT
from engine.infer.loading import ModelChoice, find_complete_splits, load_models
from engine.infer.maps import LAST, find_confidences
from engine.infer.members import Share
from engine.infer.models import StageModel
from engine.infer.prepared import SegmentedScan, prepare_scan, segment_prepared


@dataclass(frozen=True)
class Segmentation:
    """The pancreas and its tumours in a scan.

    Attributes:
        mask: uint8 labels (0 background, 1 pancreas, 2 tumour) on the voxels of the scan, shape (z, y, x) as that of
            ``SimpleITK.GetArrayFromImage``.
        spacing: Voxel spacing (z, y, x) in mm, along the axes of ``mask``.
        grid: Where the voxels of the scan lie in space.
        pancreas_ml: Volume of the pancreas with its tumours, in ml.
        tumour_ml: Volume of the tumours in ml.
        doubts: Why the mask is not reliable; empty if nothing speaks against it.
        notes: What else a reader of the mask should know.
    """

    mask: np.ndarray
    spacing: tuple[float, float, float]
    grid: Grid
    pancreas_ml: float
    tumour_ml: float
    doubts: tuple[str, ...]
    notes: tuple[str, ...]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as a file on the voxels of the scan (.nii.gz, .nii, .nrrd or .mha).

        Raises:
            InputError: If the file cannot be written.
        """
        write_mask(Path(path), self.grid.to_lps(self.mask), self.grid)


@dataclass(frozen=True)
class Detection(Segmentation):
    """A segmentation with the likelihood of a tumour; likelihoods are not calibrated.

    They are the confidences of lesion candidates (``engine.infer.candidates``), which are listed, too, where the mask
    holds no tumour.

    Attributes:
        likelihoods: float32 on the voxels of the scan, shape as that of ``mask``: in each candidate its confidence,
            from 0 to 1, and 0 elsewhere.
        likelihood: The tumour score of the scan: the highest confidence, and 0 without any candidate.
    """

    likelihoods: np.ndarray
    likelihood: float

    def save_likelihoods(self, path: str | os.PathLike[str]) -> None:
        """Write the likelihoods as a file on the voxels of the scan.

        Raises:
            InputError: If the file cannot be written.
        """
        write_image(Path(path), self.grid.to_lps(self.likelihoods), self.grid)


@dataclass(frozen=True)
class Cascade:
    """The four trained stages, ready to segment; ``load_cascade`` makes it.

    Attributes:
        models: The models by the name of their stage, in the order of the cascade.
    """

    models: Mapping[str, StageModel]

    def segment(self, scan: str | os.PathLike[str] | sitk.Image, *, series: str = "") -> Segmentation:
        """Segment the pancreas and its tumours in a scan.

        Args:
            scan: A file (NIfTI, NRRD or MetaImage), a folder of DICOM slices, or an image in HU.
            series: Which series of a DICOM folder: its number, a part of its description, or the end of its UID; empty
                for the only one.

        Raises:
            InputError: If the scan cannot be used, or the memory does not suffice.
            OSError: If the file cannot be read.
        """
        return Segmentation(**_describe(self._segment(scan, series)))

    def detect(self, scan: str | os.PathLike[str] | sitk.Image, *, series: str = "") -> Detection:
        """Segment a scan as ``segment`` does, and find its lesion candidates with their likelihoods.

        Args:
            scan: As in ``segment``.
            series: As in ``segment``.

        Raises:
            InputError: As in ``segment``.
            OSError: As in ``segment``.
        """
        segmented = self._segment(scan, series, keep=(LAST,))
        likelihoods = segmented.scan.grid.to_file(find_confidences(segmented.result))
        return Detection(**_describe(segmented), likelihoods=likelihoods, likelihood=segmented.result.candidates.score)

    def _segment(
        self, scan: str | os.PathLike[str] | sitk.Image, series: str, keep: Collection[str] = ()
    ) -> SegmentedScan:
        if isinstance(scan, sitk.Image):
            prepared = prepare_scan(self.models, from_image(scan))
        else:
            prepared = prepare_scan(self.models, read_image(Path(scan), series), Path(scan))
        return segment_prepared(self.models, prepared, keep=keep)


def load_cascade(
    path: str | os.PathLike[str] = "checkpoints",
    *,
    split: str | None = None,
    device: str = "auto",
    until: str | None = None,
    ensemble: Mapping[str, int] | None = None,
    average: bool = False,
    fast: bool = False,
) -> Cascade:
    """Load the trained models of the four stages: the newest runs, or those of a model file.

    Args:
        path: Folder of the runs, or a model file, with which ``split``, ``until`` and ``ensemble`` cannot be given.
        split: Name of the split that they were trained on: the centre that was held out, or "none" for models that were
            trained on all centres. None for the only split of which all four stages are trained.
        device: "auto" for a GPU if there is one, the number of a GPU, or "cpu".
        until: Only runs that were started at this time (YYYY_MM_DD_HH_MM_SS) or before.
        ensemble: In place of ``split``, for models that decide together: how many of the newest runs of each split,
            such as {"north": 1, "south": 1}, or {"none": 3} for three seeds.
        average: Whether to average the probabilities of the two tasks, where a stage has both.
        fast: Whether to compute every box once, instead of averaging over the flips of the training.

    Raises:
        InputError: If a stage has no usable model, several splits could be meant, or there is no such device.
    """
    runs = Path(path)
    if not runs.exists():
        raise InputError(runs, "no such file or folder", "give the folder of the trained models, or a model file")
    if runs.is_file() and (split or until or ensemble):
        problem = "a model file, so that there are no runs to choose among"
        raise InputError(runs, problem, "leave out split, until and ensemble, or give the folder of the runs")
    if ensemble and split:
        raise InputError(runs, "an ensemble takes the place of split", "leave out split, or ensemble")
    choice = ModelChoice(until=until, average=average, fast=fast, gpu=device)
    if runs.is_file():
        return Cascade(load_models(replace(choice, file=runs)))
    shares = tuple(Share(name, count) for name, count in (ensemble or {}).items())
    choice = replace(choice, path=runs, ensemble=shares)
    return Cascade(load_models(choice if shares else replace(choice, split=split or _only_split(runs))))


def _only_split(runs: Path) -> str:
    """Return the only split of which all stages are trained; that of all centres if there is none, to be missed."""
    complete = find_complete_splits(runs)
    if len(complete) > 1:
        raise InputError(runs, f"holds the models of several splits ({', '.join(complete)})", "name one of them")
    return complete[0] if complete else NONE_HELD_OUT


def _describe(segmented: SegmentedScan) -> dict:
    """Return the fields of a ``Segmentation``."""
    scan, result = segmented
    z, y, x = reversed(scan.grid.spacing)
    return {
        "mask": scan.grid.to_file(result.label),
        "spacing": (z, y, x),
        "grid": replace(scan.grid, part=None),
        "pancreas_ml": segmented.pancreas_ml,
        "tumour_ml": segmented.tumour_ml,
        "doubts": segmented.doubts,
        "notes": (*result.notes, *scan.notes),
    }
