"""A patient on the grid of a scan: around a procedural pancreas, or around a real label map."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.phantom.anatomy import AORTA, Body, Layer, Tissue, aorta, organs, random_body
from data.phantom.fields import Axes, Field, smooth_noise
from data.phantom.label_maps import ARTERY_CODES, LabelMap
from data.phantom.pancreas import SOFT, halo, random_pancreas

# What the codes of the label maps are painted as.
CODES = {0: Tissue.VISCERAL, 1: Tissue.LESION, 2: Tissue.VEIN, 3: Tissue.ARTERY}
CODES |= {4: Tissue.PARENCHYMA, 5: Tissue.DUCT, 6: Tissue.BILE}


def paint(tissues: np.ndarray, layers: Sequence[Layer], axes: Axes) -> None:
    """Paint ``layers`` in order into ``tissues`` uint8 (D, H, W) on the grid ``axes``; never outside the body wall."""
    for layer in layers:
        window = layer.field.window(axes)
        if any(part.start >= part.stop for part in window):
            continue
        part = tissues[window]
        mark = layer.field.at(tuple(axis[s] for axis, s in zip(axes, window, strict=True))) < layer.level
        allowed = np.zeros(len(Tissue), bool)
        allowed[list(layer.over) or slice(Tissue.FAT, None)] = True
        part[mark & allowed[part]] = layer.tissue


@dataclass(frozen=True)
class Scene:
    """A patient on the grid of a scan; slices are made on demand. Axes are in the body's frame."""

    axes: Axes
    spacing: tuple[float, float, float]
    body: Body
    layers: list[Layer]
    textures: tuple[Field, Field]
    real: LabelMap | None = None
    origin: np.ndarray | None = None  # of the body's frame, mm from the corner of a real scan

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(len(axis) for axis in self.axes)

    def _slab(self, first: int, last: int) -> Axes:
        return (self.axes[0][first:last], *self.axes[1:])

    def tissues(self, first: int, last: int) -> np.ndarray:
        """Tissues uint8 of slices ``first`` to ``last``: (last - first, H, W)."""
        axes = self._slab(first, last)
        tissues = self.body.paint(axes)
        paint(tissues, self.layers, axes)
        if self.real is not None:
            codes = self.real.at(tuple(axis + o for axis, o in zip(axes, self.origin, strict=True)))
            table = np.array([CODES[code] for code in range(len(CODES))], np.uint8)
            np.copyto(tissues, table[codes], where=codes > 0)
        return tissues

    def texture(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Fine and coarse texture (mean 0, sd 1) of slices ``first`` to ``last``."""
        return tuple(field.at(self._slab(first, last)) for field in self.textures)

    def attenuated(self) -> np.ndarray:
        """Noise relative to the centre of the body (H, W): less towards the skin, least in air."""
        y = (self.axes[1][:, None] - self.body.middle) / self.body.half[0]
        x = self.axes[2] / self.body.half[1]
        return (0.55 + 0.45 * np.exp(-((y**2 + x**2) ** 2))).astype(np.float32)


def _textures(rng: np.random.Generator, axes: Axes) -> tuple[Field, Field]:
    low, high = zip(*((axis[0], axis[-1]) for axis in axes), strict=True)
    return smooth_noise(rng, low, high, 3.5), smooth_noise(rng, low, high, 11.0)


def procedural_scene(
    rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], tumour: float | None
) -> Scene:
    """A patient with a procedural pancreas; ``tumour`` is its diameter in mm, None for none."""
    body = random_body(rng)
    middle = (rng.normal(4, 5), body.middle + rng.normal(0, 4), rng.normal(0, 4))
    axes = tuple((np.arange(n) - (n - 1) / 2) * s + m for n, s, m in zip(shape, spacing, middle, strict=True))
    low, high = axes[0][0] - 20, axes[0][-1] + 20
    layers = [*organs(rng, body, low, high), aorta(low, high)]
    layers += random_pancreas(rng, rng.uniform(60, 110), tumour, low)
    return Scene(axes, tuple(map(float, spacing)), body, layers, _textures(rng, axes))


def real_scene(rng: np.random.Generator, path: Path, spacing: Sequence[float] | None) -> Scene:
    """A patient around the label map at ``path``, on the grid of its scan, or at ``spacing`` over its field of view."""
    real = LabelMap.read(path)
    spacing = real.spacing if spacing is None else np.asarray(spacing)
    shape = np.rint(real.scan_shape * real.spacing / spacing).astype(int)
    origin = real.anchor() - (0, *AORTA)
    axes = tuple(axis - o for axis, o in zip(real.centres(shape, spacing), origin, strict=True))
    low, high = axes[0][0] - 20, axes[0][-1] + 20
    body = random_body(rng, 0.86 * real.scan_shape[2] * real.spacing[2])
    around = real.distance()
    around = replace(around, start=around.start - origin)
    layers = organs(rng, body, low, high, real.head() - origin)
    layers.append(Layer(Tissue.VISCERAL, halo(rng, around), 2.5, SOFT))
    # The labelled arteries end with the crop; the aorta goes on.
    known = real.points(ARTERY_CODES)[:, 0] - origin[0]
    ends = [(low, high)] if len(known) == 0 else [(low, known.min() - 8), (known.max() + 8, high)]
    layers += [aorta(*end) for end in ends]
    return Scene(axes, tuple(map(float, spacing)), body, layers, _textures(rng, axes), real, origin)
