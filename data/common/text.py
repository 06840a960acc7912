"""Names that users choose, and tables of text."""

import re
from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap


def is_valid_name(text: str) -> bool:
    """Return True if text is a valid name for a centre or split (letters, digits, "_", "-", ".").

    Names become folder names.
    """
    return re.fullmatch(r"\w[\w.-]*", text) is not None


def format_row(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    """Format one row of a table of text.

    Args:
        cells: For each column, the lines of its cell.
        widths: For each column, its width in characters.

    Returns:
        As many lines as the tallest cell has.
    """
    return "\n".join(
        "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip_longest(*cells, fillvalue="")
    )


def wrap_words(text: str, width: int) -> list[str]:
    """Wrap text to lines of at most ``width`` characters without breaking words, so that addresses can be copied."""
    return wrap(text, width, break_long_words=False, break_on_hyphens=False)
