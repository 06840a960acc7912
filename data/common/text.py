"""Names that users give, and what is printed in columns."""

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


def usable_name(text: str) -> bool:
    """Whether a centre or a split can be called so: letters, digits, _ - . only, as folders and files are called so."""
    return re.fullmatch(r"\w[\w.-]*", text) is not None


def in_columns(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    """One row of a table: each cell, a list of lines, to the width (characters) of its column."""
    return "\n".join(
        "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip_longest(*cells, fillvalue="")
    )


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters; words such as addresses stay whole, so that they can be copied."""
    return wrap(text, width, break_long_words=False, break_on_hyphens=False)
