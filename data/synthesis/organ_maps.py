"""Label maps of organs as signed distances in the frame of the phantom's body, read once per process.

The origin of that frame is the height of the pancreas in front of the spine. The aorta is taken to follow the spine,
which is straight in the phantom, so the course of the aorta is straightened slice by slice, with everything around it.
The deformation of a randomised patient bends both again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_filter1d, shift

from data.common.errors import InputError
from data.common.files import ARCHIVE_ERRORS, sha256_of
from data.common.progress import progress
from data.phantom.anatomy import AORTA
from data.phantom.fields import REACH_MM, Field, level_of_volume
from data.phantom.label_maps import AORTA_RADIUS_MM, USUAL_AORTA_MM
from data.synthesis.organ_codes import OTHER, PANCREAS, TABLES, Codes, find_table

SUFFIXES = (".npz", ".nii.gz", ".nii", ".nrrd", ".mha")
CACHED_MAPS = 256  # of about 5 MB each
FINEST_MM = (2.5, 1.4, 1.4)  # finer label maps are thinned out to about these voxels (z, y, x)
NODES_MM = 2.0  # organs other than the pancreas have their nodes at least this far apart in the plane
LEAST_ML = 1.0  # of pancreas
SMOOTH_AORTA_MM = 25.0
CAP_RADIUS_MM = 25.0  # curvature with which an organ is continued that is cut by the end of its map
REMEDY = "correct it, or remove it from the folder"
_TENTHS = 10.0  # signed distances are kept in tenths of a mm
Course = tuple[np.ndarray, np.ndarray]  # heights (n,), and the position (y, x) in mm of the aorta there (n, 2)


@dataclass(frozen=True)
class Shape:
    """The signed distance of an organ in the frame of the body, in little memory.

    Attributes:
        start: Position (z, y, x) of the first node in mm.
        step: Distance (z, y, x) between nodes in mm.
        tenths: Signed distance in tenths of a mm, negative inside, int8; it ends at REACH_MM.
    """

    start: np.ndarray
    step: np.ndarray
    tenths: np.ndarray

    def field(self) -> Field:
        """Return it as a field in mm."""
        return Field(self.start, self.step, self.tenths.astype(np.float32) / np.float32(_TENTHS))


@dataclass(frozen=True)
class OrganMap:
    """A label map of organs in the frame of the body.

    Attributes:
        shapes: The organs that it holds, by name.
        known: The organs that its table has codes for.
        low: Height in mm of its lower end.
        high: Height in mm of its upper end.
        fork: Height in mm at which the aorta divides; None if the aorta is not drawn, or reaches the lower end.
    """

    shapes: Mapping[str, Shape]
    known: frozenset[str]
    low: float
    high: float
    fork: float | None


@lru_cache
def list_maps(labels: str) -> tuple[Path, ...]:
    """List the label maps that ``Synthesis.labels`` names, in alphabetical order.

    Raises:
        InputError: If there are none, or if nothing says what their codes mean.
    """
    folder, _ = find_table(labels)
    files = [path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES) and path.name[0] != "."]
    if not files:
        raise InputError(folder, f"no label maps ({', '.join(SUFFIXES)})", "give the folder that holds them")
    return tuple(sorted(files))


@lru_cache
def check_maps(labels: str) -> str:
    """Read all label maps that ``Synthesis.labels`` names, so that a bad one is refused before hours of training.

    Processes that are forked afterwards have the maps in memory.

    Returns:
        A hash of the maps and of what their codes mean, wherever they lie.

    Raises:
        InputError: As for ``list_maps`` and ``read_map``.
    """
    for path in progress(list_maps(labels), title="label maps", unit="map", delay_s=2.0):
        read_map(path, labels)
    return hash_maps(labels)


def hash_maps(labels: str) -> str:
    """Hash the label maps that ``Synthesis.labels`` names and what their codes mean, without reading the maps.

    Raises:
        InputError: As for ``list_maps``.
    """
    _, codes = find_table(labels)
    hashes = [sha256_of(path) for path in list_maps(labels)]
    return hashlib.sha256(json.dumps([hashes, codes], sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=CACHED_MAPS)
def read_map(path: Path, labels: str) -> OrganMap:
    """Read a label map.

    Args:
        path: The file.
        labels: ``Synthesis.labels``, which says what its codes mean.

    Raises:
        InputError: If the file is damaged, has a code that the table does not know or no pancreas, or has left and
            right exchanged.
    """
    _, codes = find_table(labels)
    voxels, spacing = _read_voxels(path)
    masks = _organ_masks(path, voxels, codes)
    stride = np.maximum(1, (np.array(FINEST_MM) / spacing).astype(int))
    step, corner = spacing * stride, (stride // 2 + 0.5) * spacing
    masks = {name: mask[tuple(slice(n // 2, None, n) for n in stride)] for name, mask in masks.items()}
    centres = {name: np.argwhere(mask).mean(axis=0) * step + corner for name, mask in masks.items() if mask.any()}
    volume = masks[PANCREAS].sum() * step.prod() / 1000 if PANCREAS in masks else 0.0
    if volume < LEAST_ML:
        code = next(code for code, organ in codes.items() if organ == PANCREAS)
        raise InputError(path, f"has no pancreas (code {code}), or less than {LEAST_ML:g} ml of it", REMEDY)
    if {"liver", "spleen"} <= set(centres) and centres["liver"][2] > centres["spleen"][2]:
        raise InputError(path, "the liver lies left of the spleen, so left and right are exchanged", REMEDY)
    gland, depth = centres[PANCREAS], len(voxels) * spacing[0]
    aorta = masks.get("aorta")
    course = _aorta_course(aorta, step, corner) if aorta is not None and aorta.any() else None
    fork = None if course is None or course[0][0] < 3 * step[0] else course[0][0] - gland[0]
    if course is None:
        course = np.array([gland[0]]), (gland + USUAL_AORTA_MM)[None, 1:]
    shapes = {name: _shape(masks[name], step, corner, course, gland[0], name == PANCREAS) for name in centres}
    return OrganMap(shapes, frozenset(codes.values()), -gland[0], depth - gland[0], fork)


def _read_voxels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read codes, uint8 (D, H, W) in LPS order, and the voxel size (z, y, x) in mm."""
    if path.suffix.lower() != ".npz":
        from data.scans.volume import read_label  # imports SimpleITK, which .npz files do not need

        label = read_label(path)
        return label.array, np.array(label.spacing)
    try:
        with np.load(path) as file:
            voxels, spacing = file["labels"], file["spacing"].astype(float)
    except ARCHIVE_ERRORS as error:
        raise InputError(path, f"not a label map ({error})", REMEDY) from error
    if voxels.ndim != 3 or voxels.dtype != np.uint8 or spacing.shape != (3,) or not (spacing > 0).all():
        problem = "not a label map: it needs labels (uint8, z, y, x) and spacing (three numbers in mm)"
        raise InputError(path, problem, REMEDY)
    if not np.isfinite(spacing).all() or not voxels.size:
        raise InputError(path, "not a label map: its spacing is not finite, or it has no voxels", REMEDY)
    return voxels, spacing


def _organ_masks(path: Path, voxels: np.ndarray, codes: Codes) -> dict[str, np.ndarray]:
    """Find the voxels of each organ that is taken from the map."""
    found = [int(code) for code in np.flatnonzero(np.bincount(voxels.ravel(), minlength=256)) if code]
    if unknown := [str(code) for code in found if code not in codes]:
        problem = f"holds the codes {', '.join(unknown)}, which its table does not have"
        raise InputError(path, problem, f"name the table that it was drawn by ({', '.join(TABLES)}) or add the codes")
    masks: dict[str, np.ndarray] = {}
    for code in found:
        if codes[code] != OTHER:
            mask = voxels == code
            masks[codes[code]] = masks[codes[code]] | mask if codes[code] in masks else mask
    return masks


def _aorta_course(aorta: np.ndarray, step: np.ndarray, corner: np.ndarray) -> Course:
    """Follow the descending aorta: in each slice a usual radius in front of its rearmost point, and smooth along z."""
    heights, centres = [], []
    for number in np.flatnonzero(aorta.any(axis=(1, 2))):
        y, x = np.argwhere(aorta[number]).T * step[1:, None] + corner[1:, None]
        rear = y.max() + step[1] / 2
        heights.append(number * step[0] + corner[0])
        centres.append((rear - AORTA_RADIUS_MM, x[y > rear - 3 * AORTA_RADIUS_MM].mean()))
    even = np.arange(heights[0], heights[-1] + step[0] / 2, step[0])
    straight = np.column_stack([np.interp(even, heights, column) for column in np.transpose(centres)])
    return even, gaussian_filter1d(straight, SMOOTH_AORTA_MM / step[0], axis=0, mode="nearest")


def _shape(mask: np.ndarray, step: np.ndarray, corner: np.ndarray, course: Course, gland: float, fine: bool) -> Shape:
    """Compute the signed distance of an organ, straightened along the course of the aorta.

    Args:
        mask: Voxels of the organ.
        step: Voxel size (z, y, x) in mm.
        corner: Position of the first voxel in mm.
        course: Where the aorta runs.
        gland: Height of the pancreas in the map in mm.
        fine: Whether to keep all nodes.
    """
    occupied = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    heights = np.arange(len(mask)) * step[0] + corner[0]
    bend = np.column_stack([np.interp(heights, course[0], column) for column in course[1].T])  # (D, 2)
    middle = bend[occupied[0]].mean(axis=0)
    margin = np.ceil((REACH_MM + np.array([0, *np.abs(bend[occupied[0]] - middle).max(axis=0)])) / step).astype(int)
    first = [max(0, int(o[0]) - m) for o, m in zip(occupied, margin, strict=True)]
    last = [min(n, int(o[-1]) + 1 + m) for o, m, n in zip(occupied, margin, mask.shape, strict=True)]
    part = np.pad(mask[tuple(slice(a, b) for a, b in zip(first, last, strict=True))], ((0, 0), (1, 1), (1, 1)))
    within, beyond = (distance_transform_edt(region, sampling=step) for region in (part, ~part))
    signed = np.where(part, step[1] / 2 - within, beyond - step[1] / 2)
    signed = gaussian_filter(np.clip(signed, -REACH_MM, REACH_MM), (0.4, 0.8, 0.8), mode="nearest")
    for number, (plane, moved) in enumerate(zip(signed, bend[first[0] : last[0]] - middle, strict=True)):
        signed[number] = shift(plane, -moved / step[1:], order=1, mode="nearest")
    start = np.array(first) * step + corner - (0, *step[1:]) - (gland, *(middle - AORTA))
    ends = [bool(mask[0].any()), bool(mask[-1].any())]
    signed, start[0] = _continued(signed, start[0], step[0], ends)
    thin = [1, 1, 1] if fine else [1, *(max(1, round(NODES_MM / s)) for s in step[1:])]
    field = Field(start, step * thin, signed[tuple(slice(None, None, n) for n in thin)].astype(np.float32))
    level = level_of_volume(field, mask.sum() * step.prod() / 1000) if not any(ends) else 0.0
    tenths = np.clip(np.rint((field.values - level) * _TENTHS), -REACH_MM * _TENTHS, REACH_MM * _TENTHS)
    return Shape(field.start, field.step, tenths.astype(np.int8))


def _continued(signed: np.ndarray, start: float, step: float, ends: list[bool]) -> tuple[np.ndarray, float]:
    """Let an organ that is cut by an end of the map taper off beyond it, instead of ending in a flat face.

    Returns:
        The signed distance with further slices, and the height of the first one in mm.
    """
    count = int(np.ceil(np.sqrt(4 * CAP_RADIUS_MM * REACH_MM) / step))
    away = np.arange(1, count + 1)[:, None, None] * step
    rise = away**2 / (2 * CAP_RADIUS_MM)
    if ends[1]:
        signed = np.concatenate([signed, np.minimum(signed[-1:] + rise, REACH_MM)])
    if ends[0]:
        signed = np.concatenate([np.minimum(signed[:1] + rise[::-1], REACH_MM), signed])
        start -= count * step
    return signed, start
