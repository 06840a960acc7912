"""Will the prepared cases fit on the disk? Told from the headers of the scans, before any is read."""

import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from data.cases.preparation import Preparation
from data.cases.resample import fitted_shape
from data.common.errors import InputError
from data.scans.dicom import summarise_series
from data.scans.grid import Grid
from data.scans.volume import read_grid

VOXEL_BYTES = 3  # int16 image and uint8 label
HEADROOM = 1.05  # manifests, blocks of the file system, what else is written meanwhile
GB = 1e9


def case_bytes(image: Path, preparation: Preparation) -> int:
    """What a scan takes once prepared, without cropping, which only the voxels can tell; 0 for an unreadable header.

    Of a DICOM folder two headers tell.
    """
    try:
        grid = _stack_grid(image) if image.is_dir() else read_grid(image)
    except (InputError, OSError):
        return 0  # the case fails when it is read, with the reason
    return VOXEL_BYTES * math.prod(fitted_shape(grid.lps_shape, grid.lps_frame()[0], preparation))


def _stack_grid(folder: Path) -> Grid:
    """The grid of a DICOM folder, but where it begins."""
    path, count, step = summarise_series(folder)
    grid = read_grid(path)
    return replace(grid, size=(*grid.size[:2], count), spacing=(*grid.spacing[:2], step))


def check_space(store: Path, images: Iterable[Path], preparation: Preparation, insist: bool = False) -> str:
    """One line on what will be used of what is free. Raises InputError where it does not fit.

    Args:
        store: where it will lie; need not exist yet.
        images: the scans that are not prepared yet.
        insist: go on all the same; the line then says so.
    """
    sizes = [case_bytes(image, preparation) for image in images]
    place = next(path for path in (store.absolute(), *store.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    need = HEADROOM * sum(sizes)
    cropped = ", less what cropping saves" if preparation.crop != "none" else ""
    line = f"disk: {len(sizes)} scans to prepare, up to {need / GB:.1f} GB{cropped}; {free / GB:.1f} GB free"
    if need > free and not insist:
        ways = "free some space, choose another --store, give a coarser --spacing, or insist with --fill-disk"
        raise InputError(f"{store}: {line.removeprefix('disk: ')}; {ways}")
    return line + (", which may not be enough: goes on as long as it lasts" if need > free else "")
