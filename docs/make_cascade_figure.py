"""Draw docs/cascade.png: the four stages of the cascade on a synthetic scan, each in the region that it reads.

    python docs/make_cascade_figure.py

The masks are those of the reference, so the figure explains the stages and does not show a result.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.cases.labels import HU_WINDOW, TUMOUR, target_mask
from data.phantom.scanner import SCANNERS, render_case
from data.samples import mask_box, scan_box
from data.scans.boxes import Box
from engine.stages import STAGES, Stage

FIGURE = Path(__file__).with_name("cascade.png")
CAPTIONS = {
    "pancreas_coarse": "reads the whole body,\nfinds the pancreas",
    "pancreas_fine": "reads the box around it,\noutlines the pancreas",
    "tumor_coarse": "reads the box around that pancreas,\nfinds the tumour",
    "tumor_fine": "reads the box around it, up to 4 times,\noutlines the tumour",
}
COLOURS = {"pancreas": "#4fd04f", "tumour": "#ff5a4d"}
BOX_COLOUR = "#ffd23f"


def stage_box(stage: Stage, image: np.ndarray, label: np.ndarray, spacing: tuple[float, float, float]) -> Box:
    """Return the box that a stage reads if the stage before it has found exactly the reference.

    Raises:
        ValueError: If the label lacks the structure that the box encloses.
    """
    if stage.sampling.roi == "scan":
        return scan_box(image, spacing, stage.sampling)
    box = mask_box(target_mask(label, stage.sampling.roi), spacing, stage.sampling)
    if box is None:
        raise ValueError(f"the scan has no {stage.sampling.roi}")
    return box


def draw_stage(axes: Axes, plane: np.ndarray, mask: np.ndarray, box: Box, target: str) -> None:
    """Draw what a stage reads of one axial slice, with the outline of its target."""
    _, rows, columns = box.slices
    low, high = HU_WINDOW
    axes.imshow(plane[rows, columns], cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
    axes.contour(mask[rows, columns], levels=[0.5], colors=COLOURS[target], linewidths=1.8)
    axes.set(xticks=[], yticks=[])


def draw_next_box(axes: Axes, next_axes: Axes, box: Box, next_box: Box) -> None:
    """Mark the region of the next stage in the picture of a stage and join the two pictures by an arrow."""
    (_, first_row, first_column), (_, row, column) = box.start, next_box.start
    _, height, width = next_box.shape
    corner = (column - first_column - 0.5, row - first_row - 0.5)
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=BOX_COLOUR, linewidth=1.6, linestyle="--"))
    arrow = ConnectionPatch(
        xyA=(1.0, 0.5),
        xyB=(0.0, 0.5),
        coordsA=axes.transAxes,
        coordsB=next_axes.transAxes,
        arrowstyle="-|>",
        mutation_scale=18,
        linewidth=2,
        color="0.25",
        shrinkA=3,
        shrinkB=3,
    )
    axes.figure.add_artist(arrow)


def main() -> None:
    """Render the scan, draw the stages and save the figure."""
    image, label, spacing = render_case(SCANNERS[0], 1, 0, size="full")
    # The slice with the most pancreas among those that show the tumour.
    area = np.count_nonzero(label, axis=(1, 2)) * (label == TUMOUR).any(axis=(1, 2))
    index = int(area.argmax())
    stages = list(STAGES.values())
    boxes = [stage_box(stage, image, label, spacing) for stage in stages]
    figure = Figure(figsize=(15, 4.4), dpi=110)
    panels = figure.subplots(1, len(stages), gridspec_kw={"wspace": 0.14})
    figure.subplots_adjust(left=0.01, right=0.99, top=0.88, bottom=0.15)
    for number, (axes, stage, box) in enumerate(zip(panels, stages, boxes, strict=True), start=1):
        target = stage.sampling.target
        draw_stage(axes, image[index], target_mask(label[index], target), box, target)
        middle = axes.get_position(original=True).intervalx.mean()
        title = f"{number}  {stage.title.replace('tumor', 'tumour')}"
        figure.text(middle, 0.97, title, fontsize=14, weight="bold", ha="center", va="top")
        figure.text(middle, 0.115, CAPTIONS[stage.name], fontsize=11.5, ha="center", va="top")
    for axes, next_axes, box, next_box in zip(panels[:-1], panels[1:], boxes[:-1], boxes[1:], strict=True):
        draw_next_box(axes, next_axes, box, next_box)
    figure.savefig(FIGURE, facecolor="white")
    print(FIGURE)


if __name__ == "__main__":
    main()
