"""A patient on the voxel grid of a scan: around a procedural pancreas, or around a real label map."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.phantom.anatomy import AORTA, Body, Layer, Tissue, aorta, random_body, random_organs
from data.phantom.fields import Axes, Field, smooth_noise
from data.phantom.label_maps import ARTERY_CODES, AnatomyLabels
from data.phantom.pancreas import DISPLACED, random_pancreas, uneven_margin

# The tissue that each code of a label map is painted as; code 0 is not painted.
TISSUE_OF_CODE = np.array(
    [
        Tissue.VISCERAL,
        Tissue.LESION,
        Tissue.VEIN,
        Tissue.ARTERY,
        Tissue.PARENCHYMA,
        Tissue.DUCT,
        Tissue.BILE,
    ],
    np.uint8,
)
FINE_GRAIN_MM, COARSE_GRAIN_MM = 3.5, 11.0
MARGIN_MM = 20  # by which tall organs extend beyond the scan
BODY_WIDTH = 0.86  # of the field of view of a real label map


@dataclass(frozen=True)
class Scene:
    """A patient on the voxel grid of a scan. Its slices are computed on demand, to bound the memory of long scans.

    Attributes:
        axes: Voxel centres in the frame of the body.
        spacing: Voxel spacing (z, y, x) in mm.
        body: The body wall.
        layers: The organs, in the order in which they are painted.
        textures: Fine and coarse texture, of mean 0 and standard deviation 1.
        real: The real label map that is painted last, if any.
        origin: Position (z, y, x) of the origin of the body in the frame of that label map, in mm.
    """

    axes: Axes
    spacing: tuple[float, float, float]
    body: Body
    layers: list[Layer]
    textures: tuple[Field, Field]
    real: AnatomyLabels | None
    origin: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (D, H, W) of the scan."""
        depth, height, width = (len(axis) for axis in self.axes)
        return depth, height, width

    def tissues(self, first: int, last: int) -> np.ndarray:
        """Paint the slices from ``first`` up to, not including, ``last``: tissues uint8 (last - first, H, W)."""
        axes = self._slab(first, last)
        tissues = self.body.paint(axes)
        for layer in self.layers:
            paint_layer(tissues, layer, axes)
        if self.real is not None:
            codes = self.real.codes_at(tuple(axis + o for axis, o in zip(axes, self.origin, strict=True)))
            np.copyto(tissues, TISSUE_OF_CODE[codes], where=codes > 0)
        return tissues

    def texture(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Sample fine and coarse texture in the slices from ``first`` up to, not including, ``last``."""
        fine, coarse = (field.sample(self._slab(first, last)) for field in self.textures)
        return fine, coarse

    def noise_profile(self) -> np.ndarray:
        """Compute the noise relative to the centre of the body (H, W): it falls towards the skin and into the air."""
        y = (self.axes[1][:, None] - self.body.middle) / self.body.half[0]
        x = self.axes[2] / self.body.half[1]
        return (0.55 + 0.45 * np.exp(-((y**2 + x**2) ** 2))).astype(np.float32)

    def _slab(self, first: int, last: int) -> Axes:
        return (self.axes[0][first:last], *self.axes[1:])


def paint_layer(tissues: np.ndarray, layer: Layer, axes: Axes) -> None:
    """Paint a layer into ``tissues`` uint8 (D, H, W) on the grid ``axes``, never outside the skin."""
    window = layer.field.covered_part(axes)
    if any(part.start >= part.stop for part in window):
        return
    region = tissues[window]
    inside = layer.field.sample(tuple(axis[s] for axis, s in zip(axes, window, strict=True))) < layer.level
    replaceable = np.zeros(256, bool)
    replaceable[list(layer.over) or slice(Tissue.FAT, None)] = True
    region[inside & replaceable[region]] = layer.tissue


def procedural_scene(
    rng: np.random.Generator,
    shape: Sequence[int],
    spacing: tuple[float, float, float],
    diameter: float | None,
    swelling: float,
) -> Scene:
    """Draw a patient with a procedural pancreas.

    Args:
        rng: Source of randomness.
        shape: Shape (D, H, W) of the scan.
        spacing: Voxel spacing (z, y, x) in mm.
        diameter: Diameter of the tumour in mm, or None for a patient without one.
        swelling: As in ``random_pancreas``.
    """
    body = random_body(rng)
    middle = (rng.normal(4, 5), body.middle + rng.normal(0, 4), rng.normal(0, 4))
    axes = tuple((np.arange(n) - (n - 1) / 2) * s + m for n, s, m in zip(shape, spacing, middle, strict=True))
    low, high = axes[0][0] - MARGIN_MM, axes[0][-1] + MARGIN_MM
    layers = [*random_organs(rng, body, low, high), aorta(low, high)]
    layers += random_pancreas(rng, rng.uniform(60, 110), diameter, swelling, low)
    return Scene(axes, spacing, body, layers, _random_textures(rng, axes), real=None, origin=np.zeros(3))


def real_scene(rng: np.random.Generator, path: Path, spacing: tuple[float, float, float] | None) -> Scene:
    """Draw a patient around the pancreas and the vessels of a real label map.

    Args:
        rng: Source of randomness.
        path: The label map (.npz).
        spacing: Voxel spacing (z, y, x) in mm of a grid over the field of view of the label map's scan; None for the
            grid of that scan itself.

    Raises:
        InputError: If the label map cannot be used.
    """
    real = AnatomyLabels.read(path)
    step = real.spacing if spacing is None else np.asarray(spacing)
    shape = np.rint(real.scan_shape * real.spacing / step).astype(int)
    origin = real.anchor() - (0, *AORTA)
    axes = tuple((np.arange(n) + 0.5) * s - o for n, s, o in zip(shape, step, origin, strict=True))
    low, high = axes[0][0] - MARGIN_MM, axes[0][-1] + MARGIN_MM
    body = random_body(rng, BODY_WIDTH * real.scan_shape[2] * real.spacing[2])
    around = real.distance()
    around = replace(around, start=around.start - origin)
    layers = random_organs(rng, body, low, high, real.head() - origin)
    layers.append(Layer(Tissue.VISCERAL, uneven_margin(rng, around), 2.5, DISPLACED))
    # The label map ends with its crop, so the aorta is continued above and below the labelled arteries.
    labelled = real.points(ARTERY_CODES)[:, 0] - origin[0]
    gaps = [(low, high)] if len(labelled) == 0 else [(low, labelled.min() - 8), (labelled.max() + 8, high)]
    layers += [aorta(*gap) for gap in gaps]
    z, y, x = map(float, step)
    return Scene(axes, (z, y, x), body, layers, _random_textures(rng, axes), real, origin)


def _random_textures(rng: np.random.Generator, axes: Axes) -> tuple[Field, Field]:
    low, high = zip(*((axis[0], axis[-1]) for axis in axes), strict=True)
    return smooth_noise(rng, low, high, FINE_GRAIN_MM), smooth_noise(rng, low, high, COARSE_GRAIN_MM)
