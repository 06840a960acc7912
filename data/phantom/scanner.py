"""The scanners of the synthetic centres: grids, Hounsfield units, kernel and noise; a case rendered in memory."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from data.phantom.anatomy import Tissue
from data.phantom.scene import Scene, procedural_scene, real_scene

FULL_HEIGHT = (235.0, 265.0)  # mm, least and most
SMALL_HEIGHT = (150.0, 180.0)
SLAB = 32  # slices rendered at once: bounds the memory of long scans


@dataclass(frozen=True)
class Scanner:
    """One centre: its scanner, its protocol and its patients."""

    name: str
    small: tuple[float, float, float]  # spacing (z, y, x) mm of --size small
    full: tuple[float, float, float]  # spacing (z, y, x) mm of --size full
    view: tuple[float, float]  # field of view (y, x) mm of --size small; full has 512 x 512 voxels
    portal: float  # contrast phase: 0 late arterial ... 1 portal venous
    noise: float  # sd in HU at the slice thickness of ``small``, centre of the body
    grain: float  # correlation of the noise, sd in pixels
    blur: float  # softness of the kernel, sd in mm
    edge: float  # edge enhancement of the kernel: share of the unsharp mask
    bias: float  # HU
    contrast: tuple[float, float]  # tumour below parenchyma, HU, least and most
    tumour: tuple[float, float]  # diameter in mm, least and most; a real label map has its own
    isodense: float = 0.0  # share of the tumours that differ from the parenchyma by ISODENSE_HU at most


# fmt: off
SCANNERS = (  # a centre: its grids, then portal, noise, grain, blur, edge, bias, contrasts and sizes of the tumour
    Scanner("north", (3.6, 2.8, 2.8), (2.5, 0.78, 0.78), (270, 345),
            1.0, 9, 0.45, 0.6, 0.0, 0, (55, 68), (28, 42)),
    Scanner("south", (4.0, 2.9, 2.9), (5.0, 0.88, 0.88), (290, 370),
            0.35, 13, 0.7, 1.0, 0.0, -6, (57, 70), (30, 44)),
    Scanner("west", (3.2, 2.7, 2.7), (1.5, 0.70, 0.70), (275, 350),
            0.75, 11, 0.3, 0.4, 0.35, 8, (52, 66), (27, 41)),
    Scanner("east", (3.4, 2.8, 2.8), (1.0, 0.82, 0.82), (280, 360),
            0.9, 10, 0.55, 0.7, 0.1, 3, (50, 64), (26, 42)),
)
# Around real label maps, one after the other: contrasts from the upper half of what real tumours have (5 to 40 HU),
# and a tenth of them isodense; noise of 10 to 22 HU. They differ in phase, kernel and grain.
REAL_SCANNERS = (
    Scanner("portal, soft kernel", (3.0, 2.8, 2.8), (2.5, 0.78, 0.78), (270, 345),
            1.0, 10, 0.45, 0.9, 0.0, 0, (30, 40), (0, 0), 0.1),
    Scanner("pancreatic phase, low dose", (3.0, 2.8, 2.8), (1.0, 0.82, 0.82), (280, 360),
            0.4, 22, 0.55, 0.8, 0.0, 3, (15, 40), (0, 0), 0.1),
    Scanner("late arterial, sharp kernel", (2.8, 2.6, 2.6), (1.5, 0.70, 0.70), (275, 350),
            0.1, 14, 0.3, 0.4, 0.5, 8, (30, 40), (0, 0), 0.1),
    Scanner("portal, coarse grain", (3.2, 3.0, 3.0), (5.0, 0.88, 0.88), (290, 370),
            0.8, 16, 0.9, 1.1, 0.0, -10, (30, 40), (0, 0), 0.1),
)
# fmt: on
ISODENSE_HU = 5.0

# HU in the late arterial and in the portal venous phase, and the sd of fine and coarse texture.
HOUNSFIELD = {
    Tissue.AIR: (-1000, -1000, 0, 0),
    Tissue.SKIN: (30, 30, 5, 5),
    Tissue.FAT: (-102, -102, 4, 4),
    Tissue.VISCERAL: (-96, -96, 8, 8),
    Tissue.MUSCLE: (52, 56, 9, 6),
    Tissue.BONE: (420, 420, 60, 30),
    Tissue.MARROW: (190, 200, 35, 15),
    Tissue.CORD: (35, 35, 4, 0),
    Tissue.LUNG: (-820, -820, 40, 25),
    Tissue.HEART: (150, 140, 5, 8),
    Tissue.LIVER: (72, 106, 5, 5),
    Tissue.GALL: (10, 10, 2, 2),
    Tissue.SPLEEN: (128, 116, 5, 4),
    Tissue.CORTEX: (190, 165, 8, 5),
    Tissue.MEDULLA: (95, 150, 8, 6),
    Tissue.WALL: (80, 88, 10, 10),
    Tissue.CONTENT: (28, 28, 14, 18),
    Tissue.GAS: (-930, -930, 15, 20),
    Tissue.ARTERY: (270, 132, 4, 4),
    Tissue.VEIN: (110, 154, 4, 4),
    Tissue.CAVA: (90, 125, 10, 12),
    Tissue.PARENCHYMA: (108, 92, 10, 5),
    Tissue.LESION: (0, 0, 6, 6),  # its mean is the parenchyma's less the contrast
    Tissue.DUCT: (30, 32, 2, 2),
    Tissue.BILE: (18, 22, 2, 2),
}
PANCREAS_TISSUES = (Tissue.PARENCHYMA, Tissue.DUCT)


def render_case(
    scanner: Scanner, index: int, seed: int, size: str = "small", anatomy: Path | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Scan one synthetic patient.

    Args:
        index: number of the case within the centre.
        size: "small" (voxels of about 3 mm) or "full" (512 x 512; a label map's own grid).
        anatomy: a label map (.npz) to take the place of the procedural pancreas and vessels.

    Returns:
        image int16 HU (D, H, W), LPS; label uint8 0/1/2 of the same shape; spacing (z, y, x) mm.

    Raises:
        InputError: the label map cannot be used.
    """
    entropy = [seed, zlib.crc32(scanner.name.encode()), index]
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    if anatomy is None:
        scene = procedural_scene(rng, *_grid(scanner, size, rng), tumour=_tumour(scanner, seed, index, rng))
    else:
        scene = real_scene(rng, anatomy, scanner.small if size == "small" else None)
    hounsfield, fine, coarse = _tissue_table(scanner, rng)
    image = np.empty(scene.shape, np.int16)
    label = np.empty(scene.shape, np.uint8)
    for first in range(0, scene.shape[0], SLAB):
        last = min(first + SLAB, scene.shape[0])
        low, high = max(0, first - 3), min(scene.shape[0], last + 3)  # neighbours for the blur
        tissues = scene.tissues(low, high)
        inner = slice(first - low, last - low)
        label[first:last] = np.isin(tissues[inner], PANCREAS_TISSUES) + 2 * (tissues[inner] == Tissue.LESION)
        attenuation = hounsfield[tissues]
        for amount, texture in zip((fine, coarse), scene.texture(low, high), strict=True):
            attenuation += amount[tissues] * texture
        sharp = _kernel(attenuation, scanner, scene.spacing)[inner]
        sharp += _noise(scanner, scene, entropy, first, last) + scanner.bias
        image[first:last] = np.clip(np.rint(sharp), -1024, 3071)
    return image, label, scene.spacing


def _grid(scanner: Scanner, size: str, rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[float, ...]]:
    """Shape and spacing (z, y, x) of a procedural scan."""
    if size == "full":
        return (round(rng.uniform(*FULL_HEIGHT) / scanner.full[0]), 512, 512), scanner.full
    extent = (rng.uniform(*SMALL_HEIGHT), *scanner.view)
    return tuple(round(e / s) for e, s in zip(extent, scanner.small, strict=True)), scanner.small


def _tumour(scanner: Scanner, seed: int, index: int, rng: np.random.Generator) -> float | None:
    """Diameter in mm; None for one case in six, counted from a place that depends on the centre."""
    spared = (seed + zlib.crc32(scanner.name.encode())) % 6
    diameter = rng.uniform(*scanner.tumour)
    return None if index % 6 == spared else diameter


def _tissue_table(scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    """Mean, fine and coarse texture of each tissue in this patient: float32 (3, tissues)."""
    table = np.array([HOUNSFIELD[tissue] for tissue in Tissue], np.float32)
    portal = np.clip(scanner.portal + rng.normal(0, 0.08), 0, 1.1)
    mean = table[:, 0] + portal * (table[:, 1] - table[:, 0])
    enhanced = (mean > 60) & (mean < 300)
    mean[enhanced] *= rng.normal(1, 0.05)  # cardiac output and dose of contrast agent
    mean += rng.normal(0, 2, len(mean))
    isodense = scanner.isodense and rng.uniform() < scanner.isodense
    below = rng.uniform(-ISODENSE_HU, ISODENSE_HU) if isodense else rng.uniform(*scanner.contrast)
    mean[Tissue.LESION] = mean[Tissue.PARENCHYMA] - below
    fine = table[:, 2]
    fine[Tissue.PARENCHYMA] *= rng.uniform(0.8, 1.5)  # fat between the lobules
    return np.stack([mean, fine, table[:, 3]]).astype(np.float32)


def _kernel(attenuation: np.ndarray, scanner: Scanner, spacing: Sequence[float]) -> np.ndarray:
    """Slice profile, voxel averaging and reconstruction kernel."""
    sigma = [0.35] + [float(np.hypot(scanner.blur / s, 0.29)) for s in spacing[1:]]  # 0.29: sd of a voxel's width
    soft = gaussian_filter(attenuation, sigma, mode="nearest", truncate=3)
    if scanner.edge:
        soft += scanner.edge * (soft - gaussian_filter(soft, (0, 1, 1), mode="nearest", truncate=3))
    return soft


def _noise(scanner: Scanner, scene: Scene, entropy: list[int], first: int, last: int) -> np.ndarray:
    """Correlated noise of slices ``first`` to ``last``; each slice has its own generator, so slabs do not matter."""
    sd = scanner.noise * np.sqrt(scanner.small[0] / scene.spacing[0])  # the fewer photons the thinner the slice
    sd = float(np.clip(sd, 10, 30)) if scene.real is not None else sd
    slices = []
    for k in range(first, last):
        rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(k,)))
        white = rng.standard_normal(scene.shape[1:], dtype=np.float32)
        soft = gaussian_filter(white, scanner.grain, mode="wrap", truncate=3)
        slices.append(soft / soft.std())
    return np.stack(slices) * np.float32(sd) * scene.attenuated()
