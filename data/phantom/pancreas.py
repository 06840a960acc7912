"""The procedural pancreas: gland, duct and tumour, the vessels behind it and the fat around them."""

from dataclasses import replace

import numpy as np

from data.phantom.anatomy import AORTA, HEAD, Layer, Tissue
from data.phantom.fields import Field, curve, ellipsoid, level_of_volume, roughen, tubes

SLENDER_ML = 60.0  # glands below this volume are thinner, not only smaller
# The organs that give way to the fat around the pancreas.
DISPLACED = (
    Tissue.LIVER,
    Tissue.GALL,
    Tissue.SPLEEN,
    Tissue.CORTEX,
    Tissue.MEDULLA,
    Tissue.WALL,
    Tissue.CONTENT,
    Tissue.GAS,
)


def random_pancreas(
    rng: np.random.Generator,
    volume: float,
    diameter: float | None,
    swelling: float,
    low: float,
    variety: float = 1.0,
) -> list[Layer]:
    """Draw a pancreas with its duct, tumour and vessels and the fat around them.

    Args:
        rng: Source of randomness.
        volume: Volume of the gland in ml.
        diameter: Diameter of the tumour in mm, or None for a patient without one.
        swelling: Diameter in mm of the tumour that would explain a swelling of the gland in which there is none.
        low: Height in mm at which the mesenteric vessels leave the scan.
        variety: How widely course, place and thickness differ between patients; 1 for patients of similar build.

    Returns:
        The layers in the order in which they are painted.
    """
    shift = rng.normal(0, 5 * variety, 3) * (1, 0.6, 1)
    arch, tilt = rng.normal(0, 5 * variety**0.5), rng.normal(0, 7 * variety)
    path = np.array(
        [
            (-42, 8, -38, 9),
            (*HEAD, 14),
            (-6, -2, -24, 12),
            (2, -13, -4, 8.5),
            (9, -18, 20, 10),
            (17, -3, 48, 10.5),
            (25 + tilt, 14, 76, 10),
            (30 + tilt * 1.4, 22, 92, 7),
        ]
    )
    path[3:6, 1] -= arch
    path[:, :3] += rng.normal(0, 3 * variety, (len(path), 3)) + shift
    path[:, 3] *= rng.uniform(0.85, 1.2, len(path)) * min(1.0, (volume / SLENDER_ML) ** 0.5)
    line, position = curve(path)
    uncinate = curve([(*path[1, :3], 10), (-26 + shift[0], 9 + shift[1], -14 + shift[2], 6)])[0]
    tumour: list[Layer] = []
    duct_radius = np.full(len(line), 1.2)
    # Every gland has a swelling without a tumour, so that shape alone does not tell a tumour.
    swellings = [(_random_position(rng), swelling)]
    if diameter is not None:
        at = _random_position(rng)
        lesion = random_tumour(rng, line[int(at * (len(line) - 1))], diameter)
        tumour = [Layer(Tissue.LESION, lesion, 0, ())]
        # Upstream of the obstruction the duct is dilated and the gland atrophic.
        duct_radius = np.where(position > at, 2.6, 1.2)
        line[position > at + 0.1, 3] *= 0.88
        swellings.append((at, diameter))
    for at, size in swellings:  # so that some gland surrounds a tumour
        away = np.linalg.norm(line[:, :3] - line[int(at * (len(line) - 1)), :3], axis=1)
        line[:, 3] = np.maximum(line[:, 3], 0.45 * size * np.exp(-((away / size) ** 2)))
    gland = roughen(roughen(tubes(np.concatenate([line, uncinate])), rng, 7, 1.3), rng, 16, 1.2)
    level = level_of_volume(gland, volume)
    vein, artery, bile = _vessels(line, position, path, low)
    has_duct = (position > 0.06) & (position < 0.95)
    duct = tubes(np.column_stack([line[has_duct, :3], duct_radius[has_duct]]), 1.5)
    return [
        Layer(Tissue.VISCERAL, uneven_margin(rng, gland), level + 3.5, DISPLACED),
        Layer(Tissue.VISCERAL, vein, 2.0, DISPLACED),
        Layer(Tissue.PARENCHYMA, gland, level, ()),
        Layer(Tissue.DUCT, duct, 0, (Tissue.PARENCHYMA,)),
        Layer(Tissue.BILE, bile, 0, (*DISPLACED, Tissue.VISCERAL, Tissue.PARENCHYMA)),
        *tumour,
        Layer(Tissue.ARTERY, artery, 0, ()),
        Layer(Tissue.VEIN, vein, 0, ()),
    ]


def uneven_margin(rng: np.random.Generator, shape: Field) -> Field:
    """Shift the surface of a shape by several mm, so that the fat around it is thick in places and absent in others."""
    return roughen(shape, rng, 18, 2.5)


def _random_position(rng: np.random.Generator) -> float:
    """Draw the place of a tumour, from 0 to 1 along the line of the gland, more often in its head."""
    return rng.uniform(0.08, 0.35) if rng.random() < 0.6 else rng.uniform(0.4, 0.85)


def random_tumour(rng: np.random.Generator, ball: np.ndarray, diameter: float) -> Field:
    """Draw an irregular ball about a place of the gland, ``ball`` (z, y, x, radius): its signed distance."""
    direction = rng.standard_normal(3)
    middle = ball[:3] + direction / np.linalg.norm(direction) * rng.uniform(0, 0.5) * ball[3]
    stretch = rng.uniform(0.85, 1.18, 3)
    radii = diameter / 2 * stretch / np.prod(stretch) ** (1 / 3)
    shape = roughen(ellipsoid(middle, radii, 2.0), rng, 10, 1.2)
    level = level_of_volume(shape, np.pi / 6 * (diameter / 10) ** 3)
    return replace(shape, values=shape.values - np.float32(level))


def _vessels(line: np.ndarray, position: np.ndarray, path: np.ndarray, low: float) -> tuple[Field, Field, Field]:
    """Lay the vessels along the gland.

    Returns:
        The signed distances of the portal, splenic and superior mesenteric vein; of the coeliac, splenic and superior
        mesenteric artery; and of the common bile duct.
    """
    neck = path[3, :3]
    confluence = neck + np.array([-2, 13, -1])
    body = line[position > 0.48][::6]
    splenic = np.column_stack([body[:, :3] + np.outer(body[:, 3], (0.1, 1.15, 0)), np.full(len(body), 4.0)])
    hilum = (*(splenic[-1, :3] + (4, 8, 14)), 4)
    mesenteric = [(low, -6, -4, 5), (-45, neck[1] + 8, neck[2] - 2, 5.5), (*confluence, 6.5)]
    portal = [(*(confluence + np.array([24, -2, -20])), 6.5), (48, -4, -50, 6)]
    veins = [[*mesenteric, *portal], [(*confluence, 5), *splenic, hilum]]
    upper_edge = np.column_stack([body[:, :3] + np.outer(body[:, 3], (1.05, 0.5, 0)), np.full(len(body), 2.3)])
    coeliac = (14, AORTA[0] - 4, AORTA[1], 4)
    arteries = [
        [
            (2, AORTA[0] - 6, AORTA[1], 4),
            (-6, confluence[1] + 1, confluence[2] + 14, 4),
            (-45, -2, 10, 3.5),
            (low, -8, 8, 3),
        ],
        [coeliac, (20, confluence[1] - 6, confluence[2] + 14, 3.2), *upper_edge],
        [coeliac, (24, confluence[1] - 10, confluence[2] - 8, 2.6), (34, -12, -42, 2.2)],
    ]
    bile = [(40, -8, -52, 3), (15, 6, -44, 3), (-12, path[1, 1] + 9, path[1, 2] - 3, 2.8), (-38, 10, -48, 2.2)]
    vein, artery, bile_duct = (
        tubes(np.concatenate([curve(tree, 1.0)[0] for tree in trees]), 1.5) for trees in (veins, arteries, [bile])
    )
    return vein, artery, bile_duct
