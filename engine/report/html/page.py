"""A report as one HTML file: it holds everything that it shows, and needs neither a server nor a network.

What it inlines is limited by its size. Tables come first, then the pictures, then a 3-D view of one case after the
other as long as there is room; the page names what it left out, and why.
"""

import base64
import gzip
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from data.common.errors import InputError
from data.common.files import replacing
from engine.report.html.tables import Table, format_table, format_text
from engine.report.html.viewer import View, pack_view

HERE = Path(__file__).parent
PAGE = "report.html"  # in the folder of what it shows
LARGEST_PAGE = 30_000_000  # bytes; what mail programs and browsers still take easily
NIIVUE = "niivue-0.69.0.umd.js.gz"
# The browser refuses to load anything from elsewhere, whatever the scripts of the page might ask for.
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'wasm-unsafe-eval'"
)
FULL = "the page has reached its largest size"


@dataclass(frozen=True)
class Picture:
    """A PNG file to show, with its caption, which is read out in its place."""

    path: Path
    caption: str


@dataclass(frozen=True)
class ViewableCase:
    """A case for the 3-D viewer.

    Attributes:
        key: Its name.
        about: A line about it.
        read: Reads its scan and masks, when it is their turn.
    """

    key: str
    about: str
    read: Callable[[], View]


@dataclass(frozen=True)
class Page:
    """What a report shows.

    Attributes:
        title: Its title.
        lead: Sentences below the title.
        tables: Tables, the first above the 3-D viewer, the others below.
        summary: Lines of plain text below the first table.
        pictures: PNG files; those that do not exist are passed over.
        cases: The cases for the viewer, in the order in which they get room.
    """

    title: str
    lead: Sequence[str]
    tables: Sequence[Table]
    summary: str = ""
    pictures: Sequence[Picture] = ()
    cases: Sequence[ViewableCase] = ()


class LeftOut(NamedTuple):
    """Something that a page does not show, and why."""

    name: str
    reason: str


def write_page(path: Path, page: Page, largest: int = LARGEST_PAGE) -> list[LeftOut]:
    """Write a page, whole or not at all.

    Args:
        path: The HTML file.
        page: What it shows.
        largest: Its largest size in bytes.

    Returns:
        What was left out.

    Raises:
        OSError: If the file cannot be written.
    """
    names = {case.key for case in page.cases}
    tables = [format_table(table, f"table-{i}", names) for i, table in enumerate(page.tables)]
    notes = [LeftOut(case.key, FULL) for case in page.cases]  # the longest list that there can be
    library = _library() if page.cases else ""
    empty = _fill(page, tables, [], [], library, notes)
    room = largest - len(empty.encode("utf-8", "replace"))

    left_out: list[LeftOut] = []
    pictures, cases, viewable = [], [], set()
    for picture in page.pictures:
        if picture.path.is_file():
            figure = _format_picture(picture)
            if len(figure.encode("utf-8", "replace")) <= room:
                room -= len(figure.encode("utf-8", "replace"))
                pictures.append(figure)
            else:
                left_out.append(LeftOut(picture.path.name, FULL))
    is_full = False
    for case in page.cases:
        if not is_full:
            try:
                holder = _format_case(case)
            except (InputError, OSError) as error:
                left_out.append(LeftOut(case.key, str(error)))
                continue
            size = len(holder.encode("utf-8", "replace"))
            is_full = size > room  # so that the cases that are shown are the first ones
            if not is_full:
                room -= size
                cases.append(holder)
                viewable.add(case.key)
                continue
        left_out.append(LeftOut(case.key, FULL))
    tables = [format_table(table, f"table-{i}", viewable) for i, table in enumerate(page.tables)]
    text = _fill(page, tables, pictures, cases, library if cases else "", left_out)
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="replace")
    return left_out


def shows_row(path: Path, name: str) -> bool:
    """Return whether a table of a page that ``write_page`` wrote has a row of this name."""
    cell = format_text(name).encode("utf-8", "replace").decode()
    row = re.compile(rf'<th scope="row">(?:<[^>]*>)*{re.escape(cell)}</')
    return row.search(path.read_text(encoding="utf-8", errors="replace")) is not None


def _fill(
    page: Page,
    tables: Sequence[str],
    pictures: Sequence[str],
    cases: Sequence[str],
    library: str,
    left_out: Sequence[LeftOut],
) -> str:
    """Return the text of a page.

    Args:
        page: Title, lead and summary are taken from it.
        tables: As HTML.
        pictures: As HTML.
        cases: Holders of the volumes, as HTML.
        library: NiiVue, as HTML; empty if there is no viewer.
        left_out: What is left out.
    """
    summary = f"<pre>{escape(page.summary.strip())}</pre>" if page.summary.strip() else ""
    figures = "\n".join(pictures)
    content = [
        *tables[:1],
        summary,
        _read("viewer.html") if library else "",
        *tables[1:],
        f'<section><h2>Pictures</h2><div class="pictures">{figures}</div></section>' if pictures else "",
        _format_left_out(left_out),
    ]
    footer = f"<p>Written on {time.strftime('%Y-%m-%d %H:%M')}. This page loads nothing from elsewhere.</p>"
    if library:
        footer += (
            "<p>The page contains images of patients and the names of their files: pass it on only to people who may "
            "see them. It is not a medical device.</p><details><summary>Licence of the 3-D viewer, NiiVue</summary>"
            f"<pre>{escape(_read('niivue/LICENSES.txt'))}</pre></details>"
        )
    return Template(_read("page.html")).substitute(
        policy=POLICY,
        title=escape(page.title),
        style=_read("page.css"),
        lead="\n".join(f"<p>{escape(line)}</p>" for line in page.lead),
        content="\n".join(filter(None, content)),
        footer=footer,
        data="\n".join([library, *cases]),
        script=_read("page.js"),
    )


def _format_picture(picture: Picture) -> str:
    caption = escape(picture.caption)
    source = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    image = f'<img alt="{caption}" src="data:image/png;base64,{source}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _format_case(case: ViewableCase) -> str:
    """Return the script element that holds the volumes of a case; "<" could end it, so none is left in it."""
    content = json.dumps(pack_view(case.read())).replace("<", "\\u003c")
    attributes = f'data-key="{escape(case.key)}" data-about="{escape(case.about)}"'
    return f'<script type="application/json" class="case" {attributes}>{content}</script>'


def _format_left_out(left_out: Iterable[LeftOut]) -> str:
    """Return the names of what was left out, reason by reason; empty if there is nothing."""
    names: dict[str, list[str]] = {}
    for name, reason in left_out:
        names.setdefault(reason, []).append(name)
    if not names:
        return ""
    lines = "".join(f"<p>{escape(', '.join(found))}: {escape(reason)}</p>" for reason, found in names.items())
    return f'<section id="left-out"><h2>Not shown on this page</h2>{lines}</section>'


def _library() -> str:
    content = (HERE / "niivue" / NIIVUE).read_bytes()
    gzip.decompress(content)  # a damaged file would be noticed only in the browser
    return f'<script type="text/plain" id="niivue">{base64.b64encode(content).decode("ascii")}</script>'


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
