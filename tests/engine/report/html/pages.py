"""Small cases and pages for the tests of the reports, and a reader of what they hold."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from engine.report.html.page import Page, Picture, ViewableCase
from engine.report.html.tables import Cell, Table, number_cell
from engine.report.html.viewer import Layer, Map, View

HOSTILE = '<script>window.hacked=1</script>"&\'<img src=x onerror="window.hacked=1">'
NOTE = "the networks disagree, the scan was cut above the gland, and this note goes on for a while; " * 3
SHAPE, SPACING = (20, 36, 40), (3.0, 2.0, 2.0)


def ball(centre: tuple[int, int, int], radius_mm: float, shape=SHAPE, spacing=SPACING) -> np.ndarray:
    distance = sum(((i - c) * s) ** 2 for i, c, s in zip(np.indices(shape), centre, spacing, strict=True))
    return distance <= radius_mm**2


def small_view() -> View:
    """A gland at HU 60 with a prediction of 0.75 beside it, which overlaps it; noise around."""
    reference, prediction = ball((10, 18, 16), 12.0), ball((10, 18, 20), 12.0)
    image = np.random.default_rng(0).normal(-60, 15, SHAPE) + 120 * reference
    layers = [Layer("reference", reference, (64, 224, 96)), Layer("prediction", prediction, (255, 70, 200))]
    return View(image.astype(np.int16), SPACING, layers, [Map("probability", 0.75 * prediction)])


def page_of(keys: list[str], pictures: list[Path] = ()) -> Page:  # type: ignore[assignment]
    """A page with a row and a view for each case; the Dice rises from 0, and the last one is undefined."""
    dice = [*(i / 10 for i in range(len(keys) - 1)), float("nan")]
    rows = [
        [Cell(key, view=key), number_cell(d), *[Cell("a cell of some width")] * 8]
        for key, d in zip(keys, dice, strict=True)
    ]
    remarks = [NOTE, *[""] * (len(keys) - 1)]
    return Page(
        title="Scores",
        lead=["A sentence."],
        tables=[
            Table("Means", ["metric", "mean"], [[Cell("Dice"), number_cell(0.5)]]),
            Table("Cases", ["case", "Dice", *map(str, range(8))], rows, remarks, is_sortable=True),
        ],
        summary="cases  3\nlesions  2",
        pictures=[Picture(path, f"picture {path.stem}") for path in pictures],
        cases=[ViewableCase(key, f"{key}: described", small_view) for key in keys],
    )


class Reader(HTMLParser):
    """Collects the elements of a page with their attributes, and the text outside scripts and styles.

    Attributes:
        elements: Name and attributes of every element, in their order.
        text: The text.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._inside: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """The attributes of every element of a name that has these values, among others."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}.items()
        return [found for name, found in self.elements if name == tag and wanted <= found.items()]

    @property
    def links(self) -> list[str]:
        """Everything that an attribute could make a browser load or lead to."""
        names = ("href", "src", "srcset", "action", "data", "poster")
        return [found[name] for _, found in self.elements for name in names if name in found]
