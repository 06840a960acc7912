"""A page holds all that it shows, stays within its size, names what it left out, and runs nothing that a name holds."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.common.errors import InputError
from engine.report.html.page import HERE, NIIVUE, write_page
from engine.report.html.tables import relative_link
from tests.engine.report.html.pages import HOSTILE, Reader, page_of


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "curves.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(path)
    return path


def test_a_page_holds_its_tables_pictures_and_cases(tmp_path, picture):
    path = tmp_path / "report.html"
    assert write_page(path, page_of(["a/1", "a/2", "a/3"], [picture, tmp_path / "never_drawn.png"])) == []
    page = Reader(path)
    assert [found["data-key"] for found in page.all("script", class_="case")] == ["a/1", "a/2", "a/3"]
    assert [link for link in page.links if link.startswith("#view=")] == ["#view=a%2F1", "#view=a%2F2", "#view=a%2F3"]
    (image,) = page.all("img")
    assert image["src"].startswith("data:image/png;base64,") and image["alt"] == "picture curves"
    assert [found.get("data-value") for found in page.all("td", class_="number")] == ["0.5", "0.0", "0.1", ""]
    assert "Not shown" not in page.text and "lesions  2" in page.text
    assert "Copyright (c) 2021, Niivue" in page.text


def test_a_page_loads_nothing_from_elsewhere(tmp_path, picture):
    path = tmp_path / "report.html"
    write_page(path, page_of(["a/1"], [picture]))
    page = Reader(path)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not re.search(r"@import|url\s*\(", (HERE / "page.css").read_text())
    (policy,) = (found["content"] for found in page.all("meta", **{"http-equiv": "Content-Security-Policy"}))
    assert "default-src 'none'" in policy and "http" not in policy and "*" not in policy


def test_names_of_files_stay_text(tmp_path):
    path = tmp_path / "report.html"
    write_page(path, page_of([HOSTILE, "odd \udcff", "ok"]))
    page = Reader(path)
    assert page.text.count(HOSTILE) == 1 and not page.all("img")
    own = [{}, {"type": "text/plain", "id": "niivue"}]
    assert all(found in own or found.get("class") == "case" for found in page.all("script"))
    assert page.all("script", class_="case")[0]["data-key"] == HOSTILE
    assert "odd ?" in page.text


def test_the_first_cases_are_shown_until_the_page_is_full(tmp_path):
    path = tmp_path / "report.html"
    keys = [f"c/{i}" for i in range(8)]
    write_page(path, page_of(keys))
    whole = path.stat().st_size
    one = (whole - (HERE / "niivue" / NIIVUE).stat().st_size * 4 // 3) // 9
    left_out = write_page(path, page_of(keys), largest=whole - 2 * one)
    shown = [found["data-key"] for found in Reader(path).all("script", class_="case")]
    assert 0 < len(shown) < 8 and shown == keys[: len(shown)] and path.stat().st_size <= whole - 2 * one
    assert [name for name, _ in left_out] == keys[len(shown) :]
    page = Reader(path)
    assert f"{', '.join(keys[len(shown) :])}: the page has reached its largest size" in page.text
    assert f"#view={keys[-1].replace('/', '%2F')}" not in page.links  # a name without a view leads nowhere
    assert keys[-1] in page.text


def test_a_case_that_cannot_be_read_is_named_with_the_reason(tmp_path):
    def broken():
        raise InputError("store/a/1", "damaged", "prepare it again")

    whole = page_of(["a/1", "a/2"])
    path = tmp_path / "report.html"
    write_page(path, replace(whole, cases=[replace(whole.cases[0], read=broken), whole.cases[1]]))
    page = Reader(path)
    assert [found["data-key"] for found in page.all("script", class_="case")] == ["a/2"]
    assert "a/1: store/a/1: damaged. Prepare it again." in page.text


def test_without_cases_there_is_no_viewer(tmp_path, picture):
    path = tmp_path / "report.html"
    write_page(path, replace(page_of(["a/1"], [picture]), cases=()))
    page = Reader(path)
    assert not page.all("section", id="viewer") and not page.all("script", id="niivue")
    assert path.stat().st_size < 100_000 and page.all("img") and page.all("table", class_="sortable")
    assert "#view=" not in "".join(page.links)


def test_a_page_without_room_for_a_picture_or_case_still_has_its_tables(tmp_path, picture):
    path = tmp_path / "report.html"
    left_out = write_page(path, page_of(["a/1"], [picture]), largest=1000)
    assert {name for name, _ in left_out} == {"a/1", "curves.png"}
    page = Reader(path)
    assert not page.all("img") and len(page.all("table")) == 2 and "a/1" in page.text


def test_links_are_relative_and_quoted():
    assert relative_link(Path("/a/b/c d.nii.gz"), Path("/a/b")) == "c%20d.nii.gz"
    assert relative_link(Path("/a/x/<i>#?.nii"), Path("/a/b/c")) == "../../x/%3Ci%3E%23%3F.nii"
    assert relative_link(Path("/a/\udcff.nii"), Path("/a")) == "%FF.nii"
