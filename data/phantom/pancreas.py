"""The procedural pancreas: gland, duct and tumour, the vessels it lies on and the fat around them."""

from dataclasses import replace

import numpy as np

from data.phantom.anatomy import AORTA, HEAD, Layer, Tissue
from data.phantom.fields import Field, curve, ellipsoid, roughen, tubes, volume_offset

# What the fat around the pancreas pushes aside.
SOFT = (Tissue.LIVER, Tissue.GALL, Tissue.SPLEEN, Tissue.CORTEX, Tissue.MEDULLA)
SOFT += (Tissue.WALL, Tissue.CONTENT, Tissue.GAS)


def random_pancreas(rng: np.random.Generator, volume: float, diameter: float | None, low: float) -> list[Layer]:
    """Pancreas, duct, tumour and the vessels the gland lies on, with fat around them; layers from back to front.

    Args:
        volume: of the gland, ml. diameter: of the tumour, mm; None for a patient without.
        low: where the mesenteric vessels leave the scan.
    """
    shift = rng.normal(0, 5, 3) * (1, 0.6, 1)
    arch, tilt = rng.normal(0, 5), rng.normal(0, 7)
    path = [(-42, 8, -38, 9), (*HEAD, 14), (-6, -2, -24, 12), (2, -13, -4, 8.5), (9, -18, 20, 10), (17, -3, 48, 10.5)]
    path = np.array([*path, (25 + tilt, 14, 76, 10), (30 + tilt * 1.4, 22, 92, 7)])
    path[3:6, 1] -= arch
    path[:, :3] += rng.normal(0, 3, (len(path), 3)) + shift
    path[:, 3] *= rng.uniform(0.85, 1.2, len(path))
    line, place = curve(path)
    hook = curve([(*path[1, :3], 10), (-26 + shift[0], 9 + shift[1], -14 + shift[2], 6)])[0]
    tumour, at = (None, None) if diameter is None else _tumour(rng, line, diameter)
    if at is not None:
        line[place > at + 0.1, 3] *= 0.88  # atrophy upstream of the obstruction
        away = np.linalg.norm(line[:, :3] - line[int(at * (len(line) - 1)), :3], axis=1)
        swollen = 0.45 * diameter * np.exp(-((away / diameter) ** 2))  # so that gland is left around the tumour
        line[:, 3] = np.maximum(line[:, 3], swollen)
    shape = roughen(roughen(tubes(np.concatenate([line, hook])), rng, 7, 1.3), rng, 16, 1.2)
    level = volume_offset(shape, volume)
    vein, artery, bile = _vessels(line, place, path, low)
    layers = [Layer(Tissue.VISCERAL, halo(rng, shape), level + 3.5, SOFT), Layer(Tissue.VISCERAL, vein, 2.0, SOFT)]
    layers += [
        Layer(Tissue.PARENCHYMA, shape, level, ()),
        Layer(Tissue.DUCT, _duct(line, place, at), 0, (Tissue.PARENCHYMA,)),
    ]
    layers.append(Layer(Tissue.BILE, bile, 0, (*SOFT, Tissue.VISCERAL, Tissue.PARENCHYMA)))
    if tumour is not None:
        layers.append(Layer(Tissue.LESION, tumour, 0, ()))
    return [*layers, Layer(Tissue.ARTERY, artery, 0, ()), Layer(Tissue.VEIN, vein, 0, ())]


def halo(rng: np.random.Generator, shape: Field) -> Field:
    """The shape with a surface that wanders by several mm, so that the fat around it is thick here and absent there."""
    return roughen(shape, rng, 18, 2.5)


def _tumour(rng: np.random.Generator, line: np.ndarray, diameter: float) -> tuple[Field, float]:
    """An uneven ball which is centred in the gland, more often in the head; and its place 0..1 on the line."""
    at = rng.uniform(0.08, 0.35) if rng.random() < 0.6 else rng.uniform(0.4, 0.85)
    centre = line[int(at * (len(line) - 1))]
    direction = rng.standard_normal(3)
    middle = centre[:3] + direction / np.linalg.norm(direction) * rng.uniform(0, 0.5) * centre[3]
    stretch = rng.uniform(0.85, 1.18, 3)
    radii = diameter / 2 * stretch / np.prod(stretch) ** (1 / 3)
    ball = roughen(ellipsoid(middle, radii, 2.0), rng, 10, 1.2)
    level = volume_offset(ball, np.pi / 6 * (diameter / 10) ** 3)
    return replace(ball, values=ball.values - np.float32(level)), at


def _duct(line: np.ndarray, place: np.ndarray, blocked: float | None) -> Field:
    radius = np.full(len(line), 1.2) if blocked is None else np.where(place > blocked, 2.6, 1.2)
    inside = (place > 0.06) & (place < 0.95)
    return tubes(np.column_stack([line[inside, :3], radius[inside]]), 1.5)


def _vessels(line: np.ndarray, place: np.ndarray, path: np.ndarray, low: float) -> tuple[Field, Field, Field]:
    """Portal, splenic and superior mesenteric vein; coeliac, splenic and mesenteric artery; bile duct."""
    neck = path[3, :3]
    meet = neck + np.array([-2, 13, -1])
    back = line[place > 0.48][::6]
    splenic = np.column_stack([back[:, :3] + np.outer(back[:, 3], (0.1, 1.15, 0)), np.full(len(back), 4.0)])
    hilum = (*(splenic[-1, :3] + (4, 8, 14)), 4)
    mesenteric = [(low, -6, -4, 5), (-45, neck[1] + 8, neck[2] - 2, 5.5), (*meet, 6.5)]
    portal = [(*(meet + np.array([24, -2, -20])), 6.5), (48, -4, -50, 6)]
    veins = [[*mesenteric, *portal], [(*meet, 5), *splenic, hilum]]
    crest = np.column_stack([back[:, :3] + np.outer(back[:, 3], (1.05, 0.5, 0)), np.full(len(back), 2.3)])
    root = (14, AORTA[0] - 4, AORTA[1], 4)
    arteries = [
        [(2, AORTA[0] - 6, AORTA[1], 4), (-6, meet[1] + 1, meet[2] + 14, 4), (-45, -2, 10, 3.5), (low, -8, 8, 3)],
        [root, (20, meet[1] - 6, meet[2] + 14, 3.2), *crest],
        [root, (24, meet[1] - 10, meet[2] - 8, 2.6), (34, -12, -42, 2.2)],
    ]
    bile = [(40, -8, -52, 3), (15, 6, -44, 3), (-12, path[1, 1] + 9, path[1, 2] - 3, 2.8), (-38, 10, -48, 2.2)]
    joined = [np.concatenate([curve(tree, 1.0)[0] for tree in trees]) for trees in (veins, arteries, [bile])]
    return tuple(tubes(samples, 1.5) for samples in joined)
