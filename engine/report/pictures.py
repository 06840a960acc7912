"""A picture of one case: the contours of reference and prediction on a few slices.

Figures are built without the global state of pyplot, so that no backend is chosen for the caller and no figure stays
open.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

from data.cases.labels import HU_WINDOW, PANCREAS, TUMOUR
from data.common.files import replacing
from data.common.text import wrap_words
from data.scans.boxes import bounding_box, enlarge, whole_box
from data.scans.grid import volume_ml

CONTEXT_MM = 40.0  # shown around the organ
PANEL_PIXELS = 420  # length of the longer side of an axial panel, unless the shorter one would be below MIN_PIXELS
MIN_PIXELS = 300
# Panels are drawn finer by this factor and then reduced, which makes lines smooth; line widths are in fine pixels.
OVERSAMPLING = 3
LINE_WIDTHS = {"reference": 5, "prediction": 4}
DPI = 100
BACKGROUND = "#1b1d21"
CAUTION_COLOUR, NOTE_COLOUR = "#ffb020", "#c8ccd4"

# Colours (red, green, blue) by the origin of a contour and its label code. A mask without the code 2 is drawn in the
# colours of the pancreas.
COLOURS = {
    ("reference", 1): (64, 224, 96),
    ("reference", 2): (255, 222, 60),
    ("prediction", 1): (255, 70, 200),
    ("prediction", 2): (255, 64, 48),
}

Legend = list[tuple[str, tuple[int, int, int] | None]]


class Panel(NamedTuple):
    """One slice, ready to be shown.

    Attributes:
        caption: Which slice it is.
        sides: Letters of the patient's sides on its left, right, top and bottom.
        view: RGB image, uint8, shape (height, width, 3).
        scale: Pixels per mm.
    """

    caption: str
    sides: str
    view: np.ndarray
    scale: float


def draw_overlay(
    path: Path,
    image: np.ndarray,
    *,
    reference: np.ndarray | None,
    prediction: np.ndarray,
    spacing: Sequence[float],
    title: str,
    doubts: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write a PNG with up to four axial slices and a coronal one around the organ, and contours on them.

    Args:
        path: The file.
        image: int16 HU, shape (D, H, W), in LPS: row 0 is anterior, and column 0 is the patient's right, which is
            shown on the left.
        reference: uint8 labels 0/1/2 of the same shape; None if there is no reference.
        prediction: uint8 labels 0/1/2 of the same shape.
        spacing: Voxel spacing (z, y, x) in mm; the pixels of the picture are square in mm.
        title: Title of the picture.
        doubts: Why the prediction is not reliable; written below the title.
        notes: What else a reader of the prediction should know; written below the doubts.
    """
    masks = {"prediction": prediction} if reference is None else {"reference": reference, "prediction": prediction}
    legend = _legend(masks, spacing)
    organ = bounding_box(np.any([mask > 0 for mask in masks.values()], axis=0)) or whole_box(image.shape)
    context = [CONTEXT_MM / s for s in spacing]
    box = enlarge(organ, context, context, image.shape)
    image, masks = image[box.slices], {origin: mask[box.slices] for origin, mask in masks.items()}
    depth, height, width = (n * s for n, s in zip(box.shape, spacing, strict=True))
    scale = max(PANEL_PIXELS / max(height, width), MIN_PIXELS / min(height, width))
    panels = []
    for z in choose_slices(masks, axis=0, count=4):
        view = _draw_slice(image[z], {origin: mask[z] for origin, mask in masks.items()}, spacing[1:], scale)
        panels.append(Panel(f"axial  z {box.start[0] + z}", "RLAP", view, scale))
    scale = min(scale, 1.25 * height * scale / depth)
    for y in choose_slices(masks, axis=1, count=1):
        upright = {origin: mask[::-1, y] for origin, mask in masks.items()}
        view = _draw_slice(image[::-1, y], upright, (spacing[0], spacing[2]), scale)
        panels.append(Panel(f"coronal  y {box.start[1] + y}", "RLHF", view, scale))
    remarks = [(f"UNRELIABLE: {doubt}", CAUTION_COLOUR) for doubt in doubts]
    remarks += [(f"note: {note}", NOTE_COLOUR) for note in notes]
    save_figure(_panel_figure(panels, legend, title, remarks), path)


def choose_slices(masks: Mapping[str, np.ndarray], axis: int, count: int) -> list[int]:
    """Choose slices that represent the organ equally: each stands for the same share of it.

    Voxels of either mask count once, voxels where the masks differ count twice. One of the slices is the one with the
    largest area of the tumour or, without a tumour, of the organ. If all masks are empty, the slices are spread over
    the whole axis.

    Args:
        masks: Labels 0/1/2 by their origin, "reference" and "prediction", or only one of them; shape (D, H, W).
        axis: The axis across the slices.
        count: Largest number of slices.

    Returns:
        Indices, the highest first.
    """
    in_plane = tuple(a for a in range(3) if a != axis)
    areas = np.sum([(mask > 0).sum(axis=in_plane, dtype=float) for mask in masks.values()], axis=0)
    tumour = np.sum([(mask == TUMOUR).sum(axis=in_plane, dtype=float) for mask in masks.values()], axis=0)
    share = areas if areas.any() else np.ones_like(areas)
    if len(masks) == 2:
        share = share + (masks["reference"] != masks["prediction"]).sum(axis=in_plane)
    chosen = np.searchsorted(np.cumsum(share), (np.arange(count) + 0.5) / count * share.sum())
    if areas.any():
        largest = int(np.argmax(tumour if tumour.any() else areas))
        chosen[np.argmin(np.abs(chosen - largest))] = largest
    return sorted({int(index) for index in chosen}, reverse=True)


def smooth_contours(mask: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """Return the smooth contours of a mask that is enlarged to another size.

    The contours are smoothed along themselves over the length of a voxel. This rounds the steps of the voxels and, in
    contrast to blurring the mask, never loses a small lesion.

    Args:
        mask: 2-D mask.
        size: Width and height in pixels.

    Returns:
        Closed lines of points (x, y) as OpenCV draws them, int32, each of shape (n, 1, 2).
    """
    enlarged = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    found, _ = cv2.findContours((enlarged >= 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    voxel = max(1, round(min(size[0] / mask.shape[1], size[1] / mask.shape[0])))
    averaged = (ndimage.uniform_filter1d(line.astype(float), voxel, axis=0, mode="wrap") for line in found)
    return [np.round(line).astype(np.int32) for line in averaged]


def _draw_slice(
    image: np.ndarray, masks: Mapping[str, np.ndarray], pixel_mm: Sequence[float], scale: float
) -> np.ndarray:
    """Return a slice in the HU window with the contours of every mask, enlarged to square pixels: uint8 RGB."""
    low, high = HU_WINDOW
    grey = np.clip((image.astype(np.float32) - low) / (high - low), 0, 1) * 255
    height, width = (max(1, round(n * mm * scale)) for n, mm in zip(image.shape, pixel_mm, strict=True))
    fine = (OVERSAMPLING * width, OVERSAMPLING * height)
    is_reduced = width < image.shape[1] or height < image.shape[0]
    interpolation = cv2.INTER_AREA if is_reduced else cv2.INTER_CUBIC
    grey = cv2.resize(grey, (width, height) if is_reduced else fine, interpolation=interpolation)
    canvas = cv2.cvtColor(np.clip(cv2.resize(grey, fine), 0, 255).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    for origin, mask in masks.items():
        for code in (PANCREAS, TUMOUR):
            lines = smooth_contours(mask >= code, fine)
            cv2.polylines(canvas, lines, True, COLOURS[origin, code], LINE_WIDTHS[origin], cv2.LINE_AA)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


def _legend(masks: Mapping[str, np.ndarray], spacing: Sequence[float]) -> Legend:
    """Return the lines of the legend, each with the colour of its swatch or None for a line without one."""
    names = {PANCREAS: "pancreas", TUMOUR: "tumour"}
    shown = [code for code in names if any((mask == code).any() for mask in masks.values())] or [PANCREAS]
    lines: Legend = []
    for origin, mask in masks.items():
        if not mask.any():
            text = "nothing predicted" if origin == "prediction" else "the reference is empty"
            lines.append((text, COLOURS[origin, shown[0]]))
            continue
        for code in shown:
            volume = volume_ml(mask >= code, spacing)  # the tumour is part of the pancreas
            name = f" {names[code]}" if TUMOUR in shown else ""
            lines.append(
                (f"{origin}{name}  {volume:.1f} ml" if volume else f"{origin}: no{name}", COLOURS[origin, code])
            )
    if "reference" not in masks:
        lines.append(("no reference given", None))
    return [*lines, (f"window {HU_WINDOW[0]:g} to {HU_WINDOW[1]:g} HU", None), ("z, y: voxel index from 0", None)]


def _panel_figure(panels: Sequence[Panel], legend: Legend, title: str, remarks: Sequence[tuple[str, str]]) -> Figure:
    """Arrange the panels at their exact size in pixels; the last cell of the grid holds the legend.

    Args:
        panels: The slices.
        legend: Its lines.
        title: Title of the picture.
        remarks: What is written below the title, each with its colour.
    """
    gap, title_height, line_height = 8, 44, 20
    columns = 2 if len(panels) == 3 else 3
    cells = [*(panel.view.shape[:2] for panel in panels), (26 * len(legend) + 20, 250)]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    widths = [max(row[i][1] for row in rows if i < len(row)) for i in range(min(columns, len(cells)))]
    heights = [max(h for h, _ in row) for row in rows]
    width = sum(widths) + gap * (len(widths) + 1)
    room = (width - 2 * gap) // 9  # characters in a line
    lines = [(line, colour) for remark, colour in remarks for line in wrap_words(remark, room)]
    head = title_height + line_height * len(lines)
    height = sum(heights) + gap * (len(heights) + 1) + head
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
    size = 12 * min(1, (width - 2 * gap) / (10.6 * max(1, len(title))))
    # Names of files may hold "$", between which matplotlib would read formulas.
    text: dict[str, Any] = {"va": "center", "weight": "bold", "parse_math": False}
    figure.text(gap / width, 1 - title_height / 2 / height, title, color="white", fontsize=size, **text)
    for i, (line, colour) in enumerate(lines):
        y = title_height + line_height * (i + 0.3)
        figure.text(gap / width, 1 - y / height, line, color=colour, fontsize=10, **text)
    for i, (h, w) in enumerate(cells):
        left = gap + sum(widths[: i % columns]) + gap * (i % columns)
        top = head + gap + sum(heights[: i // columns]) + gap * (i // columns)
        axes = figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))
        axes.set_axis_off()
        if i < len(panels):
            _show_panel(axes, panels[i])
        else:
            _write_legend(axes, legend, h, w)
    return figure


def _show_panel(axes: Axes, panel: Panel) -> None:
    axes.imshow(panel.view, interpolation="nearest", aspect="auto")
    edge = [patheffects.withStroke(linewidth=2, foreground="black")]
    text: dict[str, Any] = {"transform": axes.transAxes, "color": "white", "fontsize": 9, "path_effects": edge}
    axes.text(0.015, 0.98, panel.caption, ha="left", va="top", **text)
    places = [(0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center")]
    places += [(0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom")]
    for letter, (x, y, ha, va) in zip(panel.sides, places, strict=True):
        axes.text(x, y, letter, ha=ha, va=va, alpha=0.7, **text)
    height, width = panel.view.shape[:2]
    right, low = width - 10, height - 10
    axes.plot([right - 50 * panel.scale, right], [low, low], color="white", linewidth=2, solid_capstyle="butt")
    label: dict[str, Any] = {"color": "white", "fontsize": 8, "ha": "center", "va": "bottom", "path_effects": edge}
    axes.text(right - 25 * panel.scale, low - 4, "5 cm", **label)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _write_legend(axes: Axes, legend: Legend, height: int, width: int) -> None:
    axes.set(xlim=(0, width), ylim=(height, 0))
    for i, (text, colour) in enumerate(legend):
        y = 20 + 26 * i
        if colour:
            axes.plot([12, 36], [y, y], color=np.array(colour) / 255, linewidth=3, solid_capstyle="butt")
        axes.text(46 if colour else 12, y, text, color="white" if colour else "0.6", fontsize=10, va="center")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically. A character that the font lacks is drawn as a box, without a warning."""
    with replacing(path) as unfinished, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        FigureCanvasAgg(figure).print_figure(unfinished, format="png", facecolor=figure.get_facecolor(), dpi=figure.dpi)
