"""Command: is this centre fit to train on? Reads everything, writes nothing, prints one table of what it found.

    python -m data.verify folder ~/my_hospital --centre my_hospital

fatal    prepare would refuse the case
warning  usable, but look at it: it may not be what you think
fixed    mended while reading, nothing to do
"""

import re
import sys
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data.boxes import bounding_box
from data.errors import EXIT_BAD_INPUT, InputError, command
from data.grid import volume_ml
from data.parallel import in_parallel
from data.prepare import argument_parser, find_centre
from data.sources import Entry, LabelMap, load_entry
from data.store import PANCREAS, TUMOUR
from data.volume import Volume

LEVELS = ("fatal", "warning", "fixed")
SPACING_MM = (0.3, 8.0)
AIR_BELOW, BONE_ABOVE = -200, 100  # any CT of an abdomen holds darker and brighter voxels than these
SMALL_PANCREAS_ML, SMALL_TUMOUR_ML = 5.0, 0.05  # an adult gland has 40 to 120 ml; 0.05 ml is a 4.6 mm ball
SHOWN = 4  # cases named per row
WRAPPED = 48  # characters of a column


class Finding(NamedTuple):
    level: str
    what: str
    case: str  # or the file, where one is to blame
    remedy: str


def inspect_entry(entry: Entry, labels: LabelMap) -> list[Finding]:
    """Read one case as prepare would, and look at what came out."""
    try:
        image, label, notes = load_entry(entry, labels)
    except InputError as error:
        file, _, fault = str(error).partition(": ")
        what, _, remedy = fault.rpartition("; ")
        return [Finding("fatal", what, "/".join(Path(file).parts[-2:]), remedy)]
    fixed = [Finding("fixed", note, entry.name, "nothing") for note in notes]
    return fixed + [Finding("warning", what, entry.name, remedy) for what, remedy in _doubts(image, label)]


def _doubts(image: Volume, label: np.ndarray) -> list[tuple[str, str]]:
    """What is odd about a readable case, and what to do about it."""
    doubts = []
    low, high = int(image.array.min()), int(image.array.max())
    if low > AIR_BELOW or high < BONE_ABOVE:
        doubts.append((f"values {low} to {high} are not HU of a CT", "export it in HU, with its rescale applied"))
    if min(image.spacing) < SPACING_MM[0] or max(image.spacing) > SPACING_MM[1]:
        spacing = " x ".join(f"{s:.3g}" for s in reversed(image.spacing))
        doubts.append((f"implausible spacing {spacing} mm", "check the header's units, they should be mm"))
    return doubts + _label_doubts(label, image.spacing)


def _label_doubts(label: np.ndarray, spacing: Sequence[float]) -> list[tuple[str, str]]:
    box = bounding_box(label)
    if box is None:
        return [("no pancreas label", "label it, or leave the case out")]
    crop, doubts = label[box.slices], []
    pancreas_ml, tumour_ml = (volume_ml(crop == code, spacing) for code in (PANCREAS, TUMOUR))
    if pancreas_ml + tumour_ml < SMALL_PANCREAS_ML:
        doubts.append(
            (f"pancreas of {pancreas_ml + tumour_ml:.2g} ml", "check the label map; is the gland in the scan?")
        )
    if 0 < tumour_ml < SMALL_TUMOUR_ML:
        doubts.append((f"tumour of {tumour_ml:.2g} ml", "check for stray voxels"))
    parts, count = ndimage.label(crop > 0, structure=np.ones((3, 3, 3)))
    apart = set(np.unique(parts[crop == TUMOUR])) - set(np.unique(parts[crop == PANCREAS]))
    if count and apart:
        doubts.append(("tumour that does not touch the pancreas", "check the label; is it another organ's?"))
    return doubts


def table(findings: Sequence[Finding]) -> str:
    """One row per kind of finding, worst first; findings that differ in numbers alone share a row."""
    rows: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda f: (LEVELS.index(f.level), f.what, f.case)):
        rows.setdefault((finding.level, re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", finding.what)), []).append(finding)
    lines = [("level", "cases", "what", "which", "what to do")]
    for (level, _), group in rows.items():
        names = sorted({f.case for f in group})
        which = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        what = group[0].what + (" (and the like)" if len({f.what for f in group}) > 1 else "")
        lines.append((level, str(len(names)), what, which, group[0].remedy))
    cells = [[wrap(cell, WRAPPED) for cell in line] for line in lines]
    widths = [max(len(part) for line in cells for part in line[column]) for column in range(5)]
    return "\n".join(
        "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for line in cells
        for parts in zip_longest(*line, fillvalue="")
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    description = "Is this centre fit to train on? Reads everything that prepare would, writes nothing."
    parser = argument_parser("data.verify", description)
    args = parser.parse_args(argv)
    centre = find_centre(args)
    print(f"centre {centre.name}: reading {len(centre.entries)} cases of {centre.root} ({centre.adapter})", flush=True)
    work = partial(inspect_entry, labels=centre.labels)
    found = [f for case in in_parallel(work, centre.entries, args.workers, f"verifying {centre.name}") for f in case]
    if found:
        print(table(found))
    fatal, warned = ({f.case for f in found if f.level == level} for level in ("fatal", "warning"))
    fit = len(centre.entries) - len(fatal)
    print(f"{fit} of {len(centre.entries)} cases are fit to train on, {len(warned)} of them with warnings")
    return EXIT_BAD_INPUT if fatal else 0


if __name__ == "__main__":
    sys.exit(main())
