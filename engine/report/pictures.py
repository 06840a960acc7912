"""A picture of one case: the outlines of reference and prediction on its most telling slices.

The figure is built without pyplot's global state: no backend is chosen for the caller and nothing stays open.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

from data.cases.labels import HU_WINDOW, PANCREAS, TUMOUR
from data.common.files import replacing
from data.scans.boxes import bounding_box, enlarge, whole_box
from data.scans.grid import volume_ml

CONTEXT_MM = 40.0
PANEL_PIXELS = 420
MIN_PIXELS = 300
# Panels are drawn this much finer and then reduced, which makes their lines smooth; line widths count fine pixels.
FINER = 3
LINE = {"reference": 5, "prediction": 4}
DPI = 100
BACKGROUND = "#1b1d21"

# (who drew it, label code): colour. A mask without tumour is drawn in the pancreas colours whatever it shows.
COLOURS = {
    ("reference", 1): (64, 224, 96),
    ("reference", 2): (255, 222, 60),
    ("prediction", 1): (255, 70, 200),
    ("prediction", 2): (255, 64, 48),
}

Legend = list[tuple[str, tuple[int, int, int] | None]]


class Panel(NamedTuple):
    """A finished view (h, w, 3), the letters of its sides (left, right, top, bottom) and its pixels per mm."""

    caption: str
    sides: str
    view: np.ndarray
    scale: float


def overlay(
    path: Path,
    image: np.ndarray,
    reference: np.ndarray | None,
    prediction: np.ndarray,
    spacing: Sequence[float],
    title: str,
) -> None:
    """Write a PNG: up to four axial slices and a coronal one around the organ, with thin smooth contours.

    Args:
        image: int16 HU (D, H, W) in LPS (row 0 anterior, column 0 the patient's right, which is shown on the left).
        reference, prediction: uint8 (D, H, W), 0/1 or 0/1/2 = background/pancreas/tumour; no reference: None.
        spacing: (z, y, x) in mm; the picture's pixels are square in mm.
    """
    masks = {"prediction": prediction} if reference is None else {"reference": reference, "prediction": prediction}
    legend = _legend(masks, spacing)
    organ = bounding_box(np.any([mask > 0 for mask in masks.values()], axis=0)) or whole_box(image.shape)
    context = [CONTEXT_MM / s for s in spacing]
    box = enlarge(organ, context, context, image.shape, multiple=1)
    image, masks = image[box.slices], {who: mask[box.slices] for who, mask in masks.items()}
    depth, height, width = (n * s for n, s in zip(box.shape, spacing, strict=True))
    scale = max(PANEL_PIXELS / max(height, width), MIN_PIXELS / min(height, width))
    panels = []
    for z in telling_slices(masks, axis=0, count=4):
        view = _panel(image[z], {who: mask[z] for who, mask in masks.items()}, spacing[1:], scale)
        panels.append(Panel(f"axial  z {box.start[0] + z}", "RLAP", view, scale))
    scale = min(scale, 1.25 * height * scale / depth)
    for y in telling_slices(masks, axis=1, count=1):
        upright = {who: mask[::-1, y] for who, mask in masks.items()}
        view = _panel(image[::-1, y], upright, (spacing[0], spacing[2]), scale)
        panels.append(Panel(f"coronal  y {box.start[1] + y}", "RLHF", view, scale))
    save(_panel_figure(panels, legend, title), path)


def telling_slices(masks: Mapping[str, np.ndarray], axis: int, count: int) -> list[int]:
    """At most ``count`` slices along ``axis``, last first: each stands for an equal share of the organ.

    The share counts voxels of either mask, those where the masks differ twice; one of the slices is the largest of
    the tumour (without tumour: of the organ). Of empty masks, slices spread over the whole axis.
    """
    others = tuple(a for a in range(3) if a != axis)
    areas = sum((mask > 0).sum(axis=others, dtype=float) for mask in masks.values())
    tumour = sum((mask == TUMOUR).sum(axis=others, dtype=float) for mask in masks.values())
    share = areas if areas.any() else np.ones_like(areas)
    if len(masks) == 2:
        share = share + (masks["reference"] != masks["prediction"]).sum(axis=others)
    chosen = np.searchsorted(np.cumsum(share), (np.arange(count) + 0.5) / count * share.sum())
    if areas.any():
        largest = int(np.argmax(tumour if tumour.any() else areas))
        chosen[np.argmin(np.abs(chosen - largest))] = largest
    return sorted({int(index) for index in chosen}, reverse=True)


def contours(mask: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """The smooth outlines of a 2-D mask enlarged to ``size`` (width, height): cv2 points, int32 (n, 1, 2) as (x, y).

    Outlines are smoothed along themselves over a voxel's length, which rounds the voxels' steps but, unlike a blurred
    mask, never loses a small lesion.
    """
    smooth = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    found, _ = cv2.findContours((smooth >= 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    voxel = max(1, round(min(size[0] / mask.shape[1], size[1] / mask.shape[0])))
    averaged = (ndimage.uniform_filter1d(line.astype(float), voxel, axis=0, mode="wrap") for line in found)
    return [np.round(line).astype(np.int32) for line in averaged]


def _panel(image: np.ndarray, masks: Mapping[str, np.ndarray], pixel_mm: Sequence[float], scale: float) -> np.ndarray:
    """One slice, windowed and enlarged to square pixels, with the outlines of every mask: (h, w, 3) uint8 RGB."""
    low, high = HU_WINDOW
    grey = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1) * 255
    height, width = (max(1, round(n * mm * scale)) for n, mm in zip(image.shape, pixel_mm, strict=True))
    fine = (FINER * width, FINER * height)
    smaller = width < image.shape[1] or height < image.shape[0]
    grey = cv2.resize(grey, (width, height) if smaller else fine, interpolation=_interpolation(smaller))
    canvas = cv2.cvtColor(np.clip(cv2.resize(grey, fine), 0, 255).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    for who, mask in masks.items():
        for label in (1, TUMOUR):
            cv2.polylines(canvas, contours(mask >= label, fine), True, COLOURS[who, label], LINE[who], cv2.LINE_AA)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


def _interpolation(smaller: bool) -> int:
    return cv2.INTER_AREA if smaller else cv2.INTER_CUBIC


def _legend(masks: Mapping[str, np.ndarray], spacing: Sequence[float]) -> Legend:
    """Lines of the text cell with the colour of their swatch (None: no swatch)."""
    names = {PANCREAS: "pancreas", TUMOUR: "tumour"}
    shown = [code for code in names if any((mask == code).any() for mask in masks.values())] or [PANCREAS]
    lines: Legend = []
    for who, mask in masks.items():
        if not mask.any():
            lines.append(
                ("nothing predicted" if who == "prediction" else "the reference is empty", COLOURS[who, shown[0]])
            )
            continue
        for code in shown:
            volume = volume_ml(mask >= code, spacing)  # the tumour is part of the pancreas
            name = f" {names[code]}" if TUMOUR in shown else ""
            lines.append((f"{who}{name}  {volume:.1f} ml" if volume else f"{who}: no{name}", COLOURS[who, code]))
    if "reference" not in masks:
        lines.append(("no reference given", None))
    return [*lines, (f"window {HU_WINDOW[0]:g} to {HU_WINDOW[1]:g} HU", None), ("z, y: voxel index from 0", None)]


def _panel_figure(panels: Sequence[Panel], legend: Legend, title: str) -> Figure:
    """Panels at their exact pixel size in a grid on black; the last cell holds the legend."""
    gap, head = 8, 44
    columns = 2 if len(panels) == 3 else 3
    cells = [*(panel.view.shape[:2] for panel in panels), (26 * len(legend) + 20, 250)]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    widths = [max(row[i][1] for row in rows if i < len(row)) for i in range(min(columns, len(cells)))]
    heights = [max(h for h, _ in row) for row in rows]
    width, height = sum(widths) + gap * (len(widths) + 1), sum(heights) + gap * (len(heights) + 1) + head
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
    size = 12 * min(1, (width - 2 * gap) / (10.6 * max(1, len(title))))
    figure.text(gap / width, 1 - head / 2 / height, title, color="white", fontsize=size, va="center", weight="bold")
    for i, (h, w) in enumerate(cells):
        left = gap + sum(widths[: i % columns]) + gap * (i % columns)
        top = head + gap + sum(heights[: i // columns]) + gap * (i // columns)
        axes = figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))
        axes.set_axis_off()
        if i < len(panels):
            _show(axes, panels[i])
        else:
            _write_legend(axes, legend, h, w)
    return figure


def _show(axes: Axes, panel: Panel) -> None:
    axes.imshow(panel.view, interpolation="nearest", aspect="auto")
    edge = [patheffects.withStroke(linewidth=2, foreground="black")]
    text = {"transform": axes.transAxes, "color": "white", "fontsize": 9, "path_effects": edge}
    axes.text(0.015, 0.98, panel.caption, ha="left", va="top", **text)
    places = [(0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center")]
    places += [(0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom")]
    for letter, (x, y, ha, va) in zip(panel.sides, places, strict=True):
        axes.text(x, y, letter, ha=ha, va=va, alpha=0.7, **text)
    height, width = panel.view.shape[:2]
    right, low = width - 10, height - 10
    axes.plot([right - 50 * panel.scale, right], [low, low], color="white", linewidth=2, solid_capstyle="butt")
    axes.text(
        right - 25 * panel.scale,
        low - 4,
        "5 cm",
        color="white",
        fontsize=8,
        ha="center",
        va="bottom",
        path_effects=edge,
    )
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _write_legend(axes: Axes, legend: Legend, height: int, width: int) -> None:
    axes.set(xlim=(0, width), ylim=(height, 0))
    for i, (text, colour) in enumerate(legend):
        y = 20 + 26 * i
        if colour:
            axes.plot([12, 36], [y, y], color=np.array(colour) / 255, linewidth=3, solid_capstyle="butt")
        axes.text(46 if colour else 12, y, text, color="white" if colour else "0.6", fontsize=10, va="center")


def save(figure: Figure, path: Path) -> None:
    """Write the PNG under a temporary name, then rename it."""
    with replacing(path) as unfinished:
        FigureCanvasAgg(figure).print_figure(unfinished, format="png", facecolor=figure.get_facecolor(), dpi=figure.dpi)
