"""The tables that come with data sets: .csv or .xlsx, read as text."""

import csv
from pathlib import Path

from data.common.errors import InputError

TableRow = dict[str, str]


def read_table(path: Path) -> list[TableRow]:
    """The rows of a table by the names of its first line, all as text, surrounding blanks removed, empty rows left out.

    Each row has every column: cells that it lacks are empty.
    A .csv may be separated by commas or semicolons (the first line tells). An .xlsx needs the package openpyxl, and
    its first sheet is read. Raises InputError for a file that is no such table.
    """
    try:
        lines = _read_xlsx(path) if path.suffix.lower() == ".xlsx" else _read_csv(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable as a table ({error}); download it again, or save it as CSV") from error
    lines = [[cell.strip() for cell in line] for line in lines]
    lines = [line for line in lines if any(line)]
    if not lines:
        raise InputError(f"{path}: the table is empty; download it again")
    names, *rows = lines
    return [dict(zip(names, [*row, *[""] * (len(names) - len(row))], strict=False)) for row in rows]


def find_table(folders: list[Path], stem: str) -> Path | None:
    """``stem``.csv or .xlsx in the first of these folders that has one; the CSV where both are there."""
    choices = [folder / f"{stem}{suffix}" for folder in folders for suffix in (".csv", ".xlsx")]
    return next((path for path in choices if path.is_file()), None)


def require_columns(path: Path, rows: list[TableRow], *names: str) -> None:
    """Raise InputError naming the first of these columns that the table does not have."""
    there = rows[0].keys() if rows else ()
    for name in names:
        if name not in there:
            found = ", ".join(there) or "none"
            raise InputError(f"{path}: has no column {name!r} (columns: {found}); is this the table of this data set?")


def _read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        file.seek(0)
        return list(csv.reader(file, delimiter=";" if first.count(";") > first.count(",") else ",", strict=True))


def _read_xlsx(path: Path) -> list[list[str]]:
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        remedy = f"pip install openpyxl, or save it as {path.with_suffix('.csv').name} beside it"
        raise InputError(f"{path}: reading .xlsx needs the package openpyxl; {remedy}") from error
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        return [["" if cell is None else str(cell) for cell in row] for row in book.worksheets[0].values]
    except OSError:
        raise
    except Exception as error:  # openpyxl lets through whatever zip and XML readers raise on a damaged file
        raise InputError(f"{path}: not a readable .xlsx ({error}); download it again, or save it as CSV") from error
