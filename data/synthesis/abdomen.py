"""The organs of a label map within a randomised torso: a body that fits them, and the layers to paint."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from data.phantom.anatomy import SPINE, Body, Layer, Tissue, hollow_organ, random_twigs
from data.phantom.fields import Axes, Field, level_of_volume, roughen, smooth_noise, tubes
from data.phantom.pancreas import DISPLACED, random_tumour, uneven_margin
from data.synthesis.materials import Extra
from data.synthesis.organ_codes import PANCREAS
from data.synthesis.organ_maps import OrganMap, list_maps, read_map
from data.synthesis.vessels import distance_at, gland_course, place_cava, place_duodenum, splanchnic_vessels

# What the organs of a map are painted as, in this order. Those that are hollow get a wall.
HOLLOW = ("colon", "small_bowel", "stomach", "duodenum", "esophagus")
SOLID: dict[str, int] = {
    "liver": Tissue.LIVER,
    "spleen": Tissue.SPLEEN,
    "kidney_right": Tissue.CORTEX,
    "kidney_left": Tissue.CORTEX,
    "kidney_cyst": Extra.URINE,
    "adrenal_gland_right": Extra.ADRENAL,
    "adrenal_gland_left": Extra.ADRENAL,
    "inferior_vena_cava": Tissue.CAVA,
    "portal_vein_and_splenic_vein": Tissue.VEIN,
    "aorta": Tissue.ARTERY,
    "gallbladder": Tissue.GALL,
    "prostate": Extra.PELVIC,
    "urinary_bladder": Extra.URINE,
}
KIDNEYS = ("kidney_right", "kidney_left")
REMOVED = (*KIDNEYS, "gallbladder", "spleen")  # who has none in a map that could show it was operated upon
UPPER = ("liver", "spleen", "stomach")  # what the diaphragm lies upon
# What a tumour replaces around the gland; no other organ of the map.
INVADED = (Tissue.VISCERAL, Tissue.WALL, Tissue.CONTENT, Tissue.GAS, Tissue.BILE, Tissue.VEIN)
# Which organs of a map take the place of the phantom's layers with a tissue.
REPLACES: dict[int, tuple[str, ...]] = {
    Tissue.LIVER: ("liver",),
    Tissue.SPLEEN: ("spleen",),
    Tissue.GALL: ("gallbladder",),
    Tissue.CORTEX: KIDNEYS,
    Tissue.MEDULLA: KIDNEYS,
    Extra.ADRENAL: ("adrenal_gland_right", "adrenal_gland_left"),
    Extra.PELVIC: ("prostate",),
    Extra.URINE: ("urinary_bladder",),
}
BACK_MM = 110.0  # of the skin behind the spine, without fat
MOST_MOVED_MM = 15.0  # by which the back lies further behind for organs that need it
MOST_HALF_MM = 235.0  # half the width of a body that a scan still shows
DIAPHRAGM_STEP_MM = 8.0
DIAPHRAGM_FALL_MM = 55.0  # from the dome to the wall, as in Body
OUTSIDE = 0.005  # share of the organs that may lie outside the cavity of their body
ATROPHY = 0.4  # share of the patients whose gland is smaller than in the map


@dataclass(frozen=True)
class FittedBody(Body):
    """A body wall around given organs, with a diaphragm that lies upon them.

    Attributes:
        diaphragm: Its height in mm, a field with a single node along z.
    """

    diaphragm: Field

    def paint(self, axes: Axes) -> np.ndarray:
        """Paint wall, bones, lungs, heart and visceral fat on a grid: tissues uint8 (D, H, W)."""
        tissues = super().paint(axes)
        height = self.diaphragm.sample((self.diaphragm.start[:1], *axes[1:]))[0]
        above = axes[0][:, None, None] > height
        tissues[above & (tissues == Tissue.VISCERAL)] = Tissue.LUNG
        tissues[~above & ((tissues == Tissue.LUNG) | (tissues == Tissue.HEART))] = Tissue.VISCERAL
        return tissues


class Abdomen:
    """The organs of a label map, from which a patient is drawn.

    Args:
        organ_map: The label map.
    """

    def __init__(self, organ_map: OrganMap) -> None:
        self.map = organ_map
        self.fields = {name: shape.field() for name, shape in organ_map.shapes.items()}
        self.course = gland_course(self.fields[PANCREAS])
        absent = {name for name in REMOVED if name in organ_map.known and name not in self.fields}
        self.own = frozenset(self.fields) | absent

    @staticmethod
    def draw(rng: np.random.Generator, labels: str) -> "Abdomen":
        """Draw one of the label maps that ``Synthesis.labels`` names.

        Raises:
            InputError: If the folder or the map cannot be used.
        """
        paths = list_maps(labels)
        return Abdomen(read_map(paths[int(rng.integers(len(paths)))], labels))

    @property
    def head(self) -> np.ndarray:
        """Position (z, y, x) of the head of the pancreas in mm."""
        points = _inside(self.fields[PANCREAS])
        return np.median(points[points[:, 2] <= np.percentile(points[:, 2], 20)], axis=0)

    def crest(self, usual: float) -> float:
        """Return the height of the iliac crest in mm: somewhat below where the aorta divides."""
        return usual if self.map.fork is None else self.map.fork - 10.0

    def trunk(self, fork: float, high: float) -> tuple[float, list[tuple[float, float]]]:
        """Return where the aorta divides, and the heights between which it runs outside the map, in mm."""
        if "aorta" not in self.fields:
            return fork, [(fork, high)]
        beyond = [(self.map.high - 8, high)] if self.map.high < high else []
        if self.map.fork is not None:
            return self.map.fork, beyond
        return min(fork, self.map.low), [(min(fork, self.map.low), self.map.low + 8), *beyond]

    def hila(self, usual: Sequence[Sequence[float]]) -> list[Sequence[float]]:
        """Locate where vessels enter the right and the left kidney, (z, y, x) in mm; ``usual`` where there is none."""
        found = list(usual)
        for number, name in enumerate(KIDNEYS):
            if name in self.fields:
                points = _inside(self.fields[name])
                middle = points.mean(axis=0)
                across = points[np.abs(points[:, 0] - middle[0]) < 12, 2]
                inner = np.percentile(across, 85 if number == 0 else 15)
                found[number] = (middle[0], middle[1] - 6, inner)
        return found

    def fit(self, rng: np.random.Generator, body: Body, wide: float) -> FittedBody:
        """Draw a body whose cavity holds the organs, with the wall of ``body``."""
        points = np.concatenate([_inside(field)[::29, 1:] for field in self.fields.values()])
        # The fat is thicker at the sides than in front and behind, as in Body.
        wall = np.array([0.75 * body.fat + body.muscle, 1.35 * body.fat + body.muscle]) + 2
        usual = BACK_MM + 0.4 * body.fat
        back = float(np.clip(np.percentile(points[:, 0], 99) + wall[0] + 4, usual, usual + MOST_MOVED_MM))
        ahead = points[points[:, 0] < SPINE[0]]
        # Of all bodies that hold the organs, the one that is smallest; slim bodies are flat.
        sizes = np.stack(np.meshgrid(np.arange(72.0, 190, 4), np.arange(110.0, MOST_HALF_MM, 4), indexing="ij"), -1)
        sizes = sizes.reshape(-1, 2)
        sizes = sizes[(sizes[:, 0] > 0.55 * sizes[:, 1]) & (sizes[:, 0] < 0.9 * sizes[:, 1])]
        sizes = sizes[np.argsort(sizes.prod(axis=1))]
        half = next((half for half in sizes if _holds(half, wall, back, ahead)), sizes[-1])
        half = np.minimum(half + wide * rng.uniform(0, (16, 14)), MOST_HALF_MM)
        diaphragm = self._diaphragm(half, back - half[0])
        dome = float(diaphragm.sample((diaphragm.start[:1], np.array([back - half[0] - 25]), np.array([25.0]))).item())
        values = {item.name: getattr(body, item.name) for item in fields(body)}
        values |= {"half": (half[0], half[1]), "middle": back - half[0], "dome": dome + 6}
        return FittedBody(**values, diaphragm=diaphragm)

    def _diaphragm(self, half: np.ndarray, middle: float) -> Field:
        """Lay the diaphragm upon the organs; where there are none, it falls from its dome to the wall."""
        axes = (np.arange(-60.0, 200.0, 4.0), *(np.arange(-r, r + 1, DIAPHRAGM_STEP_MM) for r in (280.0, 300.0)))
        inside = np.zeros([len(axis) for axis in axes], bool)
        for name in UPPER:
            if name in self.fields:
                inside |= distance_at(self.fields[name], axes) < 0
        covered = inside.any(axis=0)
        top = axes[0][len(axes[0]) - 1 - inside[::-1].argmax(axis=0)]
        fall = DIAPHRAGM_FALL_MM * (((axes[1][:, None] - middle) / half[0]) ** 2 + (axes[2] / half[1]) ** 2)
        usual = (np.median((top + fall)[covered]) if covered.any() else 80.0) - fall
        weight = _smooth(covered.astype(float))
        height = (_smooth(np.where(covered, top, 0.0)) + 0.05 * usual) / (weight + 0.05)
        height = np.maximum(height, usual - 15) + 4
        start, step = np.array([0.0, axes[1][0], axes[2][0]]), np.array([1.0, DIAPHRAGM_STEP_MM, DIAPHRAGM_STEP_MM])
        return Field(start, step, height[None].astype(np.float32))

    def without_own(self, layers: Sequence[Layer]) -> list[Layer]:
        """Leave out the phantom's layers of organs that the map or its surroundings have, and what belongs to them."""
        return [layer for layer in layers if not self._takes_place_of(layer)]

    def _takes_place_of(self, layer: Layer) -> bool:
        if layer.tissue == Tissue.VISCERAL and Tissue.CORTEX in layer.over:  # a renal pelvis
            return self._takes_place_of(replace(layer, tissue=Tissue.CORTEX))
        if layer.organ == "inferior_vena_cava" and "liver" in self.own:
            return True
        if layer.organ == "duodenum" or layer.organ in self.own:  # without one in the map, surroundings draws it
            return True
        return any(organ in self.own for organ in REPLACES.get(layer.tissue, ()))

    def surroundings(self, rng: np.random.Generator, low: float, clean: bool) -> list[Layer]:
        """Lay vessels and duodenum along the gland, and fat around them; the organs of the map are painted over them.

        Args:
            rng: Source of randomness.
            low: Height in mm at which the mesenteric vessels end.
            clean: Whether the gland is surrounded by fat.
        """
        vein, artery, bile, hilum = splanchnic_vessels(self.fields, self.course, max(low, -150.0))
        over = (*DISPLACED, Tissue.VISCERAL, Extra.NODE, *range(Extra.MASS, Extra.CONTENTS))
        layers = []
        if clean:
            gland = self.fields[PANCREAS]
            layers += [
                Layer(Tissue.VISCERAL, uneven_margin(rng, gland), 3.5, DISPLACED),
                Layer(Tissue.VISCERAL, vein, 2.0, DISPLACED),
            ]
        if "duodenum" not in self.own:
            samples = place_duodenum(rng, self.fields[PANCREAS])
            wall, *within = hollow_organ(rng, "duodenum", samples, rng.uniform(2, 5), 0.15)
            layers += [replace(wall, over=over), *within]
        if "inferior_vena_cava" not in self.own and "liver" in self.own:
            layers.append(Layer(Tissue.CAVA, place_cava(rng, list(self.fields.values())), 0, (*over, Tissue.MUSCLE)))
        layers += [Layer(Tissue.BILE, bile, 0, over), Layer(Tissue.ARTERY, artery, 0, over)]
        if "portal_vein_and_splenic_vein" not in self.own:
            layers.append(Layer(Tissue.VEIN, vein, 0, over))
        return [*layers, *self.organs(rng, hilum)]

    def organs(self, rng: np.random.Generator, hilum: np.ndarray) -> list[Layer]:
        """Paint the organs of the map but the pancreas; ``hilum`` is where the portal vein enters the liver."""
        layers: list[Layer] = []
        for name in HOLLOW:
            if name in self.fields:
                layers += _hollow(rng, self.fields[name], bowel=name in ("colon", "small_bowel"))
        for name, tissue in SOLID.items():
            if name not in self.fields:
                continue
            field = self.fields[name]
            layers.append(Layer(tissue, field, over=()))
            if tissue == Tissue.CORTEX:
                layers.append(Layer(Tissue.MEDULLA, roughen(field, rng, 9, 3), -8, (Tissue.CORTEX,)))
            if name == "liver":
                dome = _inside(field)
                upper = dome[dome[:, 0] > np.percentile(dome[:, 0], 70)]
                cava = upper[np.argmin(np.hypot(upper[:, 1] - 10, upper[:, 2] + 22))]
                portal = random_twigs(rng, hilum, (22, 25, 34), 7, rng.uniform(2, 4.5))
                hepatic = random_twigs(rng, cava, (22, 30, 34), 5, rng.uniform(2, 4.5))
                layers += [Layer(Tissue.VEIN, twigs, 0, (Tissue.LIVER,)) for twigs in (portal, hepatic)]
        return layers

    def pancreas(self, rng: np.random.Generator, diameter: float | None, wide: float) -> list[Layer]:
        """Paint the gland of the map with its duct, and perhaps atrophy and a tumour.

        Args:
            rng: Source of randomness.
            diameter: Of the tumour in mm; None for a patient without one.
            wide: How widely glands differ from those of the maps; 0 for not at all.
        """
        gland, level = self.fields[PANCREAS], 0.0
        if rng.random() < ATROPHY * wide:
            volume = float((gland.values < 0).sum() * gland.step.prod() / 1000)
            level = min(0.0, level_of_volume(gland, max(12.0, volume * rng.uniform(0.3, 1))))
        radius = np.full(len(self.course), rng.uniform(0.6, 1.6))
        tumour = []
        if diameter is not None:
            right = rng.random() < 0.6  # more often in the head
            share = rng.uniform(0.03, 0.35) if right else rng.uniform(0.4, 0.9)
            at = int(share * (len(self.course) - 1))
            radius[at:] = rng.uniform(1.5, 4.0)  # upstream of the obstruction the duct is dilated
            over = (*INVADED, Tissue.PARENCHYMA, Tissue.DUCT)
            tumour.append(Layer(Tissue.LESION, random_tumour(rng, self.course[at], diameter), 0, over))
        inner = slice(len(radius) // 16, -(-15 * len(radius) // 16))
        duct = tubes(np.column_stack([self.course[inner, :3], radius[inner]]), 1.5)
        return [
            Layer(Tissue.PARENCHYMA, gland, level, ()),
            Layer(Tissue.DUCT, duct, 0, (Tissue.PARENCHYMA,)),
            *tumour,
        ]


def _holds(half: np.ndarray, wall: np.ndarray, back: float, points: np.ndarray) -> bool:
    """Return whether a body of these half axes (y, x), whose back is given, holds nearly all points (n, 2)."""
    beside = np.abs((points - (back - half[0], 0)) / (half - wall))
    return float(((beside**2.25).sum(axis=1) > 1).mean()) < OUTSIDE


def _inside(field: Field) -> np.ndarray:
    """List the nodes (n, 3) of an organ in mm."""
    return np.argwhere(field.values < 0) * field.step + field.start


def _smooth(plane: np.ndarray) -> np.ndarray:
    return gaussian_filter(plane, 12 / DIAPHRAGM_STEP_MM)


def _hollow(rng: np.random.Generator, field: Field, bowel: bool) -> list[Layer]:
    """Paint a hollow organ: its wall, its content, and gas at the front, or here and there in bowel."""
    wall = rng.uniform(1.5, 4.5)
    nodes = np.argwhere(field.values < -wall)
    layers = [Layer(Tissue.WALL, field, over=()), Layer(Tissue.CONTENT, field, -wall, (Tissue.WALL,))]
    if not len(nodes):
        return layers
    if bowel:
        noise = smooth_noise(rng, field.start, field.stop, 40.0)
        axes = tuple(a + s * np.arange(n) for a, s, n in zip(field.start, field.step, field.values.shape, strict=True))
        gas = 10 * (rng.uniform(-0.6, 0.9) - noise.sample(axes))
    else:
        if rng.random() < 0.3:
            return layers
        surface = np.quantile(nodes[:, 1], rng.uniform(0.05, 0.6))
        gas = ((np.arange(field.values.shape[1]) - surface) * field.step[1])[:, None].astype(np.float32)
    lumen = np.maximum(field.values + np.float32(wall), gas).astype(np.float32)
    return [*layers, Layer(Tissue.GAS, replace(field, values=lumen), 0, (Tissue.CONTENT,))]
