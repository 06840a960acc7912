"""What the 3-D viewer of a report shows of a case: the scan around the gland, masks over it, and their surfaces.

The scan is cropped, thinned if it has too many voxels, and stored in steps of 4 HU, so that a case takes about 1 MB.
Volumes are NIfTI-1 files and surfaces MZ3 files, both compressed by gzip, as NiiVue reads them.
"""

import base64
import functools
import gzip
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from skimage.measure import marching_cubes
from skimage.transform import resize

from data.scans.boxes import Box, Index3D, bounding_box, enlarge, triple, union, whole_box
from data.scans.grid import resample_nearest

CONTEXT_MM = 20.0  # shown around the masks
THICK_SLICES = 1.5  # times the width of the voxels; see shellOf in page.js
MOST_VOXELS = 1_500_000  # of the scan; about 1.1 mm within the slices of a scan with slices of 2 mm
LOWEST_HU, STEP_HU = -400, 4  # 256 steps reach up to 620 HU; noise is larger than a step
SURFACE_VOXELS = 30_000  # of the box around a mask whose surface is computed
MZ3_MAGIC, MZ3_FACES_AND_VERTICES = 23117, 3

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Layer:
    """A mask over a scan.

    Attributes:
        name: What it is called.
        mask: Boolean, shape (D, H, W) of the scan.
        colour: Red, green and blue.
        is_shown: Whether it is shown before anybody chooses.
    """

    name: str
    mask: np.ndarray
    colour: Colour
    is_shown: bool = True


class Map(NamedTuple):
    """Probabilities or their spread over a scan.

    Attributes:
        name: What it is called.
        values: Float values in [0, highest], shape (D, H, W) of the scan.
        highest: The largest value that there can be; the colours are those from 0 to this one.
        meaning: What a value says.
    """

    name: str
    values: np.ndarray
    highest: float = 1.0
    meaning: str = ""


@dataclass(frozen=True)
class View:
    """A scan with its masks and probabilities.

    Attributes:
        image: int16 HU, shape (D, H, W), in LPS.
        spacing: Voxel spacing (z, y, x) in mm.
        layers: The masks, those that are drawn on top last.
        maps: Probabilities, which are shown only if somebody chooses them.
    """

    image: np.ndarray
    spacing: Sequence[float]
    layers: Sequence[Layer]
    maps: Sequence[Map] = ()


def pack_view(view: View) -> dict[str, Any]:
    """Pack what the viewer needs as plain values that JSON can hold.

    Returns:
        ``scan`` and, for each of ``layers``, ``mask`` and ``surface`` (None for an empty mask) as base64, and so for
        each of ``maps`` its ``values``, with their ``highest`` and their ``meaning``;
        ``start`` and ``shape`` (z, y, x), the first voxel of what is shown and its number of voxels, and ``factor``,
        the number of voxels of the image for each that is shown; ``thick``, whether slices are outlined each on its
        own; and ``cross``, where to look first, as a share of the box along (z, y, x).
    """
    box = shown_box(view)
    image, masks = view.image[box.slices], [layer.mask[box.slices] for layer in view.layers]
    shape = thinned_shape(box.shape, view.spacing)
    spacing = triple(s * n / m for s, n, m in zip(view.spacing, box.shape, shape, strict=True))
    if shape != box.shape:
        image = resize(image.astype(np.float32), shape, order=1, mode="edge", anti_aliasing=True)
    steps = np.clip(np.rint((image - np.float32(LOWEST_HU)) / STEP_HU), 0, 255).astype(np.uint8)
    layers = [
        {
            "name": layer.name,
            "colour": list(layer.colour),
            "shown": layer.is_shown,
            "mask": _encode(nifti_bytes(resample_nearest(mask, shape).astype(np.uint8), spacing)),
            "surface": _encode(surface) if (surface := surface_bytes(mask, view.spacing)) else None,
        }
        for layer, mask in zip(view.layers, masks, strict=True)
    ]
    maps = [
        {
            "name": shown.name,
            "highest": shown.highest,
            "meaning": shown.meaning,
            "values": _encode(
                nifti_bytes(
                    _steps_of(shown.values[box.slices] / shown.highest, shape), spacing, slope=shown.highest / 255
                )
            ),
        }
        for shown in view.maps
    ]
    return {
        "scan": _encode(nifti_bytes(steps, spacing, slope=STEP_HU, intercept=LOWEST_HU)),
        "layers": layers,
        "maps": maps,
        "start": list(box.start),
        "shape": list(shape),
        "thick": spacing[0] > THICK_SLICES * max(spacing[1:]),
        "factor": [n / m for n, m in zip(box.shape, shape, strict=True)],
        "cross": _middle_of_largest_slice(masks, box.shape),
    }


def shown_box(view: View) -> Box:
    """Return the box around all masks with ``CONTEXT_MM`` around it; the whole scan if all are empty."""
    found = [box for layer in view.layers if (box := bounding_box(layer.mask)) is not None]
    if not found:
        return whole_box(view.image.shape)
    context = [CONTEXT_MM / s for s in view.spacing]
    return enlarge(functools.reduce(union, found), context, context, view.image.shape)


def thinned_shape(shape: Sequence[int], spacing: Sequence[float], most: int = MOST_VOXELS) -> Index3D:
    """Return the shape that a box is resampled to, so that it has no more than ``most`` voxels.

    The finest axes are thinned first, until all have the same voxel size.

    Args:
        shape: Of the box (D, H, W).
        spacing: Voxel spacing (z, y, x) in mm.
        most: The largest number of voxels.
    """
    finest = min(spacing)
    while True:
        thinned = triple(max(1, int(n * s / max(s, finest))) for n, s in zip(shape, spacing, strict=True))
        if np.prod(thinned) <= most:
            return thinned
        finest *= 1.02


def nifti_bytes(array: np.ndarray, spacing: Sequence[float], slope: float = 1.0, intercept: float = 0.0) -> bytes:
    """Return a NIfTI-1 file in memory; SimpleITK writes NIfTI only to a disk, and without a slope.

    Positions are in mm from the centre of the first voxel, along the axes of the array.

    Args:
        array: uint8, shape (D, H, W), in LPS.
        spacing: Voxel spacing (z, y, x) in mm.
        slope: A stored value times ``slope`` plus ``intercept`` is the value that is meant.
        intercept: See ``slope``.

    References:
        The header is that of nifti1.h, National Institutes of Health, 2007.
    """
    (depth, height, width), (z, y, x) = array.shape, spacing
    header = struct.pack("<i36x", 348)
    header += struct.pack("<8h3fhhhh", 3, width, height, depth, 1, 1, 1, 1, 0, 0, 0, 0, 2, 8, 0)  # DT_UINT8, 8 bits
    header += struct.pack("<8f", 1, x, y, z, 0, 0, 0, 0)
    header += struct.pack("<fffhbB4f2i", 352, slope, intercept, 0, 0, 2, 0, 0, 0, 0, 0, 0)  # NIFTI_UNITS_MM
    header += struct.pack("<104x2h6f", 0, 1, 0, 0, 0, 0, 0, 0)  # no qform; sform 1, NIFTI_XFORM_SCANNER_ANAT
    header += struct.pack("<12f", -x, 0, 0, 0, 0, -y, 0, 0, 0, 0, z, 0)  # LPS indices to RAS positions
    return header + struct.pack("<16x4s4x", b"n+1") + np.ascontiguousarray(array, np.uint8).tobytes()


def surface_bytes(mask: np.ndarray, spacing: Sequence[float]) -> bytes:
    """Return the smooth surface of a mask as an MZ3 file in memory; empty for an empty mask.

    Args:
        mask: Boolean, shape (D, H, W).
        spacing: Voxel spacing (z, y, x) in mm.

    Returns:
        Vertices in mm in the positions of ``nifti_bytes`` of the same box, and the triangles between them.

    References:
        The format is described at github.com/neurolabusc/surf-ice/tree/master/mz3.
    """
    box = bounding_box(mask)
    if box is None:
        return b""
    coarse = thinned_shape(box.shape, spacing, SURFACE_VOXELS)
    inside = resize(mask[box.slices].astype(np.float32), coarse, order=1, mode="edge", anti_aliasing=True)
    inside = ndimage.gaussian_filter(np.pad(inside, 2), 0.6)
    level = min(0.5, float(inside.max()) / 2)  # smoothing would otherwise remove what is a voxel thin
    vertices, faces, _, _ = marching_cubes(inside, level)
    step = np.array(spacing) * box.shape / coarse
    # The outer faces of the coarse voxels are those of the box; the position 0 is the centre of the box's first voxel.
    mm = (vertices - 2 + 0.5) * step + (np.array(box.start) - 0.5) * spacing
    positions = (mm[:, ::-1] * (-1, -1, 1)).round(1).astype("<f4")  # tenths of a mm, which compress well
    head = struct.pack("<2H3I", MZ3_MAGIC, MZ3_FACES_AND_VERTICES, len(faces), len(positions), 0)
    return head + faces.astype("<i4").tobytes() + positions.tobytes()


def _middle_of_largest_slice(masks: Sequence[np.ndarray], shape: Sequence[int]) -> list[float]:
    """Return the middle of the largest slice of the last mask that is not empty, as a share of the box."""
    for mask in reversed(masks):
        if mask.any():
            z = int(np.argmax(mask.sum(axis=(1, 2), dtype=np.int64)))
            y, x = (float(np.median(index)) for index in np.nonzero(mask[z]))
            return [(z + 0.5) / shape[0], (y + 0.5) / shape[1], (x + 0.5) / shape[2]]
    return [0.5, 0.5, 0.5]


def _steps_of(probability: np.ndarray, shape: Index3D) -> np.ndarray:
    """Return values in [0, 1], thinned to a shape, in 255 steps."""
    if probability.shape != shape:
        probability = resize(probability.astype(np.float32), shape, order=1, mode="edge", anti_aliasing=True)
    return np.rint(255 * np.clip(probability, 0, 1)).astype(np.uint8)


def _encode(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")
