"""The boxes that a stage trains on and predicts in, and the torch Dataset that reads them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from data.cases.case import Case
from data.cases.labels import HU_WINDOW, TARGETS, target_mask
from data.scans.boxes import Box, Index3D, bounding_box, central_box, enlarge, union

MULTIPLE = 8  # the sides of the network's input are multiples of this
MARGIN_MM = (12.5, 20.0, 20.0)  # 5 slices of 2.5 mm and 25 pixels of 0.8 mm, as published


@dataclass(frozen=True)
class Sampling:
    """What a stage sees of a scan: in which box, on which grid, in which window of grey values.

    All lengths are in mm, so that they mean the same whatever the voxels of a centre are. A checkpoint keeps the
    sampling that its network was trained with.
    """

    target: str = field(metadata={"help": 'what the mask holds: "pancreas" (with its tumour) or "tumour"'})
    roi: str = field(metadata={"help": 'what the box encloses: the whole "scan", the "pancreas" or the "tumour"'})
    hu_window: tuple[float, float] = field(
        default=HU_WINDOW, metadata={"help": "Hounsfield units that become 0 and 1; values beyond are clipped"}
    )
    jitter_z_mm: tuple[float, float] = field(
        default=(0.0, 0.0), metadata={"help": "range in mm by which the lower and upper face move outwards in training"}
    )
    jitter_plane_mm: tuple[float, float] = field(
        default=(0.0, 0.0), metadata={"help": "range in mm by which the four in-plane faces move outwards in training"}
    )
    margin_mm: tuple[float, float, float] = field(
        default=MARGIN_MM, metadata={"help": "margin (z, y, x) in mm around the mask at inference"}
    )
    field_of_view_mm: tuple[float, float, float] = field(
        default=(math.inf, 256.0, 294.0),
        metadata={"help": "size (z, y, x) in mm of the central region that is read if roi is scan"},
    )
    halve_below_mm: float = field(
        default=0.0, metadata={"help": "axes with finer voxels are read at half their resolution; 0 for none"}
    )
    max_voxels: int = field(default=6_000_000, metadata={"help": "larger boxes are resampled to this number of voxels"})
    rounds: int = field(
        default=1,
        metadata={"help": "passes at inference: the first around the previous stage's mask, later ones around its own"},
    )

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If a setting cannot be computed with.
        """
        if self.target not in TARGETS:
            raise ValueError(f"target is {self.target!r}, not one of {', '.join(TARGETS)}")
        if self.roi not in ("scan", *TARGETS):
            raise ValueError(f"roi is {self.roi!r}, not one of scan, {', '.join(TARGETS)}")
        if not self.hu_window[0] < self.hu_window[1]:
            raise ValueError("the lower end of hu_window is not below its upper end")
        if self.max_voxels < 1 or self.rounds < 1 or self.halve_below_mm < 0 or min(self.field_of_view_mm) <= 0:
            raise ValueError("max_voxels, rounds and field_of_view_mm must be positive, halve_below_mm 0 or more")
        if any(low > high for low, high in (self.jitter_z_mm, self.jitter_plane_mm)):
            raise ValueError("a range of the jitter ends below its beginning")


class NetworkGrid(NamedTuple):
    """The grid that a box is resampled to. It starts at the corner of the box.

    Attributes:
        shape: (D, H, W), multiples of 8.
        factor: Size of its voxels relative to those of the box, (z, y, x).
    """

    shape: Index3D
    factor: tuple[float, float, float]


class Sample(NamedTuple):
    """One box as it is read from disk.

    It holds numpy arrays, not tensors: loader processes pass tensors through shared memory, and with the 64 MB of
    /dev/shm that a container has by default a training would hang.

    Attributes:
        key: ``centre/case``.
        image: int16 HU, (D, H, W).
        mask: uint8, 0 or 1, (D, H, W).
        spacing: (z, y, x) in mm.
        grid: The grid on which the network will see the box.
    """

    key: str
    image: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, float, float]
    grid: NetworkGrid


def scan_box(shape: Sequence[int], spacing: Sequence[float], sampling: Sampling, must_hold: Box | None = None) -> Box:
    """Return the box that the first stage reads: the central field of view of a scan.

    Args:
        shape: Shape of the scan, (D, H, W).
        spacing: (z, y, x) in mm.
        sampling: Gives the field of view.
        must_hold: The box of the reference; in training the field of view is widened to hold it.
    """
    size = [math.ceil(min(n, mm / s)) for n, mm, s in zip(shape, sampling.field_of_view_mm, spacing, strict=True)]
    box = central_box(shape, size)
    return enlarge(union(box, must_hold) if must_hold else box, (0, 0, 0), (0, 0, 0), shape, 2 * MULTIPLE)


def margin_box(roi: Box, shape: Sequence[int], spacing: Sequence[float], margin_mm: Sequence[float]) -> Box:
    """Enlarge ``roi`` by a margin (z, y, x) in mm on every side, round outwards to multiples of 8, stay in the scan."""
    margin = [mm / s for mm, s in zip(margin_mm, spacing, strict=True)]
    return enlarge(roi, margin, margin, shape, MULTIPLE)


def mask_box(mask: np.ndarray, spacing: Sequence[float], margin_mm: Sequence[float]) -> Box | None:
    """Return the box around a mask (D, H, W) with its margin (z, y, x) in mm; None for an empty mask."""
    roi = bounding_box(mask)
    return None if roi is None else margin_box(roi, mask.shape, spacing, margin_mm)


def reference_box(case: Case, sampling: Sampling, rng: np.random.Generator | None) -> Box:
    """Return the box of a case around its reference.

    Args:
        case: Must have the pancreas or tumour that ``sampling.roi`` asks for.
        sampling: Of the stage.
        rng: Draws the jitter of training; None gives the margin that is used at inference.

    Raises:
        ValueError: If the case has no such reference.
    """
    if sampling.roi == "scan":
        return scan_box(case.shape, case.spacing, sampling, case.pancreas_box)
    roi = case.target_box(sampling.roi)
    if roi is None:
        raise ValueError(f"{case.key} has no labelled {sampling.roi}")
    if rng is None:
        return margin_box(roi, case.shape, case.spacing, sampling.margin_mm)
    ranges = (sampling.jitter_z_mm, sampling.jitter_plane_mm, sampling.jitter_plane_mm)
    low, high = ([rng.uniform(*r) / s for r, s in zip(ranges, case.spacing, strict=True)] for _ in range(2))
    return enlarge(roi, low, high, case.shape, MULTIPLE)


def network_grid(shape: Sequence[int], spacing: Sequence[float], sampling: Sampling) -> NetworkGrid:
    """Return the grid on which the network sees a box of ``shape``: halved where fine, at most ``max_voxels``."""
    factor = [2.0 if s < sampling.halve_below_mm else 1.0 for s in spacing]
    voxels = math.prod(n / f for n, f in zip(shape, factor, strict=True))
    shrink = max(1.0, (voxels / sampling.max_voxels) ** (1 / 3))
    z, y, x = (f * shrink for f in factor)
    depth, height, width = (
        math.ceil(round(n / f, 6) / MULTIPLE) * MULTIPLE for n, f in zip(shape, (z, y, x), strict=True)
    )
    return NetworkGrid((depth, height, width), (z, y, x))


def network_spacing(spacing: Sequence[float], sampling: Sampling) -> tuple[float, ...]:
    """Return the voxel size (z, y, x) in mm that the network sees, in boxes small enough not to be shrunk."""
    return tuple(s * f for s, f in zip(spacing, network_grid((1, 1, 1), spacing, sampling).factor, strict=True))


def spacing_range(cases: Sequence[Case], sampling: Sampling) -> list[list[float]]:
    """Return the finest and the coarsest ``network_spacing`` of the cases, axis by axis."""
    axes = list(zip(*(network_spacing(case.spacing, sampling) for case in cases), strict=True))
    return [list(map(min, axes)), list(map(max, axes))]


def read_sample(case: Case, box: Box, sampling: Sampling) -> Sample:
    """Read one box from disk; nothing else of the scan is touched.

    Raises:
        InputError: If the case is damaged.
    """
    image = np.array(case.image()[box.slices])
    mask = target_mask(case.label()[box.slices], sampling.target)
    return Sample(case.key, image, mask, case.spacing, network_grid(box.shape, case.spacing, sampling))


class BoxDataset(Dataset[Sample]):
    """The boxes of a stage.

    An item is named by (epoch, index), and its jitter is drawn from these and the seed alone. So the order in which
    the workers of a loader finish changes nothing, and a resumed run sees what it would have seen.

    Args:
        cases: Cases that hold the target of the stage.
        sampling: Of the stage.
        seed: Seed of the jitter; None reads every box with the margin that is used at inference.
    """

    def __init__(self, cases: Sequence[Case], sampling: Sampling, seed: int | None) -> None:
        self.cases, self.sampling, self.seed = list(cases), sampling, seed

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, index = item
        rng = None if self.seed is None else np.random.default_rng([self.seed, epoch, index])
        case = self.cases[index]
        return read_sample(case, reference_box(case, self.sampling, rng), self.sampling)
