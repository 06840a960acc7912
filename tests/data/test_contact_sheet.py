"""Contact sheets show the right slice, the right way up, in true proportions, with legible names, on pages."""

import cv2
import numpy as np
import pytest

from data.cases.case import write_case
from data.contact_sheet.command import main
from data.contact_sheet.sheet import (
    BACKGROUND_GREY,
    CAPTION_HEIGHT,
    COLUMNS,
    HEADER_HEIGHT,
    PANCREAS_COLOUR,
    ROWS,
    TILE_SIZE,
    TUMOUR_COLOUR,
    choose_columns,
    draw_tile,
    write_sheets,
)
from data.scans.grid import Grid
from tests.conftest import SPACING, tiny_scan


def scan(shape=(6, 60, 80)) -> tuple[np.ndarray, np.ndarray]:
    return np.full(shape, 20, np.int16), np.zeros(shape, np.uint8)


def pixels_of(picture: np.ndarray, colour) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero((picture[: TILE_SIZE[1]] == colour).all(-1))


def test_up_is_anterior_and_left_is_the_patients_right():
    image, label = scan()
    image[:, :15, :40] = 240  # row 0 is anterior, column 0 the patient's right
    picture = draw_tile(image, label, (5.0, 1.0, 1.0), "x")
    middle, side = TILE_SIZE[1] // 2, TILE_SIZE[0] // 2
    rows, columns = np.nonzero(picture[: TILE_SIZE[1], :, 0] > 230)
    assert rows.size and np.median(rows) < middle / 2 and columns.max() < side + 3


@pytest.mark.parametrize("spacing", [(5.0, 1.0, 1.0), (5.0, 2.0, 1.0), (1.0, 0.7, 2.1)])
def test_a_square_in_mm_is_a_square_in_the_picture(spacing):
    image, label = scan((4, 120, 120))
    half = [round(20 / s) for s in spacing[1:]]
    label[2, 60 - half[0] : 60 + half[0], 60 - half[1] : 60 + half[1]] = 1
    rows, columns = pixels_of(draw_tile(image, label, spacing, "x"), PANCREAS_COLOUR)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=3)


def test_the_slice_with_the_most_tumour_is_shown_else_with_the_most_pancreas():
    image, label = scan()
    label[1, 10:50, 10:70] = 1
    label[4, 20:30, 20:30] = 1
    assert np.ptp(pixels_of(draw_tile(image, label, SPACING, "x"), PANCREAS_COLOUR)[1]) > 100
    label[4, 22:28, 22:28] = 2
    picture = draw_tile(image, label, SPACING, "x")
    assert pixels_of(picture, TUMOUR_COLOUR)[0].size and np.ptp(pixels_of(picture, PANCREAS_COLOUR)[1]) < 60


def test_a_case_without_a_label_says_so_and_a_scan_of_air_is_drawn():
    image, label = scan()
    rows, _ = pixels_of(draw_tile(image, label, SPACING, "x"), TUMOUR_COLOUR)
    without = draw_tile(image * 0 - 1000, label, SPACING, "x")
    assert rows.size and rows.max() < 30 and without.shape == (TILE_SIZE[1] + CAPTION_HEIGHT, TILE_SIZE[0], 3)


@pytest.mark.parametrize("name", ["short", "a_long_name_of_a_case_from_some_hospital_2021", "x" * 200, "Köln_ß"])
def test_long_names_stay_inside_the_tile(name):
    picture = draw_tile(*scan(), SPACING, name)
    caption = picture[TILE_SIZE[1] :].max(-1) > 60
    assert caption.any() and not caption[:, -3:].any() and not caption[:, :3].any()
    assert not caption[0].any() and not caption[-1].any()


def test_many_cases_fill_pages_and_old_pages_are_removed(tmp_path):
    pictures = [draw_tile(*scan(), SPACING, f"case_{i}") for i in range(COLUMNS * ROWS + 1)]
    paths = write_sheets(tmp_path, "a", pictures)
    (tmp_path / "ab_01.png").write_bytes(b"another centre's")
    (tmp_path / "a_b_01.png").write_bytes(b"another centre's")
    (tmp_path / "a_100.png").write_bytes(b"of an earlier, longer sheet")
    full, rest = (cv2.imread(str(path)) for path in paths)
    assert [path.name for path in paths] == ["a_01.png", "a_02.png"]
    assert (
        full.shape[0] > HEADER_HEIGHT + ROWS * TILE_SIZE[1]
        and full.shape[1] > COLUMNS * TILE_SIZE[0]
        and rest.shape[0] < 300
    )
    assert len(write_sheets(tmp_path, "a", pictures[:3])) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a_01.png", "ab_01.png", "a_b_01.png"}


@pytest.mark.parametrize("count", range(1, COLUMNS * ROWS + 1))
def test_few_cells_of_a_page_have_no_tile(count):
    columns = choose_columns(count)
    rows = -(-count // columns)
    assert columns <= COLUMNS and rows <= ROWS and columns * rows - count <= 5
    assert rows == 1 or columns > COLUMNS // 2


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_a_page_is_as_wide_as_its_tiles_and_not_black_beside_them(tmp_path, count):
    tile = np.full((TILE_SIZE[1] + CAPTION_HEIGHT, TILE_SIZE[0], 3), 255, np.uint8)
    (path,) = write_sheets(tmp_path, "a", [tile] * count)
    page = cv2.imread(str(path))
    assert page.min() == BACKGROUND_GREY
    assert page.shape[1] < (choose_columns(count) + 0.2) * TILE_SIZE[0]
    header = page[: page.shape[0] - -(-count // choose_columns(count)) * (tile.shape[0] + 2)]
    for colour in (PANCREAS_COLOUR, TUMOUR_COLOUR):
        columns = np.nonzero((np.abs(header.astype(int) - colour).max(-1) < 40).any(0))[0]
        assert columns.size and columns.max() < page.shape[1] - 8
    assert not (header[:, -4:] > BACKGROUND_GREY).any()  # no word of it runs out of the page


def test_the_command_draws_the_centres_that_are_asked_for(tmp_path, capsys):
    store = tmp_path / "store"
    for centre in ("a", "b"):
        for index in range(2):
            image, label = tiny_scan(index)
            grid = Grid.plain(image.shape, SPACING)
            write_case(store, centre, f"{index}", image, label, patient="p", spacing=SPACING, grid=grid, source={})
    out = tmp_path / "sheets"
    assert main([str(out), "--store", str(store), "--centres", "b"]) == 0
    assert [path.name for path in out.iterdir()] == ["b_01.png"]
    assert main([str(out), "--store", str(store), "--centres", "c"]) == 2
    assert "Choose from a, b" in capsys.readouterr().err
    damaged = store / "a" / "0" / "image.npy"
    damaged.write_bytes(b"")
    assert main([str(out), "--store", str(store)]) == 2
    assert f"error: {damaged}: " in capsys.readouterr().err and (out / "a_01.png").exists()
