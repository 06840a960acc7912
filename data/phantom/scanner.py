"""The scanners of the synthetic centres, and the rendering of a case: grids, Hounsfield units, kernel and noise."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from data.phantom.anatomy import Tissue
from data.phantom.scene import Scene, procedural_scene, real_scene

Size = Literal["small", "full"]

FULL_HEIGHT_MM = (235.0, 265.0)  # smallest and greatest height of a procedural scan
SMALL_HEIGHT_MM = (150.0, 180.0)
FULL_PLANE = (512, 512)  # voxels (y, x)
SLAB = 32  # slices rendered at a time, which bounds the memory of long scans
SLAB_MARGIN = 3  # slices beyond a slab that the blur across slices needs
TUMOUR_FREE_ONE_IN = 3  # cases
ISODENSE_HU = 5.0  # largest difference between the parenchyma and an isodense tumour
REAL_NOISE_HU = (10, 30)  # limits of the noise around real label maps


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """A synthetic centre: its scanner, its protocol and its patients.

    Attributes:
        name: Name of the centre.
        small: Voxel spacing (z, y, x) in mm of small scans.
        full: Voxel spacing (z, y, x) in mm of full scans, which have 512 x 512 voxels in the plane.
        view: Field of view (y, x) in mm of small scans.
        portal: Contrast phase, from 0 (late arterial) to 1 (portal venous).
        noise: Standard deviation of the noise in HU in the centre of the body, at the slice thickness of small scans.
        grain: Correlation length of the noise, a standard deviation in pixels.
        blur: Softness of the reconstruction kernel, a standard deviation in mm.
        edge: Edge enhancement of the kernel, the weight of an unsharp mask.
        bias: Offset in HU.
        contrast: Smallest and largest difference in HU by which a tumour is darker than the parenchyma.
        tumour: Smallest and largest diameter in mm of a tumour; a real label map has its own tumour.
        isodense: Share of the tumours that differ from the parenchyma by at most ISODENSE_HU.
    """

    name: str
    small: tuple[float, float, float]
    full: tuple[float, float, float]
    view: tuple[float, float]
    portal: float
    noise: float
    grain: float
    blur: float
    edge: float
    bias: float
    contrast: tuple[float, float]
    tumour: tuple[float, float]
    isodense: float = 0.0


SCANNERS = (
    Scanner(
        name="north",
        small=(3.6, 2.8, 2.8),
        full=(2.5, 0.78, 0.78),
        view=(270, 345),
        portal=1.0,
        noise=9,
        grain=0.45,
        blur=0.6,
        edge=0.0,
        bias=0,
        contrast=(55, 68),
        tumour=(28, 42),
    ),
    Scanner(
        name="south",
        small=(4.0, 2.9, 2.9),
        full=(5.0, 0.88, 0.88),
        view=(290, 370),
        portal=0.35,
        noise=13,
        grain=0.7,
        blur=1.0,
        edge=0.0,
        bias=-6,
        contrast=(57, 70),
        tumour=(30, 44),
    ),
    Scanner(
        name="west",
        small=(3.2, 2.7, 2.7),
        full=(1.5, 0.70, 0.70),
        view=(275, 350),
        portal=0.75,
        noise=11,
        grain=0.3,
        blur=0.4,
        edge=0.35,
        bias=8,
        contrast=(52, 66),
        tumour=(27, 41),
    ),
    Scanner(
        name="east",
        small=(3.4, 2.8, 2.8),
        full=(1.0, 0.82, 0.82),
        view=(280, 360),
        portal=0.9,
        noise=10,
        grain=0.55,
        blur=0.7,
        edge=0.1,
        bias=3,
        contrast=(50, 64),
        tumour=(26, 42),
    ),
)
# The scanners around real label maps are assigned to the centres one after the other. Three have tumour contrasts from
# the upper half of the range of real tumours (5 to 40 HU); a tenth of their tumours are isodense. They differ in phase,
# kernel, noise (10 to 22 HU) and grain.
REAL_SCANNERS = (
    Scanner(
        name="portal, soft kernel",
        small=(3.0, 2.8, 2.8),
        full=(2.5, 0.78, 0.78),
        view=(270, 345),
        portal=1.0,
        noise=10,
        grain=0.45,
        blur=0.9,
        edge=0.0,
        bias=0,
        contrast=(30, 40),
        tumour=(0, 0),
        isodense=0.1,
    ),
    Scanner(
        name="pancreatic phase, low dose",
        small=(3.0, 2.8, 2.8),
        full=(1.0, 0.82, 0.82),
        view=(280, 360),
        portal=0.4,
        noise=22,
        grain=0.55,
        blur=0.8,
        edge=0.0,
        bias=3,
        contrast=(15, 40),
        tumour=(0, 0),
        isodense=0.1,
    ),
    Scanner(
        name="late arterial, sharp kernel",
        small=(2.8, 2.6, 2.6),
        full=(1.5, 0.70, 0.70),
        view=(275, 350),
        portal=0.1,
        noise=14,
        grain=0.3,
        blur=0.4,
        edge=0.5,
        bias=8,
        contrast=(30, 40),
        tumour=(0, 0),
        isodense=0.1,
    ),
    Scanner(
        name="portal, coarse grain",
        small=(3.2, 3.0, 3.0),
        full=(5.0, 0.88, 0.88),
        view=(290, 370),
        portal=0.8,
        noise=16,
        grain=0.9,
        blur=1.1,
        edge=0.0,
        bias=-10,
        contrast=(30, 40),
        tumour=(0, 0),
        isodense=0.1,
    ),
)

# Mean in the late arterial and in the portal venous phase, and standard deviation of fine and of coarse texture, in HU.
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
    Tissue.LESION: (0, 0, 6, 6),  # the mean follows from the parenchyma and the contrast
    Tissue.DUCT: (30, 32, 2, 2),
    Tissue.BILE: (18, 22, 2, 2),
}


def render_case(
    scanner: Scanner, index: int, seed: int, size: Size = "small", anatomy: Path | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Scan one synthetic patient.

    Args:
        scanner: The centre.
        index: Number of the case within the centre.
        seed: The same seed gives the same voxels.
        size: "small" for voxels of about 3 mm; "full" for 512 x 512 voxels, or for the grid of the label map's scan.
        anatomy: A real label map (.npz) to use instead of the procedural pancreas and vessels.

    Returns:
        Image in HU, int16 (D, H, W), LPS; label 0/1/2, uint8, of the same shape; voxel spacing (z, y, x) in mm.

    Raises:
        InputError: If the label map cannot be used.
    """
    entropy = [seed, zlib.crc32(scanner.name.encode()), index]
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    if anatomy is None:
        scene = _random_patient(scanner, index, seed, size, rng)
    else:
        scene = real_scene(rng, anatomy, scanner.small if size == "small" else None)
    mean, fine, coarse = _tissue_values(scanner, rng)
    noise_profile = scene.noise_profile()
    # The thinner the slice, the fewer the photons.
    noise_hu = scanner.noise * np.sqrt(scanner.small[0] / scene.spacing[0])
    noise_hu = float(np.clip(noise_hu, *REAL_NOISE_HU)) if scene.real is not None else noise_hu
    image = np.empty(scene.shape, np.int16)
    label = np.empty(scene.shape, np.uint8)
    for first in range(0, scene.shape[0], SLAB):
        last = min(first + SLAB, scene.shape[0])
        low, high = max(0, first - SLAB_MARGIN), min(scene.shape[0], last + SLAB_MARGIN)
        tissues = scene.tissues(low, high)
        slab = slice(first - low, last - low)
        gland = np.isin(tissues[slab], (Tissue.PARENCHYMA, Tissue.DUCT))
        label[first:last] = gland + 2 * (tissues[slab] == Tissue.LESION)
        attenuation = mean[tissues]
        for amount, texture in zip((fine, coarse), scene.texture(low, high), strict=True):
            attenuation += amount[tissues] * texture
        reconstructed = _reconstruct(attenuation, scanner, scene.spacing)[slab]
        noise = _correlated_noise(scene.shape[1:], scanner.grain, entropy, range(first, last))
        reconstructed += noise * np.float32(noise_hu) * noise_profile + scanner.bias
        image[first:last] = np.clip(np.rint(reconstructed), -1024, 3071)
    return image, label, scene.spacing


def _random_patient(scanner: Scanner, index: int, seed: int, size: Size, rng: np.random.Generator) -> Scene:
    """Draw a procedural patient and the extent of the scan. One case in three has no tumour."""
    if size == "full":
        spacing = scanner.full
        shape = (round(rng.uniform(*FULL_HEIGHT_MM) / spacing[0]), *FULL_PLANE)
    else:
        spacing = scanner.small
        extent = (rng.uniform(*SMALL_HEIGHT_MM), *scanner.view)
        depth, height, width = (round(e / s) for e, s in zip(extent, spacing, strict=True))
        shape = (depth, height, width)
    diameter, swelling = rng.uniform(*scanner.tumour, 2)
    tumour_free = (seed + zlib.crc32(scanner.name.encode())) % TUMOUR_FREE_ONE_IN
    has_tumour = index % TUMOUR_FREE_ONE_IN != tumour_free
    return procedural_scene(rng, shape, spacing, diameter if has_tumour else None, swelling)


def _tissue_values(scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    """Draw mean, fine and coarse texture of each tissue of a patient in HU: float32 (3, tissues)."""
    table = np.array([HOUNSFIELD[tissue] for tissue in Tissue], np.float32)
    portal = np.clip(scanner.portal + rng.normal(0, 0.08), 0, 1.1)
    mean = table[:, 0] + portal * (table[:, 1] - table[:, 0])
    enhanced = (mean > 60) & (mean < 300)
    mean[enhanced] *= rng.normal(1, 0.05)  # cardiac output and dose of the contrast agent
    mean += rng.normal(0, 2, len(mean))
    isodense = scanner.isodense and rng.uniform() < scanner.isodense
    contrast = rng.uniform(-ISODENSE_HU, ISODENSE_HU) if isodense else rng.uniform(*scanner.contrast)
    mean[Tissue.LESION] = mean[Tissue.PARENCHYMA] - contrast
    fine = table[:, 2]
    fine[Tissue.PARENCHYMA] *= rng.uniform(0.8, 1.5)  # fat between the lobules
    return np.stack([mean, fine, table[:, 3]]).astype(np.float32)


def _reconstruct(attenuation: np.ndarray, scanner: Scanner, spacing: tuple[float, float, float]) -> np.ndarray:
    """Apply slice profile, averaging within voxels and the reconstruction kernel."""
    # 0.29 is the standard deviation of a uniform distribution over one voxel.
    sigma = [0.35] + [float(np.hypot(scanner.blur / s, 0.29)) for s in spacing[1:]]
    soft = gaussian_filter(attenuation, sigma, mode="nearest", truncate=3)
    if scanner.edge:
        soft += scanner.edge * (soft - gaussian_filter(soft, (0, 1, 1), mode="nearest", truncate=3))
    return soft


def _correlated_noise(plane: tuple[int, int], grain: float, entropy: list[int], slices: range) -> np.ndarray:
    """Draw correlated noise of standard deviation 1: (slices, H, W).

    Each slice has a generator of its own, so that the result does not depend on the slabs.
    """
    drawn = []
    for number in slices:
        rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(number,)))
        soft = gaussian_filter(rng.standard_normal(plane, dtype=np.float32), grain, mode="wrap", truncate=3)
        drawn.append(soft / soft.std())
    return np.stack(drawn)
