"""What lies around the pancreas of a label map that does not hold it: vessels, ducts and the duodenum."""

from collections.abc import Mapping, Sequence

import numpy as np

from data.phantom.anatomy import AORTA
from data.phantom.fields import REACH_MM, Axes, Field, Points, curve, tubes
from data.synthesis.organ_codes import PANCREAS

PIECE_MM = 7.0  # of the gland, from right to left, in which its course is averaged
MESENTERIC_X = -2.0  # where the superior mesenteric vein passes behind the neck of the gland
MESENTERIC_Y = (-18.0, -24.0)  # of its vessels where they pass before uncinate process and duodenum, and at their end
HEAD_MM = 32.0  # from the right end of the gland to where its head ends
# Where the inferior vena cava of a typical patient runs, (z, y, x) in mm, from below to the diaphragm.
CAVA = np.array([(-100, 18, -16), (-60, 18, -18), (-20, 17, -21), (20, 12, -24), (60, 5, -25), (95, -2, -26)], float)


def gland_course(gland: Field) -> np.ndarray:
    """Follow a pancreas from the head to the tail: points (n, 4) with (z, y, x) and radius in mm."""
    nodes = np.argwhere(gland.values < 0)
    places, depth = nodes * gland.step + gland.start, -gland.values[tuple(nodes.T)]
    knots = []
    for piece in _pieces(places):
        weight = depth[piece] ** 2
        knots.append((*(weight @ places[piece] / weight.sum()), depth[piece].max()))
    return curve(_thinned(np.array(knots), 3))[0] if len(knots) > 1 else np.repeat(knots, 8, axis=0)


def _pieces(places: np.ndarray) -> list[np.ndarray]:
    """Divide points from right to left: indices of each piece that is not empty."""
    number = np.floor((places[:, 2] - places[:, 2].min()) / PIECE_MM).astype(int)
    pieces = (np.flatnonzero(number == k) for k in range(number.max() + 1))
    return [piece for piece in pieces if len(piece)]


def _thinned(knots: np.ndarray, every: int) -> np.ndarray:
    """Average over neighbouring knots, so that a spline through them is smooth; the ends stay."""
    if len(knots) <= 2 * every:
        return knots
    inner = [knots[i : i + every].mean(axis=0) for i in range(1, len(knots) - every, every)]
    return np.vstack([knots[:1], inner, knots[-1:]])


def splanchnic_vessels(
    organs: Mapping[str, Field], course: np.ndarray, low: float
) -> tuple[Field, Field, Field, np.ndarray]:
    """Lay portal, splenic and mesenteric vessels and the bile duct between the organs.

    Args:
        organs: Signed distances of the organs of a map, with the pancreas.
        course: Course of the gland from the head to the tail, as ``gland_course`` returns it.
        low: Height in mm at which the mesenteric vessels end.

    Returns:
        Signed distances of the veins, of the arteries and of the bile duct; and the point (z, y, x) at which the
        portal vein enters the liver.
    """
    behind = _rear_edge(organs[PANCREAS])
    neck = behind[np.argmin(np.abs(behind[:, 2] - MESENTERIC_X))]
    confluence = np.add(neck, (0, 5.5, 0))
    confluence[1] = min(confluence[1], AORTA[0] - 14)  # in front of the aorta, within the gland if need be
    tail = np.add(behind[behind[:, 2] > neck[2] + PIECE_MM], (1, 3.5, 0))
    porta = _nearest(organs.get("liver"), np.add(confluence, (38, -4, -38)))
    hilum = _nearest(organs.get("spleen"), tail[-1] if len(tail) else neck)
    head = course[min(6, len(course) - 1), :3]
    bile = [(*np.add(porta, (0, -4, -4)), 2.6), (*np.add((porta + head) / 2, (0, 2, -4)), 2.6)]
    return (
        _tree(_veins(confluence, tail, hilum, porta, low)),
        _tree(_arteries(confluence, tail if len(tail) else neck[None], porta, low)),
        _tree([[*bile, (*np.add(head, (0, 6, 0)), 2.2)]]),
        porta,
    )


def _rear_edge(gland: Field) -> np.ndarray:
    """Return points (n, 3) along the back of a gland, from right to left."""
    places = np.argwhere(gland.values < 0) * gland.step + gland.start
    pieces = [places[piece] for piece in _pieces(places)]
    return np.array([(p[:, 0].mean(), np.percentile(p[:, 1], 92), p[:, 2].mean()) for p in pieces])


def _veins(confluence: np.ndarray, tail: np.ndarray, hilum: np.ndarray, porta: np.ndarray, low: float) -> list[Points]:
    """Lay the mesenteric and portal vein in one line, and the splenic vein: points (z, y, x, radius) of each."""
    z, y, x = confluence
    portal = [(*np.add((confluence + porta) / 2, (2, 0, 2)), 6.5), (*porta, 5.5)]
    before_duodenum, end = MESENTERIC_Y
    mesenteric = [(low, end, -4, 4.5), (z - 45, min(y + 2, before_duodenum), x - 1, 5.5), (*confluence, 6)]
    splenic = _thinned(np.vstack([confluence[None], tail, hilum[None]]), 3)
    return [[*mesenteric, *portal], np.column_stack([splenic, np.linspace(4.8, 3.5, len(splenic))])]


def _arteries(confluence: np.ndarray, tail: np.ndarray, porta: np.ndarray, low: float) -> list[Points]:
    """Lay the superior mesenteric, the splenic and the hepatic artery: points (z, y, x, radius) of each."""
    y, x = AORTA
    height, beside = confluence[0], min(confluence[1] + 1, y - 12)
    coeliac = (height + 22, y - 5, x, 4)
    edge = _thinned(np.add(tail, (8, -2, 0)), 3)  # the upper edge of the gland
    before_duodenum, end = MESENTERIC_Y
    mesenteric = [(height - 45, before_duodenum, 9, 3.5), (low, end, 8, 3)]
    return [
        [(height + 8, y - 6, x, 4), (height - 4, beside, x, 4), *mesenteric],
        [coeliac, *np.column_stack([edge, np.full(len(edge), 2.3)])],
        [coeliac, (*np.add(porta, (2, -8, 14)), 2.4), (*porta, 2.0)],
    ]


def _tree(branches: Sequence[Points]) -> Field:
    """Compute the signed distance of vessels along splines through points (z, y, x, radius)."""
    return tubes(np.concatenate([curve(branch, 1.0)[0] for branch in branches]), 1.5)


def _nearest(organ: Field | None, place: np.ndarray) -> np.ndarray:
    """Find the point of an organ, a few mm within it, that is nearest to a place; the place itself without one."""
    nodes = np.zeros((0, 3)) if organ is None else np.argwhere(organ.values < -4) * organ.step + organ.start
    return nodes[np.argmin(((nodes - place) ** 2).sum(axis=1))] if len(nodes) else place


def distance_at(field: Field, axes: Axes) -> np.ndarray:
    """Sample a signed distance on a rectangular grid; REACH_MM beyond its nodes."""
    found = np.full([len(axis) for axis in axes], REACH_MM, np.float32)
    window = field.covered_part(axes)
    if all(part.start < part.stop for part in window):
        found[window] = field.sample(tuple(axis[s] for axis, s in zip(axes, window, strict=True)))
    return found


def place_cava(rng: np.random.Generator, organs: Sequence[Field]) -> Field:
    """Lay the inferior vena cava where the organs leave room for it: in the groove of the liver, beside the aorta.

    It is 14 to 32 mm wide, and as deep or flatter, as it is in patients who lack fluid.
    """
    half_width = rng.uniform(7, 16)
    radius = half_width * rng.uniform(0.45, 1)
    found = []
    for z, y, x in CAVA:
        axes = (np.array([z]), np.arange(y - 14, y + 11, 2.5), np.arange(x - 20, x + 15, 2.5))
        room = np.min([distance_at(organ, axes)[0] for organ in organs], axis=0)
        away = np.hypot(axes[1][:, None] - y, axes[2] - x)
        row, column = np.unravel_index(np.argmax(np.minimum(room, half_width) - 0.25 * away), room.shape)
        found.append((z, axes[1][row], axes[2][column], radius * rng.uniform(0.85, 1.15)))
    below, above = np.array(found[0]), np.array(found[-1])
    below[0], above[0] = -260, 200
    middle = curve(np.vstack([below, found, above]), 2.0)[0]
    beside = [np.add(middle, (0, 0, shift, 0)) for shift in np.linspace(-1, 1, 5) * (half_width - radius)]
    return tubes(np.concatenate(beside))


def place_duodenum(rng: np.random.Generator, gland: Field) -> np.ndarray:
    """Wind the duodenum around the head of a pancreas, below it and up to the left: points (n, 4).

    The descending part touches the head, or lies a few mm away from it.
    """
    points = np.argwhere(gland.values < 0) * gland.step + gland.start
    head = points[points[:, 2] < points[:, 2].min() + HEAD_MM]
    low, high = np.percentile(head[:, 0], (4, 96))
    radius, gap = rng.uniform(8, 15), rng.uniform(-2, 4)
    descending = []
    for height in np.linspace(high, low, 3):
        near = head[np.abs(head[:, 0] - height) < 6]
        edge = near[near[:, 2] < near[:, 2].min() + 8]
        descending.append((height, edge[:, 1].mean(), edge[:, 2].min() - radius - gap))
    top, below = descending[0], descending[-1][0] - radius
    before_aorta = np.add([(below - 8, -12, -8), (below, -14, 28), (below + radius + 18, -24, 46)], (0, *AORTA))
    bend = np.add(descending[-1], (-radius - 4, 0, radius))
    course = np.vstack([np.add(top, [(radius, -20, 32), (radius, -12, 14)]), descending, bend, before_aorta])
    course[1:-1] += rng.normal(0, 2.5, (len(course) - 2, 3))
    return curve(np.column_stack([course, radius * rng.uniform(0.75, 1.1, len(course))]), 3.0)[0]
