"""The anatomy of the phantom: a procedural abdomen around a procedural pancreas, or around a real label map.

The frame of the body is (z, y, x) in mm, LPS: z towards the head, y towards the back, x towards the patient's
left; the pancreas lies near its origin and the spine behind it. An anatomy is a list of layers, painted in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

import numpy as np

from data.phantom_fields import (
    Axes,
    Field,
    LabelMap,
    curve,
    ellipsoid,
    roughen,
    smooth_noise,
    tubes,
    volume_offset,
)

SPINE = (42.0, 0.0)  # (y, x) of the middle of the vertebral bodies
AORTA = (13.0, 10.0)  # (y, x)
HEAD = (-24.0, 6.0, -40.0)  # (z, y, x) of the head of the pancreas


class Tissue(IntEnum):
    """What is painted: VISCERAL is the cavity's fat, CORTEX and MEDULLA the kidney's, WALL to GAS the gut's."""

    AIR, SKIN, FAT, VISCERAL, MUSCLE, BONE, MARROW, CORD, LUNG, HEART, LIVER, GALL, SPLEEN, CORTEX, MEDULLA = range(15)
    WALL, CONTENT, GAS, ARTERY, VEIN, CAVA, PARENCHYMA, LESION, DUCT, BILE = range(15, 25)


# Codes of the label maps: lesion, veins, arteries, parenchyma, duct, bile duct.
CODES = {0: Tissue.VISCERAL, 1: Tissue.LESION, 2: Tissue.VEIN, 3: Tissue.ARTERY}
CODES |= {4: Tissue.PARENCHYMA, 5: Tissue.DUCT, 6: Tissue.BILE}


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
    loops = [_loop(rng, (low, -25), (-55, 0), (-75, 80), scale) for _ in range(int(12 + max(0, -80 - low) / 12))]
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


Range = tuple[float, float]


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


SOFT = (Tissue.LIVER, Tissue.GALL, Tissue.SPLEEN, Tissue.CORTEX, Tissue.MEDULLA)
SOFT += (Tissue.WALL, Tissue.CONTENT, Tissue.GAS)


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
    known = real.points([3])[:, 0] - origin[0]
    ends = [(low, high)] if len(known) == 0 else [(low, known.min() - 8), (known.max() + 8, high)]
    layers += [aorta(*end) for end in ends]
    return Scene(axes, tuple(map(float, spacing)), body, layers, _textures(rng, axes), real, origin)
