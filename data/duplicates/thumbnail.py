"""Thumbnails: a scan in 32 x 32 x 32 cells, once of the whole body and once of the surroundings of the pancreas.

Thumbnails of two scans are compared to find out whether they show the same scan (``pairs.py``). Each cell is a mean
over a length in mm, so that a scan and a resampled copy of it look alike whatever their voxel sizes are. The mean of
its surroundings is then subtracted from each cell, which removes what all abdomens have in common. Without this step
two patients correlate at 0.94, and no threshold separates them from one scan that was processed twice.

A thumbnail is kept in a file beside its case, because making one reads the whole scan.
"""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from scipy import ndimage

from data.cases.case import Case
from data.common.files import read_array, replacing
from data.common.progress import progress
from data.scans.body import largest_component
from data.scans.boxes import Box, bounding_box, whole_box

VERSION = 1  # to be raised whenever the same case gives another thumbnail
SIDE_CELLS = 32
WINDOW_HU = (-100, 200)  # narrower than the windows to which published scans are clipped
BODY_ABOVE_HU = -20  # denser than fat: the box of muscles, organs and bones does not depend on the air around them
PITCH_MM = 5.0  # cell of the reduced scan from which both thumbnails are made
NEAR_CELL_MM = 8.0  # cell of the thumbnail around the pancreas; 32 of them span 256 mm
SURROUNDINGS_SIGMA_CELLS = 2.0  # of the Gaussian mean that is subtracted from each cell
OUTSIDE = -128  # value of a cell that the scan does not reach
SLAB_SLICES = 16  # slices that are in memory at a time
PROGRESS_DELAY_S = 2

# voxels: hash of the image's voxels. extent: size of the body (z, y, x) in mm. whole, near: the two thumbnails, with
# values from -127 to 127, or OUTSIDE.
THUMBNAIL = np.dtype(
    [
        ("voxels", "u1", 32),
        ("extent", "f4", 3),
        ("whole", "i1", (SIDE_CELLS,) * 3),
        ("near", "i1", (SIDE_CELLS,) * 3),
    ]
)


def load_thumbnails(cases: Sequence[Case], *, save: bool = True) -> np.ndarray:
    """Load the thumbnails of prepared cases, and show the progress if this takes more than 2 s.

    Args:
        cases: The prepared cases.
        save: Whether a thumbnail that had to be made is kept in the store.

    Returns:
        Records of dtype THUMBNAIL, shape (n,).

    Raises:
        InputError: If a case is damaged.
    """
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        loading = progress(
            pool.map(partial(load_thumbnail, save=save), cases),
            title="looking for duplicates",
            total=len(cases),
            unit="case",
            delay_s=PROGRESS_DELAY_S,
        )
        loaded = np.zeros(len(cases), THUMBNAIL)
        for index, thumbnail in enumerate(loading):
            loaded[index] = thumbnail
    return loaded


def load_thumbnail(case: Case, *, save: bool = True) -> np.ndarray:
    """Load the thumbnail of a prepared case, or make it if there is no valid one beside the case.

    Its file is named by a hash of the case's content, so that a case that is prepared again gets a new thumbnail.

    Args:
        case: The prepared case.
        save: Whether a thumbnail that had to be made is kept in the store. A store that cannot be written to is
            left as it is.

    Returns:
        One record of dtype THUMBNAIL, shape ().

    Raises:
        InputError: If the case is damaged.
    """
    path = case.folder / f"thumbnail.{content_hash(case)}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):  # missing or damaged: a new one is made
        stored = read_array(path)
        if stored.dtype == THUMBNAIL and stored.shape == ():
            return stored
    made = make_thumbnail(case.image(), case.label(), case.spacing)
    if not save:
        return made
    with contextlib.suppress(OSError), replacing(path) as unfinished:  # the store may be read-only
        for stale in case.folder.glob("thumbnail.*.npy"):
            stale.unlink()
        np.save(unfinished, made)
    return made


def content_hash(case: Case) -> str:
    """Return a hash of a case's content and of the way in which thumbnails are made."""
    return hashlib.sha256(case.content().encode() + bytes([VERSION])).hexdigest()[:16]


def make_thumbnail(image: np.ndarray, label: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Make the thumbnail of a scan.

    Args:
        image: int16 HU, shape (D, H, W), LPS. A memory map is read slab by slab.
        label: uint8 0/1/2 of the same shape. Without a pancreas, all cells of ``near`` are OUTSIDE.
        spacing: Voxel spacing (z, y, x) in mm.

    Returns:
        One record of dtype THUMBNAIL, shape ().
    """
    reduced = _reduce(image, spacing)
    body = _body_box(reduced)
    record = np.zeros((), THUMBNAIL)
    record["voxels"] = np.frombuffer(_hash_voxels(image), np.uint8)
    record["extent"] = np.array(body.shape) * PITCH_MM
    record["whole"] = _contrasts(reduced, [np.linspace(a, b, SIDE_CELLS + 1) for a, b in zip(*body, strict=True)])
    record["near"] = OUTSIDE
    pancreas = bounding_box(label)
    if pancreas is not None:
        centre = ndimage.center_of_mass(label[pancreas.slices] > 0) + np.array(pancreas.start) + 0.5
        edges_mm = np.arange(-SIDE_CELLS // 2, SIDE_CELLS // 2 + 1) * NEAR_CELL_MM
        record["near"] = _contrasts(reduced, [(mm + edges_mm) / PITCH_MM for mm in centre * spacing])
    return record


def _reduce(image: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Window a scan to 0 to 1 and average it in cells of PITCH_MM; the last cell of an axis may reach past its end."""
    weights = []
    for n, s in zip(image.shape, spacing, strict=True):
        edges = np.arange(np.ceil(n * s / PITCH_MM - 1e-3) + 1) * PITCH_MM / s
        weights.append(_averaging_weights(n, edges)[0])
    low, high = WINDOW_HU
    slabs = []
    for start in range(0, image.shape[0], SLAB_SLICES):
        slab = np.clip(image[start : start + SLAB_SLICES], low, high).astype(np.float32)
        slabs.append(weights[1] @ slab @ weights[2].T)
    return (np.tensordot(weights[0], np.concatenate(slabs), 1) - low) / (high - low)


def _averaging_weights(n: int, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the weights that average voxels into cells along one axis.

    Args:
        n: Number of voxels, each of length 1.
        edges: Edges of the cells in voxels, shape (cells + 1,).

    Returns:
        The weights, shape (cells, n), and the fraction of each cell that lies inside the scan, shape (cells,).
    """
    voxels = np.arange(n)
    overlap = np.minimum(edges[1:, None], voxels + 1) - np.maximum(edges[:-1, None], voxels)
    overlap = np.maximum(overlap, 0).astype(np.float32)
    length = overlap.sum(1)
    return overlap / np.maximum(length, 1e-6)[:, None], length / np.diff(edges)


def _contrasts(reduced: np.ndarray, edges: Sequence[np.ndarray]) -> np.ndarray:
    """Compute the difference of each cell from its surroundings; OUTSIDE where less than half a cell is scanned.

    Args:
        reduced: The reduced scan.
        edges: Edges of the cells along each axis, in cells of the reduced scan.

    Returns:
        int8, shape (32, 32, 32).
    """
    (z, in_z), (y, in_y), (x, in_x) = (_averaging_weights(n, e) for n, e in zip(reduced.shape, edges, strict=True))
    cells = np.tensordot(z, y @ reduced @ x.T, 1)
    inside = np.minimum(np.minimum(in_z[:, None, None], in_y[:, None]), in_x) > 0.5
    share = ndimage.gaussian_filter(inside.astype(np.float32), SURROUNDINGS_SIGMA_CELLS)
    mean = ndimage.gaussian_filter(cells * inside, SURROUNDINGS_SIGMA_CELLS) / np.maximum(share, 1e-3)
    return np.where(inside, np.rint(127 * np.clip(cells - mean, -1, 1)), OUTSIDE).astype(np.int8)


def _body_box(reduced: np.ndarray) -> Box:
    """Find the box of the largest piece that is denser than fat; the whole scan if there is none."""
    body = largest_component(reduced > (BODY_ABOVE_HU - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0]))
    return bounding_box(body) or whole_box(reduced.shape)


def _hash_voxels(image: np.ndarray) -> bytes:
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=32)
    for start in range(0, image.shape[0], SLAB_SLICES):
        digest.update(np.ascontiguousarray(image[start : start + SLAB_SLICES]).data)
    return digest.digest()
