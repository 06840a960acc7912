"""The help of ``train all`` and ``evaluate all``, made from the parsers of the four stages."""

import argparse
import re
from collections.abc import Mapping, Sequence

from data.common.program import COMMAND
from data.common.text import add_examples


def parser_of_all(
    name: str, parsers: Mapping[str, argparse.ArgumentParser], examples: Sequence[tuple[str, str]]
) -> argparse.ArgumentParser:
    """Return a parser with the options that all stages have. It says which of their defaults depend on the stage.

    Args:
        name: Of the sub-command, such as "train".
        parsers: The parser of each stage, in the order of the cascade.
        examples: As in ``add_examples``.
    """
    first, *others = parsers.values()
    for action in first._actions:
        same = [
            other for parser in others for other in parser._actions if other.option_strings == action.option_strings
        ]
        if len(same) < len(others):
            action.help = argparse.SUPPRESS
        elif any((a.default, a.help) != (action.default, action.help) for a in same):
            action.help = _help_of_all(name, [action, *same])
    known = {flag for action in first._actions for flag in action.option_strings if action.help != argparse.SUPPRESS}
    every = {flag: None for parser in parsers.values() for a in parser._actions for flag in a.option_strings}
    lacking = ", ".join(flag for flag in every if flag not in known)
    first.prog = f"{COMMAND} {name} all"
    first.description = (
        f"{name.capitalize()} all four stages one after the other, with the same options, in this order: "
        f"{', '.join(parsers)}. The first stage that fails ends it. An option that is given holds for every stage."
        + (f" Options that not every stage has ({lacking}) can only be given to a single stage." if lacking else "")
        + f" {COMMAND} {name} STAGE --help describes those of a stage."
    )
    first.epilog = None
    add_examples(first, *examples)
    return first


def _help_of_all(name: str, actions: Sequence[argparse.Action]) -> str:
    """Return the help of an option without what is true of one stage only."""
    values = [str(action.default) for action in actions]
    if len({*values}) > 1:
        return f"{actions[0].help} (default: depends on the stage, in the order above: {', '.join(values)})"
    # What follows are the values of one stage.
    text, *_ = re.split(r"(?<=\(repeatable\)):| \(default: ", actions[0].help or "")
    return f"{text} (default: depends on the stage, see {COMMAND} {name} STAGE --help)"
