"""The contact sheet: the right slice, the right way up, true proportions, whole names, pages."""

import cv2
import numpy as np
import pytest

from data.cases.store import write_case
from data.contact_sheet import (
    CAPTION,
    COLUMNS,
    HEAD,
    PANCREAS_COLOUR,
    ROWS,
    TILE,
    TUMOUR_COLOUR,
    main,
    tile,
    write_sheets,
)
from data.scans.grid import Grid
from tests.conftest import SPACING, tiny_scan


def scan(shape=(6, 60, 80)) -> tuple[np.ndarray, np.ndarray]:
    return np.full(shape, 20, np.int16), np.zeros(shape, np.uint8)


def where(picture: np.ndarray, colour) -> tuple[np.ndarray, np.ndarray]:
    return np.nonzero((picture[: TILE[1]] == colour).all(-1))


def test_up_is_anterior_and_left_is_the_patients_right():
    image, label = scan()
    image[:, :15, :40] = 240  # row 0 is anterior, column 0 the patient's right
    picture = tile(image, label, (5.0, 1.0, 1.0), "x")
    middle, side = TILE[1] // 2, TILE[0] // 2
    rows, columns = np.nonzero(picture[: TILE[1], :, 0] > 230)
    assert rows.size and np.median(rows) < middle / 2 and columns.max() < side + 3


@pytest.mark.parametrize("spacing", [(5.0, 1.0, 1.0), (5.0, 2.0, 1.0), (1.0, 0.7, 2.1)])
def test_a_square_in_mm_is_a_square_in_the_picture(spacing):
    image, label = scan((4, 120, 120))
    half = [round(20 / s) for s in spacing[1:]]
    label[2, 60 - half[0] : 60 + half[0], 60 - half[1] : 60 + half[1]] = 1
    rows, columns = where(tile(image, label, spacing, "x"), PANCREAS_COLOUR)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=3)


def test_the_slice_with_the_most_tumour_is_shown_else_with_the_most_pancreas():
    image, label = scan()
    label[1, 10:50, 10:70] = 1
    label[4, 20:30, 20:30] = 1
    assert np.ptp(where(tile(image, label, SPACING, "x"), PANCREAS_COLOUR)[1]) > 100
    label[4, 22:28, 22:28] = 2
    picture = tile(image, label, SPACING, "x")
    assert where(picture, TUMOUR_COLOUR)[0].size and np.ptp(where(picture, PANCREAS_COLOUR)[1]) < 60


def test_a_case_without_a_label_says_so_and_air_alone_has_a_picture():
    image, label = scan()
    rows, _ = where(tile(image, label, SPACING, "x"), TUMOUR_COLOUR)
    without = tile(image * 0 - 1000, label, SPACING, "x")
    assert rows.size and rows.max() < 30 and without.shape == (TILE[1] + CAPTION, TILE[0], 3)


@pytest.mark.parametrize("name", ["short", "a_long_name_of_a_case_from_some_hospital_2021", "x" * 200, "Köln_ß"])
def test_names_are_never_cut_by_the_edge(name):
    picture = tile(*scan(), SPACING, name)
    caption = picture[TILE[1] :].max(-1) > 60
    assert caption.any() and not caption[:, -3:].any() and not caption[:, :3].any()
    assert not caption[0].any() and not caption[-1].any()


def test_many_cases_fill_pages_and_old_pages_go(tmp_path):
    pictures = [tile(*scan(), SPACING, f"case_{i}") for i in range(COLUMNS * ROWS + 1)]
    paths = write_sheets(tmp_path, "a", pictures)
    (tmp_path / "ab_01.png").write_bytes(b"another centre's")
    (tmp_path / "a_b_01.png").write_bytes(b"another centre's")
    (tmp_path / "a_100.png").write_bytes(b"of an earlier, longer sheet")
    full, rest = (cv2.imread(str(path)) for path in paths)
    assert [path.name for path in paths] == ["a_01.png", "a_02.png"]
    assert full.shape[0] > HEAD + ROWS * TILE[1] and full.shape[1] > COLUMNS * TILE[0] and rest.shape[0] < 300
    assert len(write_sheets(tmp_path, "a", pictures[:3])) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a_01.png", "ab_01.png", "a_b_01.png"}


def test_the_command_pictures_the_centres_asked_for(tmp_path, capsys):
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
    assert "choose from a, b" in capsys.readouterr().err
    (store / "a" / "0" / "image.npy").write_bytes(b"")
    assert main([str(out), "--store", str(store)]) == 2
    assert "damaged" in capsys.readouterr().err and (out / "a_01.png").exists()
