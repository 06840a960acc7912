"""The anatomy around the pancreas: the wall of the body with its bones, the organs and the gut.

The frame of the body is (z, y, x) in mm, LPS: z towards the head, y towards the back, x towards the patient's
left; the pancreas lies near its origin and the spine behind it. An anatomy is a list of layers, painted in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from data.phantom.fields import Axes, Field, curve, ellipsoid, roughen, tubes

SPINE = (42.0, 0.0)  # (y, x) of the middle of the vertebral bodies
AORTA = (13.0, 10.0)  # (y, x)
HEAD = (-24.0, 6.0, -40.0)  # (z, y, x) of the head of the pancreas
Range = tuple[float, float]


class Tissue(IntEnum):
    """What is painted: VISCERAL is the cavity's fat, CORTEX and MEDULLA the kidney's, WALL to GAS the gut's."""

    AIR, SKIN, FAT, VISCERAL, MUSCLE, BONE, MARROW, CORD, LUNG, HEART, LIVER, GALL, SPLEEN, CORTEX, MEDULLA = range(15)
    WALL, CONTENT, GAS, ARTERY, VEIN, CAVA, PARENCHYMA, LESION, DUCT, BILE = range(15, 25)


@dataclass(frozen=True)
class Layer:
    """Where ``field`` < ``level``, ``tissue`` is painted, on the tissues ``over`` (none: on all inside the skin)."""

    tissue: Tissue
    field: Field
    level: float = 0.0
    over: tuple[Tissue, ...] = (Tissue.VISCERAL,)


@dataclass(frozen=True)
class Body:
    """The wall of the body: an ellipse of half axes (y, x) mm whose layers vary with the angle."""

    half: tuple[float, float]
    middle: float  # y of the ellipse's centre: a large belly grows forwards, the back stays at the spine
    fat: float
    muscle: float
    phases: tuple[float, float, float]
    dome: float  # height of the diaphragm, mm

    def paint(self, axes: Axes) -> np.ndarray:
        """Tissues uint8 (D, H, W) of wall, bones, lungs and visceral fat."""
        z, y, x = axes[0][:, None, None], axes[1][:, None], axes[2]
        y = y - self.middle
        angle = np.arctan2(y / self.half[0], x / self.half[1])
        wave = sum(np.cos((k + 1) * angle + phase) for k, phase in enumerate(self.phases))
        power = (np.abs(y / self.half[0]) ** 2.25 + np.abs(x / self.half[1]) ** 2.25) ** (1 / 2.25)
        rim = np.hypot(y, x) / np.maximum(power, 1e-6) * (1 + 0.012 * wave)
        depth = (rim - np.hypot(y, x)).astype(np.float32)  # (H, W), mm below the skin
        fat = self.fat * (1 + 0.35 * np.cos(2 * angle) + 0.12 * wave)
        muscle = self.muscle * (1 - 0.45 * np.exp(-((x / 25) ** 2)) * (y < 0))  # thin at the linea alba
        flat = np.full(depth.shape, Tissue.AIR, np.uint8)
        for level, tissue in ((0, Tissue.SKIN), (2, Tissue.FAT)):
            flat[depth > level] = tissue
        flat[depth > fat] = Tissue.MUSCLE
        flat[depth > fat + muscle] = Tissue.VISCERAL
        tissues = np.repeat(flat[None], len(axes[0]), axis=0)
        self._chest(tissues, z, y, x, depth - fat)
        _back(tissues, z, y + self.middle, x)
        return tissues

    @property
    def scale(self) -> tuple[float, float]:
        """The cavity's depth in front of the pancreas and its width, relative to those the organs are drawn for."""
        wall = self.fat + self.muscle
        return (self.half[0] - self.middle - wall - 4) / 88, (self.half[1] - wall) / 135

    def _chest(self, tissues: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray, under: np.ndarray) -> None:
        inside = tissues == Tissue.VISCERAL
        top = self.dome - 55 * ((y / self.half[0]) ** 2 + (x / self.half[1]) ** 2)
        tissues[inside & (z > top)] = Tissue.LUNG
        heart = ((y + 25) / 45) ** 2 + ((x - 25) / 55) ** 2 + ((z - self.dome - 30) / 48) ** 2 < 1
        tissues[inside & heart & (z > top)] = Tissue.HEART
        slope = z + 0.35 * np.abs(x) - 0.55 * y  # ribs run forwards and down
        band = (under > 2) & (under < 9) & (np.abs(x) > 35) & ((y > -70) | (z > self.dome - 20))
        rib = band & (np.mod(slope, 27) < 11) & (z > -25 + 0.35 * (self.half[0] - y))
        tissues[rib] = Tissue.MARROW
        shell = rib & ((under < 4) | (under > 7) | (np.abs(np.mod(slope, 27) - 5.5) > 3.5))
        tissues[shell] = Tissue.BONE


def _back(tissues: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> None:
    """Spine with discs, and the muscles beside it."""
    body = tissues != Tissue.AIR
    behind, side = y - SPINE[0], x - SPINE[1]
    erector = ((behind - 36) / 22) ** 2 + ((np.abs(side) - 30) / 27) ** 2 < 1
    width = np.clip(16 - z / 12, 4, 26)
    psoas = ((behind - 2) / (width * 1.1)) ** 2 + ((np.abs(side) - 24 - width * 0.6) / width) ** 2 < 1
    within = (tissues == Tissue.VISCERAL) | (tissues == Tissue.FAT)
    tissues[(erector & within) | (psoas & (z < 60) & (tissues == Tissue.VISCERAL))] = Tissue.MUSCLE
    disc = np.abs(np.mod(z, 36) - 18) < 4
    vertebra = (behind / 17) ** 2 + (side / 22) ** 2
    arch = (behind > 14) & (((behind - 26) / 15) ** 2 + (side / 17) ** 2 < 1)
    wings = (np.abs(behind - 20) < 4) & (np.abs(side) < 34) & (np.abs(np.mod(z, 36) - 30) < 5)
    spike = (np.abs(side) < 4) & (behind > 30) & (behind < 58) & ~disc
    tissues[body & (arch | wings | spike | (vertebra < 1))] = Tissue.BONE
    tissues[body & (vertebra < 0.78)] = Tissue.MARROW
    tissues[body & disc & (vertebra < 0.9)] = Tissue.MUSCLE
    tissues[body & (((behind - 25) / 8) ** 2 + (side / 9.5) ** 2 < 1)] = Tissue.CORD


def random_body(rng: np.random.Generator, width: float | None = None) -> Body:
    """A body 300 to 340 mm wide, or of the given ``width`` in mm; the wider, the more fat."""
    width = rng.uniform(300, 340) if width is None else width
    half = (width / 2 * rng.uniform(0.67, 0.74), width / 2)
    fat = rng.uniform(8, 16) + max(0.0, width - 320) * rng.uniform(0.1, 0.25)
    waves = tuple(rng.uniform(0, 2 * np.pi, 3))
    return Body(half, 110 - half[0], fat, rng.uniform(9, 13), waves, rng.uniform(78, 98))


def organs(rng: np.random.Generator, body: Body, low: float, high: float, head: Sequence[float] = HEAD) -> list[Layer]:
    """Bowel, stomach, liver, gallbladder, spleen, kidneys and the caval vein, over heights ``low`` to ``high``.

    Args:
        head: (z, y, x) of the head of the pancreas; the duodenum goes round it.
    """
    deep, wide = body.scale

    def blob(centre: Sequence[float], radii: Sequence[float], shift: float = 4.0, rough: float = 2.0) -> Field:
        scale = np.array([1.0, deep if centre[1] < 0 else 1.0, wide])
        centre = np.asarray(centre) * scale + rng.normal(0, shift, 3)
        return roughen(ellipsoid(centre, np.asarray(radii) * scale * rng.uniform(0.93, 1.07)), rng, 22, rough)

    layers = gut(rng, (deep, wide), low, head)
    layers += [
        Layer(Tissue.LIVER, blob((30, -5, -85), (85, 80, 66)), over=(Tissue.VISCERAL, Tissue.WALL, Tissue.CONTENT)),
        Layer(Tissue.LIVER, blob((55, -48, -15), (36, 34, 75))),
        Layer(Tissue.VEIN, _twigs(rng, (38, -8, -50), (25, 25, 34), 7, 2.2), 0, (Tissue.LIVER,)),
        Layer(Tissue.GALL, blob((-8, -48, -58), (24, 17, 14)), 0, (Tissue.VISCERAL, Tissue.LIVER, Tissue.VEIN)),
        Layer(Tissue.SPLEEN, blob((42, 28, 118), (48, 42, 26))),
    ]
    for side, height in ((-1, -22), (1, -10)):
        kidney = blob((height, 42, side * 66), (52, 25, 27), rough=1.2)
        over = (Tissue.VISCERAL, Tissue.LIVER, Tissue.SPLEEN, Tissue.WALL, Tissue.CONTENT, Tissue.GAS, Tissue.MUSCLE)
        pelvis = ellipsoid((height, 36, side * 50), (20, 7, 13))
        layers += [
            Layer(Tissue.CORTEX, kidney, over=over),
            Layer(Tissue.MEDULLA, roughen(kidney, rng, 9, 3), -9, (Tissue.CORTEX,)),
            Layer(Tissue.VISCERAL, pelvis, 0, (Tissue.CORTEX, Tissue.MEDULLA)),
        ]
    cava = [(-60, 20, -18, 11), (-20, 18, -21, 11), (20, 12, -24, 12), (90, -2, -26, 13)]
    return [*layers, Layer(Tissue.CAVA, _upright(cava, low, high), over=())]


def aorta(low: float, high: float) -> Layer:
    """The aorta in front of the spine, over heights ``low`` to ``high``."""
    path = [(-80, *AORTA, 8.5), (0, *AORTA, 10), (100, AORTA[0] + 6, AORTA[1] - 2, 11.5)]
    return Layer(Tissue.ARTERY, _upright(path, low, high), over=())


def _upright(path: Sequence[Sequence[float]], low: float, high: float) -> Field:
    """A vessel that runs up through the points ``path`` (z, y, x, radius), straight on beyond them."""
    knots = np.asarray(path, float)
    heights = np.arange(low, high, 2.0)
    return tubes(np.column_stack([heights, *(np.interp(heights, knots[:, 0], column) for column in knots.T[1:])]))


def _twigs(
    rng: np.random.Generator, root: Sequence[float], spread: Sequence[float], count: int, radius: float
) -> Field:
    """``count`` small vessels that leave ``root`` and thin out."""
    trees = []
    for _ in range(count):
        way = np.asarray(root) + np.cumsum(rng.normal(0, spread, 3) * rng.uniform(0.3, 1, (3, 1)), axis=0)
        points = np.vstack([root, way])
        trees.append(curve(np.column_stack([points, radius * np.array([1, 0.8, 0.6, 0.4])]))[0])
    return tubes(np.concatenate(trees))


def gut(rng: np.random.Generator, scale: tuple[float, float], low: float, head: Sequence[float]) -> list[Layer]:
    """Stomach, duodenum, colon and loops of small bowel: wall, content and the gas that floats in front."""
    deep, wide = scale
    z, y, x = head
    stomach = [(78, 8, 70, 30), (50, -22, 72, 30), (20, -50, 50, 24), (4, -56, 10, 18), (6, -42, -28, 13)]
    bulb = (z + 24, y - 26, x - 4)
    duodenum = [(*bulb, 10), (z + 8, y - 8, x - 25, 12), (z - 20, y + 2, x - 25, 12), (z - 44, y + 4, x + 2, 11)]
    duodenum += [(z - 40, y, x + 40, 11), (z - 12, y - 6, x + 76, 10)]
    ascending = [(low - 20, 10, -100, 22), (-60, 12, -102, 22), (-30, -20, -92, 20), (-42, -62, -50, 18)]
    transverse = [(-42, -62, -50, 18), (-55, -70, 0, 17), (-35, -62, 60, 17), (15, -10, 108, 16)]
    descending = [(15, -10, 108, 16), (-30, 22, 106, 15), (low - 20, 26, 104, 14)]
    colon = np.concatenate([_wander(rng, path, deep, wide) for path in (ascending, transverse, descending)])
    below, count = min(low, -25), int(12 + max(0, -80 - low) / 12)
    loops = [_loop(rng, (below, -25), (-55, 0), (-75, 80), scale) for _ in range(count)]
    loops += [_loop(rng, (-30, 5), (-35, 5), (30, 85), scale) for _ in range(3)]  # jejunum below the tail
    pylorus = curve([(6, -42 * deep, -28 * wide, 13), (*bulb, 9)], 3.0)[0]
    upper = np.concatenate([_wander(rng, stomach, deep, wide), pylorus])
    layers = [Layer(Tissue.VEIN, _twigs(rng, (low / 3, -8, 0), (22, 14, 26), 14, 1.8))]
    layers += _hollow(rng, np.concatenate(loops), 2.0, 0.25)
    layers += _hollow(rng, colon, 2.5, 0.6)
    layers += _hollow(rng, curve(duodenum, 3.0)[0], 2.5, 0.15)
    return layers + _hollow(rng, upper, 4.0, 0.5)


def _wander(rng: np.random.Generator, path: Sequence[Sequence[float]], deep: float, wide: float) -> np.ndarray:
    """Samples (n, 4) along ``path`` (z, y, x, radius), fitted to the cavity and shifted at random."""
    points = np.array(path, float)
    points[:, 1] *= np.where(points[:, 1] < 0, deep, 1)
    points[:, 2] *= wide
    points[:, 3] *= rng.uniform(0.85, 1.12)
    points[1:-1, :3] += rng.normal(0, 4, (len(points) - 2, 3))
    return curve(points, 3.0)[0]


def _loop(rng: np.random.Generator, height: Range, depth: Range, side: Range, scale: Range) -> np.ndarray:
    """Samples (n, 4) of a bowel loop about a random centre in the given ranges."""
    centre = np.array([rng.uniform(*height), rng.uniform(*depth) * scale[0], rng.uniform(*side) * scale[1]])
    turns = centre + rng.normal(0, (14, 14, 26), (5, 3))
    return curve(np.column_stack([turns, rng.uniform(8, 12, 5)]), 3.0)[0]


def _hollow(rng: np.random.Generator, samples: np.ndarray, wall: float, gassy: float) -> list[Layer]:
    """The layers of a hollow organ along ``samples`` (n, 4); gas fills about the share ``gassy`` of its length."""
    field = roughen(tubes(samples, 3.0), rng, 14, 1.5)
    layers = [Layer(Tissue.WALL, field), Layer(Tissue.CONTENT, field, -wall, (Tissue.WALL,))]
    stretch = np.convolve(rng.standard_normal(len(samples) + 24), np.ones(25) / 5, "valid")
    airy = samples[stretch > np.quantile(stretch, 1 - gassy)]
    if len(airy):
        rise = np.column_stack([airy[:, 0], airy[:, 1] - 0.45 * airy[:, 3], airy[:, 2], 0.62 * airy[:, 3]])
        layers.append(Layer(Tissue.GAS, tubes(rise, 3.0), 0, (Tissue.CONTENT,)))
    return layers
