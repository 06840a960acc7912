"""Help texts of commands, names that users choose, and tables of text."""

import argparse
import re
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap
from typing import TypeAlias

# What an option can be added to: the parser of a command, or one of the groups in its help.
OptionGroup: TypeAlias = argparse.ArgumentParser | argparse._ArgumentGroup


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show the default of every option that has one, and keep the lines of tables and examples.

    Defaults of None, False and empty lists say nothing and are left out, and so is a default that the help of its
    option states itself. A paragraph of one line is wrapped; one that has line breaks is shown as it is. In the help of
    an option, the lines after the first are the items of a list.
    """

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is None or action.default is False or action.default == []
        if says_nothing or "(default: " in (action.help or ""):
            return action.help
        return super()._get_help_string(action)

    def _split_lines(self, text: str, width: int) -> list[str]:
        first, *items = text.splitlines()
        return wrap(first, width) + [line for item in items for line in wrap(item, width, subsequent_indent="  ")]

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(
            part if "\n" in part else super(HelpFormatter, self)._fill_text(part, width, indent) for part in paragraphs
        )


def add_examples(parser: argparse.ArgumentParser, *examples: tuple[str, str]) -> None:
    """End the help of a command with examples, each a command that can be pasted and a line on what it does.

    Args:
        parser: Of the command. What its epilogue holds already comes first.
        examples: For each example, what is typed after the name of the command, and what it does.
    """
    program = _typed(parser.prog)
    lines = [f"  {f'{program} {words}'.strip()}\n      {does}" for words, does in examples]
    parser.epilog = "\n\n".join(filter(None, [parser.epilog, "\n".join(["examples:", *lines])]))


def _typed(program: str) -> str:
    """Return what a user types to run a program; a script is named from the folder where the user is."""
    if not program.endswith(".py"):
        return program
    return f"python {sys.argv[0] if Path(sys.argv[0]).name == program else program}"


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
