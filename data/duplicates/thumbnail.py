"""A scan in 32 x 32 x 32 cells, twice: all of its body, and what lies around its pancreas; kept beside the case.

Cells are means over lengths in mm, so that a scan and its resampling look alike whatever their voxels are. What all
abdomens share is taken away: of each cell the mean of its surroundings is subtracted, else two patients correlate at
0.94 and no threshold tells them from one scan processed twice.
"""

import contextlib
import hashlib
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from data.cases.store import Case
from data.common.files import read_array, replacing
from data.scans.body import largest_component
from data.scans.boxes import Box, bounding_box, whole_box

VERSION = 1  # to be raised when the same case gives another thumbnail
SIDE = 32
WINDOW_HU = (-100, 200)  # within what published sets are clipped to, so that clipping changes nothing
BODY_HU = -20  # above fat: the box of muscle, organs and bones is the same with and without the air around
PITCH_MM = 5.0  # of the volume that both thumbnails are made from
NEAR_MM = 8.0  # a cell around the pancreas; 32 of them span 256 mm
SURROUNDINGS = 2.0  # cells, sigma of the mean that is subtracted
OUTSIDE = -128  # a cell that the scan does not reach
SLAB = 16  # slices held at a time

# voxels: a hash of the image's voxels; extent: of the body (z, y, x) mm; cells: -127 to 127 or OUTSIDE.
THUMBNAIL = np.dtype(
    [("voxels", "u1", 32), ("extent", "f4", 3), ("whole", "i1", (SIDE,) * 3), ("near", "i1", (SIDE,) * 3)]
)


def thumbnail_of(case: Case, save: bool = True) -> np.ndarray:
    """The thumbnail of a prepared case: read where it is kept beside it, else made and, if ``save``, kept.

    It is named by a hash of what the case is, so that a case prepared anew gets a new one.
    Raises InputError where the case is damaged.
    """
    content = hashlib.sha256(case.content().encode() + bytes([VERSION])).hexdigest()[:16]
    path = case.folder / f"thumbnail.{content}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):  # not there, or not whole: made anew
        kept = read_array(path)
        if kept.dtype == THUMBNAIL and kept.shape == ():
            return kept
    made = thumbnail(case.image(), case.label(), case.spacing)
    if not save:
        return made
    with contextlib.suppress(OSError), replacing(path) as unfinished:  # a store may be read-only
        for stale in case.folder.glob("thumbnail.*.npy"):
            stale.unlink()
        np.save(unfinished, made)
    return made


def thumbnail(image: np.ndarray, label: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """One record of dtype THUMBNAIL, shape ().

    Args:
        image: int16 HU (D, H, W), LPS; a memory map is read slab by slab. label: uint8 0/1/2 of the same shape.
        spacing: (z, y, x) mm.
    """
    small = _reduced(image, spacing)
    box = _body(small)
    record = np.zeros((), THUMBNAIL)
    record["voxels"] = np.frombuffer(_hash(image), np.uint8)
    record["extent"] = np.array(box.shape) * PITCH_MM
    record["whole"] = _contrasts(small, [np.linspace(a, b, SIDE + 1) for a, b in zip(*box, strict=True)])
    record["near"] = OUTSIDE
    pancreas = bounding_box(label)
    if pancreas is not None:
        middle = ndimage.center_of_mass(label[pancreas.slices] > 0) + np.array(pancreas.start) + 0.5
        reach = np.arange(-SIDE // 2, SIDE // 2 + 1) * NEAR_MM
        record["near"] = _contrasts(small, [(mm + reach) / PITCH_MM for mm in middle * spacing])
    return record


def _reduced(image: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The windowed scan, 0 to 1, in cells of PITCH_MM from its corner on (the last may reach past its end)."""
    weights = []
    for n, s in zip(image.shape, spacing, strict=True):
        edges = np.arange(np.ceil(n * s / PITCH_MM - 1e-3) + 1) * PITCH_MM / s
        weights.append(_averaging(n, edges)[0])
    low, high = WINDOW_HU
    slabs = []
    for start in range(0, image.shape[0], SLAB):
        slab = np.clip(image[start : start + SLAB], low, high).astype(np.float32)
        slabs.append(weights[1] @ slab @ weights[2].T)
    return (np.tensordot(weights[0], np.concatenate(slabs), 1) - low) / (high - low)


def _averaging(n: int, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (cells, n) that average n voxels of length 1 into the cells between ``edges``, and how much of each
    cell the voxels fill.
    """
    voxels = np.arange(n)
    shared = np.minimum(edges[1:, None], voxels + 1) - np.maximum(edges[:-1, None], voxels)
    shared = np.maximum(shared, 0).astype(np.float32)
    length = shared.sum(1)
    return shared / np.maximum(length, 1e-6)[:, None], length / np.diff(edges)


def _contrasts(small: np.ndarray, edges: Sequence[np.ndarray]) -> np.ndarray:
    """int8 (32, 32, 32): each cell's difference from its surroundings, OUTSIDE where less than half is scanned."""
    (z, in_z), (y, in_y), (x, in_x) = (_averaging(n, e) for n, e in zip(small.shape, edges, strict=True))
    cells = np.tensordot(z, y @ small @ x.T, 1)
    inside = np.minimum(np.minimum(in_z[:, None, None], in_y[:, None]), in_x) > 0.5
    share = ndimage.gaussian_filter(inside.astype(np.float32), SURROUNDINGS)
    mean = ndimage.gaussian_filter(cells * inside, SURROUNDINGS) / np.maximum(share, 1e-3)
    return np.where(inside, np.rint(127 * np.clip(cells - mean, -1, 1)), OUTSIDE).astype(np.int8)


def _body(small: np.ndarray) -> Box:
    """The box around the largest part that is neither air nor fat; the whole scan where there is none."""
    body = largest_component(small > (BODY_HU - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0]))
    return bounding_box(body) or whole_box(small.shape)


def _hash(image: np.ndarray) -> bytes:
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=32)
    for start in range(0, image.shape[0], SLAB):
        digest.update(np.ascontiguousarray(image[start : start + SLAB]))
    return digest.digest()
