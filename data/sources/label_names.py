"""What the names of label codes mean: ``tumor``, ``Pancreas head`` or ``liver`` in a segmentation or a dataset.json.

A name is split into words, and every word has to be in the table below; otherwise its meaning is not guessed.
"""

import re
from collections.abc import Mapping

from data.cases.labels import PANCREAS, TUMOUR
from data.common.text import format_row, wrap_words

BACKGROUND = 0
HELP_WIDTHS = (19, 98)  # of the columns in the help, characters
PANCREAS_WORDS = ("pancreas", "pancreatic")
# Any lesion counts, as in the Medical Segmentation Decathlon; so two names may mean a tumour.
TUMOUR_WORDS = (
    *("tumour", "tumor", "lesion", "cancer", "carcinoma", "adenocarcinoma"),
    *("neoplasm", "mass", "cyst", "pdac", "pnet", "ipmn"),
)
OTHER_WORDS = (
    *("background", "liver", "hepatic", "spleen", "splenic", "kidney", "renal", "adrenal", "stomach", "duodenum"),
    *("bowel", "intestine", "colon", "esophagus", "oesophagus", "gall", "gallbladder", "bladder", "bile"),
    *("aorta", "artery", "arteries", "vein", "vena", "cava", "ivc", "postcava", "portal", "mesenteric", "celiac"),
    *("smv", "sma", "vessel", "prostate", "uterus", "lung", "heart", "spine", "bone"),
)
# These words do not decide what a name means; without one of the above it means nothing.
PART_WORDS = (
    *("head", "neck", "body", "tail", "uncinate", "process", "parenchyma", "gland", "duct", "main", "common"),
    *("left", "right", "superior", "inferior", "whole", "normal", "healthy", "primary"),
    *("label", "mask", "segmentation"),
)


def label_of_name(name: str) -> int | None:
    """Return the label that a name stands for.

    The name of another organ makes its lesions background as well ("liver tumor"). A name of the pancreas and another
    organ at once, and every name with a word that is not in the table, such as "Segment_1" or "no tumor", has no
    meaning.

    Args:
        name: Name of a code, in any case; words are separated by anything but letters, or by a capital letter.

    Returns:
        0 background, 1 pancreas or 2 tumour; None if the table gives no meaning.
    """
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    kinds = {_kind(word) for word in words}
    if None in kinds:
        return None
    if "other" in kinds:
        return None if "pancreas" in kinds else BACKGROUND
    if "tumour" in kinds:
        return TUMOUR
    return PANCREAS if "pancreas" in kinds else None


def _kind(word: str) -> str | None:
    """Look a word up, also without the ending of its plural; None if it is not in the table."""
    table = {"pancreas": PANCREAS_WORDS, "tumour": TUMOUR_WORDS, "other": OTHER_WORDS, "part": PART_WORDS}
    forms = {word, word.removesuffix("s"), word.removesuffix("es")}
    return next((kind for kind, known in table.items() if forms & set(known)), None)


def describe_names(names: Mapping[int, str]) -> str:
    """List codes with their names, for messages: ``1 "tumor", 2 "pancreas"``."""
    return ", ".join(f'{code} "{name}"' for code, name in sorted(names.items()))


def names_help() -> str:
    """List the words of the table, for ``--help``."""
    rows = {
        "1 pancreas": PANCREAS_WORDS,
        "2 tumour": TUMOUR_WORDS,
        "0 background": OTHER_WORDS,
        "may accompany": PART_WORDS,
    }
    cells = [([f"  {meaning}"], wrap_words(", ".join(words), HELP_WIDTHS[1])) for meaning, words in rows.items()]
    return "\n".join(format_row(row, HELP_WIDTHS) for row in cells)
