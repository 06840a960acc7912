"""Whole torsos of random build, from the chest to the pelvis, in the frame of the phantom's body.

The abdomen is that of the phantom, drawn more widely. Around it lie what real scans hold and what the phantom, whose
scans end with the abdomen, leaves out: pelvis, mediastinum, adrenal glands, renal vessels, lymph nodes,
masses, calcium, arms, and bowel whose parts differ in what they hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.phantom.anatomy import AORTA, HEAD, SPINE, Body, Layer, Tissue, aorta, random_organs
from data.phantom.fields import Axes, Field, curve, ellipsoid, roughen, smooth_noise, tubes
from data.phantom.pancreas import random_pancreas
from data.phantom.scene import paint_layer
from data.synthesis.abdomen import Abdomen
from data.synthesis.materials import CONTENT_KINDS, MASS_KINDS, WALL_KINDS, Extra
from data.synthesis.settings import Synthesis

LOW_MM, HIGH_MM = -330.0, 260.0  # heights between which a torso is drawn
ARM_MM = 38.0  # radius
HILA = ((-22.0, 36.0, -44.0), (-10.0, 36.0, 44.0))  # of the right and the left kidney, (z, y, x) in mm
PANCREAS_FORWARD_MM = 5.0  # farther from the spine than in the phantom
# How much organs grow into the fat between them, in slim patients.
GROWTH: dict[int, float] = {Tissue.LIVER: 0.5, Tissue.SPLEEN: 0.7, Tissue.WALL: 1.0, Tissue.CORTEX: 0.3}


@dataclass(frozen=True)
class Torso:
    """A patient as shapes, which are painted on any grid in the frame of the body.

    Attributes:
        body: The body wall.
        layers: The organs, in the order in which they are painted.
        gland: The layers of the pancreas and of its tumour.
        kinds: Random fields that divide bowel, masses and fat into kinds.
        stranding: Above which value of the second field fat is not clean.
        crest: Height in mm of the iliac crest.
        arms: Whether the arms lie beside the body.
    """

    body: Body
    layers: list[Layer]
    gland: list[Layer]
    kinds: tuple[Field, Field]
    stranding: float
    crest: float
    arms: bool

    def paint(self, axes: Axes) -> np.ndarray:
        """Paint the patient on a rectangular grid: materials uint8 (D, H, W)."""
        tissues = self.body.paint(axes)
        z, y, x = axes[0][:, None, None], axes[1][:, None], axes[2]
        self._paint_mediastinum(tissues, z, y, x)
        self._paint_pelvis(tissues, z, y, x)
        for layer in self.layers:
            paint_layer(tissues, layer, axes)
        self._divide(tissues, axes)
        if self.arms:
            self._paint_arms(tissues, y, x)
        return tissues

    def gland_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Find the lowest and the highest corner (z, y, x) in mm of the pancreas."""
        corners = []
        for layer in self.gland:
            nodes = np.argwhere(layer.field.values < layer.level)
            corners += [layer.field.start + end * layer.field.step for end in (nodes.min(axis=0), nodes.max(axis=0))]
        return np.min(corners, axis=0), np.max(corners, axis=0)

    def in_gland(self, places: Sequence[np.ndarray]) -> np.ndarray:
        """Return where positions (z, y, x) in mm, three arrays, lie within the pancreas; bool, of the same shape."""
        inside = np.zeros(places[0].shape, bool)
        for layer in self.gland:
            index, covered = nearest_nodes(layer.field.start, layer.field.step, layer.field.values.shape, places)
            inside |= covered & (layer.field.values[index] < layer.level)
        return inside

    def _divide(self, tissues: np.ndarray, axes: Axes) -> None:
        """Give the parts of the bowel, and of the fat, kinds of their own."""
        first, second = (field.sample(axes) for field in self.kinds)
        fat = tissues == Tissue.VISCERAL
        tissues[fat & (second > self.stranding)] = Extra.STRANDED
        for tissue, start, count in (
            (Tissue.CONTENT, Extra.CONTENTS, CONTENT_KINDS),
            (Tissue.WALL, Extra.WALLS, WALL_KINDS),
        ):
            here = np.flatnonzero(tissues == tissue)
            kind = np.floor((first.ravel()[here] * 0.9 + 1.5) * count / 3)
            tissues.ravel()[here] = start + np.clip(kind, 0, count - 1).astype(np.uint8)

    def _paint_mediastinum(self, tissues: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> None:
        """Paint fat and soft tissue between the lungs, and the oesophagus."""
        lung = tissues == Tissue.LUNG
        middle = (np.abs(x - 4) < 24 + 6 * np.sin(z / 30)) & (y > -60)
        tissues[lung & middle] = Tissue.VISCERAL
        gullet = ((y - AORTA[0] + 8) / 8) ** 2 + ((x - 2) / 10) ** 2 < 1
        tissues[gullet & (z > self.body.dome - 35)] = Tissue.WALL

    def _paint_pelvis(self, tissues: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> None:
        """Paint iliac bones with their muscles, hip joints and what lies between them."""
        below = z[:, 0, 0] < self.crest + 5
        if not below.any():
            return
        tissues, z = tissues[below.nonzero()[0].min() : below.nonzero()[0].max() + 1], z[below]  # a view
        inside = (tissues != Tissue.AIR) & (tissues != Tissue.SKIN)
        side = np.abs(x)
        # In the plane, each wing is a line from the sacrum forwards and outwards; it is longest at mid height.
        height = np.clip((self.crest - z) / 130, 0, 1)
        length = 105 * np.sqrt(np.clip(height * (1.6 - height) * 1.6, 0, 1))
        along, across = (0.72, -0.69), (0.69, 0.72)  # (x, y)
        near_x, near_y = side - 42 + 25 * height, y - 62
        position = near_x * along[0] + near_y * along[1]
        distance = near_x * across[0] + near_y * across[1] + 8 * np.sin(position / 30)
        here = (height > 0) & (position > 0) & (position < length) & inside
        tissues[here & (distance > 4) & (distance < 42)] = Tissue.MUSCLE
        tissues[here & (distance < -4) & (distance > -20)] = Tissue.MUSCLE
        tissues[here & (np.abs(distance) < 6)] = Tissue.BONE
        tissues[here & (np.abs(distance) < 3)] = Tissue.MARROW
        joint = ((z - self.crest + 130) / 27) ** 2 + ((y - 5) / 27) ** 2 + ((side - 92) / 27) ** 2
        tissues[inside & (joint < 1.6)] = Tissue.BONE
        tissues[inside & (joint < 1.15)] = Tissue.MARROW
        tissues[inside & (joint > 1.0) & (joint < 1.15)] = Tissue.MUSCLE
        pubis = ((z - self.crest + 165) / 14) ** 2 + ((y + 35) / 12) ** 2 + (x / 55) ** 2
        tissues[inside & (pubis < 1)] = Tissue.BONE
        tissues[inside & (pubis < 0.6)] = Tissue.MARROW

    def _paint_arms(self, tissues: np.ndarray, y: np.ndarray, x: np.ndarray) -> None:
        """Paint arms beside the body."""
        away = np.hypot(y - self.body.middle - 15, np.abs(x) - self.body.half[1] - ARM_MM - 6)
        arm = (tissues == Tissue.AIR) & (away < ARM_MM)
        tissues[arm] = Tissue.FAT
        tissues[arm & (away < ARM_MM - 8)] = Tissue.MUSCLE
        tissues[arm & (away < 12)] = Tissue.BONE
        tissues[arm & (away < 7)] = Tissue.MARROW


def nearest_nodes(
    start: np.ndarray, step: np.ndarray, shape: Sequence[int], places: Sequence[np.ndarray]
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Find the nodes of a grid that are nearest to positions.

    Args:
        start: Position (z, y, x) of the first node in mm.
        step: Distance (z, y, x) between nodes in mm.
        shape: Number of nodes along each axis.
        places: Positions (z, y, x) in mm, three arrays of one shape.

    Returns:
        The index of the nearest node along each axis, and whether the grid reaches as far as the position.
    """
    index, covered = [], np.ones(places[0].shape, bool)
    for place, first, mm, n in zip(places, start, step, shape, strict=True):
        nearest = np.rint((place - first) / mm).astype(np.int64)
        covered &= (nearest >= 0) & (nearest < n)
        index.append(np.clip(nearest, 0, n - 1))
    return tuple(index), covered


def random_torso(rng: np.random.Generator, settings: Synthesis) -> Torso:
    """Draw a patient."""
    wide = min(1.0, settings.shape)
    variety = 1 + 1.5 * wide
    body = _random_body(rng, wide)
    abdomen = Abdomen.draw(rng, settings.labels) if settings.labels else None
    if abdomen:
        body = abdomen.fit(rng, body, wide)
    volume = 85 + wide * (float(np.clip(rng.lognormal(np.log(62), 0.5), 14, 150)) - 85)
    diameter = rng.uniform(12, 55) if rng.random() < settings.tumours else None
    head = abdomen.head if abdomen else HEAD
    organs = _rearranged(rng, random_organs(rng, body, LOW_MM, HIGH_MM, head, variety), wide)
    if abdomen:
        pancreas = abdomen.pancreas(rng, diameter, wide)
    else:
        pancreas = [
            replace(layer, field=replace(layer.field, start=layer.field.start - np.array([0, PANCREAS_FORWARD_MM, 0])))
            for layer in random_pancreas(rng, volume, diameter, rng.uniform(0, 30), LOW_MM, variety)
        ]
    crest = rng.uniform(-135, -95)
    if abdomen:
        crest = abdomen.crest(crest)
    layers = [
        *_pelvic_organs(rng, crest),
        *organs,
        *_collapsed_loops(rng, wide),
        *_great_arteries(rng, crest, abdomen),
        *_masses(rng, body),
        *_small_structures(rng, abdomen.hila(HILA) if abdomen else HILA),
    ]
    clean = rng.random() >= 0.35 * wide
    if abdomen:
        layers = [*abdomen.without_own(layers), *abdomen.surroundings(rng, LOW_MM, clean)]
    layers += [*(pancreas if clean else _without_clean_margin(pancreas)), *_calcium(rng, wide)]
    low, high = (LOW_MM, -250.0, -300.0), (HIGH_MM, 250.0, 300.0)
    kinds = (smooth_noise(rng, low, high, 45.0), smooth_noise(rng, low, high, 28.0))
    stranding = 1.6 + wide * (rng.uniform(-1.0, 2.3) - 1.6)
    arms = bool(rng.random() < 0.15)
    gland = [layer for layer in pancreas if layer.tissue in (Tissue.PARENCHYMA, Tissue.LESION)]
    return Torso(body, layers, gland, kinds, stranding, crest, arms)


def _rearranged(rng: np.random.Generator, organs: list[Layer], wide: float) -> list[Layer]:
    """Move and scale organs, each for itself, and let them grow into the fat between them.

    Volumes and distances between the organs are those of whole label maps: the spleen is larger than the phantom's, and
    the kidneys lie lower. In slim patients, who have little fat within the cavity, organs touch each other.
    """
    crowding = wide * (rng.uniform(0, 7) if rng.random() < 0.5 else 0.0)
    usual = {
        "kidneys": (np.array([-13.0, 3.0, 0.0]), 1.0),
        "spleen": (np.array([4.0, 2.0, -6.0]), 1.25),
        "liver": (np.zeros(3), 1.05),
        "gallbladder": (np.array([0.0, 0.0, -8.0]), 0.85),
    }
    moved = {
        name: (shift + wide * rng.normal(0, (11, 5, 6)), scale * np.exp(wide * rng.normal(0, 0.09, 3)))
        for name, (shift, scale) in usual.items()
    }
    of_tissue: dict[int, str] = {
        Tissue.CORTEX: "kidneys",
        Tissue.MEDULLA: "kidneys",
        Tissue.SPLEEN: "spleen",
        Tissue.LIVER: "liver",
        Tissue.GALL: "gallbladder",
    }
    found = []
    for layer in organs:
        name = (
            "kidneys"
            if Tissue.CORTEX in layer.over and layer.tissue == Tissue.VISCERAL
            else of_tissue.get(layer.tissue)
        )
        if name:
            shift, scale = moved[name]
            field = layer.field
            middle = (field.start + field.stop) / 2
            if name == "kidneys":
                scale = scale.mean()  # so that cortex, medulla and pelvis stay within each other
            layer = replace(
                layer,
                field=replace(field, start=middle + shift - (middle - field.start) * scale, step=field.step * scale),
            )
        if layer.tissue == Tissue.LIVER:  # which the bowel that was drawn first may not cross
            layer = replace(layer, over=(*layer.over, Tissue.GAS))
        found.append(replace(layer, level=layer.level + crowding * GROWTH.get(layer.tissue, 0.0)))
    return found


def _collapsed_loops(rng: np.random.Generator, wide: float) -> list[Layer]:
    """Draw loops of small bowel that hold nothing: bands as wide and as grey as a gland."""
    loops = []
    for _ in range(round(wide * rng.integers(2, 16))):
        centre = rng.uniform((-90, -60, -80), (25, 12, 95))
        turns = centre + rng.normal(0, (12, 10, 22), (4, 3))
        loops.append(curve(np.column_stack([turns, rng.uniform(5, 10, 4)]), 3.0)[0])
    return [Layer(Tissue.WALL, roughen(tubes(np.concatenate(loops), 3.0), rng, 8, 1.5))] if loops else []


def _great_arteries(rng: np.random.Generator, crest: float, abdomen: Abdomen | None) -> list[Layer]:
    """Draw the aorta down to where it divides, and the iliac arteries with their veins."""
    y, x = AORTA
    fork = crest + rng.uniform(-5, 25)
    trunk = [(fork, HIGH_MM)]
    if abdomen:
        fork, trunk = abdomen.trunk(fork, HIGH_MM)
    branches = [
        curve([(fork + 2, y, x, 7), (fork - 40, y - 2, side * 25 + 4, 5), (fork - 120, y - 20, side * 70, 4.5)], 3.0)[0]
        for side in (-1, 1)
    ]
    beside = np.concatenate(branches) + np.array([0, 10, 0, 1.5])
    return [
        *(aorta(*part) for part in trunk),
        Layer(Tissue.CAVA, tubes(beside)),
        Layer(Tissue.ARTERY, tubes(np.concatenate(branches)), 0, (Tissue.VISCERAL, Tissue.CAVA)),
    ]


def _without_clean_margin(pancreas: list[Layer]) -> list[Layer]:
    """Leave out the fat around the gland, as in slim patients, whose organs touch it."""
    return [layer for layer in pancreas if layer.tissue != Tissue.VISCERAL]


def _random_body(rng: np.random.Generator, wide: float) -> Body:
    """Draw a body wall: slim or obese, flat or round."""
    width = 330 + wide * (float(np.clip(rng.normal(340, 38), 255, 450)) - 330)
    half = (width / 2 * rng.uniform(0.64, 0.8), width / 2)
    fat = 12 + wide * (float(np.clip(rng.gamma(2.2, 8), 3, 60)) - 12) * np.clip((width - 230) / 120, 0.3, 1.3)
    first, second, third = rng.uniform(0, 2 * np.pi, 3)
    return Body(
        half=half,
        middle=105 + 0.3 * (2 * half[0] - 200) + 0.3 * fat - half[0],
        fat=float(fat),
        muscle=rng.uniform(7, 16),
        phases=(first, second, third),
        dome=rng.uniform(65, 125),
    )


def _pelvic_organs(rng: np.random.Generator, crest: float) -> list[Layer]:
    """Draw bladder, rectum and what lies between them."""
    low = crest - 130
    bladder = roughen(ellipsoid((low, -18, 0), rng.uniform((18, 18, 20), (45, 42, 52))), rng, 30, 3)
    between = roughen(ellipsoid((low + 8, 18, 0), rng.uniform((15, 12, 15), (40, 26, 34))), rng, 20, 3)
    rectum = curve([(low - 40, 45, 0, 14), (low, 52, 0, 18), (low + 45, 50, 8, 15), (low + 60, 10, 40, 14)], 4.0)[0]
    wall = roughen(tubes(rectum, 4.0), rng, 20, 2)
    over = (Tissue.VISCERAL, Tissue.WALL, Tissue.CONTENT, Tissue.GAS)
    return [
        Layer(Extra.PELVIC, between),
        Layer(Extra.URINE, bladder, over=(*over, Extra.PELVIC)),
        Layer(Tissue.WALL, wall),
        Layer(Extra.STOOL, wall, -3, (Tissue.WALL,)),
    ]


def _masses(rng: np.random.Generator, body: Body) -> list[Layer]:
    """Draw soft tissue that is no organ anywhere in the cavity, so that not every lump beside the bowel is a gland."""
    layers = []
    deep, wide = body.cavity_scale
    for _ in range(rng.integers(0, 7)):
        centre = rng.uniform((-200, -75 * deep, -110 * wide), (70, 30, 110 * wide))
        radii = rng.uniform(6, 26) * rng.uniform(0.6, 1.6, 3)
        kind = int(rng.integers(MASS_KINDS))
        layers.append(Layer(Extra.MASS + kind, roughen(ellipsoid(centre, radii), rng, 14, 3)))
    return layers


def _small_structures(rng: np.random.Generator, hila: Sequence[Sequence[float]]) -> list[Layer]:
    """Draw adrenal glands, vessels and pelves of kidneys whose hila are given, ureters and lymph nodes."""
    y = AORTA[0]
    adrenal, veins, collecting, ureters = [], [], [], []
    for side, hilum in zip((-1, 1), hila, strict=True):
        height = hilum[0]
        apex = np.array([height + 42, 30, side * 34]) + rng.normal(0, 4, 3)
        for limb in ((-14, 8, side * 10), (-14, 6, -side * 2)):
            adrenal.append(curve([(*apex, 3.2), (*(apex + limb), 2.6)], 1.5)[0])
        veins.append(curve([(*hilum, 4), (height + 4, y - 12, side * 18, 4), (height + 8, y + 2, -20, 5)], 2.0)[0])
        collecting.append(curve([(*hilum, 6), (height - 14, 34, side * 40, 3)], 2.0)[0])
        ureters.append(
            curve([(height - 14, 34, side * 40, 2.5), (-120, 20, side * 34, 2), (-240, 20, side * 35, 2)], 3.0)[0]
        )
    nodes = rng.uniform((-160, -30, -60), (50, 20, 70), (int(rng.integers(5, 30)), 3))
    balls = np.column_stack([nodes, rng.uniform(2, 6, len(nodes)) * rng.uniform(0.6, 1.5, len(nodes))])
    return [
        Layer(Tissue.CAVA, tubes(np.concatenate(veins))),
        Layer(Extra.ADRENAL, tubes(np.concatenate(adrenal))),
        Layer(Extra.CONTRAST, tubes(np.concatenate(collecting)), 0, (Tissue.VISCERAL, Tissue.CORTEX, Tissue.MEDULLA)),
        Layer(Extra.CONTRAST, tubes(np.concatenate(ureters), 4.0)),
        Layer(Extra.NODE, roughen(tubes(balls), rng, 6, 1)),
    ]


def _calcium(rng: np.random.Generator, wide: float) -> list[Layer]:
    """Draw calcified plaques of the aorta, gallstones and osteophytes in older patients."""
    if rng.random() > 0.5 * wide:
        return []
    count = int(rng.integers(3, 40))
    angle, height = rng.uniform(0, 2 * np.pi, count), rng.uniform(-160, 80, count)
    plaques = [height, AORTA[0] + 10 * np.sin(angle), AORTA[1] + 10 * np.cos(angle), rng.uniform(0.8, 3.0, count)]
    spurs = [rng.uniform(-180, 60, 8), SPINE[0] - 14 + rng.normal(0, 4, 8), rng.normal(0, 18, 8), rng.uniform(2, 6, 8)]
    over = (Tissue.ARTERY, Tissue.VISCERAL)
    return [
        Layer(Extra.CALCIUM, tubes(np.column_stack(plaques), 1.5), 0, over),
        Layer(Tissue.BONE, tubes(np.column_stack(spurs), 2.0), 0, over),
    ]
