"""All kinds of data sets that are read, by name: which files make a case, what its codes mean, whose scan it is.

A new data set is one class with ``summary``, ``about``, ``codes(root)``, ``entries(root)`` and ``remarks(root)``
(data.layouts.Source; the public ones are in data.public_sets, data.nih_set and data.organ_sets), and its line in
SOURCES.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from data.cases.labels import TUMOUR
from data.common.errors import InputError
from data.common.text import format_row, wrap_words
from data.scans.volume import Volume, read_image
from data.sources.base import (
    About,
    Entry,
    Source,
    by_case,
    case_name,
    not_there,
    packed,
    paired,
    read_dataset_json,
    sorted_by_name,
    visible,
)
from data.sources.label_map import LabelMap
from data.sources.nih import NIH
from data.sources.organs import AMOS, BTCV, WORD, TotalSegmentator
from data.sources.public_sets import MSD, Panorama, PanTS
from data.sources.tables import TableRow, read_table, require_columns

__all__ = ["SOURCES", "Entry", "LabelMap", "Source", "case_name", "listing", "load_entry", "remarks"]


class Folder:
    """Your own scans: a folder of images and one of labels, or a table (CSV) that says which files make a case.

    The table has the columns image and label (paths, relative to the table, or absolute), and optionally case (its
    name; else the image's file name), patient, centre and any others, by which --centre-by can tell centres apart.
    """

    summary = (
        "images/<case>.<ext> or images/<case>/ (DICOM), labels/<case>.<ext>; or cases.csv (or ROOT itself a .csv) "
        "with the columns image,label,patient,centre; codes 0/1/2"
    )
    about = About("your own scans", "yours", "1 pancreas, 2 tumour, or --labels", "-")

    def codes(self, root: Path) -> LabelMap:
        return LabelMap.parse("1=1,2=2")

    def entries(self, root: Path) -> list[Entry]:
        table = root if root.suffix.lower() == ".csv" and not root.is_dir() else root / "cases.csv"
        if table.is_file() or table == root:
            return _listed(table)
        images = by_case(root / "images", folders=True)
        return paired(images, by_case(root / "labels"), root / "images", root / "labels")

    def remarks(self, root: Path) -> list[str]:
        return []


class NnUNet:
    """The raw layout of nnU-Net, version 1 or 2; what the codes mean is read from dataset.json."""

    summary = "raw layout of nnU-Net: imagesTr/<case>_0000<ending>, labelsTr/<case><ending>, codes from dataset.json"
    about = About("any set in the raw layout of nnU-Net", "its own", "by name from dataset.json", "-")

    TUMOUR = re.compile(r"(pancrea\w*[ _-]*)?(tumou?r|lesion|cancer)s?", re.IGNORECASE)
    PANCREAS = re.compile(r"pancreas", re.IGNORECASE)

    def codes(self, root: Path) -> LabelMap:
        named = read_dataset_json(root).get("labels")
        if not isinstance(named, dict):
            raise InputError(
                f'{root / "dataset.json"}: names no labels; say what the codes mean with --labels "1=1,2=2"'
            )
        if all(str(key).isdigit() for key in named):  # version 1 wrote {"1": "pancreas"}
            named = {name: int(code) for code, name in named.items()}
        pancreas = [code for name, code in named.items() if self.PANCREAS.fullmatch(name)]
        tumour = [code for name, code in named.items() if self.TUMOUR.fullmatch(name)]
        if len(pancreas) != 1 or len(tumour) > 1 or not all(isinstance(c, int) for c in pancreas + tumour):
            which = f"labels {named} do not name one pancreas and at most one tumour"
            raise InputError(f'{root / "dataset.json"}: {which}; say which is which with --labels "1=1,2=2"')
        return LabelMap.parse(",".join([f"{pancreas[0]}=1"] + [f"{code}=2" for code in tumour]))

    def entries(self, root: Path) -> list[Entry]:
        ending = read_dataset_json(root).get("file_ending", ".nii.gz")
        images, second = {}, set()
        for path in visible(root / "imagesTr"):
            if match := re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ending)}", path.name):
                images.setdefault(match[1], []).extend([path] if match[2] == "0000" else [])
                second |= {match[1]} if match[2] != "0000" else set()
        if second:
            raise InputError(f"{root}: {len(second)} cases have more than one channel; give a data set of CT alone")
        labels = {p.name.removesuffix(ending): [p] for p in visible(root / "labelsTr") if p.name.endswith(ending)}
        plain = [name for name in sorted(labels) if (root / "imagesTr" / f"{name}{ending}").exists()]
        if plain and not images:
            what = f"an image of nnU-Net ends in _0000{ending}, and none here does"
            raise InputError(f"{root / 'imagesTr' / plain[0]}{ending}: {what}; is this SOURCE msd?")
        return paired(images, labels, root / "imagesTr", root / "labelsTr")

    def remarks(self, root: Path) -> list[str]:
        return []


SOURCES: dict[str, Source] = {
    "folder": Folder(),
    "nnunet": NnUNet(),
    "msd": MSD(),
    "nih": NIH(),
    "panorama": Panorama(),
    "panorama-manual": Panorama(manual_only=True),
    "panorama-all": Panorama(nested=True),
    "panorama-pancreas": Panorama(pdac=False),
    "pants": PanTS(),
    "amos": AMOS(),
    "btcv": BTCV(),
    "word": WORD(),
    "totalsegmentator": TotalSegmentator(),
}


def load_entry(entry: Entry, labels: LabelMap) -> tuple[Volume, np.ndarray, list[str]]:
    """Read one case: the scan, its label 0/1/2 (uint8, same shape) and what reading had to mend.

    Raises InputError (one line: file, fault, remedy) where the case cannot be used.
    """
    if entry.fault:
        raise InputError(entry.fault)
    try:
        image = read_image(entry.image)
        codes, mended = entry.reader.read(entry.label, image)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check the file and the disk") from error
    label = labels.apply(entry.label, codes)
    if entry.tumour and labels.gives_tumour and not (label == TUMOUR).any():
        raise InputError(
            f"{entry.label}: the data set's table says that case {entry.name} has a tumour, and its label draws none; "
            "leave it out, it is no tumour-free scan"
        )
    return image, label, [f"image {note}" for note in image.notes] + [f"label {note}" for note in mended]


def remarks(source: str, root: Path) -> list[str]:
    """One line each for what of a data set is left out on purpose, or still packed: for the user to read."""
    lines = SOURCES[source].remarks(root)
    if archives := packed(root):
        lines.append(f"still packed: {len(archives)} archives such as {archives[0]}; unpack them if cases are missing")
    return lines


def listing() -> str:
    """All sources as a table: where each comes from, its licence, its codes, how to download it."""
    lines = [("SOURCE", "data set", "licence", "codes", "download")]
    for name, source in SOURCES.items():
        about = source.about
        lines.append((name, about.source, about.licence, about.codes, about.download))
    widths = (17, 32, 18, 28, 48)
    return "\n\n".join(
        format_row([wrap_words(*cell) for cell in zip(line, widths, strict=True)], widths) for line in lines
    )


def _listed(table: Path) -> list[Entry]:
    """The cases of a CSV."""
    rows = read_table(table)
    require_columns(table, rows, "image", "label")
    entries = [_row_entry(table, number, row) for number, row in enumerate(rows, start=2)]
    twice = [name for name, count in Counter(e.name for e in entries).items() if count > 1]
    if twice:
        remedy = "give every row its own name in a column 'case'"
        raise InputError(f"{table}: {len(twice)} case names stand on several rows, such as {twice[0]}; {remedy}")
    return sorted_by_name(entries)


def _row_entry(table: Path, number: int, row: TableRow) -> Entry:
    paths = [table.parent / row[side] if row.get(side) else None for side in ("image", "label")]
    image, label = paths
    name = row.get("case") or (image and (case_name(image.name) or image.name)) or f"row_{number}"
    if "/" in name or name.startswith("."):
        raise InputError(f"{table}: line {number} names its case {name}, which cannot be a folder's name; change it")
    fault = ""
    if None in paths:
        empty = "image" if image is None else "label"
        fault = f"{table}: line {number} names no {empty}; fill it in or take the row away"
    elif gone := next((path for path in paths if not path.exists()), None):
        fault = not_there(gone)
    columns = tuple((key, value) for key, value in row.items() if key not in ("image", "label", "case", "patient"))
    return Entry(name, row.get("patient") or name, image, label, fault, columns)
