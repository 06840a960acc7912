"""The anatomy around the pancreas: body wall, bones, organs and bowel.

Positions are in mm in the frame of the body, in the order (z, y, x), LPS: z points to the head, y to the back and x to
the left of the patient. The pancreas lies near the origin, in front of the spine. An anatomy is a list of layers, which
are painted in order.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from data.phantom.fields import Axes, Field, Point, Points, curve, ellipsoid, roughen, tubes

SPINE = (42.0, 0.0)  # (y, x) of the centre of the vertebral bodies
AORTA = (13.0, 10.0)  # (y, x) of its centre
HEAD = (-24.0, 6.0, -40.0)  # (z, y, x) of the head of the pancreas
CHEST_FROM = -60.0  # height above which lungs and ribs lie
CAVITY_MM = (88, 135)  # depth in front of the pancreas and half width of the cavity for which the organs are drawn

Range = tuple[float, float]


class Tissue(IntEnum):
    """The tissues that are painted."""

    AIR = 0
    SKIN = 1
    FAT = 2  # of the body wall
    VISCERAL = 3  # fat of the abdominal cavity
    MUSCLE = 4
    BONE = 5  # cortical
    MARROW = 6
    CORD = 7  # spinal cord and its canal
    LUNG = 8
    HEART = 9
    LIVER = 10
    GALL = 11  # gallbladder
    SPLEEN = 12
    CORTEX = 13  # of the kidneys
    MEDULLA = 14
    WALL = 15  # of stomach and bowel
    CONTENT = 16
    GAS = 17
    ARTERY = 18
    VEIN = 19
    CAVA = 20  # inferior vena cava
    PARENCHYMA = 21  # of the pancreas
    LESION = 22
    DUCT = 23  # of the pancreas
    BILE = 24  # common bile duct


@dataclass(frozen=True)
class Layer:
    """A shape to paint.

    Attributes:
        tissue: The tissue that is painted, or another material with a number of its own.
        field: A signed distance in mm or a similar field.
        level: The shape is where the field is below this level.
        over: The tissues that it replaces; an empty tuple stands for everything inside the skin.
        organ: Which organ it belongs to, where the tissue does not tell.
    """

    tissue: int
    field: Field
    level: float = 0.0
    over: tuple[int, ...] = (Tissue.VISCERAL,)
    organ: str = ""


@dataclass(frozen=True)
class Body:
    """The body wall: a superellipse whose layers vary in thickness around it.

    Attributes:
        half: Half axes (y, x) in mm.
        middle: Position in y of the centre. A large belly extends forwards, while the back stays at the spine.
        fat: Mean thickness of the fat in mm.
        muscle: Mean thickness of the muscle in mm.
        phases: Phases of the waves of the outline.
        dome: Height of the diaphragm in mm.
    """

    half: tuple[float, float]
    middle: float
    fat: float
    muscle: float
    phases: tuple[float, float, float]
    dome: float

    @property
    def cavity_scale(self) -> tuple[float, float]:
        """Depth in front of the pancreas and width of the cavity, relative to those for which organs are drawn."""
        wall = self.fat + self.muscle
        return (self.half[0] - self.middle - wall - 4) / CAVITY_MM[0], (self.half[1] - wall) / CAVITY_MM[1]

    def paint(self, axes: Axes) -> np.ndarray:
        """Paint wall, bones, lungs, heart and visceral fat on a grid: tissues uint8 (D, H, W)."""
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
        flat[depth > 0] = Tissue.SKIN
        flat[depth > 2] = Tissue.FAT
        flat[depth > fat] = Tissue.MUSCLE
        flat[depth > fat + muscle] = Tissue.VISCERAL
        tissues = np.repeat(flat[None], len(axes[0]), axis=0)
        below = int(np.searchsorted(axes[0], CHEST_FROM))
        self._paint_chest(tissues[below:], z[below:], y, x, depth - fat)
        _paint_back(tissues, z, y + self.middle, x)
        return tissues

    def _paint_chest(
        self, tissues: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray, muscle_depth: np.ndarray
    ) -> None:
        """Paint lungs, heart and ribs; y is relative to the centre of the body, ``muscle_depth`` is below the fat."""
        inside = tissues == Tissue.VISCERAL
        diaphragm = self.dome - 55 * ((y / self.half[0]) ** 2 + (x / self.half[1]) ** 2)
        tissues[inside & (z > diaphragm)] = Tissue.LUNG
        heart = ((y + 25) / 45) ** 2 + ((x - 25) / 55) ** 2 + ((z - self.dome - 30) / 48) ** 2 < 1
        tissues[inside & heart & (z > diaphragm)] = Tissue.HEART
        slope = z + 0.35 * np.abs(x) - 0.55 * y  # ribs run forwards and down
        band = (muscle_depth > 2) & (muscle_depth < 9) & (np.abs(x) > 35) & ((y > -70) | (z > self.dome - 20))
        rib = band & (np.mod(slope, 27) < 11) & (z > -25 + 0.35 * (self.half[0] - y))
        tissues[rib] = Tissue.MARROW
        shell = rib & ((muscle_depth < 4) | (muscle_depth > 7) | (np.abs(np.mod(slope, 27) - 5.5) > 3.5))
        tissues[shell] = Tissue.BONE


def _paint_back(tissues: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> None:
    """Paint the spine with its discs, and the muscles beside it."""
    inside = tissues != Tissue.AIR
    behind, side = y - SPINE[0], x - SPINE[1]
    erector = ((behind - 36) / 22) ** 2 + ((np.abs(side) - 30) / 27) ** 2 < 1
    width = np.clip(16 - z / 12, 4, 26)
    psoas = ((behind - 2) / (width * 1.1)) ** 2 + ((np.abs(side) - 24 - width * 0.6) / width) ** 2 < 1
    in_fat = (tissues == Tissue.VISCERAL) | (tissues == Tissue.FAT)
    tissues[(erector & in_fat) | (psoas & (z < 60) & (tissues == Tissue.VISCERAL))] = Tissue.MUSCLE
    disc = np.abs(np.mod(z, 36) - 18) < 4
    vertebra = (behind / 17) ** 2 + (side / 22) ** 2
    arch = (behind > 14) & (((behind - 26) / 15) ** 2 + (side / 17) ** 2 < 1)
    transverse = (np.abs(behind - 20) < 4) & (np.abs(side) < 34) & (np.abs(np.mod(z, 36) - 30) < 5)
    spinous = (np.abs(side) < 4) & (behind > 30) & (behind < 58) & ~disc
    tissues[inside & (arch | transverse | spinous | (vertebra < 1))] = Tissue.BONE
    tissues[inside & (vertebra < 0.78)] = Tissue.MARROW
    tissues[inside & disc & (vertebra < 0.9)] = Tissue.MUSCLE
    tissues[inside & (((behind - 25) / 8) ** 2 + (side / 9.5) ** 2 < 1)] = Tissue.CORD


def random_body(rng: np.random.Generator, width: float | None = None) -> Body:
    """Draw a body of the given width in mm, by default from 300 to 340 mm; wide bodies have more fat."""
    width = rng.uniform(300, 340) if width is None else width
    half = (width / 2 * rng.uniform(0.67, 0.74), width / 2)
    fat = rng.uniform(8, 16) + max(0.0, width - 320) * rng.uniform(0.1, 0.25)
    first, second, third = rng.uniform(0, 2 * np.pi, 3)
    return Body(
        half=half,
        middle=110 - half[0],
        fat=fat,
        muscle=rng.uniform(9, 13),
        phases=(first, second, third),
        dome=rng.uniform(78, 98),
    )


def random_organs(
    rng: np.random.Generator, body: Body, low: float, high: float, head: Point = HEAD, variety: float = 1.0
) -> list[Layer]:
    """Draw stomach, bowel, liver, gallbladder, spleen, kidneys and inferior vena cava.

    Args:
        rng: Source of randomness.
        body: The body to fit the organs into.
        low: Lowest height of the scan in mm.
        high: Greatest height of the scan in mm.
        head: Position (z, y, x) of the head of the pancreas, around which the duodenum runs.
        variety: How widely places and sizes differ between patients; 1 for patients of similar build.

    Returns:
        The layers in the order in which they are painted.
    """
    deep, wide = body.cavity_scale

    def blob(centre: Point, radii: Point, rough: float = 2.0) -> Field:
        scale = np.array([1.0, deep if centre[1] < 0 else 1.0, wide])
        middle = np.asarray(centre) * scale + rng.normal(0, 4.0 * variety, 3)
        size = rng.uniform(1 - 0.07 * variety, 1 + 0.07 * variety)
        return roughen(ellipsoid(middle, np.asarray(radii) * scale * size), rng, 22, rough)

    layers = _random_gut(rng, (deep, wide), low, head, variety)
    layers += [
        Layer(Tissue.LIVER, blob((30, -5, -85), (85, 80, 66)), over=(Tissue.VISCERAL, Tissue.WALL, Tissue.CONTENT)),
        Layer(Tissue.LIVER, blob((55, -48, -15), (36, 34, 75))),
        Layer(Tissue.VEIN, random_twigs(rng, (38, -8, -50), (25, 25, 34), 7, 2.2), 0, (Tissue.LIVER,)),
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
    return [*layers, Layer(Tissue.CAVA, _upright_vessel(cava, low, high), over=(), organ="inferior_vena_cava")]


def aorta(low: float, high: float) -> Layer:
    """Lay the aorta in front of the spine, from the height ``low`` to ``high`` in mm."""
    path = [(-80, *AORTA, 8.5), (0, *AORTA, 10), (100, AORTA[0] + 6, AORTA[1] - 2, 11.5)]
    return Layer(Tissue.ARTERY, _upright_vessel(path, low, high), over=())


def _upright_vessel(path: Points, low: float, high: float) -> Field:
    """Lay a vessel upwards through the points ``path`` (z, y, x, radius), vertical beyond the first and the last."""
    knots = np.asarray(path, float)
    heights = np.arange(low, high, 2.0)
    return tubes(np.column_stack([heights, *(np.interp(heights, knots[:, 0], column) for column in knots.T[1:])]))


def random_twigs(rng: np.random.Generator, root: Point, spread: Point, count: int, radius: float) -> Field:
    """Draw ``count`` small vessels that start at ``root`` with this radius in mm and taper off."""
    twigs = []
    for _ in range(count):
        way = np.asarray(root) + np.cumsum(rng.normal(0, spread, 3) * rng.uniform(0.3, 1, (3, 1)), axis=0)
        points = np.vstack([root, way])
        twigs.append(curve(np.column_stack([points, radius * np.array([1, 0.8, 0.6, 0.4])]))[0])
    return tubes(np.concatenate(twigs))


def _random_gut(
    rng: np.random.Generator, scale: tuple[float, float], low: float, head: Point, variety: float
) -> list[Layer]:
    """Draw stomach, duodenum, colon and loops of small bowel, each with its wall, content and gas."""
    deep, wide = scale
    z, y, x = head
    stomach = [(78, 8, 70, 30), (50, -22, 72, 30), (20, -50, 50, 24), (4, -56, 10, 18), (6, -42, -28, 13)]
    bulb = (z + 24, y - 26, x - 4)
    duodenum = [(*bulb, 10), (z + 8, y - 8, x - 25, 12), (z - 20, y + 2, x - 25, 12), (z - 44, y + 4, x + 2, 11)]
    duodenum += [(z - 40, y, x + 40, 11), (z - 12, y - 6, x + 76, 10)]
    ascending = [(low - 20, 10, -100, 22), (-60, 12, -102, 22), (-30, -20, -92, 20), (-42, -62, -50, 18)]
    transverse = [(-42, -62, -50, 18), (-55, -70, 0, 17), (-35, -62, 60, 17), (15, -10, 108, 16)]
    descending = [(15, -10, 108, 16), (-30, 22, 106, 15), (low - 20, 26, 104, 14)]
    colon = np.concatenate(
        [_fitted_curve(rng, path, deep, wide, variety) for path in (ascending, transverse, descending)]
    )
    below, count = min(low, -25), int(12 + max(0, -80 - low) / 12)
    loops = [_random_loop(rng, (below, -25), (-55, 0), (-75, 80), scale) for _ in range(count)]
    loops += [_random_loop(rng, (-30, 5), (-35, 5), (30, 85), scale) for _ in range(3)]  # jejunum below the tail
    pylorus = curve([(6, -42 * deep, -28 * wide, 13), (*bulb, 9)], 3.0)[0]
    upper = np.concatenate([_fitted_curve(rng, stomach, deep, wide, variety), pylorus])
    layers = [Layer(Tissue.VEIN, random_twigs(rng, (low / 3, -8, 0), (22, 14, 26), 14, 1.8))]
    layers += hollow_organ(rng, "small_bowel", np.concatenate(loops), 2.0, 0.25)
    layers += hollow_organ(rng, "colon", colon, 2.5, 0.6)
    layers += hollow_organ(rng, "duodenum", curve(duodenum, 3.0)[0], 2.5, 0.15)
    return layers + hollow_organ(rng, "stomach", upper, 4.0, 0.5)


def _fitted_curve(rng: np.random.Generator, path: Points, deep: float, wide: float, variety: float) -> np.ndarray:
    """Sample a ``path`` (z, y, x, radius) that is scaled to the cavity and shifted at random: (n, 4)."""
    points = np.array(path, float)
    points[:, 1] *= np.where(points[:, 1] < 0, deep, 1)
    points[:, 2] *= wide
    points[:, 3] *= rng.uniform(1 - 0.15 * variety, 1 + 0.12 * variety)
    points[1:-1, :3] += rng.normal(0, 4 * variety, (len(points) - 2, 3))
    return curve(points, 3.0)[0]


def _random_loop(
    rng: np.random.Generator, height: Range, depth: Range, side: Range, scale: tuple[float, float]
) -> np.ndarray:
    """Sample a loop of bowel about a random centre in these ranges of z, y and x: (n, 4)."""
    centre = np.array([rng.uniform(*height), rng.uniform(*depth) * scale[0], rng.uniform(*side) * scale[1]])
    turns = centre + rng.normal(0, (14, 14, 26), (5, 3))
    return curve(np.column_stack([turns, rng.uniform(8, 12, 5)]), 3.0)[0]


def hollow_organ(
    rng: np.random.Generator, organ: str, samples: np.ndarray, wall: float, gas_share: float
) -> list[Layer]:
    """Paint a hollow organ along ``samples`` (n, 4): a wall of this thickness in mm, content, and gas at its front.

    Gas fills about the share ``gas_share`` of its length.
    """
    field = roughen(tubes(samples, 3.0), rng, 14, 1.5)
    layers = [Layer(Tissue.WALL, field, organ=organ), Layer(Tissue.CONTENT, field, -wall, (Tissue.WALL,), organ)]
    stretch = np.convolve(rng.standard_normal(len(samples) + 24), np.ones(25) / 5, "valid")
    gassy = samples[stretch > np.quantile(stretch, 1 - gas_share)]
    if len(gassy):
        bubbles = gassy * (1, 1, 1, 0.62)
        bubbles[:, 1] -= 0.45 * gassy[:, 3]
        layers.append(Layer(Tissue.GAS, tubes(bubbles, 3.0), 0, (Tissue.CONTENT,), organ))
    return layers
