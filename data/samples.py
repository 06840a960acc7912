"""The boxes that a stage trains on and predicts in, and the torch Dataset that reads them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from data.cases.labels import target_mask
from data.cases.store import Case
from data.scans.boxes import Box, Index3D, bounding_box, central_box, enlarge, union

INFERENCE_MARGIN_MM = (12.5, 20.0, 20.0)  # 5 slices of 2.5 mm, 25 px of 0.8 mm
MULTIPLE = 8  # the network's input sides

Range = tuple[float, float]


@dataclass(frozen=True)
class Sampling:
    """Where a stage looks. Lengths are in mm, so that they mean the same whatever a centre's voxels are.

    target: what the mask holds, "pancreas" (with its tumour) or "tumour".
    roi: the box lies around the whole "scan", the "pancreas" or the "tumour".
    jitter_z_mm, jitter_plane_mm: range by which each face moves outwards in training.
    field_of_view_mm: for roi "scan", the central part that is read (z, y, x).
    halve_below_mm: voxels finer than this are read at half their resolution, per axis; 0 leaves them.
    max_voxels: a larger box is resampled to this many voxels.
    """

    target: str
    roi: str
    jitter_z_mm: Range = (0.0, 0.0)
    jitter_plane_mm: Range = (0.0, 0.0)
    field_of_view_mm: tuple[float, float, float] = (math.inf, 256.0, 294.0)
    halve_below_mm: float = 0.0
    max_voxels: int = 6_000_000


class NetworkGrid(NamedTuple):
    """The grid that a box is resampled to: it starts at the box's corner, its voxels are ``factor`` as large."""

    shape: Index3D  # multiples of 8
    factor: tuple[float, float, float]


class Sample(NamedTuple):
    """One box as read: image int16 HU and mask uint8, each (D, H, W); spacing (z, y, x) mm; the grid to go to."""

    key: str
    image: torch.Tensor
    mask: torch.Tensor
    spacing: tuple[float, float, float]
    grid: NetworkGrid


def scan_box(shape: Sequence[int], spacing: Sequence[float], sampling: Sampling, must_hold: Box | None = None) -> Box:
    """The central field of view of a scan; widened where ``must_hold`` (the reference, in training) needs it."""
    size = [math.ceil(min(n, mm / s)) for n, mm, s in zip(shape, sampling.field_of_view_mm, spacing, strict=True)]
    box = central_box(shape, size)
    return enlarge(union(box, must_hold) if must_hold else box, (0, 0, 0), (0, 0, 0), shape, 2 * MULTIPLE)


def margin_box(roi: Box, shape: Sequence[int], spacing: Sequence[float], margin_mm: Sequence[float]) -> Box:
    """``roi`` enlarged by a margin in mm (z, y, x) on every side, rounded outwards to 8, inside the scan."""
    margin = [mm / s for mm, s in zip(margin_mm, spacing, strict=True)]
    return enlarge(roi, margin, margin, shape, MULTIPLE)


def mask_box(mask: np.ndarray, spacing: Sequence[float]) -> Box | None:
    """The box in which the next stage looks, around this stage's mask (D, H, W); None for an empty mask."""
    roi = bounding_box(mask)
    return None if roi is None else margin_box(roi, mask.shape, spacing, INFERENCE_MARGIN_MM)


def reference_box(case: Case, sampling: Sampling, rng: np.random.Generator | None) -> Box:
    """The box of a case: jittered by ``rng`` in training, with the margin of inference where it is None."""
    if sampling.roi == "scan":
        return scan_box(case.shape, case.spacing, sampling, case.pancreas_box)
    roi = case.tumour_box if sampling.roi == "tumour" else case.pancreas_box
    if rng is None:
        return margin_box(roi, case.shape, case.spacing, INFERENCE_MARGIN_MM)
    ranges = (sampling.jitter_z_mm, sampling.jitter_plane_mm, sampling.jitter_plane_mm)
    low, high = ([rng.uniform(*r) / s for r, s in zip(ranges, case.spacing, strict=True)] for _ in range(2))
    return enlarge(roi, low, high, case.shape, MULTIPLE)


def network_grid(shape: Sequence[int], spacing: Sequence[float], sampling: Sampling) -> NetworkGrid:
    """The grid on which the network sees a box of ``shape``: halved where fine, at most ``max_voxels``."""
    factor = [2.0 if s < sampling.halve_below_mm else 1.0 for s in spacing]
    voxels = math.prod(n / f for n, f in zip(shape, factor, strict=True))
    shrink = max(1.0, (voxels / sampling.max_voxels) ** (1 / 3))
    factor = tuple(f * shrink for f in factor)
    sides = tuple(math.ceil(round(n / f, 6) / MULTIPLE) * MULTIPLE for n, f in zip(shape, factor, strict=True))
    return NetworkGrid(sides, factor)


def network_spacing(spacing: Sequence[float], sampling: Sampling) -> tuple[float, ...]:
    """Size (z, y, x) in mm of the voxels that the network sees of a scan, in boxes that need no further shrinking."""
    return tuple(s * f for s, f in zip(spacing, network_grid((1, 1, 1), spacing, sampling).factor, strict=True))


def spacing_range(cases: Sequence[Case], sampling: Sampling) -> list[list[float]]:
    """The finest and the coarsest ``network_spacing`` of the cases, axis by axis."""
    axes = list(zip(*(network_spacing(case.spacing, sampling) for case in cases), strict=True))
    return [list(map(min, axes)), list(map(max, axes))]


def read_sample(case: Case, box: Box, sampling: Sampling) -> Sample:
    """Read one box from disk; nothing else of the scan is touched."""
    image = torch.from_numpy(np.array(case.image()[box.slices]))
    mask = torch.from_numpy(target_mask(case.label()[box.slices], sampling.target))
    return Sample(case.key, image, mask, case.spacing, network_grid(box.shape, case.spacing, sampling))


class BoxDataset(Dataset):
    """The boxes of a stage. An item is named by (epoch, index), from which alone its jitter is drawn.

    So the order of the loader's workers changes nothing, and a resumed run sees what it would have seen.

    Args:
        cases: those that hold the stage's target.
        seed: of the jitter; None reads every box with the margin of inference.
    """

    def __init__(self, cases: Sequence[Case], sampling: Sampling, seed: int | None):
        self.cases, self.sampling, self.seed = list(cases), sampling, seed

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, index = item
        rng = None if self.seed is None else np.random.default_rng([self.seed, epoch, index])
        case = self.cases[index]
        return read_sample(case, reference_box(case, self.sampling, rng), self.sampling)
