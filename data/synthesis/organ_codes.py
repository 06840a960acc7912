"""What the codes of label maps of organs mean: tables of public data sets, and tables that users write.

Sources of the codes: AMOS 2022 (``dataset.json`` of zenodo.org/records/7262581), BTCV
(synapse.org/Synapse:syn3193805) and TotalSegmentator version 2 (task ``total``, github.com/wasserth/TotalSegmentator).
"""

import json
from collections.abc import Mapping
from pathlib import Path

from data.common.errors import InputError

CODES_FILE = "codes.json"
PANCREAS = "pancreas"
# The organs that can be taken from a label map. Left and right are those of the patient.
ORGANS = (
    *("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "aorta", PANCREAS),
    *("esophagus", "inferior_vena_cava", "portal_vein_and_splenic_vein", "adrenal_gland_right", "adrenal_gland_left"),
    *("duodenum", "small_bowel", "colon", "urinary_bladder", "prostate", "kidney_cyst"),
)
LIBRARY = "torsos"  # in the place of a table: DIR holds painted torsos, not label maps
OTHER = "other"  # codes that are drawn as the phantom draws them: bones, muscles, lungs, heart, iliac vessels

Codes = Mapping[int, str]  # organ, or OTHER, of each code but 0

_BTCV = ("spleen", "kidney_right", "kidney_left", "gallbladder")
_VEINS = ("inferior_vena_cava", "portal_vein_and_splenic_vein")
_ADRENALS = ("adrenal_gland_right", "adrenal_gland_left")
_ORDER: dict[str, tuple[str, ...]] = {
    # Eight organs of BTCV, numbered from 1 to 8.
    "btcv": (*_BTCV, "liver", "stomach", "aorta", PANCREAS),
    # The thirteen organs of BTCV as its own files number them.
    "btcv13": (*_BTCV, "esophagus", "liver", "stomach", "aorta", *_VEINS, PANCREAS, *_ADRENALS),
    "amos": (
        *(*_BTCV, "esophagus", "liver", "stomach", "aorta", "inferior_vena_cava", PANCREAS, *_ADRENALS),
        *("duodenum", "urinary_bladder", "prostate"),
    ),
    "totalsegmentator": (
        *(*_BTCV, "liver", "stomach", PANCREAS, *_ADRENALS, *[OTHER] * 5, "esophagus", OTHER, OTHER, "small_bowel"),
        *("duodenum", "colon", "urinary_bladder", "prostate", "kidney_cyst", "kidney_cyst", *[OTHER] * 27),
        *("aorta", *[OTHER] * 10, *_VEINS, *[OTHER] * 53),
    ),
}
TABLES: dict[str, Codes] = {name: dict(enumerate(organs, 1)) for name, organs in _ORDER.items()}
_REMEDY = (
    f"write DIR:TABLE with one of the tables {', '.join(TABLES)}, put the file {CODES_FILE} into the folder, or write "
    f"DIR:{LIBRARY} if it holds painted torsos"
)


def find_table(labels: str) -> tuple[Path, Codes]:
    """Find the folder of label maps and the meaning of their codes.

    Args:
        labels: ``DIR:TABLE`` with one of TABLES, or ``DIR`` of a folder that holds a file ``codes.json`` with the
            organ of each code, such as ``{"1": "spleen", "2": "pancreas", "3": "other"}``.

    Raises:
        InputError: If there is no such folder, or the table is not known, missing or not valid.
    """
    folder, table = _find_folder(labels)
    if table == LIBRARY:
        raise InputError(labels, "these are painted torsos, not label maps", "give the folder that holds label maps")
    if table:
        return folder, TABLES[table]
    if not (folder / CODES_FILE).is_file():
        raise InputError(folder, "nothing says what the codes of its label maps mean", _REMEDY)
    return folder, _read_codes(folder / CODES_FILE)


def find_library(labels: str) -> Path | None:
    """Return the folder of painted torsos that ``DIR:torsos`` names; None if label maps are named.

    Raises:
        InputError: If there is no such folder, or the table is not known.
    """
    folder, table = _find_folder(labels)
    return folder if table == LIBRARY else None


def absolute_labels(labels: str) -> str:
    """Return what names label maps or torsos with an absolute path, which holds in any working folder.

    Raises:
        InputError: As for ``find_table``.
    """
    if find_library(labels) is None:
        find_table(labels)
    folder, table = _split(labels)
    return ":".join(filter(None, (str(folder.resolve()), table)))


def _find_folder(labels: str) -> tuple[Path, str]:
    """Return the folder, which exists, and the table, which is known, or empty if none is named."""
    folder, table = _split(labels)
    if table and table not in (*TABLES, LIBRARY):
        raise InputError(labels, f'there is no table of codes "{table}"', _REMEDY)
    if not folder.is_dir():
        raise InputError(folder, "there is no such folder", "give the folder that holds the label maps or the torsos")
    return folder, table


def _split(labels: str) -> tuple[Path, str]:
    """Return the folder and the table, which is empty if none is named; names of folders may contain colons."""
    name, colon, table = labels.rpartition(":")
    if not colon or Path(labels).expanduser().is_dir():
        name, table = labels, ""
    return Path(name).expanduser(), table


def _read_codes(path: Path) -> Codes:
    remedy = 'write the organ of each code, such as {"1": "spleen", "2": "pancreas", "3": "other"}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(path, f"cannot be read ({error})", remedy) from error
    if not isinstance(content, dict) or not all(code.isdecimal() and 0 < int(code) < 256 for code in content):
        raise InputError(path, "is not an object with codes from 1 to 255", remedy)
    for code, organ in content.items():
        if organ not in (*ORGANS, OTHER):
            known = ", ".join((*ORGANS, OTHER))
            raise InputError(path, f"the organ of code {code}, {organ!r}, is not known", f"choose from {known}")
    if PANCREAS not in content.values():
        raise InputError(path, f'no code is "{PANCREAS}"', remedy)
    return {int(code): str(organ) for code, organ in content.items()}
