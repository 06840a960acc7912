"""The patients of the evidence study: a gland, a lesion anywhere in it, and a bulge of the same shape beside it.

Every patient is painted twice: with the lesion, and as the lesion-free twin in which the lesion's place is gland. The
bulge is gland in both. Neither the place nor the shape of a lump therefore tells a lesion; only its HU and, in half of
the patients, a duct that is dilated upstream of it do.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter1d, label
from skimage.graph import MCP_Geometric

from data.phantom.anatomy import Layer, Tissue
from data.phantom.fields import Axes, Field, curve, node_axes, tubes
from data.phantom.pancreas import random_tumour
from data.phantom.scene import Scene, paint_layer, procedural_scene, real_scene
from data.synthesis.acquisition import acquire
from experiments.bench_domains import (
    DILATED_SHARE,
    Constitution,
    Domain,
    materials_in,
    random_constitution,
)

PLAN_MM = 2.0  # grid on which places are drawn and the duct is laid
PAINT_MM = 1.0  # grid on which tissues are painted, before a scanner averages them
MARGIN_MM = (20.0, 24.0, 24.0)  # of a case around gland and lumps, (z, y, x)
LESION_MM = (14.0, 34.0)  # smallest and largest diameter of a lesion that is not a drawn one
DUCT_MM = (2.2, 3.0)  # radius of a dilated duct
SHORTEST_DUCT_MM = 15.0
PROCEDURAL_MM = (165.0, 270.0, 345.0)  # extent of a procedural scan, (z, y, x)
LESION_CODE = 1  # of the label maps
# What a lump replaces: the gland and what gives way to it. Vessels, bile duct and solid organs stay.
LUMP_OVER = (Tissue.PARENCHYMA, Tissue.DUCT, Tissue.VISCERAL, Tissue.WALL, Tissue.CONTENT, Tissue.GAS)
GLAND = (Tissue.PARENCHYMA, Tissue.DUCT, Tissue.LESION)


@dataclass(frozen=True)
class Patient:
    """A patient who is scanned in every domain.

    Attributes:
        scene: The patient without lumps, on the axes of ``tissues``.
        tissues: What is painted there, uint8 (D, H, W): a gland without a lesion.
        lesion: The lesion, as a shape.
        bulge: The same shape elsewhere in the gland.
        duct: The dilated duct upstream of the lesion; None if too little of the gland lies there.
        obstructed: Whether the lesion dilates this duct in domains in which it is not the only sign.
        drawn: Whether the lesion was drawn in the label map, place and shape.
        constitution: How the tissues differ from the usual ones.
    """

    scene: Scene
    tissues: np.ndarray
    lesion: Layer
    bulge: Layer
    duct: Layer | None
    obstructed: bool
    drawn: bool
    constitution: Constitution

    def paint(self, lesion: bool, dilated: bool) -> np.ndarray:
        """Paint the patient with the lesion, or the lesion-free twin: tissues uint8 (D, H, W)."""
        tissues = self.tissues.copy()
        axes = self.scene.axes
        paint_layer(tissues, self.bulge, axes)
        if not lesion:
            paint_layer(tissues, replace(self.lesion, tissue=Tissue.PARENCHYMA), axes)
        elif dilated and self.duct is not None:
            paint_layer(tissues, self.duct, axes)
        if lesion:
            paint_layer(tissues, self.lesion, axes)
        return tissues


def draw_patient(rng: np.random.Generator, anatomy: Path | None) -> Patient:
    """Draw a patient.

    Args:
        rng: Source of randomness.
        anatomy: A label map (.npz) as ``data.phantom.label_maps`` reads it, with a lesion or without; None for a
            procedural pancreas.

    Raises:
        InputError: If the label map cannot be used.
    """
    if anatomy is None:
        shape = [round(mm / PLAN_MM) for mm in PROCEDURAL_MM]
        scene = procedural_scene(rng, shape, (PLAN_MM,) * 3, None, rng.uniform(15, 30))
    else:
        scene = real_scene(rng, anatomy, None)
    low, high = _gland_extent(scene)
    plan = node_axes(low - 3 * PLAN_MM, high + 3 * PLAN_MM, PLAN_MM)
    gland = np.isin(_tissues_on(scene, plan), GLAND)
    places = np.stack([axis[i] for axis, i in zip(plan, np.nonzero(gland), strict=True)], axis=-1)
    drawn = _drawn_lesion(scene)
    if drawn is None:
        centre = places[rng.integers(len(places))]
        shape_of_lump = random_tumour(rng, np.array([*centre, 0.0]), float(rng.uniform(*LESION_MM)))
    else:
        shape_of_lump = drawn
        centre = _middle(drawn)
    size = 2 * (3 / (4 * np.pi) * np.count_nonzero(shape_of_lump.values < 0) * np.prod(shape_of_lump.step)) ** (1 / 3)
    away = np.linalg.norm(places - centre, axis=1)
    elsewhere = places[away > 1.2 * size] if (away > 1.2 * size).any() else places[[away.argmax()]]
    shift = elsewhere[rng.integers(len(elsewhere))] - centre
    lesion = Layer(Tissue.LESION, shape_of_lump, 0.0, LUMP_OVER)
    bulge = Layer(Tissue.PARENCHYMA, replace(shape_of_lump, start=shape_of_lump.start + shift), 0.0, LUMP_OVER)
    duct = _dilated_duct(rng, gland, plan, centre)
    axes = _case_axes(scene, (lesion, bulge), low, high)
    return Patient(
        scene=_on_axes(scene, axes),
        tissues=_tissues_on(scene, axes),
        lesion=lesion,
        bulge=bulge,
        duct=duct,
        obstructed=bool(rng.random() < DILATED_SHARE),
        drawn=drawn is not None,
        constitution=random_constitution(rng),
    )


def scan(
    patient: Patient, domain: Domain, entropy: list[int], *, lesion: bool
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Scan a patient, or the lesion-free twin, in a domain.

    Args:
        patient: The patient.
        domain: The scanner, and what lesions look like.
        entropy: Seed of the noise. The same one for a patient and the twin gives scans that differ in the lesion only.
        lesion: Whether the patient has the lesion.

    Returns:
        Image in HU, int16 (D, H, W), LPS; label 0/1/2, uint8, of the same shape; voxel spacing (z, y, x) in mm.
    """
    tissues = patient.paint(lesion, dilated=domain.duct_only or patient.obstructed)
    materials = materials_in(domain, patient.constitution)
    fine, coarse = (texture.sample(patient.scene.axes) for texture in patient.scene.textures)
    attenuation = materials.mean[tissues] + materials.fine[tissues] * fine + materials.coarse[tissues] * coarse
    acquisition = domain.acquisition
    image = _averaged(patient.scene.axes, attenuation, domain.spacing, acquisition.blur_mm)
    covered, of_lesion = (
        _averaged(patient.scene.axes, mask.astype(np.float32), domain.spacing, (0.0, 0.0, 0.0)) >= 0.5
        for mask in (np.isin(tissues, GLAND), tissues == Tissue.LESION)
    )
    labels = covered.astype(np.uint8)
    labels[of_lesion] = 2
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    return acquire(rng, image, domain.spacing, acquisition), labels, domain.spacing


def _averaged(axes: Axes, values: np.ndarray, spacing: tuple[float, float, float], blur_mm: tuple) -> np.ndarray:
    """Bring values from the painted grid onto the voxels of a scan, each the blurred mean over its voxel."""
    for axis, (mm, blur) in enumerate(zip(spacing, blur_mm, strict=True)):
        # 0.29 is the standard deviation of a uniform distribution over one voxel.
        sigma = float(np.hypot(blur, 0.29 * mm)) / PAINT_MM
        values = gaussian_filter1d(values, sigma, axis, mode="nearest", truncate=3)
    start = np.array([axis[0] for axis in axes])
    grid = tuple(np.arange(axis[0] + mm / 2, axis[-1], mm) for axis, mm in zip(axes, spacing, strict=True))
    return Field(start, np.full(3, PAINT_MM), values.astype(np.float32, copy=False)).sample(grid)


def _on_axes(scene: Scene, axes: Axes) -> Scene:
    return replace(scene, axes=axes, spacing=(PAINT_MM,) * 3)


def _tissues_on(scene: Scene, axes: Axes) -> np.ndarray:
    """Paint a scene on a grid, a lesion of its label map as gland: tissues uint8 (D, H, W)."""
    tissues = _on_axes(scene, axes).tissues(0, len(axes[0]))
    tissues[tissues == Tissue.LESION] = Tissue.PARENCHYMA
    return tissues


def _gland_extent(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Find the lowest and the highest corner (z, y, x) of the gland in mm, in the frame of the body."""
    if scene.real is not None:
        points = scene.real.points((LESION_CODE, 4, 5)) - scene.origin
    else:
        [gland] = [layer for layer in scene.layers if layer.tissue == Tissue.PARENCHYMA]
        points = gland.field.start + np.argwhere(gland.field.values < gland.level) * gland.field.step
    return points.min(axis=0), points.max(axis=0)


def _drawn_lesion(scene: Scene) -> Field | None:
    """Return the signed distance in mm of the lesion that is drawn in the label map; None if there is none."""
    if scene.real is None or not (points := scene.real.points((LESION_CODE,))).size:
        return None
    nodes = node_axes(points.min(axis=0) - 4, points.max(axis=0) + 4, PAINT_MM)
    inside = scene.real.codes_at(nodes) == LESION_CODE
    signed = distance_transform_edt(~inside, PAINT_MM) - distance_transform_edt(inside, PAINT_MM)
    start = np.array([axis[0] for axis in nodes]) - scene.origin
    return Field(start, np.full(3, PAINT_MM), signed.astype(np.float32))


def _middle(lump: Field) -> np.ndarray:
    """Return the point (z, y, x) that lies deepest in a shape, in mm."""
    return lump.start + np.array(np.unravel_index(lump.values.argmin(), lump.values.shape)) * lump.step


def _dilated_duct(rng: np.random.Generator, gland: np.ndarray, plan: Axes, lesion: np.ndarray) -> Layer | None:
    """Lay a dilated duct through the middle of the gland, from a lesion to the tail.

    Args:
        rng: Source of randomness.
        gland: Its mask on the grid ``plan``.
        plan: Positions of that grid in mm; x grows towards the tail.
        lesion: Where the lesion lies, (z, y, x) in mm.

    Returns:
        The duct; None if less than SHORTEST_DUCT_MM of the gland lies upstream of the lesion.
    """
    radius = rng.uniform(*DUCT_MM)  # drawn in any case, so that the next draws do not depend on the lesion's place
    voxels = np.argwhere(gland)
    positions = np.stack([axis[i] for axis, i in zip(plan, voxels.T, strict=True)], axis=-1)
    start = voxels[np.linalg.norm(positions - lesion, axis=1).argmin()]
    parts, _ = label(gland)
    reachable = voxels[parts[tuple(voxels.T)] == parts[tuple(start)]]
    tail = reachable[reachable[:, 2].argmax()]
    depth = distance_transform_edt(gland)
    paths = MCP_Geometric(np.where(gland, 1 / np.maximum(depth, 0.5) ** 2, -1.0))
    paths.find_costs([tuple(start)], [tuple(tail)])
    course = np.array(paths.traceback(tuple(tail)))
    points = np.stack([axis[i] for axis, i in zip(plan, course.T, strict=True)], axis=-1)
    if np.linalg.norm(np.diff(points, axis=0), axis=1).sum() < SHORTEST_DUCT_MM:
        return None
    knots = points[np.linspace(0, len(points) - 1, max(3, len(points) // 5)).astype(int)]
    line, _ = curve(knots)
    return Layer(
        Tissue.DUCT, tubes(np.column_stack([line, np.full(len(line), radius)]), 1.0), 0.0, (Tissue.PARENCHYMA,)
    )


def _case_axes(scene: Scene, lumps: tuple[Layer, ...], low: np.ndarray, high: np.ndarray) -> Axes:
    """Return the painted grid: gland and lumps with a margin, within the scan."""
    margin = np.array(MARGIN_MM)
    for lump in lumps:
        inside = lump.field.start + np.argwhere(lump.field.values < lump.level) * lump.field.step
        low, high = np.minimum(low, inside.min(axis=0)), np.maximum(high, inside.max(axis=0))
    first = np.maximum(low - margin, [axis[0] for axis in scene.axes])
    last = np.minimum(high + margin, [axis[-1] for axis in scene.axes])
    return tuple(np.arange(a, b, PAINT_MM) for a, b in zip(first, last, strict=True))
