"""Contact sheets: the cases of a centre at a glance, one tile for each case.

They show whether every label lies on a pancreas and every scan is the right way up. A tile shows the slice with the
most tumour, or else with the most pancreas, in a soft-tissue window, cropped to the body and in true proportions.
Anterior is up, and the patient's right is on the left.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.cases.labels import HU_WINDOW, TUMOUR
from data.common.files import replacing
from data.scans.body import TISSUE_ABOVE_HU, largest_component
from data.scans.boxes import bounding_box

COLUMNS, ROWS = 8, 6  # tiles on a page
TILE_SIZE = (232, 180)  # width and height in pixels, without the caption
CAPTION_HEIGHT, HEADER_HEIGHT, GAP = 20, 34, 4  # pixels
HEADER_WIDTH, HEADER_LINE = 700, 22  # a page that is narrower has a header of three lines, each of this height
# Colours are blue, green, red, as OpenCV has them.
PANCREAS_COLOUR, TUMOUR_COLOUR = (96, 224, 64), (60, 90, 255)
TEXT_COLOUR, BACKGROUND_GREY = (235, 235, 235), 24
FONT_SCALE, MIN_FONT_SCALE = 0.44, 0.34

# OpenCV is imported by the functions that draw, so that importing this module does not require it.


def draw_tile(image: np.ndarray, label: np.ndarray, spacing: Sequence[float], name: str) -> np.ndarray:
    """Draw the tile of one case.

    Args:
        image: int16 HU, shape (D, H, W), LPS.
        label: uint8 0/1/2 of the same shape.
        spacing: Voxel spacing (z, y, x) in mm.
        name: Caption of the tile.

    Returns:
        The tile, uint8, shape (200, 232, 3), in the order blue, green, red.
    """
    import cv2

    index = _choose_slice(label)
    plane, mask = np.asarray(image[index]), np.asarray(label[index])
    rows, columns = _find_body(plane, mask)
    plane, mask = plane[rows, columns], mask[rows, columns]
    size_mm = np.array(plane.shape[::-1]) * (spacing[2], spacing[1])
    width, height = np.maximum(1, (size_mm * min(TILE_SIZE / size_mm)).astype(int)).tolist()
    low, high = HU_WINDOW
    grey = (np.clip((plane - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    shrinks = height < plane.shape[0]
    view = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    view = cv2.cvtColor(view, cv2.COLOR_GRAY2BGR)
    for organ, colour in ((mask > 0, PANCREAS_COLOUR), (mask == TUMOUR, TUMOUR_COLOUR)):
        smooth = cv2.resize(organ.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        outlines, _ = cv2.findContours((smooth >= 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(view, outlines, -1, colour, 1)
    tile = np.full((TILE_SIZE[1] + CAPTION_HEIGHT, TILE_SIZE[0], 3), BACKGROUND_GREY, np.uint8)
    top, left = (TILE_SIZE[1] - height) // 2, (TILE_SIZE[0] - width) // 2
    tile[top : top + height, left : left + width] = view
    if not mask.any():
        _draw_text(tile, "no label", (6, 16), max_width=TILE_SIZE[0] - 12, colour=TUMOUR_COLOUR)
    _draw_text(tile, name, (4, TILE_SIZE[1] + CAPTION_HEIGHT - 6), max_width=TILE_SIZE[0] - 8)
    return tile


def _choose_slice(label: np.ndarray) -> int:
    """Return the index of the slice with the most tumour, or else the most pancreas, or else the middle one."""
    box = bounding_box(label)
    if box is None:
        return label.shape[0] // 2
    crop = np.asarray(label[box.slices])
    tumour = np.count_nonzero(crop == TUMOUR, axis=(1, 2))
    return box.start[0] + int(np.argmax(tumour if tumour.any() else np.count_nonzero(crop, axis=(1, 2))))


def _find_body(plane: np.ndarray, mask: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and columns of the body and the label, without the table; all of them if there is only air."""
    body = largest_component(plane > TISSUE_ABOVE_HU)
    box = bounding_box((body | (mask > 0))[None]) if body.any() else None
    return box.slices[1:] if box else (slice(None), slice(None))


def _draw_text(
    picture: np.ndarray,
    text: str,
    position: tuple[int, int],
    *,
    max_width: int,
    colour: tuple[int, int, int] = TEXT_COLOUR,
) -> None:
    """Draw text into a picture; text that is too wide is made smaller and then loses its middle.

    Args:
        picture: The picture, uint8, shape (H, W, 3); it is changed.
        text: One line of text; what is not ASCII becomes "?".
        position: Left end of the baseline (x, y) in pixels.
        max_width: Width that is available, in pixels.
        colour: Blue, green, red.
    """
    import cv2

    text = text.encode("ascii", "replace").decode()  # OpenCV's fonts have no other characters
    font, scale, shown = cv2.FONT_HERSHEY_SIMPLEX, FONT_SCALE, text
    while cv2.getTextSize(shown, font, scale, 1)[0][0] > max_width:
        if scale > MIN_FONT_SCALE:
            scale -= 0.02
        else:
            half = (len(shown) - 3) // 2
            shown = text[:half] + ".." + text[len(text) - half :]
    cv2.putText(picture, shown, position, font, scale, colour, 1, cv2.LINE_AA)


def write_sheets(folder: Path, centre: str, tiles: Sequence[np.ndarray]) -> list[Path]:
    """Lay out the tiles of a centre on pages of at most 8 x 6 and write them as ``<centre>_<page>.png``.

    Pages that are left from an earlier, longer sheet of the same centre are removed.

    Args:
        folder: Folder of the pages.
        centre: Name of the centre.
        tiles: Tiles as ``draw_tile`` returns them.

    Returns:
        The paths of the pages.
    """
    import cv2

    pages = [tiles[start : start + COLUMNS * ROWS] for start in range(0, len(tiles), COLUMNS * ROWS)]
    written = []
    for number, page in enumerate(pages, 1):
        path = folder / f"{centre}_{number:02d}.png"
        title = f"{centre}: {len(tiles)} case{'s' * (len(tiles) != 1)}, page {number} of {len(pages)}"
        with replacing(path) as unfinished:
            unfinished.write_bytes(cv2.imencode(".png", _draw_page(page, title))[1].tobytes())
        written.append(path)
    for path in folder.glob(f"{centre}_*.png"):
        if path not in written and re.fullmatch(r"\d{2,}", path.stem.removeprefix(f"{centre}_")):
            path.unlink()
    return written


def _draw_page(tiles: Sequence[np.ndarray], title: str) -> np.ndarray:
    """Lay out tiles below a header; cells without a tile have the grey that surrounds the scans in their tiles."""
    columns = choose_columns(len(tiles))
    rows = -(-len(tiles) // columns)
    height, width = TILE_SIZE[1] + CAPTION_HEIGHT + GAP, TILE_SIZE[0] + GAP
    right = GAP + columns * width
    is_narrow = right < HEADER_WIDTH
    header = HEADER_HEIGHT + (2 * HEADER_LINE if is_narrow else 0)
    page = np.full((header + rows * height, right, 3), BACKGROUND_GREY, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = header + i // columns * height, GAP + i % columns * width
        page[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    if is_narrow:  # title, colours and orientation one below the other
        x, lines, title_width = 8, (22, 22 + HEADER_LINE, 22 + 2 * HEADER_LINE), right - 16
    else:
        x, lines, title_width = right - 420, (22, 22, 22), right - 440
    _draw_text(page, title, (8, lines[0]), max_width=title_width)
    _draw_text(page, "pancreas", (x, lines[1]), max_width=80, colour=PANCREAS_COLOUR)
    _draw_text(page, "tumour", (x + 85, lines[1]), max_width=70, colour=TUMOUR_COLOUR)
    _draw_text(
        page,
        "up: anterior, left: patient's right",
        (x if is_narrow else x + 155, lines[2]),
        max_width=title_width if is_narrow else 255,
    )
    return page


def choose_columns(count: int) -> int:
    """Choose the number of columns, at most ``COLUMNS``, with which the fewest cells of a page have no tile.

    Up to ``COLUMNS`` tiles are a single row. More are divided into rows of more than half of that, because a page that
    is much higher than wide does not fit on a screen.
    """
    if count <= COLUMNS:
        return max(1, count)
    fewest = max(COLUMNS // 2 + 1, -(-count // ROWS))
    return min(range(fewest, COLUMNS + 1), key=lambda columns: (-count % columns, -columns))
