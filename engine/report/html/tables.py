"""Tables of a report as HTML. All text is escaped, because names of cases come from names of files."""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from engine.report.tables import format_number

LONG_TEXT = 30  # characters; a longer one gets room for several words in a line


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What is read.
        value: The number that the column is sorted by; None for a column of words.
        href: Where a link leads, quoted; empty for no link.
        view: The case whose 3-D view a link opens, if the page has it; empty for none.
        tag: A word that is shown as a coloured tag after the text: "bad", "good" or empty for none.
    """

    text: str
    value: float | None = None
    href: str = ""
    view: str = ""
    tag: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Heading above it.
        columns: Headings of the columns.
        rows: The cells of every row, one for each column.
        remarks: A text on every row, or none; it is written below its row over the whole width, so that it can be read
            beside any number of columns.
        note: A sentence between the heading and the table.
        below: How to read the table, paragraph by paragraph; written below it.
        is_sortable: Whether the headings are buttons that sort the rows.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    remarks: Sequence[str] = ()
    note: str = ""
    below: Sequence[str] = ()
    is_sortable: bool = False


def number_cell(value: float, form: str = ".3f") -> Cell:
    """Return the cell of a number; one that is undefined is read as "-"."""
    return Cell(format_number(value, form), value)


def relative_link(target: Path, folder: Path) -> str:
    """Return the link from a page in ``folder`` to a file, quoted; it is relative, so that both can be moved together.

    Both paths are taken as they are named, without following symbolic links.
    """
    here, there = (path.absolute().parts for path in (folder, target))
    common = next((i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), min(len(here), len(there)))
    parts = [".."] * (len(here) - common) + list(there[common:])
    return "/".join(quote(part, errors="surrogateescape") for part in parts)


def format_table(table: Table, name: str, viewable: Container[str] = ()) -> str:
    """Return a table as HTML.

    Args:
        table: The table.
        name: Its identifier on the page.
        viewable: The cases that have a 3-D view on the page.
    """
    is_number = [any(row[i].value is not None for row in table.rows) for i in range(len(table.columns))]
    heads = []
    for column, numeric in zip(table.columns, is_number, strict=True):
        kind = ' class="number"' if numeric else ""
        text = escape(column)
        text = f'<button type="button">{text}</button>' if table.is_sortable else text
        heads.append(f'<th scope="col"{kind}>{text}</th>')
    rows = [f"<tr>{''.join(_format_cell(i, cell, viewable) for i, cell in enumerate(row))}</tr>" for row in table.rows]
    for number, remark in enumerate(table.remarks):
        if remark:
            cell = f'<td colspan="{len(table.columns)}"><div>{escape(remark)}</div></td>'
            rows[number] += f'<tr class="remark">{cell}</tr>'
    sortable = ' class="sortable"' if table.is_sortable else ""
    lines = [
        f'<section aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(table.title)}</h2>',
        f'<p class="note">{escape(table.note)}</p>' if table.note else "",
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}-title">',
        f'<table id="{name}"{sortable}>',
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>",
        *rows,
        "</tbody></table></div>",
        *(f'<p class="note">{escape(line)}</p>' for line in table.below),
        "</section>",
    ]
    return "\n".join(filter(None, lines))


def format_text(text: str) -> str:
    """Return the text of a cell as HTML. A name is broken after its centre rather than within a word."""
    return escape(text).replace("/", "/<wbr>")


def _format_cell(index: int, cell: Cell, viewable: Container[str]) -> str:
    href = f"#view={quote(cell.view, safe='', errors='replace')}" if cell.view in viewable else cell.href
    text = format_text(cell.text)
    text = f'<a href="{escape(href)}">{text}</a>' if href else text
    text = f'<span class="tag {cell.tag}">{text}</span>' if cell.tag else text
    if index == 0:
        return f'<th scope="row">{text}</th>'
    if cell.value is None:
        words = ' class="words"' if len(cell.text) > LONG_TEXT else ""
        return f"<td{words}>{text}</td>"
    value = "" if math.isnan(cell.value) else repr(float(cell.value))
    return f'<td class="number" data-value="{value}">{text}</td>'
