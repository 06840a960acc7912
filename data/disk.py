"""Will the prepared cases fit on the disk? Told from the headers of the scans, before any is read."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from data.errors import InputError
from data.resample import fitted_shape
from data.store import Preparation
from data.volume import read_header

VOXEL_BYTES = 3  # int16 image and uint8 label
HEADROOM = 1.05  # manifests, blocks of the file system, what else is written meanwhile
GB = 1e9


def case_bytes(image: Path, preparation: Preparation) -> int:
    """What a scan takes once prepared, without cropping, which only the voxels can tell; 0 for an unreadable header.

    A DICOM folder counts as many slices as it has files.
    """
    try:
        files = sorted(f for f in image.iterdir() if not f.name.startswith(".")) if image.is_dir() else [image]
        grid = read_header(files[0])
    except (InputError, OSError, IndexError):
        return 0  # the case fails when it is read, with the reason
    depth, *plane = fitted_shape(grid.lps_shape, grid.lps_frame()[0], preparation)
    return VOXEL_BYTES * depth * plane[0] * plane[1] * len(files)


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
