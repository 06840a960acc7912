"""Command: pictures of a centre for the eye, one tile a case: is every label on a pancreas, the right way up?

    python -m data.contact_sheet sheets --store data/prepared --centres hospital_a

A tile shows the slice with the most tumour, else the most pancreas, in soft-tissue window, cropped to the body in
this slice and in true proportions; up is anterior, left is the patient's right.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.cases.labels import HU_WINDOW, TUMOUR
from data.cases.store import DEFAULT_STORE, read_store
from data.common.errors import EXIT_BAD_INPUT, InputError, command
from data.common.files import replacing
from data.common.process import set_up_process
from data.scans.body import TISSUE_ABOVE_HU, largest_component
from data.scans.boxes import bounding_box

COLUMNS, ROWS = 8, 6
TILE = (232, 180)  # width, height in pixels, without the caption
CAPTION, HEAD, GAP = 20, 34, 4
PANCREAS_COLOUR, TUMOUR_COLOUR = (96, 224, 64), (60, 90, 255)  # blue, green, red
GROUND, INK = 24, (235, 235, 235)
SMALLEST_TEXT = 0.34


def tile(image: np.ndarray, label: np.ndarray, spacing: Sequence[float], name: str) -> np.ndarray:
    """The picture of one case, uint8 (200, 232, 3), blue green red.

    Args:
        image: int16 HU (D, H, W), LPS. label: uint8 0/1/2 of the same shape. spacing: (z, y, x) mm.
    """
    import cv2

    index = _telling_slice(label)
    plane, mask = np.asarray(image[index]), np.asarray(label[index])
    rows, columns = _body(plane, mask)
    plane, mask = plane[rows, columns], mask[rows, columns]
    size_mm = np.array(plane.shape[::-1]) * (spacing[2], spacing[1])
    width, height = np.maximum(1, (size_mm * min(TILE / size_mm)).astype(int)).tolist()
    low, high = HU_WINDOW
    grey = (np.clip((plane - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    shrinks = height < plane.shape[0]
    view = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    view = cv2.cvtColor(view, cv2.COLOR_GRAY2BGR)
    for organ, colour in ((mask > 0, PANCREAS_COLOUR), (mask == TUMOUR, TUMOUR_COLOUR)):
        smooth = cv2.resize(organ.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        outlines, _ = cv2.findContours((smooth >= 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(view, outlines, -1, colour, 1)
    picture = np.full((TILE[1] + CAPTION, TILE[0], 3), GROUND, np.uint8)
    top, left = (TILE[1] - height) // 2, (TILE[0] - width) // 2
    picture[top : top + height, left : left + width] = view
    if not mask.any():
        _write(picture, "no label", (6, 16), TILE[0] - 12, TUMOUR_COLOUR)
    _write(picture, name, (4, TILE[1] + CAPTION - 6), TILE[0] - 8)
    return picture


def _telling_slice(label: np.ndarray) -> int:
    """The slice with the most tumour, else the most pancreas, else the middle one."""
    box = bounding_box(label)
    if box is None:
        return label.shape[0] // 2
    crop = np.asarray(label[box.slices])
    tumour = np.count_nonzero(crop == TUMOUR, axis=(1, 2))
    return box.start[0] + int(np.argmax(tumour if tumour.any() else np.count_nonzero(crop, axis=(1, 2))))


def _body(plane: np.ndarray, mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the largest piece that is no air, table and specks left out; all where there is only air."""
    body = largest_component(plane > TISSUE_ABOVE_HU)
    return bounding_box((body | (mask > 0))[None]).slices[1:] if body.any() else (slice(None), slice(None))


def _write(picture: np.ndarray, text: str, at: tuple[int, int], room: int, colour: Sequence[int] = INK) -> None:
    """Write into ``picture``: smaller where the room asks for it, then without the middle."""
    import cv2

    text = text.encode("ascii", "replace").decode()  # all that this font has
    font, size, kept = cv2.FONT_HERSHEY_SIMPLEX, 0.44, text
    while cv2.getTextSize(kept, font, size, 1)[0][0] > room:
        if size > SMALLEST_TEXT:
            size -= 0.02
        else:
            half = (len(kept) - 3) // 2
            kept = text[:half] + ".." + text[len(text) - half :]
    cv2.putText(picture, kept, at, font, size, tuple(colour), 1, cv2.LINE_AA)


def write_sheets(folder: Path, centre: str, tiles: Sequence[np.ndarray]) -> list[Path]:
    """Lay tiles out in pages of 8 x 6 and write ``<centre>_<page>.png``; returns the paths.

    Pages that an earlier, longer sheet of this centre left behind are removed.
    """
    import cv2

    pages = [tiles[start : start + COLUMNS * ROWS] for start in range(0, len(tiles), COLUMNS * ROWS)]
    written = []
    for number, page in enumerate(pages, 1):
        path = folder / f"{centre}_{number:02d}.png"
        title = f"{centre}: {len(tiles)} cases, page {number} of {len(pages)}"
        with replacing(path) as unfinished:
            unfinished.write_bytes(cv2.imencode(".png", _page(page, title))[1].tobytes())
        written.append(path)
    for path in folder.glob(f"{centre}_*.png"):
        if path not in written and re.fullmatch(r"\d{2,}", path.stem.removeprefix(f"{centre}_")):
            path.unlink()
    return written


def _page(tiles: Sequence[np.ndarray], title: str) -> np.ndarray:
    columns = min(COLUMNS, max(4, len(tiles)))
    rows = -(-len(tiles) // columns)
    height, width = TILE[1] + CAPTION + GAP, TILE[0] + GAP
    page = np.zeros((HEAD + rows * height, GAP + columns * width, 3), np.uint8)
    for i, picture in enumerate(tiles):
        top, left = HEAD + i // columns * height, GAP + i % columns * width
        page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    _write(page, title, (8, 22), page.shape[1] - 440)
    _write(page, "pancreas", (page.shape[1] - 420, 22), 80, PANCREAS_COLOUR)
    _write(page, "tumour", (page.shape[1] - 335, 22), 70, TUMOUR_COLOUR)
    _write(page, "up: anterior, left: patient's right", (page.shape[1] - 265, 22), 255)
    return page


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data.contact_sheet",
        description="Pictures of the prepared cases for the eye, one tile a case, some pages a centre.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the pictures")
    parser.add_argument("--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help="where prepared cases live")
    parser.add_argument("--centres", nargs="+", metavar="NAME", help="these alone, else all")
    return parser


def _chosen(names: Iterable[str] | None, known: Iterable[str]) -> list[str]:
    chosen = list(dict.fromkeys(names or known))
    if unknown := [name for name in chosen if name not in known]:
        raise InputError(f"--centres {unknown[0]}: no such centre is prepared; choose from {', '.join(known)}")
    return chosen


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    centres = read_store(args.store.expanduser())
    faults = []
    for name in _chosen(args.centres, centres):
        tiles = []
        for case in tqdm(centres[name], desc=f"picturing {name}", unit="case", disable=None):
            try:
                tiles.append(tile(case.image(), case.label(), case.spacing, case.name))
            except InputError as error:
                faults.append(str(error))
        for path in write_sheets(args.out.expanduser(), name, tiles):
            print(path)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return EXIT_BAD_INPUT if faults else 0


if __name__ == "__main__":
    set_up_process()
    sys.exit(main())
