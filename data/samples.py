"""The boxes that a stage trains on and predicts in, and the torch Dataset that reads them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from data.cases.case import Case
from data.cases.labels import HU_WINDOW, TARGETS, target_mask
from data.scans.body import body_box
from data.scans.boxes import Box, Index3D, bounding_box, enlarge, triple

MULTIPLE = 8  # the sides of the network's input are multiples of this
MOST_VOXELS = 1 << 16  # along an axis
MARGIN_MM = (12.5, 20.0, 20.0)  # 5 slices of 2.5 mm and 25 pixels of 0.8 mm, as published

# Tumour fine looks around what tumour coarse found, or around the pancreas if it found nothing. In a case without a
# tumour, tumour coarse has found something that is none, or nothing; both are drawn equally often.
NOTHING_FOUND = 0.5  # share of the draws of such a case that look around its pancreas
FALSE_FINDING_MM = (4.0, 20.0)  # half sides of the other ones' region, in the range of those of tumours

Reach = Callable[[Sequence[float]], Sequence[float]]  # from half sides (z, y, x) in mm to those that are looked at


@dataclass(frozen=True)
class Sampling:
    """What a stage sees of a scan: in which box, on which grid, in which window of grey values.

    All lengths are in mm, so that they mean the same whatever the voxels of a centre are. A checkpoint keeps the
    sampling that its network was trained with.
    """

    target: str = field(metadata={"help": 'what the mask holds: "pancreas" (with its tumour) or "tumour"'})
    roi: str = field(metadata={"help": 'what the box encloses: the whole "scan", the "pancreas" or the "tumour"'})
    target_mm: tuple[float, float, float] = field(
        default=(2.0, 0.9, 0.9), metadata={"help": "size (z, y, x) in mm of the voxels that the network sees"}
    )
    patch_mm: tuple[float, float, float] = field(
        default=(144.0, 172.8, 230.4),
        metadata={"help": "size (z, y, x) in mm of the largest part of a box that the network sees at a time"},
    )
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
        if not all(0 < mm < math.inf for mm in self.target_mm):
            raise ValueError("target_mm must be positive")
        if self.rounds < 1 or min(self.patch_mm) <= 0:
            raise ValueError("rounds and patch_mm must be positive")
        if any(low > high for low, high in (self.jitter_z_mm, self.jitter_plane_mm)):
            raise ValueError("a range of the jitter ends below its beginning")


class NetworkGrid(NamedTuple):
    """The grid that a part of a scan is resampled to.

    Attributes:
        shape: (D, H, W); multiples of 8 where the network sees it.
        factor: Size of its voxels relative to those of the scan, (z, y, x).
        start: Where it starts, in voxels (z, y, x) of the array that is resampled, from the corner of that array.
    """

    shape: Index3D
    factor: tuple[float, float, float]
    start: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def size(self) -> tuple[float, float, float]:
        """Its sides (z, y, x) in voxels of the scan."""
        return triple(n * f for n, f in zip(self.shape, self.factor, strict=True))


class Sample(NamedTuple):
    """One box as it is read from disk, with the tissue around it that the augmentation may bring into it.

    It holds numpy arrays, not tensors: loader processes pass tensors through shared memory, and with the 64 MB of
    /dev/shm that a container has by default a training would hang.

    Attributes:
        key: ``centre/case``.
        image: int16 HU, (D, H, W).
        mask: uint8, 0 or 1, (D, H, W).
        spacing: (z, y, x) in mm.
        grid: The grid on which the network will see the box, and where in these arrays it starts.
        pancreas: uint8, 0 or 1, the pancreas with its tumour, (D, H, W); None if the method does not ask for it.
    """

    key: str
    image: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, float, float]
    grid: NetworkGrid
    pancreas: np.ndarray | None = None


def network_factor(spacing: Sequence[float], sampling: Sampling) -> tuple[float, float, float]:
    """Return the size of the voxels that the network sees relative to those of a scan, (z, y, x)."""
    return triple(mm / s for mm, s in zip(sampling.target_mm, spacing, strict=True))


def network_grid(shape: Sequence[int], spacing: Sequence[float], sampling: Sampling) -> NetworkGrid:
    """Return the grid of ``target_mm`` that covers a box of ``shape`` from its corner on."""
    factor = network_factor(spacing, sampling)
    sides = (math.ceil(round(n / f, 6) / MULTIPLE) * MULTIPLE for n, f in zip(shape, factor, strict=True))
    return NetworkGrid(triple(sides), factor)


def patch_shape(sampling: Sampling) -> Index3D:
    """Return the largest shape (D, H, W) that the network sees at a time; each side is a multiple of 8."""
    sides = (mm / target / MULTIPLE for mm, target in zip(sampling.patch_mm, sampling.target_mm, strict=True))
    return triple(MULTIPLE * max(1, round(min(side, MOST_VOXELS))) for side in sides)


def fits_patch(box: Box, spacing: Sequence[float], sampling: Sampling) -> bool:
    """Return whether the network sees the whole of a box at a time."""
    shape = network_grid(box.shape, spacing, sampling).shape
    return all(n <= most for n, most in zip(shape, patch_shape(sampling), strict=True))


def network_box(box: Box, shape: Sequence[int], spacing: Sequence[float], sampling: Sampling) -> Box:
    """Enlarge a box so that its network grid ends where the box does, as far as the scan of ``shape`` reaches."""
    unit = [MULTIPLE * f for f in network_factor(spacing, sampling)]
    return enlarge(box, (0, 0, 0), (0, 0, 0), shape, unit)


def scan_box(image: np.ndarray, spacing: Sequence[float], sampling: Sampling) -> Box:
    """Return the box that the first stage reads, in training as in use: the patient's body.

    Args:
        image: int16 HU, shape (D, H, W).
        spacing: (z, y, x) in mm.
        sampling: Of the stage.
    """
    return network_box(body_box(image, spacing), image.shape, spacing, sampling)


def margin_box(roi: Box, shape: Sequence[int], spacing: Sequence[float], margin_mm: Sequence[float]) -> Box:
    """Enlarge ``roi`` by a margin (z, y, x) in mm on every side; stay in the scan of ``shape``."""
    margin = [mm / s for mm, s in zip(margin_mm, spacing, strict=True)]
    return enlarge(roi, margin, margin, shape)


def mask_box(mask: np.ndarray, spacing: Sequence[float], sampling: Sampling) -> Box | None:
    """Return the box that a stage reads around a mask (D, H, W), with its margin; None for an empty mask."""
    roi = bounding_box(mask)
    if roi is None:
        return None
    return network_box(margin_box(roi, mask.shape, spacing, sampling.margin_mm), mask.shape, spacing, sampling)


def reference_box(case: Case, sampling: Sampling) -> Box:
    """Return the box that a stage would read of a case if the stages before it had found exactly the reference.

    In a case without a tumour it is the box around the pancreas, also for the stage that looks around tumours: it does
    so where the stage before has found none.

    Raises:
        ValueError: If the case lacks the pancreas.
        InputError: If the case is damaged.
    """
    if sampling.roi == "scan":
        return scan_box(case.image(), case.spacing, sampling)
    return _with_margin(case.target_box(sampling.roi) or _pancreas_box(case), case, sampling)


def pancreas_box(case: Case, sampling: Sampling) -> Box:
    """Return the box that a stage reads of a case around its pancreas.

    Raises:
        ValueError: If the case lacks the pancreas.
    """
    return _with_margin(_pancreas_box(case), case, sampling)


def training_box(
    case: Case,
    sampling: Sampling,
    rng: np.random.Generator,
    field: Box | None = None,
    around_pancreas: float = 0.0,
) -> Box:
    """Draw the box of a case that a step of the training sees.

    It is the box around the region that the stage looks at with its jitter, or the whole body in the first stage. Where
    that is larger than a patch, a patch is drawn in it that holds the target of the stage, or a part of the target if
    it is larger still. In a case without a tumour, the region takes the place of the target.

    Args:
        case: Must have the pancreas.
        sampling: Of the stage.
        rng: Draws region, jitter and patch.
        field: The box of the whole body, if it is known already; only the first stage needs it.
        around_pancreas: As in ``BoxDataset``.

    Raises:
        ValueError: If the case lacks the pancreas.
        InputError: If the case is damaged.
    """
    region = _draw_region(case, sampling, rng, around_pancreas)
    if sampling.roi == "scan":
        box = field or scan_box(case.image(), case.spacing, sampling)
    else:
        ranges = (sampling.jitter_z_mm, sampling.jitter_plane_mm, sampling.jitter_plane_mm)
        low, high = ([rng.uniform(*r) / s for r, s in zip(ranges, case.spacing, strict=True)] for _ in range(2))
        box = network_box(enlarge(region, low, high, case.shape), case.shape, case.spacing, sampling)
    factor = network_factor(case.spacing, sampling)
    sides = [max(1, int(n * f + 1e-6)) for n, f in zip(patch_shape(sampling), factor, strict=True)]
    return _draw_patch(box, case.target_box(sampling.target) or region, sides, rng)


def _draw_region(case: Case, sampling: Sampling, rng: np.random.Generator, around_pancreas: float) -> Box:
    """Draw the region around which a step looks: the pancreas, the tumour, or what could be taken for one."""
    pancreas = _pancreas_box(case)
    if sampling.roi != "tumour":
        return pancreas
    if case.tumour_box is not None:
        return pancreas if around_pancreas and rng.random() < around_pancreas else case.tumour_box
    if rng.random() < NOTHING_FOUND:
        return pancreas
    gland = np.flatnonzero(case.label()[pancreas.slices])
    voxel = np.unravel_index(gland[rng.integers(len(gland))], pancreas.shape)
    at = triple(int(a + i) for a, i in zip(pancreas.start, voxel, strict=True))
    half = [rng.uniform(*FALSE_FINDING_MM) / s for s in case.spacing]
    return enlarge(Box(at, triple(i + 1 for i in at)), half, half, case.shape)


def _with_margin(roi: Box, case: Case, sampling: Sampling) -> Box:
    """Return the box that a stage reads around a region, with its margin at inference."""
    box = margin_box(roi, case.shape, case.spacing, sampling.margin_mm)
    return network_box(box, case.shape, case.spacing, sampling)


def _pancreas_box(case: Case) -> Box:
    if case.pancreas_box is None:
        raise ValueError(f"{case.key} has no labelled pancreas")
    return case.pancreas_box


def _draw_patch(box: Box, target: Box, sides: Sequence[int], rng: np.random.Generator) -> Box:
    """Draw a part of a box with at most these sides (z, y, x) that holds as much of the target as it can."""
    start, stop = [], []
    for a, b, first, last, side in zip(*box, *target, sides, strict=True):
        if b - a > side:
            # Starts from which the patch holds the whole target or, if that is larger, lies within it.
            low, high = sorted((last - side, first))
            low, high = (min(max(a, position), b - side) for position in (low, high))
            a = int(rng.integers(low, high + 1))
            b = a + side
        start.append(a)
        stop.append(b)
    return Box(triple(start), triple(stop))


def spacing_range(cases: Sequence[Case]) -> list[list[float]]:
    """Return the finest and the coarsest voxel size of the cases in mm, axis by axis (z, y, x)."""
    axes = list(zip(*(case.spacing for case in cases), strict=True))
    return [list(map(min, axes)), list(map(max, axes))]


def read_sample(
    case: Case, box: Box, sampling: Sampling, reach: Reach | None = None, with_pancreas: bool = False
) -> Sample:
    """Read one box from disk, with what of the scan around it can come into it; nothing else of the scan is touched.

    Args:
        case: The case.
        box: What the network will see.
        sampling: Of the stage.
        reach: Says how far the augmentation looks around a box; None for not beyond it.
        with_pancreas: Whether to give the pancreas besides the target.

    Raises:
        InputError: If the case is damaged.
    """
    grid = network_grid(box.shape, case.spacing, sampling)
    half = [side * mm / 2 for side, mm in zip(grid.size, case.spacing, strict=True)]
    low, high = [], []
    reached = reach(half) if reach else half
    for h, r, side, length, mm in zip(half, reached, box.shape, grid.size, case.spacing, strict=True):
        beyond = (r - h) / mm + (1 if reach else 0)  # interpolation needs a voxel more
        low.append(beyond)
        high.append(beyond + length - side)
    read = enlarge(box, low, [max(0.0, n) for n in high], case.shape)
    start = triple(float(a - b) for a, b in zip(box.start, read.start, strict=True))
    image = np.array(case.image()[read.slices])
    label = case.label()[read.slices]
    mask = target_mask(label, sampling.target)
    pancreas = target_mask(label, "pancreas") if with_pancreas else None
    return Sample(case.key, image, mask, case.spacing, grid._replace(start=start), pancreas)


class BoxDataset(Dataset[Sample]):
    """The boxes that a stage is trained on.

    An item is named by (epoch, index), and by a third number if a case is drawn several times in an epoch. Its box is
    drawn from these and the seed alone. So the order in which the workers of a loader finish changes nothing, and a
    resumed run sees what it would have seen.

    Args:
        cases: Cases with a labelled pancreas; where the stage segments tumours, with or without one. A synthetic
            patient is drawn from seed and item, too, so that every item is another patient.
        sampling: Of the stage.
        seed: Seed of the draws.
        reach: Of the augmentation, as in ``read_sample``.
        around_pancreas: Share of the draws in which a stage that looks around tumours looks around the pancreas of a
            case that has one.
        with_pancreas: As in ``read_sample``.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        sampling: Sampling,
        seed: int,
        reach: Reach | None = None,
        around_pancreas: float = 0.0,
        with_pancreas: bool = False,
    ) -> None:
        self.cases, self.sampling, self.seed, self.reach = list(cases), sampling, seed, reach
        self.around_pancreas, self.with_pancreas = around_pancreas, with_pancreas
        self._fields: dict[int, Box] = {}  # found once in a process, because finding a body reads the whole scan

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, item: tuple[int, ...]) -> Sample:
        _, index, *_ = item
        case = self.cases[index].draw((self.seed, *item))
        if self.sampling.roi == "scan" and index not in self._fields and case is self.cases[index]:
            self._fields[index] = scan_box(case.image(), case.spacing, self.sampling)
        rng = np.random.default_rng([self.seed, *item])
        box = training_box(case, self.sampling, rng, self._fields.get(index), self.around_pancreas)
        return read_sample(case, box, self.sampling, self.reach, self.with_pancreas)
