"""Names that users choose, and tables of text."""

import argparse
import re
from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show the default of every option that has one; None, False and empty lists say nothing and are left out."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is None or action.default is False or action.default == []
        return action.help if says_nothing else super()._get_help_string(action)


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
