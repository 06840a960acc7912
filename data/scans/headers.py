"""Strict reading of the text headers of NRRD and MetaImage files, and of the directions of any file's axes.

SimpleITK is lenient: it reads "0n69" as 0 and ignores a misspelt field, so that one damaged byte can move, mirror or
scramble a scan. Here, what is missing, malformed or contradicts itself is refused.
"""

import re
from pathlib import Path

import numpy as np

from data.common.errors import InputError

CORRECT = "correct the header or export the scan again"  # the remedy for a header that is wrong
BLANKS = " \t\r\n"  # the only white space that ITK knows
AXES_TOLERANCE = 1e-3  # for the cosine between two axes, and for the length of a unit vector
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def parse_numbers(path: Path, field: str, text: str, count: int) -> np.ndarray:
    """Return the finite numbers of a header field, separated by blanks or commas.

    Args:
        path: File to blame.
        field: Name of the field, for the message.
        text: Value of the field.
        count: How many numbers there have to be.

    Returns:
        The numbers, shape (count,).

    Raises:
        InputError: If the text is anything else.
    """
    words = [word for word in text.replace(",", " ").replace("\t", " ").split(" ") if word]  # blanks as ITK knows them
    values = [float(word) for word in words if _NUMBER.fullmatch(word)]
    if len(values) != count or len(words) != count or not np.isfinite(values).all():
        raise InputError(path, f"the field {field} of its header is {text[:40]!r}, not {count} numbers", CORRECT)
    return np.array(values)


def require_field(path: Path, fields: dict[str, str], *names: str) -> str:
    """Return the value of the first of these fields that a header has. Raises InputError if it has none of them."""
    for name in names:
        if name in fields:
            return fields[name]
    raise InputError(path, f"its header lacks {names[0]}, which is needed to place the scan", CORRECT)


def require_choice(path: Path, field: str, text: str, choices: tuple[str, ...]) -> str:
    """Return the value of a header field in lower case. Raises InputError if it is none of the choices."""
    if text.lower() not in choices:
        raise InputError(path, f"the field {field} of its header is {text[:40]!r}, not {' or '.join(choices)}", CORRECT)
    return text.lower()


def check_right_angles(path: Path, axes: np.ndarray) -> None:
    """Raise InputError unless the rows of ``axes`` (3, 3) have a length and are at right angles to each other."""
    lengths = np.linalg.norm(axes, axis=1)
    if not (lengths > 0).all():
        raise InputError(path, "its header gives voxels without extent", CORRECT)
    cosines = (axes / lengths[:, None]) @ (axes / lengths[:, None]).T - np.eye(3)
    if np.abs(cosines).max() > AXES_TOLERANCE:
        raise InputError(path, "its axes are not at right angles (sheared)", "resample it onto a rectangular grid")
