"""Estimate from the headers of the scans, before any voxel is read, whether the prepared cases fit on the disk."""

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from data.cases.preparation import Preparation
from data.cases.resample import resampled_shape
from data.common.errors import InputError
from data.scans.dicom import summarise_series
from data.scans.volume import read_grid

VOXEL_BYTES = 3  # int16 image and uint8 label
OVERHEAD = 1.05  # compressed labels of the scans, manifests, partly filled blocks of the file system
GB = 1e9  # bytes


@dataclass(frozen=True)
class DiskUse:
    """The disk space that a run needs, and what is there.

    Attributes:
        scans: Number of scans to prepare.
        needed: Upper limit of the space for them in bytes. How much cropping saves is known only from the voxels.
        free: Free space in bytes where the store lies.
    """

    scans: int
    needed: float
    free: int

    @property
    def fits(self) -> bool:
        """Whether the free space suffices even if cropping saves nothing."""
        return self.needed <= self.free

    def __str__(self) -> str:
        count = f"{self.scans} scan{'' if self.scans == 1 else 's'}"
        return f"{count} to prepare, at most {self.needed / GB:.1f} GB; {self.free / GB:.1f} GB free"


def estimate_disk_use(store: Path, images: Iterable[Path], preparation: Preparation) -> DiskUse:
    """Estimate the space that preparing ``images`` (files or DICOM folders) takes.

    Args:
        store: Folder of the prepared cases; need not exist yet.
        images: The scans that are still to be prepared.
        preparation: How they will be resampled.
    """
    sizes = [estimate_case_bytes(image, preparation) for image in images]
    existing = next(path for path in (store.absolute(), *store.absolute().parents) if path.exists())
    return DiskUse(len(sizes), OVERHEAD * sum(sizes), shutil.disk_usage(existing).free)


def estimate_case_bytes(image: Path, preparation: Preparation) -> int:
    """Estimate the size in bytes of one prepared case that is not cropped.

    The size of a DICOM folder follows from two of its headers. An image with an unreadable header counts as 0: the
    case fails with the reason when it is read.
    """
    try:
        if image.is_dir():
            path, count, step = summarise_series(image)
            grid = read_grid(path)
            grid = replace(grid, size=(*grid.size[:2], count), spacing=(*grid.spacing[:2], step))
        else:
            grid = read_grid(image)
    except (InputError, OSError):
        return 0
    return VOXEL_BYTES * math.prod(resampled_shape(grid.lps_shape, grid.lps_frame()[0], preparation))
